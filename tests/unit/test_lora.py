"""Low-rank adapters: they begin as nothing, alone they train, and merged they are what was trained."""

import hashlib
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from joyhallo.cli import main
from joyhallo.errors import UserError
from joyhallo.media.audio import read_speech
from joyhallo.media.video import read_frames
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.training.lora import adapters_of, add_lora, load_lora, remove_lora, save_lora
from joyhallo.weights.lora import merge_lora
from joyhallo.weights.tensor_files import CheckpointError
from tiny import drawn_inputs, drawn_pipeline, drawn_portrait, drawn_speech, forward, normal

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE, NUM_FRAMES = (6, 4), 3
LATENTS = normal(1, 1, 4, NUM_FRAMES, *SIZE)
ONE = "denoising_network.body.down.0.sites.0.spatial.face_attention.to_q"


def velocity(networks) -> torch.Tensor:
    with torch.no_grad():
        return forward(networks, drawn_inputs(networks, SIZE, NUM_FRAMES), LATENTS)


def both(networks) -> dict:
    return {"denoising_network": networks.denoising_network, "reference_network": networks.reference_network}


def trained(networks, rank: int = 2, alpha: float = 3.0, **options) -> None:
    """Adapters as training might leave them: none of their numbers zero."""
    for index, parameter in enumerate(add_lora(both(networks), rank, alpha, **options)):
        parameter.data.copy_(0.3 * normal(index, *parameter.shape))


@pytest.fixture
def file(make_networks, tmp_path):
    networks = make_networks()
    trained(networks)
    save_lora(tmp_path / "lora.safetensors", both(networks))
    return tmp_path / "lora.safetensors"


def test_it_begins_as_nothing(make_networks):
    networks = make_networks()
    before = velocity(networks)
    add_lora(both(networks), 2)
    assert torch.equal(velocity(networks), before)


