"""Parity: the published code's outputs when they are here, and always a small golden of our own taken while they were equal."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from joyhallo.errors import UserError
from joyhallo.models.conditions import RegionScale
from joyhallo.models.networks import Networks
from joyhallo.sampling.guidance import PUBLISHED_DROPS, with_unconditional
from joyhallo.sampling.sampler import guided_velocity, sample
from joyhallo.sampling.schedule import published_schedule
from joyhallo.weights.parity import FORWARD_TOLERANCE, SCALES, TIMESTEP, Difference, Golden, compare_goldens
from tiny import drawn_inputs, drawn_masks, drawn_networks, normal, tiny_preset

SMALL = Path(__file__).parents[1] / "data" / "small_golden.json"
CPU = torch.device("cpu")
VARIANTS = {"joyhallo": "semi_decoupled", "hallo": "decoupled"}
# In the folder but not compared: what ours never computes, inner values, and rounded runs (see `rounded_reference`).
NOT_COMPARED = ("in.", "cfg.reference_unet.out", "nocfg.reference_unet.out", "cfg.bank32.probe.")
NOT_COMPARED += ("nocfg.bank16.", "pipe.bank16.")


@pytest.fixture(scope="module")
def differences(reference_folder) -> list[Difference]:
    return list(compare_goldens(reference_folder / "goldens", CPU, torch.float32))


@pytest.fixture(scope="module")
def golden(reference_folder) -> Golden:
    return Golden(reference_folder / "goldens", "joyhallo", CPU, torch.float32)


def test_every_quantity_equals_the_published_one(differences):
    assert [d for d in differences if not d.is_equal] == []
    assert all(d.tolerance <= 2e-4 for d in differences)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_in_the_goldens_is_forgotten(differences, reference_folder, variant):
    io = load_file(reference_folder / "goldens" / f"golden_{variant}_io.safetensors")
    there = {k for k in io if not k.startswith(NOT_COMPARED) and "EVALMODE" not in k}
    assert there == {d.quantity for d in differences if d.variant == variant}
    assert len(there) > 25


def denoise(golden: Golden, scale: RegionScale = SCALES["ms_none"]) -> torch.Tensor:
    with torch.no_grad():
        inputs = golden.inputs(True, golden.reference(True, golden["in.ref_latents"]))
        network = golden.networks.denoising_network
        latents = golden["in.initial_latents"].expand(2, -1, -1, -1, -1)
        return network(latents, torch.tensor([TIMESTEP]), network.condition(inputs, scale))


def test_wrong_variants_are_recognised(golden):
    """The clean row order, the branch of evaluation mode, another region scale: each is far outside the tolerance."""
    right, networks = golden["cfg.bank32.denoise.ms_none"], golden.networks
    assert (denoise(golden) - right).abs().max() < FORWARD_TOLERANCE
    assert (denoise(golden) - golden["cfg.bank32.denoise_EVALMODE_wrongpath.ms_none"]).abs().max() > 0.1
    assert (denoise(golden, RegionScale(lip=0.8, expression=1.2)) - right).abs().max() > 1e-3
    for network in (networks.denoising_network, networks.reference_network):
        network.register_to_config(row_order="aligned")
        try:
            assert (denoise(golden) - right).abs().max() > 1e-3
        finally:
            network.register_to_config(row_order="interleaved")
    assert (denoise(golden) - right).abs().max() < FORWARD_TOLERANCE


def test_bf16_runs_through_the_same_comparison(reference_folder):
    """No claim of equality: the deviation is that of the numbers, not of another computation."""
    half = Golden(reference_folder / "goldens", "hallo", CPU, torch.bfloat16)
    difference = (denoise(half).float() - half.io["cfg.bank32.denoise.ms_none"]).abs().max()
    assert 1e-3 < difference < 0.2


def test_a_folder_without_goldens_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"golden_joyhallo_config\.json"):
        next(compare_goldens(tmp_path, CPU, torch.float32))


def test_a_difference_that_is_no_number_is_not_equal():
    assert Difference("joyhallo", "a", 1e-5, 2e-5).is_equal
    assert not Difference("joyhallo", "a", float("nan"), 2e-5).is_equal
    assert not Difference("joyhallo", "a", 3e-5, 2e-5).is_equal


# The small golden: networks drawn from a seed; a few values of every quantity, written when the full comparison held.


def small_networks(variant: str) -> Networks:
    return drawn_networks(tiny_preset(row_order="interleaved", audio_attention=VARIANTS[variant]))


def small_quantities(networks: Networks) -> dict[str, torch.Tensor]:
    """A guided and an unguided forward, the features, and two guided steps; latents are 5 × 3, three frames."""
    network, schedule = networks.denoising_network, published_schedule()
    latents, single = normal(1, 1, 4, 3, 5, 3), drawn_inputs(networks, (5, 3), 3)
    no_face = networks.face_projector(torch.zeros(1, 8))
    tokens = torch.cat([no_face, single.face_tokens])
    reference = networks.reference_network(normal(9, 1, 3, 4, 5, 3).expand(2, -1, -1, -1, -1), tokens)
    masks = drawn_masks(20, (5, 3), num_frames=3)
    guided = with_unconditional(replace(single, reference=reference, masks=masks), PUBLISHED_DROPS, no_face)
    quantities = {"face": single.face_tokens, "audio": single.audio_tokens, "location": single.location}
    quantities |= {f"site{i}": site for i, site in enumerate(reference.sites)}
    timestep = torch.tensor([TIMESTEP])
    with torch.no_grad():
        quantities["unguided"] = network(latents, timestep, network.condition(single))
        quantities["blind"] = network(latents, timestep, network.condition(replace(single, reference=None)))
        for name, scale in SCALES.items():
            conditioning = network.condition(guided, scale)
            quantities[f"guided.{name}"] = network(latents.expand(2, -1, -1, -1, -1), timestep, conditioning)
        velocity = guided_velocity(lambda x, t: network(x, t, conditioning), 3.5)
        quantities["sampled"] = list(sample(velocity, schedule, 2, latents))[-1]
    return quantities


def few(tensor: torch.Tensor) -> list[float]:
    """Eight values spread over a tensor, and its norm."""
    flat = tensor.detach().double().flatten()
    spread = torch.linspace(0, len(flat) - 1, 8).long()
    return [*flat[spread].tolist(), flat.norm().item()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_golden(variant):
    expected = json.loads(SMALL.read_text())[variant]
    found = small_quantities(small_networks(variant))
    assert set(found) == set(expected)
    for name, tensor in found.items():
        tolerance = 2e-4 if name == "sampled" else 2e-5
        assert few(tensor) == pytest.approx(expected[name], rel=1e-5, abs=tolerance), name


@pytest.mark.parametrize(("network", "option"), [("denoising_network", "aligned"), ("reference_network", "aligned")])
def test_small_golden_recognises_the_clean_row_order(network, option):
    expected = json.loads(SMALL.read_text())["joyhallo"]["guided.ms_none"]
    networks = small_networks("joyhallo")
    networks.modules()[network].register_to_config(row_order=option)
    found = few(small_quantities(networks)["guided.ms_none"])
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) > 1e-3


if __name__ == "__main__":  # writes the small golden; only when the full comparison holds
    rounded = {v: {n: [round(x, 7) for x in few(t)] for n, t in small_quantities(small_networks(v)).items()} for v in VARIANTS}
    SMALL.write_text(json.dumps(rounded, indent=0) + "\n")
