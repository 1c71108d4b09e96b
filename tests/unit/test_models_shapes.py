"""The networks at any size, length and number of past frames, and batches of several samples."""

from dataclasses import replace

import pytest
import torch

from joyhallo.models import kernels
from joyhallo.models.conditions import REGIONS, ClipInputs, ReferenceFeatures, RegionMasks
from joyhallo.models.face_locator import FaceLocator
from joyhallo.models.projectors import AudioProjector, FaceProjector
from joyhallo.sampling.guidance import PUBLISHED_DROPS, with_unconditional
from tiny import MAX_LENGTH, drawn_inputs, drawn_masks, forward, normal


def sample_of(inputs: ClipInputs, index: int) -> ClipInputs:
    """One sample of a batch (its masks serve all)."""
    part = slice(index, index + 1)
    return replace(
        inputs,
        reference=ReferenceFeatures(tuple(site[part] for site in inputs.reference.sites)),
        face_tokens=inputs.face_tokens[part],
        audio_tokens=inputs.audio_tokens[part],
        location=inputs.location[part],
    )


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (3, 8), (1, 7), (2, 2)])
def test_any_height_and_width(networks, size):
    latents = normal(1, 1, 4, 3, *size)
    velocity = forward(networks, drawn_inputs(networks, size, 3), latents)
    assert velocity.shape == latents.shape
    assert velocity.isfinite().all()
    assert velocity.std() > 0.05


def test_height_and_width_swap_together(networks, make_networks):
    """Kernels mirrored at the diagonal, on pictures mirrored at the diagonal, give the mirrored result."""
    mirrored = make_networks()
    for module in mirrored.modules().values():
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.mT.contiguous()
    inputs = drawn_inputs(networks, (5, 3), 2)
    latents, rows, region = normal(1, 1, 4, 2, 5, 3), normal(2, 1, 3, 4, 5, 3), normal(3, 1, 3, 40, 24)
    inputs = replace(
        inputs,
        reference=networks.reference_network(rows, inputs.face_tokens),
        location=networks.face_locator(region),
    )
    turned = replace(
        inputs,
        reference=mirrored.reference_network(rows.mT, inputs.face_tokens),
        location=mirrored.face_locator(region.mT),
        masks=RegionMasks(*(tuple(m.mT for m in getattr(inputs.masks, region)) for region in REGIONS)),
    )
    assert torch.allclose(forward(mirrored, turned, latents.mT).mT, forward(networks, inputs, latents), atol=2e-5)


@pytest.mark.parametrize("num_past", [0, 1, 2, 3])
def test_any_clip_length_up_to_the_table_of_positions(networks, num_past):
    longest = MAX_LENGTH - num_past
    for num_frames in (1, 2, longest):
        latents = normal(1, 1, 4, num_frames, 4, 3)
        assert forward(networks, drawn_inputs(networks, (4, 3), num_frames, num_past), latents).isfinite().all()
    too_long = drawn_inputs(networks, (4, 3), longest + 1, num_past)
    with pytest.raises(
        ValueError, match=rf"{longest + 1} frames with {num_past} past.* {MAX_LENGTH} positions.* {longest} frames"
    ):
        networks.denoising_network.condition(too_long)


def test_past_frames_matter_and_so_does_their_order(networks):
    latents = normal(1, 1, 4, 3, 4, 4)
    inputs = drawn_inputs(networks, (4, 4), 3, num_past=2)
    swapped = ReferenceFeatures(tuple(site[:, [0, 2, 1]] for site in inputs.reference.sites))
    without = ReferenceFeatures(tuple(site[:, :1] for site in inputs.reference.sites))
    expected = forward(networks, inputs, latents)
    for other in (swapped, without):
        assert (forward(networks, replace(inputs, reference=other), latents) - expected).abs().max() > 1e-3


