"""What conditions a clip: masks, region scale, silence, blindness, still pictures, and the short ways of computing them."""

from dataclasses import replace

import pytest
import torch

from joyhallo.models.attention import Attention
from joyhallo.models.conditions import REGIONS, ReferenceFeatures, RegionMasks, RegionScale
from joyhallo.models.motion import sinusoidal_positions
from tiny import drawn_inputs, drawn_masks, drawn_networks, forward, normal, tiny_preset

SIZE, NUM_FRAMES = (4, 3), 3
LATENTS = normal(1, 1, 4, NUM_FRAMES, *SIZE)
KINDS = ["semi_decoupled", "decoupled"]


@pytest.fixture(scope="module", params=KINDS)
def either(request):
    """Both forms of the audio attention."""
    return drawn_networks(tiny_preset(audio_attention=request.param))


def run(networks, inputs, scale=RegionScale(), latents=LATENTS):  # noqa: B008
    network = networks.denoising_network
    with torch.no_grad():
        return network(latents, torch.tensor([601]), network.condition(inputs, scale))


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_one_mask_for_all_frames_equals_the_same_mask_for_each(either):
    inputs = drawn_inputs(either, SIZE, NUM_FRAMES)
    each = RegionMasks(*(tuple(m.expand(1, NUM_FRAMES, -1, -1).clone() for m in getattr(inputs.masks, r)) for r in REGIONS))
    assert torch.equal(run(either, replace(inputs, masks=each)), run(either, inputs))
    other = replace(inputs, masks=drawn_masks(50, SIZE, num_frames=NUM_FRAMES))
    assert largest(run(either, other), run(either, inputs)) > 1e-3


@pytest.mark.parametrize("region", range(3))
def test_scale_zero_is_the_network_without_that_branch(either, region):
    """Weight and bias alike: the published code multiplies the whole branch, its bias outside the mask included."""
    inputs = drawn_inputs(either, SIZE, NUM_FRAMES)
    scaled = run(either, inputs, RegionScale(**{REGIONS[region]: 0.0}))
    cut = drawn_networks(either_preset(either))
    for _, site in cut.denoising_network.plan:
        site.audio.branches[region].weight.zero_()
        site.audio.branches[region].bias.zero_()
    assert largest(scaled, run(cut, inputs)) < 1e-5
    assert largest(scaled, run(either, inputs)) > 1e-3


def either_preset(networks):
    return tiny_preset(audio_attention=networks.denoising_network.config["audio_attention"])


def test_each_region_has_its_own_mask_and_scale(either):
    """A region whose mask is empty still adds its bias, as in the published code, and nothing of the speech."""
    inputs = drawn_inputs(either, SIZE, NUM_FRAMES)
    other_speech = replace(inputs, audio_tokens=normal(99, *inputs.audio_tokens.shape))
    empty = tuple(torch.zeros_like(m) for m in inputs.masks.lip)
    nothing = RegionMasks(empty, empty, empty)
    assert torch.equal(run(either, replace(inputs, masks=nothing)), run(either, replace(other_speech, masks=nothing)))
    for region in REGIONS:
        only = replace(nothing, **{region: getattr(inputs.masks, region)})
        a, b = run(either, replace(inputs, masks=only)), run(either, replace(other_speech, masks=only))
        assert largest(a, b) > 1e-4
        off = RegionScale(**{region: 0.0})
        a, b = run(either, replace(inputs, masks=only), off), run(either, replace(other_speech, masks=only), off)
        assert torch.equal(a, b)


@pytest.mark.parametrize("num_silent", [1, 2])
def test_silent_samples_equal_zero_audio_tokens_computed_in_full(either, num_silent):
    inputs = drawn_inputs(either, SIZE, NUM_FRAMES, num_samples=2)
    quiet = inputs.audio_tokens.clone()
    quiet[:num_silent] = 0
    in_full, latents = replace(inputs, audio_tokens=quiet), LATENTS.expand(2, -1, -1, -1, -1)
    short = run(either, replace(in_full, num_silent=num_silent), latents=latents)
    assert largest(short, run(either, in_full, latents=latents)) < 1e-5
    assert largest(short, run(either, inputs, latents=latents)) > 1e-3


def test_blind_samples_see_no_portrait_but_keep_their_past(networks):
    inputs = drawn_inputs(networks, SIZE, NUM_FRAMES, num_samples=2)
    blind = replace(inputs, num_blind=1)
    latents = LATENTS.expand(2, -1, -1, -1, -1)
    expected = run(networks, blind, latents=latents)
    for change, is_seen in (((0, 0), False), ((0, 1), True), ((1, 0), True)):
        sites = tuple(site.clone() for site in inputs.reference.sites)
        for site in sites:
            site[change] = site[change].flip(-1)
        changed = run(networks, replace(blind, reference=ReferenceFeatures(sites)), latents=latents)
        assert (largest(changed, expected) > 1e-4) is is_seen
    everyone = run(networks, replace(inputs, num_blind=2), latents=latents)
    assert torch.allclose(everyone[0], expected[0], atol=1e-5)
    assert largest(everyone[1], expected[1]) > 1e-3


