"""Starts of training: every tensor has a known origin; begun as Stable Diffusion, networks compute what it computes."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from joyhallo import presets
from joyhallo.errors import UserError
from joyhallo.models.conditions import ClipInputs
from joyhallo.models.networks import build_networks
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.weights.keymaps import KEYMAPS
from joyhallo.weights.start import MOTION, plan_start, start_networks
from joyhallo.weights.tensor_files import CheckpointError
from tiny import TINY, draw_weights, drawn_masks, normal

LEVELS = {"attention_levels": (True, False)}
SMALL = replace(
    TINY,
    reference_network=TINY.reference_network | LEVELS,
    denoising_network=TINY.denoising_network | LEVELS,
)
SIZE, NUM_SAMPLES = (6, 4), 2
KEYMAP = KEYMAPS["joyhallo"]


def unet(**shape) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's U-Net as diffusers builds it, with another shape."""
    return UNet2DConditionModel(cross_attention_dim=shape.pop("cross_attention_dim", 768), **shape)


def small_unet() -> UNet2DConditionModel:
    model = unet(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    draw_weights(model, 11)
    return model.eval()


def motion_tensors(preset) -> dict[str, torch.Tensor]:
    """AnimateDiff's file for networks of a preset: the published names without their prefix, and a module that never runs."""
    with torch.device("meta"):
        network = build_networks(preset).denoising_network
    found = {}
    for index, (name, tensor) in enumerate(item for item in network.state_dict().items() if ".motion." in item[0]):
        published = KEYMAP.to_published("denoising_network", name)
        shape = KEYMAP.to_ours(published).to_published(tensor).shape
        found[published.removeprefix("denoising_unet.")] = normal(200 + index, *shape)
    found["up_blocks.0.motion_modules.0.temporal_transformer.norm.weight"] = torch.ones(16)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stable Diffusion, motion weights, autoencoder and speech encoder as they lie in the published folder, all small."""
    root = tmp_path_factory.mktemp("pretrained_models")
    small_unet().save_pretrained(root / "stable-diffusion-v1-5" / "unet")
    (root / "stable-diffusion-v1-5" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (root / "motion_module").mkdir()
    torch.save(motion_tensors(SMALL), root / "motion_module" / MOTION)
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4).save_pretrained(root / "sd-vae-ft-mse")
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    tiny |= {"conv_dim": (4,), "conv_kernel": (10,), "conv_stride": (5,), "num_conv_pos_embedding_groups": 2}
    speech = Wav2Vec2Model(Wav2Vec2Config(**tiny))
    speech.save_pretrained(root / "chinese-wav2vec2-base")
    return root


@pytest.fixture(scope="module")
def start(folder):
    return start_networks(SMALL, folder / "stable-diffusion-v1-5")


def full_size() -> tuple[dict, dict, object]:
    """Names and shapes: Stable Diffusion 1.5's as diffusers builds it, AnimateDiff's, and our networks."""
    with torch.device("meta"):
        networks = build_networks(presets.joyhallo())
        sd = {name: tuple(tensor.shape) for name, tensor in unet().state_dict().items()}
    motion = {}
    for name, tensor in networks.denoising_network.state_dict().items():
        if ".motion." in name:
            published = KEYMAP.to_published("denoising_network", name)
            motion[published.removeprefix("denoising_unet.")] = tuple(KEYMAP.to_ours(published).to_published(tensor).shape)
    return sd, motion, networks


@pytest.mark.parametrize("preset", [presets.joyhallo(), presets.hallo()], ids=["joyhallo", "hallo"])
def test_every_tensor_of_the_full_size_has_an_origin(preset):
    sd, motion, _ = full_size()
    with torch.device("meta"):
        networks = build_networks(preset)
    plan = plan_start(networks, sd, motion)
    ours = {f"{part}.{name}" for part, module in networks.modules().items() for name in module.state_dict()}
    assert set(plan.filled) | set(plan.drawn) | set(plan.zero) == ours
    assert len(plan.filled) + len(plan.drawn) + len(plan.zero) == len(ours)
    used = [(filling.file, filling.name) for filling in plan.filled.values()]
    assert {name for file, name in used if file == "unet"} == set(sd)
    assert {name for file, name in used if file == "motion"} == set(motion)
    assert len(used) == 2 * len(sd) - 4 + len(motion)  # the reference network has no last convolution
    assert all(name.startswith("denoising_network.") for name, filling in plan.filled.items() if filling.file == "motion")
    assert {name.partition(".")[0] for name in plan.drawn} == {
        *("face_projector", "audio_projector", "face_locator", "denoising_network")
    }
    assert all(".audio." in name for name in plan.drawn if name.startswith("denoising_network."))
    assert len([name for name in plan.zero if ".audio.branches." in name]) == 16 * 3 * 2


def test_the_manifest_of_the_published_checkpoint_is_stable_diffusion_and_what_is_new(reference_folder):
    """Published names without prefix are those of Stable Diffusion and AnimateDiff, with the same shapes."""
    manifest = json.loads((reference_folder / "joyhallo_net_manifest.json").read_text())
    sd, running, networks = full_size()
    inside = {n.partition(".")[2]: tuple(s) for n, s in manifest.items() if n.startswith("denoising_unet.")}
    plain = {name: shape for name, shape in inside.items() if "audio_modules" not in name and "motion_modules" not in name}
    assert plain == sd
    reference = {n.partition(".")[2]: tuple(s) for n, s in manifest.items() if n.startswith("reference_unet.")}
    assert reference == {name: shape for name, shape in sd.items() if not name.startswith(("conv_norm_out", "conv_out"))}
    motion = {name: shape for name, shape in inside.items() if "motion_modules" in name}
    plan = plan_start(networks, plain, motion)
    assert {filling.name for filling in plan.filled.values() if filling.file == "motion"} == set(running)
    assert len(plan.unused) == 140
    assert set(running) | set(plan.unused) == set(motion)


def test_values_are_those_of_the_files(start, folder):
    sd = load_file(folder / "stable-diffusion-v1-5" / "unet" / "diffusion_pytorch_model.safetensors")
    files = {"unet": sd, "motion": motion_tensors(SMALL)}
    plan = plan_start(start.networks, *({name: tuple(t.shape) for name, t in files[f].items()} for f in ("unet", "motion")))
    modules = start.networks.modules()
    for ours, filling in plan.filled.items():
        component, _, name = ours.partition(".")
        wanted = files[filling.file][filling.name]
        assert torch.equal(modules[component].state_dict()[name].flatten(), wanted.flatten()), ours
    for ours in plan.zero:
        component, _, name = ours.partition(".")
        assert not modules[component].state_dict()[name].any(), ours
    for ours in plan.drawn:
        component, _, name = ours.partition(".")
        tensor = modules[component].state_dict()[name]
        assert tensor.isfinite().all()
        assert tensor.any() or name.endswith("bias"), ours
    assert all(p.dtype == torch.float32 and not p.is_meta for m in modules.values() for p in m.parameters())
    assert len({p.data_ptr() for m in modules.values() for p in m.parameters()}) == sum(
        len(list(m.parameters())) for m in modules.values()
    ), "the two networks share no memory"


@pytest.mark.parametrize("hears", [False, True])
@torch.no_grad()
def test_the_denoising_network_begins_as_stable_diffusion(start, hears):
    tokens, latents = normal(1, NUM_SAMPLES, 5, 12), normal(2, NUM_SAMPLES, 4, 1, *SIZE)
    timesteps = torch.tensor([17, 801])
    location = start.networks.face_locator((normal(3, NUM_SAMPLES, 3, 8 * SIZE[0], 8 * SIZE[1]) > 0).float())
    audio = start.networks.audio_projector(normal(4, NUM_SAMPLES, 1, 5, 2, 8)) if hears else None
    inputs = ClipInputs(None, tokens, audio, location, drawn_masks(5, SIZE), still=True)
    network = start.networks.denoising_network
    found = network(latents, timesteps, network.condition(inputs))[:, :, 0]
    expected = small_unet()(latents[:, :, 0], timesteps, tokens).sample
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_the_reference_network_begins_as_stable_diffusion(start):
    tokens, latents = normal(1, NUM_SAMPLES, 5, 12), normal(2, NUM_SAMPLES, 1, 4, *SIZE)
    expected, model = [], small_unet()
    for name, module in model.named_modules():
        if name.endswith("transformer_blocks.0.norm1"):
            module.register_forward_hook(lambda _module, _given, seen: expected.append(seen))
    model(latents[:, 0], torch.zeros(NUM_SAMPLES, dtype=torch.long), tokens)
    found = start.networks.reference_network(latents, tokens).sites
    assert len(found) == len(expected)
    assert all(torch.allclose(ours[:, 0], theirs, atol=1e-5) for ours, theirs in zip(found, expected, strict=True))


def test_the_report_names_the_files(start):
    assert MOTION in start.report
    assert "diffusion_pytorch_model.safetensors" in start.report
    assert "new for speech and face" in start.report
    assert "\n" not in start.report


def test_a_start_is_a_whole_pipeline_that_can_be_saved(start, tmp_path):
    pipe = JoyHalloPipeline(**start.components)
    assert pipe.scheduler.config["beta_schedule"] == "scaled_linear"
    pipe.save_pretrained(tmp_path / "run")
    again = start_networks(presets.mini(), tmp_path / "run")  # the folder's own configuration wins
    for name, module in start.networks.modules().items():
        saved = again.networks.modules()[name].state_dict()
        assert all(torch.equal(tensor, saved[key]) for key, tensor in module.state_dict().items())


def test_the_new_layers_depend_on_the_seed_alone(folder):
    state = torch.random.get_rng_state()
    drawn = [start_networks(SMALL, folder, seed).networks.audio_projector.proj1.weight for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pickles_halves_and_old_prefixes_are_read(folder, start, tmp_path):
    tensors = load_file(folder / "stable-diffusion-v1-5" / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet").mkdir()
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    torch.save({"state_dict": {f"module.{n}": t for n, t in motion_tensors(SMALL).items()}}, tmp_path / MOTION)
    for companion in ("sd-vae-ft-mse", "chinese-wav2vec2-base"):
        (tmp_path / companion).symlink_to(folder / companion)
    half = start_networks(SMALL, tmp_path)
    name = "body.down.0.sites.0.spatial.self_attention.to_q.weight"
    ours, theirs = (s.networks.denoising_network.get_parameter(name) for s in (half, start))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs.half().float())
    motion = "body.down.0.sites.0.motion.proj_out.weight"
    assert torch.equal(*(s.networks.denoising_network.get_parameter(motion) for s in (half, start)))


def changed_unet(folder, tmp_path, change) -> None:
    tensors = load_file(folder / "stable-diffusion-v1-5" / "unet" / "diffusion_pytorch_model.safetensors")
    change(tensors)
    (tmp_path / "unet").mkdir()
    save_file(tensors, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / MOTION).symlink_to(folder / "motion_module" / MOTION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_in.bias"), r"missing tensors: reference_network\.conv_in\.bias"),
        (lambda t: t.update(extra=torch.ones(1)), "'extra' is not of Stable Diffusion 1.5"),
        (lambda t: t.update({"conv_in.bias": torch.ones(9)}), r"conv_in\.bias has shape \[9\], needed \[8\]"),
    ],
)
def test_other_weights_are_refused_by_name(folder, tmp_path, change, message):
    changed_unet(folder, tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        start_networks(SMALL, tmp_path)
    assert "\n" not in str(raised.value)


def test_what_lacks_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "unet").symlink_to(folder / "stable-diffusion-v1-5" / "unet")
    with pytest.raises(CheckpointError, match=MOTION):
        start_networks(SMALL, tmp_path / "alone")
    (tmp_path / "alone" / MOTION).symlink_to(folder / "motion_module" / MOTION)
    with pytest.raises(CheckpointError, match=r"sd-vae-ft-mse is neither in .* models pull"):
        start_networks(SMALL, tmp_path / "alone")
    with pytest.raises(CheckpointError, match="does not fill these networks"):
        start_networks(presets.mini(), folder)
    with pytest.raises(UserError, match="models convert"):
        start_networks(SMALL, folder / "motion_module" / MOTION)
    with pytest.raises(UserError, match="no weights"):
        start_networks(SMALL, tmp_path / "nowhere")


def test_from_nothing_means_drawn_from_the_seed():
    state = torch.random.get_rng_state()
    starts = [start_networks(presets.mini(), "none", seed) for seed in (3, 3, 4)]
    weights = [start.networks.denoising_network.state_dict() for start in starts]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert any(not torch.equal(tensor, weights[2][name]) for name, tensor in weights[0].items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert starts[0].components["sampling"] == presets.mini().sampling
    with pytest.raises(UserError, match="not trained from nothing"):
        start_networks(presets.joyhallo(), "none")


def test_mini_starts_from_its_weights():
    start = start_networks(presets.mini(), "mini")
    assert start.components["identity_encoder"] is not None
    assert start.report == "all networks from mini"
