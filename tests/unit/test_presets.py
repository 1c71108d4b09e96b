"""Named configurations: the published sizes, and what every network of a system must agree on."""

import inspect

import pytest
import torch

from joyhallo import presets
from joyhallo.models.networks import build_networks
from joyhallo.presets import Preset, Sampling


@pytest.mark.parametrize(("name", "millions"), [("joyhallo", 2373.26 - 180.77), ("hallo", 2424.80 - 180.77)])
def test_published_sizes(name, millions):
    """The published counts (position tables included), without the motion modules that never run."""
    with torch.device("meta"):
        networks = build_networks(getattr(presets, name)())
    total = sum(tensor.numel() for module in networks.modules().values() for tensor in module.state_dict().values())
    assert total / 1e6 == pytest.approx(millions, abs=0.02)
    assert networks.denoising_network.config["row_order"] == "interleaved"
    assert networks.reference_network.config["row_order"] == "interleaved"


def test_published_sampling():
    drops = ("portrait", "face", "audio", "location")
    expected = Sampling(512, 512, 25, 16, 2, 40, 3.5, 1.0, drops, 0.0, 1.0, "absolute", 0.18215)
    assert presets.joyhallo().sampling == expected
    assert presets.hallo().sampling == expected


@pytest.mark.parametrize(("end", "seconds"), [(0, 4), (0.4, 5 + 2 + 2), (1, 5 + 3 * 2)])
def test_the_time_of_four_steps_is_that_of_the_guided_and_the_plain_ones(end, seconds):
    assert presets.time_of_steps(4, end, first_s=5, guided_s=2, plain_s=1) == seconds


def test_hallo_is_joyhallo_with_decoupled_attention():
    ours, other = presets.joyhallo(), presets.hallo()
    assert other.denoising_network == ours.denoising_network | {"audio_attention": "decoupled"}
    assert other.reference_network == ours.reference_network


@pytest.mark.parametrize("name", ["joyhallo", "hallo", "mini"])
def test_the_networks_of_a_system_fit_each_other(name):
    preset = getattr(presets, name)()
    with torch.device("meta"):
        networks = build_networks(preset)
    denoising, reference = networks.denoising_network.config, networks.reference_network.config
    for shared in ("widths", "attention_levels", "layers_per_level", "num_heads", "num_groups", "face_dim", "row_order"):
        assert denoising[shared] == reference[shared]
    assert denoising["in_channels"] == denoising["out_channels"] * (2 if denoising["portrait_in_input"] else 1)
    assert reference["in_channels"] == denoising["out_channels"]
    assert networks.face_projector.config["token_dim"] == denoising["face_dim"]
    assert networks.audio_projector.config["token_dim"] == denoising["audio_dim"]
    assert networks.audio_projector.config["window_length"] == 5
    assert networks.face_locator.config["out_channels"] == denoising["widths"][0]
    sampling = preset.sampling
    assert (
        sampling.clip_length + max(sampling.num_past_frames, denoising["blind_past_frames"]) <= denoising["max_motion_length"]
    )
    assert all(width % denoising["num_groups"] == 0 for width in denoising["widths"])
    assert all(
        width % heads == 0 for width in denoising["widths"] for heads in (denoising["num_heads"], denoising["motion_heads"])
    )


def test_the_clean_row_order_is_the_default_and_mini_uses_it():
    with torch.device("meta"):
        networks = build_networks(presets.mini())
    assert networks.denoising_network.config["row_order"] == "aligned"
    assert networks.reference_network.config["row_order"] == "aligned"
    millions = sum(p.numel() for module in networks.modules().values() for p in module.parameters()) / 1e6
    assert 2 * millions < 60  # MB in the repository, in half precision


def test_an_unknown_audio_attention_is_refused():
    preset = Preset(
        denoising_network={"widths": (8, 8), "attention_levels": (True, True), "num_groups": 4, "audio_attention": "own"}
    )
    with torch.device("meta"), pytest.raises(ValueError, match=r"'own'.*semi_decoupled.*decoupled"):
        build_networks(preset)


def test_levels_and_widths_must_agree():
    with torch.device("meta"), pytest.raises(ValueError, match="3 widths"):
        build_networks(Preset(reference_network={"widths": (8, 8, 8), "attention_levels": (True, True), "num_groups": 4}))


def test_presets_are_functions_without_arguments():
    for name in ("joyhallo", "hallo", "mini"):
        assert not inspect.signature(getattr(presets, name)).parameters