def test_the_beginning_depends_on_the_seed_alone(make_networks):
    drawn = []
    for seed in (1, 1, 2):
        networks = make_networks()
        add_lora(both(networks), 2, seed=seed)
        drawn.append(adapters_of(both(networks))[ONE].lora_A.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_adapters_alone_train_and_all_of_them_do(make_networks):
    networks = make_networks()
    for module in networks.modules().values():
        module.requires_grad_(True)
    every = networks.modules()
    parameters = add_lora(every, 2, targets=("spatial", "audio", "motion", "self_attention"))
    assert {id(p) for p in parameters} == {id(p) for m in every.values() for p in m.parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in networks.denoising_network.state_dict().items()}
    for _ in range(2):  # in the first step the zero matrices B learn, which keep A from learning
        inputs = drawn_inputs(networks, SIZE, NUM_FRAMES)
        network = networks.denoising_network
        loss = network(LATENTS.clone().requires_grad_(), torch.tensor([601]), network.condition(inputs)).square().mean()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.data -= 0.1 * gradient
    used = [g for p, g in zip(parameters, gradients, strict=True) if g is not None and g.abs().max() > 0]
    assert len(used) >= 2 * sum(name.startswith("denoising") for name in adapters_of(every))
    changed = [name for name, value in networks.denoising_network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert all("lora_" in name for name in changed)


@pytest.mark.parametrize("targets", [("to_q", "to_k", "to_v", "to_out"), ("ff", "branches"), ("spatial", "audio", "motion")])
def test_merged_is_what_was_trained(make_networks, tmp_path, targets):
    networks = make_networks()
    untouched = velocity(networks)
    trained(networks, targets=targets)
    expected = velocity(networks)
    assert (expected - untouched).abs().max() > 1e-3
    save_lora(tmp_path / "lora.safetensors", both(networks))
    merged = make_networks()
    num_layers = merge_lora(both(merged), tmp_path / "lora.safetensors")
    assert num_layers == len(adapters_of(both(networks)))
    assert torch.allclose(velocity(merged), expected, atol=1e-5)


def test_strength_scales_it(make_networks, file):
    networks, twice, none = make_networks(), make_networks(), make_networks()
    before = networks.denoising_network.get_submodule(ONE.partition(".")[2]).weight.detach()
    merge_lora(both(networks), file)
    merge_lora(both(twice), file, 2.0)
    merge_lora(both(none), file, 0.0)
    once, double, zero = (n.denoising_network.get_submodule(ONE.partition(".")[2]).weight for n in (networks, twice, none))
    assert torch.allclose(double - before, 2 * (once - before), atol=1e-6)
    assert torch.equal(zero, before)
    pair = load_file(file)
    expected = 3.0 / 2 * pair[f"{ONE}.lora_B.weight"] @ pair[f"{ONE}.lora_A.weight"]
    assert torch.allclose(once - before, expected, atol=1e-6)


def test_the_file_says_what_it_is(file):
    with safe_open(file, "pt") as opened:
        assert {"rank": "2", "alpha": "3.0", "format": "joyhallo-lora"}.items() <= opened.metadata().items()
        names = set(opened.keys())
    assert {f"{ONE}.lora_A.weight", f"{ONE}.lora_B.weight"} <= names
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def test_training_goes_on_from_a_file(make_networks, file):
    networks = make_networks()
    add_lora(both(networks), 2, 3.0)
    load_lora(file, both(networks))
    save_lora(file.with_name("again.safetensors"), both(networks))
    assert file.with_name("again.safetensors").read_bytes() == file.read_bytes()
    other = make_networks()
    add_lora(both(other), 3, 3.0)
    with pytest.raises(UserError, match="rank 2 and alpha 3, the run 3 and 3"):
        load_lora(file, both(other))
    fewer = make_networks()
    add_lora(both(fewer), 2, 3.0, targets=("to_q",))
    with pytest.raises(UserError, match="same --lora targets"):
        load_lora(file, both(fewer))


def test_adapters_can_be_taken_out_again(make_networks):
    networks = make_networks()
    before = velocity(networks)
    names = set(networks.denoising_network.state_dict())
    trained(networks)
    remove_lora(both(networks))
    assert torch.equal(velocity(networks), before)
    assert set(networks.denoising_network.state_dict()) == names


def test_half_precision_weights_are_merged_in_full_precision(make_networks, file):
    networks, half = make_networks(), make_networks()
    half.denoising_network.bfloat16()
    merge_lora(both(networks), file)
    merge_lora({"denoising_network": half.denoising_network, "reference_network": half.reference_network}, file)
    layer = half.denoising_network.get_submodule(ONE.partition(".")[2])
    assert layer.weight.dtype == torch.bfloat16
    wanted = networks.denoising_network.get_submodule(ONE.partition(".")[2]).weight
    assert torch.allclose(layer.weight.float(), wanted, atol=0.02)


def rewritten(file, change, metadata=None):
    tensors = dict(load_file(file))
    change(tensors)
    save_file(tensors, file, metadata={"rank": "2", "alpha": "3.0"} if metadata is None else metadata)
    return file


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda t: t.update({"conv_in.weight": torch.ones(2, 2, 3, 3)}), None, r"is no LoRA file \(it holds conv_in.weight"),
        (lambda t: t.clear(), None, "holds no adapters"),
        (lambda t: t.pop(f"{ONE}.lora_B.weight"), None, f"lacks {ONE}.lora_B.weight"),
        (
            lambda t: t.update({f"{ONE}.lora_A.weight": torch.ones(3, 8)}),
            None,
            r"matrices \[3, 8\] and \[8, 2\], but .* rank is 2",
        ),
        (lambda _: None, {"format": "pt"}, "does not say its rank and alpha"),
        (lambda _: None, {"rank": "0", "alpha": "1"}, "says rank 0"),
        (
            lambda t: t.update({k.replace("to_q", "to_x"): t.pop(k) for k in list(t) if "to_q" in k}),
            None,
            "adapts .* layers that these do not have, like .*to_x .the nearest they have is .*to_",
        ),
        (
            lambda t: t.update({f"{ONE}.lora_A.weight": torch.ones(2, 9)}),
            None,
            r"is \[8, 8\], adapted \[8, 9\]: use the weights",
        ),
    ],
)
def test_files_that_do_not_fit_change_nothing(make_networks, file, change, metadata, message):
    networks = make_networks()
    before = velocity(networks)
    with pytest.raises(CheckpointError, match=message) as raised:
        merge_lora(both(networks), rewritten(file, change, metadata))
    assert "\n" not in str(raised.value)
    assert torch.equal(velocity(networks), before)


