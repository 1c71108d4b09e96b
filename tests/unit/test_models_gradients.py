"""Gradients: every parameter that a stage trains gets one, and those that cannot are known by name."""

from dataclasses import replace

import pytest
import torch

from joyhallo.models.kernels import attend
from joyhallo.models.networks import build_networks
from joyhallo.training.stages import Batch, Draws, Objective, velocity_loss
from tiny import drawn_inputs, drawn_masks, forward, normal, tiny_preset

SIZE, NUM_FRAMES = (4, 4), 2


def gradients(networks, still: bool) -> dict[str, torch.Tensor | None]:
    """By `component.parameter`; None where the loss does not depend on it."""
    num_past = 0 if still else 2
    batch = Batch(
        latents=normal(1, 2, 4, NUM_FRAMES, *SIZE),
        reference_latents=normal(2, 2, 1 + num_past, 4, *SIZE),
        face_embedding=normal(3, 2, 8),
        audio_window=normal(4, 2, NUM_FRAMES, 5, 2, 8),
        face_region=(normal(5, 2, 3, 32, 32) > 0).float(),
        masks=drawn_masks(6, SIZE),
    )
    timesteps = torch.tensor([[137, 999], [5, 600]]) if still else torch.tensor([137, 600])
    draws = Draws(
        timesteps, normal(7, *batch.latents.shape), 0, torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    )
    for module in networks.modules().values():
        module.requires_grad_(True)
    velocity_loss(networks, batch, Objective(still=still), draws).mean().backward()
    parameters = {f"{k}.{n}": p for k, m in networks.modules().items() for n, p in m.named_parameters()}
    return {name: parameter.grad for name, parameter in parameters.items()}


@pytest.mark.parametrize("audio_attention", ["semi_decoupled", "decoupled"])
@pytest.mark.parametrize("still", [False, True])
def test_every_parameter_that_can_matter_gets_a_gradient(make_networks, audio_attention, still):
    networks = make_networks(audio_attention=audio_attention)
    found = gradients(networks, still)
    absent = {name for name, gradient in found.items() if gradient is None or gradient.abs().max() == 0}
    last = len(networks.denoising_network.plan) - 1
    expected = {name for name in found if name.startswith("reference_network.") and is_tail(networks, name, last)}
    if still:
        expected |= {name for name in found if ".motion." in name}
    assert absent == expected
    assert all(gradient.isfinite().all() for gradient in found.values() if gradient is not None)


def is_tail(networks, name: str, last: int) -> bool:
    """Whether a parameter of the reference network comes after the last thing that is handed out."""
    site = list(networks.reference_network.body.sites())[last][1]
    inside = {
        id(p)
        for part in (site.self_attention, site.face_norm, site.face_attention, site.ff_norm, site.ff, site.proj_out)
        for p in part.parameters()
    }
    parameter = networks.reference_network.get_parameter(name.removeprefix("reference_network."))
    return id(parameter) in inside


def test_the_untrained_network_begins_with_silent_audio_and_motion():
    """Zero-initialised ends: before training, neither speech nor time changes a picture, but both can learn."""
    torch.manual_seed(0)
    networks = build_networks(tiny_preset())
    inputs = drawn_inputs(networks, SIZE, NUM_FRAMES)
    other = replace(inputs, audio_tokens=normal(30, *inputs.audio_tokens.shape))
    latents = normal(1, 1, 4, NUM_FRAMES, *SIZE)
    assert torch.equal(forward(networks, inputs, latents), forward(networks, other, latents))
    swapped = forward(networks, inputs, latents.flip(2))
    assert torch.allclose(swapped.flip(2), forward(networks, inputs, latents), atol=1e-6)


def test_attention_trained_in_bf16_on_a_cpu_stays_float32():
    parts = [normal(seed, 2, 2, 5, 4).requires_grad_(True) for seed in range(3)]
    expected = attend(*parts)
    wanted = torch.autograd.grad(expected.square().sum(), parts)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*parts)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(found.square().sum(), parts), wanted, strict=True))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert attend(*parts).dtype == torch.bfloat16