def test_without_a_reference_zero_frames_stand_for_the_past(networks):
    inputs = drawn_inputs(networks, SIZE, NUM_FRAMES, num_past=4)
    zeros = ReferenceFeatures(tuple(torch.zeros_like(site) for site in inputs.reference.sites))
    blind = replace(inputs, reference=zeros, num_blind=1)
    assert largest(run(networks, blind), run(networks, replace(inputs, reference=None))) < 1e-6
    assert largest(run(networks, blind), run(networks, inputs)) > 1e-3


def test_conditioning_keeps_nothing_between_calls(networks):
    network = networks.denoising_network
    first, second = (drawn_inputs(networks, SIZE, NUM_FRAMES, seed=seed) for seed in (7, 70))
    with torch.no_grad():
        conditioning = network.condition(first)
        expected = network(LATENTS, torch.tensor([601]), conditioning)
        network(LATENTS, torch.tensor([20]), network.condition(second, RegionScale(lip=3.0)))
        assert torch.equal(network(LATENTS, torch.tensor([601]), conditioning), expected)
        assert torch.equal(network(LATENTS, torch.tensor([601]), network.condition(first)), expected)


def test_train_and_eval_mode_are_the_same_network(networks):
    inputs = drawn_inputs(networks, SIZE, NUM_FRAMES)
    expected = run(networks, inputs)
    networks.denoising_network.train()
    try:
        assert torch.equal(run(networks, inputs), expected)
    finally:
        networks.denoising_network.eval()


def test_still_pictures_are_a_clip_whose_motion_modules_add_nothing(make_networks):
    networks = make_networks()
    inputs = drawn_inputs(networks, SIZE, NUM_FRAMES)
    still = run(networks, replace(inputs, still=True))
    assert largest(still, run(networks, inputs)) > 1e-3
    for _, site in networks.denoising_network.plan:
        site.motion.proj_out.weight.zero_()
        site.motion.proj_out.bias.zero_()
    assert largest(still, run(networks, inputs)) < 1e-6


def test_still_pictures_do_not_see_each_other_and_have_their_own_timesteps(networks):
    inputs = replace(drawn_inputs(networks, SIZE, NUM_FRAMES, num_past=0), still=True)
    network = networks.denoising_network
    with torch.no_grad():
        together = network(LATENTS, torch.tensor([5, 500, 999]), network.condition(inputs))
    for frame, timestep in enumerate((5, 500, 999)):
        alone = replace(inputs, audio_tokens=inputs.audio_tokens[:, frame : frame + 1])
        picture = forward(networks, alone, LATENTS[:, :, frame : frame + 1], timestep)
        assert torch.allclose(together[:, :, frame : frame + 1], picture, atol=1e-5)


def test_a_picture_without_audio_tokens_runs_no_audio_module(make_networks):
    networks = make_networks()
    inputs = replace(drawn_inputs(networks, SIZE, 1, num_past=0), audio_tokens=None, still=True)
    expected = run(networks, inputs, latents=LATENTS[:, :, :1])
    for _, site in networks.denoising_network.plan:
        site.audio.proj_out.bias.add_(10.0)
    assert torch.equal(run(networks, inputs, latents=LATENTS[:, :, :1]), expected)


def test_folded_tokens_equal_plain_attention():
    attention = Attention(12, 3, context_dim=5)
    x, context = normal(1, 4, 6, 12), normal(2, 2, 7, 5)  # two samples of two rows
    rows = context.repeat_interleave(2, dim=0)
    assert torch.allclose(attention.attend_folded(x, attention.fold(context)), attention(x, attention.project(rows)), atol=1e-6)


def test_plain_attention_by_hand():
    attention = Attention(4, 2, context_dim=3)
    x, context = normal(1, 1, 5, 4), normal(2, 1, 6, 3)
    q, k, v = x[0] @ attention.to_q.weight.T, context[0] @ attention.to_k.weight.T, context[0] @ attention.to_v.weight.T
    heads = [(q[:, h] @ k[:, h].T / 2**0.5).softmax(-1) @ v[:, h] for h in (slice(0, 2), slice(2, 4))]
    expected = torch.cat(heads, dim=-1) @ attention.to_out.weight.T + attention.to_out.bias
    assert torch.allclose(attention(x, attention.project(context))[0], expected, atol=1e-6)


def test_positions_by_hand():
    table = sinusoidal_positions(6, 4)
    assert table.shape == (6, 4)
    expected = torch.tensor([torch.sin(torch.tensor(5.0)), torch.cos(torch.tensor(5.0)), 0.0499792, 0.9987503])
    assert torch.allclose(table[5], expected, atol=1e-6)
