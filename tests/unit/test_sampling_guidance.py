"""Guidance: the two halves, what the unconditional one goes without, and how they are put together."""

from dataclasses import fields, replace

import pytest
import torch

from joyhallo.presets import Sampling, num_guided_steps
from joyhallo.sampling.guidance import PUBLISHED_DROPS, combine, conditional_half, unconditional_frame, with_unconditional
from joyhallo.sampling.sampler import alike_velocity, guided_velocity, switched_velocity
from tiny import drawn_inputs, forward, normal

SIZE, NUM_FRAMES = (4, 3), 3
LATENTS = normal(1, 1, 4, NUM_FRAMES, *SIZE)
TWICE = LATENTS.expand(2, -1, -1, -1, -1)


@pytest.fixture
def inputs(networks):
    return drawn_inputs(networks, SIZE, NUM_FRAMES)


@pytest.fixture
def no_face(networks):
    return networks.face_projector(torch.zeros(1, 8))


def test_combine_by_hand():
    halves = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    assert combine(halves, 3.5).tolist() == [[8.0, -1.5]]
    assert combine(halves, 1.0).tolist() == [[3.0, 1.0]]
    assert combine(halves, 0.0).tolist() == [[1.0, 2.0]]
    two_clips = normal(1, 4, 2, 3)
    assert torch.equal(combine(two_clips, 2.0), two_clips[:2] + 2.0 * (two_clips[2:] - two_clips[:2]))


def test_guided_velocity_shows_both_halves_the_same_latents():
    seen = []

    def velocity(latents, timestep):
        seen.append((latents, timestep))
        return torch.cat([latents[:1] * 0, latents[1:]])

    guided = guided_velocity(velocity, 2.0)(LATENTS, torch.tensor([7]))
    assert torch.equal(guided, 2 * LATENTS)
    assert torch.equal(seen[0][0], torch.cat([LATENTS, LATENTS]))
    assert seen[0][1].tolist() == [7]


def test_frames_that_are_alike_are_guided_by_one():
    seen = []

    def told(name, value):
        def velocity(latents, timestep):
            seen.append((name, latents.shape[2], timestep.item()))
            return torch.full_like(latents, value)

        return velocity

    velocity = alike_velocity(told("conditional", 3.0), told("frame", 1.0), 2.0, told("both", 7.0))
    alike = LATENTS[:, :, :1].expand_as(LATENTS)
    assert torch.equal(velocity(alike, torch.tensor([999])), torch.full_like(LATENTS, 5.0))
    assert torch.equal(velocity(LATENTS, torch.tensor([499])), torch.full_like(LATENTS, 7.0))
    assert seen == [("frame", 1, 999), ("conditional", NUM_FRAMES, 999), ("both", NUM_FRAMES, 499)]


def test_the_unconditional_frame_is_the_silent_half_of_a_clip_of_one_frame(networks, inputs, no_face):
    both = with_unconditional(inputs, ("audio",), no_face)
    one = with_unconditional(replace(inputs, audio_tokens=inputs.audio_tokens[:, :1]), ("audio",), no_face)
    frame = forward(networks, unconditional_frame(both), LATENTS[:, :, :1])
    assert torch.allclose(frame, forward(networks, one, TWICE[:, :, :1])[:1], atol=1e-5)
    assert (frame - forward(networks, inputs, LATENTS)[:, :, :1]).abs().max() > 1e-2


def test_the_unconditional_frame_is_of_the_first_sample_where_there_are_two_references(networks, inputs, no_face):
    both = with_unconditional(inputs, ("audio",), no_face)
    twice = replace(both, reference=replace(both.reference, sites=tuple(torch.cat([s, s * 0]) for s in both.reference.sites)))
    frames = [forward(networks, unconditional_frame(given), LATENTS[:, :, :1]) for given in (both, twice)]
    assert torch.equal(*frames)