def test_a_batch_equals_its_samples_one_by_one(networks):
    latents = normal(1, 2, 4, 3, 4, 3)
    inputs = drawn_inputs(networks, (4, 3), 3, num_samples=2)
    together = forward(networks, inputs, latents)
    for index in range(2):
        alone = forward(networks, sample_of(inputs, index), latents[index : index + 1])
        assert torch.allclose(together[index], alone[0], atol=2e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_every_sample_has_its_own_timestep(networks):
    latents = normal(1, 2, 4, 2, 4, 4)
    inputs = drawn_inputs(networks, (4, 4), 2, num_samples=2)
    network = networks.denoising_network
    with torch.no_grad():
        together = network(latents, torch.tensor([3, 900]), network.condition(inputs))
    for index, timestep in enumerate((3, 900)):
        alone = forward(networks, sample_of(inputs, index), latents[index : index + 1], timestep)
        assert torch.allclose(together[index], alone[0], atol=2e-5)


def test_the_reference_network_sees_every_sample_for_itself(networks):
    latents, face = normal(1, 2, 3, 4, 4, 3), networks.face_projector(normal(2, 2, 8))
    together = networks.reference_network(latents, face)
    assert len(together.sites) == len(list(networks.denoising_network.plan))
    for index in range(2):
        alone = networks.reference_network(latents[index : index + 1], face[index : index + 1])
        for site, expected in zip(together.sites, alone.sites, strict=True):
            assert site.shape[:2] == (2, 3)
            assert torch.allclose(site[index], expected[0], atol=2e-5)


@pytest.mark.parametrize("num_frames", [3, 4])
def test_interleaved_rows_see_the_portrait_of_sample_row_modulo_batch(make_networks, num_frames):
    """The published order. Row i = b·F + f of the batch looks at portrait i % B; with one sample nothing is mixed."""
    mixed = make_networks(row_order="interleaved")
    network = mixed.denoising_network
    inputs = drawn_inputs(mixed, (4, 4), num_frames, num_samples=2)
    assert network.portrait_rows(2, inputs).tolist() == [row % 2 for row in range(2 * num_frames)]
    guided = with_unconditional(sample_of(inputs, 1), PUBLISHED_DROPS, inputs.face_tokens[:1])
    assert network.portrait_rows(2, guided).tolist() == [(num_frames + f) % 2 for f in range(num_frames)]
    assert set(network.portrait_rows(1, guided).tolist()) == {0}


def test_interleaved_and_aligned_differ_with_two_samples_only(networks, make_networks):
    mixed = make_networks(row_order="interleaved")
    for num_samples, is_equal in ((1, True), (2, False)):
        inputs = drawn_inputs(networks, (4, 4), 3, num_samples=num_samples)
        latents = normal(1, num_samples, 4, 3, 4, 4)
        difference = (forward(mixed, inputs, latents) - forward(networks, inputs, latents)).abs().max()
        assert (difference < 1e-5) if is_equal else (difference > 1e-3)
        rows, face = normal(2, num_samples, 3, 4, 4, 4), networks.face_projector(normal(3, num_samples, 8))
        clean, quirky = networks.reference_network(rows, face), mixed.reference_network(rows, face)
        difference = max((a - b).abs().max() for a, b in zip(clean.sites, quirky.sites, strict=True))
        assert (difference < 1e-5) if is_equal else (difference > 1e-3)


def test_the_portrait_may_come_with_the_input(make_networks):
    networks = make_networks(portrait_in_input=True, in_channels=8, out_channels=4)
    inputs = drawn_inputs(networks, (4, 3), 3)
    first, second = (replace(inputs, portrait_latents=normal(seed, 1, 4, 4, 3)) for seed in (1, 2))
    latents = normal(3, 1, 4, 3, 4, 3)
    assert (forward(networks, first, latents) - forward(networks, second, latents)).abs().max() > 1e-2
    stacked = torch.cat([latents, first.portrait_latents[:, :, None].expand(-1, -1, 3, -1, -1)], dim=1)
    assert torch.equal(forward(networks, inputs, stacked), forward(networks, first, latents))


def test_projectors_and_locator_by_hand():
    face = FaceProjector(embedding_size=6, num_tokens=3, token_dim=5)
    tokens = face(normal(1, 2, 6))
    assert tokens.shape == (2, 3, 5)
    assert torch.allclose(tokens.mean(-1), torch.zeros(2, 3), atol=1e-6)  # normalised token by token
    audio = AudioProjector(window_length=5, num_blocks=2, channels=3, hidden_dim=4, num_tokens=6, token_dim=7)
    window = normal(2, 2, 9, 5, 2, 3)
    assert audio(window).shape == (2, 9, 6, 7)
    assert torch.allclose(audio(window)[:, 4:5], audio(window[:, 4:5]), atol=1e-6)  # frame by frame
    locator = FaceLocator(out_channels=4, widths=(2, 2, 3, 4))
    assert locator(torch.ones(1, 3, 40, 24)).abs().max() == 0  # starts as if it were not there
    assert locator(torch.ones(1, 3, 40, 24)).shape == (1, 4, 5, 3)


def test_masks_of_the_wrong_size_do_not_pass_unseen(networks):
    inputs = replace(drawn_inputs(networks, (4, 4), 2), masks=drawn_masks(1, (4, 3)))
    with pytest.raises(RuntimeError):
        forward(networks, inputs, normal(1, 1, 4, 2, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_kernel_multiplies_every_type_or_leaves_it_to_the_other(dtype):
    before = kernels.linear_kernel().name
    layer, x = kernels.Linear(24, 40).to(dtype), normal(3, 5, 7, 24).to(dtype)
    try:
        with torch.no_grad():
            found = []
            for name in kernels.LINEAR_KERNELS:
                kernels.choose_linear_kernel(name)
                found.append(layer(x).float())
    finally:
        kernels.choose_linear_kernel(before)
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)
