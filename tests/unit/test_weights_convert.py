"""Conversion of a published checkpoint, at small widths: numbers arrive, faults are named, nothing stays half-written."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from joyhallo import presets
from joyhallo.errors import UserError
from joyhallo.weights.checkpoint import CheckpointError
from joyhallo.weights.convert import convert, network_classes
from joyhallo.weights.keymaps import KEYMAPS
from joyhallo.weights.pipeline_folder import load_components

SHAPE = {
    "widths": (32, 64),
    "attention_levels": (True, False),
    "layers_per_level": 1,
    "num_heads": 4,
    "num_groups": 8,
    "face_dim": 16,
}
NEVER_RUN = "denoising_unet.up_blocks.0.motion_modules.0.temporal_transformer.norm.weight"


def small(variant: str) -> presets.Preset:
    published = getattr(presets, variant)()
    return presets.Preset(
        reference_network=published.reference_network | SHAPE,
        denoising_network=published.denoising_network | SHAPE | {"audio_dim": 16, "motion_heads": 4},
        face_projector={"embedding_size": 8, "num_tokens": 2, "token_dim": 16},
        audio_projector={"num_blocks": 2, "channels": 12, "hidden_dim": 8, "num_tokens": 3, "token_dim": 16},
        face_locator={"out_channels": 32, "widths": (4, 8, 8, 8)},
    )


def write_source(folder: Path, variant: str) -> dict[str, torch.Tensor]:
    """A folder like the published one, with old names where the published files have them; returns our tensors."""
    torch.manual_seed(0)
    keymap, preset = KEYMAPS[variant], small(variant)
    ours, published = {}, {NEVER_RUN: torch.zeros(4)}
    for component, build in network_classes().items():
        for name, value in build(**getattr(preset, component)).state_dict().items():
            name_there = keymap.to_published(component, name)
            value = torch.randn_like(value).half()
            ours[f"{component}/{name}"] = value
            published[name_there] = keymap.to_ours(name_there).to_published(value)
    (folder / variant).mkdir(parents=True)
    torch.save(published, folder / variant / "net.pth")

    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    old = dict(vae.state_dict())
    for new_part, old_part in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {name.replace(new_part, old_part): value for name, value in old.items()}
    (folder / "sd-vae-ft-mse").mkdir()
    from safetensors.torch import save_file

    save_file(old, folder / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors")
    vae.save_config(folder / "sd-vae-ft-mse")

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = Wav2Vec2Config(
        **sizes,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    speech = Wav2Vec2ForPreTraining(config)
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in speech.state_dict().items()
    }
    (folder / "chinese-wav2vec2-base").mkdir()
    torch.save(renamed, folder / "chinese-wav2vec2-base" / "pytorch_model.bin")
    config.save_pretrained(folder / "chinese-wav2vec2-base")
    english = folder / "wav2vec" / "wav2vec2-base-960h"
    english.mkdir(parents=True)
    save_file(speech.state_dict(), english / "model.safetensors")
    config.save_pretrained(english)
    ours |= {f"vae/{name}": value for name, value in vae.state_dict().items()}
    return ours | {f"speech_encoder/{name}": value for name, value in speech.wav2vec2.state_dict().items()}


@pytest.fixture(autouse=True)
def _no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)


@pytest.mark.parametrize("variant", ["joyhallo", "hallo"])
def test_every_tensor_arrives(tmp_path, variant):
    ours = write_source(tmp_path / "source", variant)
    seen = []
    out = convert(tmp_path / "source", tmp_path / "out", variant, preset=small(variant), progress=seen.append)
    components = load_components(out, torch.float32)
    for place, value in ours.items():
        component, name = place.split("/")
        assert torch.equal(components[component].state_dict()[name], value.float()), place
    assert sum(len(components[c].state_dict()) for c in {place.split("/")[0] for place in ours}) == len(ours)
    scheduler = components["scheduler"]
    assert scheduler.config["beta_schedule"] == "linear"
    scheduler.set_timesteps(40)
    assert scheduler.timesteps[0] == 999
    assert float(scheduler.alphas_cumprod[999]) == 0.0
    assert components["reference_network"].config["row_order"] == "interleaved"
    assert components["sampling"]["clip_length"] == 16
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"], "nothing else is left"


def test_stored_type_is_kept_or_changed(tmp_path):
    write_source(tmp_path / "source", "joyhallo")
    net = tmp_path / "source" / "joyhallo" / "net.pth"
    kept = convert(net, tmp_path / "kept", "joyhallo", preset=small("joyhallo"))
    halved = convert(net, tmp_path / "halved", "joyhallo", preset=small("joyhallo"), dtype=torch.bfloat16)
    from safetensors.torch import load_file

    file = "face_locator/diffusion_pytorch_model.safetensors"
    assert {t.dtype for t in load_file(kept / file).values()} == {torch.float16}
    assert {t.dtype for t in load_file(halved / file).values()} == {torch.bfloat16}


def spoil(source: Path, change) -> None:
    net = source / "joyhallo" / "net.pth"
    tensors = torch.load(net, weights_only=True)
    change(tensors)
    torch.save(tensors, net)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("imageproj.norm.weight"), ["missing", "imageproj.norm.weight"]),
        (lambda t: t.update({"imageproj.norm.weight": torch.zeros(7)}), ["imageproj.norm.weight", "[7]", "[16]"]),
        (lambda t: t.update({"imageproj.norm.wieght": torch.zeros(7)}), ["imageproj.norm.wieght"]),
        (lambda t: t.update({"step": 3}), ["table of tensors"]),
        (lambda t: t.clear(), ["missing"]),
    ],
)
def test_faults_are_named_and_leave_nothing(tmp_path, change, words):
    write_source(tmp_path / "source", "joyhallo")
    spoil(tmp_path / "source", change)
    with pytest.raises(UserError) as error:
        convert(tmp_path / "source", tmp_path / "out", "joyhallo", preset=small("joyhallo"))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_wrong_variant_is_an_error(tmp_path):
    write_source(tmp_path / "source", "hallo")
    with pytest.raises(UserError, match="attn2_"):
        convert(tmp_path / "source" / "hallo" / "net.pth", tmp_path / "out", "joyhallo", preset=small("joyhallo"))
    assert not (tmp_path / "out").exists()


def test_missing_companions_name_the_command(tmp_path):
    write_source(tmp_path / "source", "joyhallo")
    (tmp_path / "source" / "sd-vae-ft-mse" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="joyhallo models pull joyhallo-v1"):
        convert(tmp_path / "source", tmp_path / "out", "joyhallo", preset=small("joyhallo"))
    with pytest.raises(CheckpointError, match="pull hallo"):
        convert(tmp_path / "source", tmp_path / "out", "hallo")
    (tmp_path / "full").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "source", tmp_path / "full", "joyhallo")


@pytest.mark.parametrize("variant", ["joyhallo", "hallo"])
def test_published_manifest_has_a_place_for_every_tensor(variant):
    """Names and shapes of the full-size checkpoint against our full-size networks."""
    manifest = Path(__file__).parents[2].parent / "shared" / "reference" / f"{variant}_net_manifest.json"
    if not manifest.is_file():
        pytest.skip("the manifest of the published checkpoint is not here")
    keymap, places = KEYMAPS[variant], {}
    for name, shape in json.loads(manifest.read_text()).items():
        target = keymap.to_ours(name)
        if target is not None:
            places.setdefault(target.component, {})[target.name] = target.shape(tuple(shape))
    for component, build in network_classes().items():
        with torch.device("meta"):
            network = build(**getattr(getattr(presets, variant)(), component))
        assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == places[component]