@pytest.mark.parametrize(("end", "guided"), [(1.0, 5), (0.5, 3), (0.45, 3), (0.21, 2), (0.2, 1), (0.0, 0)])
def test_guidance_ends_where_it_is_told_to(end, guided):
    velocity = switched_velocity(lambda x, _: x + 1, lambda x, _: x - 1, end)
    steps = [velocity(torch.zeros(1), torch.tensor([timestep])).item() for timestep in (999, 799, 599, 399, 199)]
    assert steps == [1.0] * guided + [-1.0] * (5 - guided)
    assert num_guided_steps(5, end) == guided


def test_the_conditional_half_can_be_taken_out_again(networks, inputs, no_face):
    half = conditional_half(with_unconditional(inputs, PUBLISHED_DROPS, no_face))
    assert torch.equal(forward(networks, half, LATENTS), forward(networks, inputs, LATENTS))
    assert (half.num_blind, half.num_silent) == (0, 0)
    twice = replace(
        inputs, reference=replace(inputs.reference, sites=tuple(torch.cat([s * 0, s]) for s in inputs.reference.sites))
    )
    seen = conditional_half(with_unconditional(twice, PUBLISHED_DROPS, no_face)).reference.sites
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(seen, inputs.reference.sites, strict=True))


def test_the_unconditional_half_comes_first_and_lacks_what_is_dropped(inputs, no_face):
    both = with_unconditional(replace(inputs, portrait_latents=normal(2, 1, 4, *SIZE)), PUBLISHED_DROPS, no_face)
    assert torch.equal(both.face_tokens, torch.cat([no_face, inputs.face_tokens]))
    assert torch.equal(both.audio_tokens, torch.cat([torch.zeros_like(inputs.audio_tokens), inputs.audio_tokens]))
    assert torch.equal(both.location, torch.cat([torch.zeros_like(inputs.location), inputs.location]))
    assert both.portrait_latents.shape[0] == 2
    assert (both.num_blind, both.num_silent) == (1, 1)
    assert both.masks is inputs.masks
    assert both.reference is inputs.reference


@pytest.mark.parametrize("dropped", PUBLISHED_DROPS)
def test_one_drop_changes_one_condition(inputs, no_face, dropped):
    both = with_unconditional(inputs, (dropped,), no_face)
    changed = {
        "portrait": both.num_blind == 1,
        "face": not torch.equal(both.face_tokens[0], both.face_tokens[1]),
        "audio": both.num_silent == 1 and both.audio_tokens[0].abs().max() == 0,
        "location": both.location[0].abs().max() == 0,
    }
    assert {name for name, is_changed in changed.items() if is_changed} == {dropped}


def test_without_drops_both_halves_are_the_clip(networks, inputs, no_face):
    both = forward(networks, with_unconditional(inputs, (), no_face), TWICE)
    assert torch.allclose(both[0], both[1], atol=1e-6)
    assert torch.allclose(both[1:], forward(networks, inputs, LATENTS), atol=1e-5)


def test_the_conditional_half_is_the_clip_alone(networks, inputs, no_face):
    both = forward(networks, with_unconditional(inputs, PUBLISHED_DROPS, no_face), TWICE)
    assert torch.allclose(both[1:], forward(networks, inputs, LATENTS), atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-2


def test_the_unconditional_half_is_the_clip_without_its_conditions(networks, inputs, no_face):
    both = forward(networks, with_unconditional(inputs, PUBLISHED_DROPS, no_face), TWICE)
    zeros = {name: torch.zeros_like(getattr(inputs, name)) for name in ("audio_tokens", "location")}
    bare = replace(inputs, face_tokens=no_face, num_blind=1, **zeros)
    assert torch.allclose(both[:1], forward(networks, bare, LATENTS), atol=1e-5)


def test_optional_conditions_may_be_absent(networks, inputs, no_face):
    bare = replace(inputs, location=None, reference=None)
    both = with_unconditional(bare, PUBLISHED_DROPS, no_face)
    assert both.location is None
    assert both.portrait_latents is None
    assert forward(networks, both, TWICE).isfinite().all()
    assert {field.name for field in fields(both)} == {field.name for field in fields(inputs)}


def test_a_scale_of_one_guides_no_step():
    assert Sampling(guidance_scale=1.5, guidance_end=0.6).guided_until == 0.6
    assert Sampling(guidance_scale=1.0, guidance_end=0.6).guided_until == 0.0
