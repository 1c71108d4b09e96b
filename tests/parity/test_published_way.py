"""The denoising network against a second implementation, computed the published way, at toy size with random weights."""

import sys
from pathlib import Path

import pytest
import torch

from joyhallo.models.conditions import ClipInputs, ReferenceFeatures, RegionMasks, RegionScale
from joyhallo.models.unet import DenoisingNetwork
from joyhallo.sampling.guidance import PUBLISHED_DROPS, with_unconditional

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from published import published_velocity

AS_TRAINED = RegionScale()
WIDTHS, TOKEN_DIM, TOLERANCE = (16, 32), 12, 2e-5
CLIPS = {  # frames, past frames, height and width of the latents
    "square": (4, 2, 8, 8),
    "wide": (3, 2, 4, 10),
    "odd": (5, 1, 7, 5),
    "one frame": (1, 2, 6, 8),
    "long past": (2, 4, 8, 6),
}


def build(**changes: object) -> DenoisingNetwork:
    shape = {"widths": WIDTHS, "attention_levels": (True, False), "layers_per_level": 1, "num_heads": 4, "num_groups": 8}
    network = DenoisingNetwork(**shape, face_dim=TOKEN_DIM, audio_dim=TOKEN_DIM, motion_heads=4, **changes)
    with torch.no_grad():
        for parameter in network.parameters():  # zero-initialised layers must take part
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def draw_clip(num_frames: int, num_past: int, height: int, width: int, num_samples: int) -> ClipInputs:
    """Random conditions of a clip; the reference holds `num_samples` samples and serves as many halves."""
    sizes = [(height, width), (-(-height // 2), -(-width // 2))]
    sites = [(sizes[0], WIDTHS[0]), (sizes[1], WIDTHS[1]), *[(sizes[0], WIDTHS[0])] * 2]
    features = (torch.randn(num_samples, 1 + num_past, h * w, c) for (h, w), c in sites)
    masks = RegionMasks(*(tuple(torch.rand(1, 1, *size) for size in sizes) for _ in range(3)))
    audio = torch.randn(1, num_frames, 6, TOKEN_DIM)
    location = torch.randn(1, WIDTHS[0], height, width)
    return ClipInputs(ReferenceFeatures(tuple(features)), torch.randn(1, 4, TOKEN_DIM), audio, location, masks)


@torch.no_grad()
def largest_difference(network: DenoisingNetwork, inputs: ClipInputs, scale: RegionScale = AS_TRAINED) -> float:
    height, width = inputs.masks.lip[0].shape[-2:]
    latents = torch.randn(len(inputs.face_tokens), 4, inputs.num_frames, height, width)
    timestep = torch.tensor([601])
    expected = published_velocity(network, latents, timestep, inputs, scale)
    return (network(latents, timestep, network.condition(inputs, scale)) - expected).abs().max().item()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("is_guided", [True, False], ids=["guided", "alone"])
@pytest.mark.parametrize("row_order", ["interleaved", "aligned"])
@pytest.mark.parametrize("audio_attention", ["semi_decoupled", "decoupled"])
def test_equals_the_published_way(audio_attention: str, row_order: str, is_guided: bool, clip: str) -> None:
    network = build(audio_attention=audio_attention, row_order=row_order)
    inputs = draw_clip(*CLIPS[clip], num_samples=2 if is_guided else 1)
    if is_guided:
        inputs = with_unconditional(inputs, PUBLISHED_DROPS, torch.randn(1, 4, TOKEN_DIM))
    assert largest_difference(network, inputs, RegionScale(lip=1.2, expression=0.8, pose=0.5)) < TOLERANCE


def test_one_reference_serves_both_halves() -> None:
    inputs = with_unconditional(draw_clip(*CLIPS["wide"], num_samples=1), PUBLISHED_DROPS, torch.randn(1, 4, TOKEN_DIM))
    assert largest_difference(build(), inputs) < TOLERANCE


def test_without_a_reference() -> None:
    inputs = draw_clip(*CLIPS["odd"], num_samples=1)
    blind = ClipInputs(None, inputs.face_tokens, inputs.audio_tokens, inputs.location, inputs.masks)
    assert largest_difference(build(), blind) < TOLERANCE


def test_an_unconditional_half_may_keep_its_conditions() -> None:
    inputs = with_unconditional(draw_clip(*CLIPS["square"], num_samples=1), ("face",), torch.randn(1, 4, TOKEN_DIM))
    assert largest_difference(build(), inputs) < TOLERANCE


def test_the_comparison_sees_the_order_of_rows() -> None:
    """The two row orders differ, so equality above says something."""
    network = build(row_order="interleaved")
    inputs = with_unconditional(draw_clip(*CLIPS["square"], num_samples=2), PUBLISHED_DROPS, torch.randn(1, 4, TOKEN_DIM))
    conditioning = network.condition(inputs)
    network.register_to_config(row_order="aligned")
    latents, timestep = torch.randn(2, 4, 4, 8, 8), torch.tensor([601])
    with torch.no_grad():
        expected = published_velocity(network, latents, timestep, inputs)
        assert (network(latents, timestep, conditioning) - expected).abs().max() > 100 * TOLERANCE