@pytest.mark.parametrize("name", ["missing.safetensors", "lora.pth", "folder"])
def test_what_is_no_safetensors_file_is_refused(make_networks, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "lora.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"LoRA file|is not a file"):
        merge_lora(both(make_networks()), tmp_path / name)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 11.0])
def test_strengths_that_no_run_can_use(make_networks, file, strength):
    with pytest.raises(UserError, match="give -10 to 10"):
        merge_lora(both(make_networks()), file, strength)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0: give 1 to 8"),
        ({"rank": 9}, "rank is 9: give 1 to 8"),
        ({"rank": 2, "alpha": 0.0}, "alpha is 0.0: give a positive number"),
        ({"rank": 2, "targets": ("to_z",)}, "'to_z' is in no attention layer: give some of .*to_q"),
    ],
)
def test_options_that_cannot_be(make_networks, options, message):
    with pytest.raises(UserError, match=message):
        add_lora(both(make_networks()), **options)


def test_twice_is_refused(make_networks):
    networks = make_networks()
    add_lora(both(networks), 2)
    with pytest.raises(UserError, match="adapters already"):
        add_lora(both(networks), 2)
    with pytest.raises(UserError, match="no adapters to write"):
        save_lora("/nowhere/lora.safetensors", both(make_networks()))


def test_the_pipeline_takes_one(file):
    """The frames of a pipeline with a file are those of one whose networks hold the trained adapters."""
    portrait, speech = drawn_portrait((48, 32)), drawn_speech(4)
    plain, loaded, none = (drawn_pipeline() for _ in range(3))
    loaded.load_lora(file)
    none.load_lora(str(file), strength=0.0)
    frames = [pipe(portrait, pipe.speech(speech)).frames for pipe in (plain, loaded, none)]
    assert (frames[0] == frames[2]).all()
    assert (frames[0] != frames[1]).mean() > 0.1
    with pytest.raises(UserError, match="is not a file"):
        plain.load_lora("missing.safetensors")


@pytest.fixture
def surroundings(tmp_path) -> Path:
    """A third of a second of speech, and a LoRA file for the embedded weights that bends what they do."""
    with wave.open(str(tmp_path / "speech.wav"), "wb") as recording:
        recording.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound = read_speech(EXAMPLES / "speech_zh.wav", 16_000)[8_000:13_000]
        recording.writeframes((sound * 32_767).astype(np.int16).tobytes())
    pipe = JoyHalloPipeline.from_pretrained("mini")
    modules = {"denoising_network": pipe.denoising_network}
    for index, parameter in enumerate(add_lora(modules, 4, targets=("spatial", "audio"))):
        parameter.data.copy_(0.4 * normal(index, *parameter.shape))
    save_lora(tmp_path / "speaker.safetensors", modules)
    return tmp_path


def test_animate_takes_one(surroundings, capsys):
    given = [str(EXAMPLES / "portrait.png"), str(surroundings / "speech.wav")]
    given += ["--steps", "1", "--guidance", "1", "--crop", "--device", "cpu", "--dtype", "fp32"]
    lora = str(surroundings / "speaker.safetensors")
    frames, records = {}, {}
    for name, options in {"plain": [], "half": ["--lora", lora, "--lora-strength", "0.5"]}.items():
        output = surroundings / f"{name}.mp4"
        assert main(["animate", *given, "-o", str(output), *options]) == 0
        frames[name] = np.stack(list(read_frames(output))).astype(float)
        records[name] = json.loads(output.with_name(f"{name}.mp4.json").read_text())["made_from"]["lora"]
    assert np.abs(frames["half"] - frames["plain"]).mean() > 0.1
    assert records["plain"] is None  # what decides whether a run that was cut goes on
    assert records["half"] == [hashlib.sha256(Path(lora).read_bytes()).hexdigest(), 0.5]
    capsys.readouterr()
    for options, message in {
        ("--lora", str(surroundings / "none.safetensors")): "LoRA file",
        ("--lora", str(EXAMPLES / "portrait.png")): "is no LoRA file",
        ("--lora-strength", "2"): "without --lora",
    }.items():
        assert main(["animate", *given, "-o", str(surroundings / "other.mp4"), *options]) == 2
        assert message in capsys.readouterr().err
