"""Initial noise: a function of the seed and the clip's number, and of nothing else."""

import hashlib

import pytest
import torch

from joyhallo.sampling.noise import clip_noise

SHAPE = (4, 6, 16, 16)


def test_the_same_seed_and_clip_give_the_same_noise_whatever_ran_before():
    expected = clip_noise(3, 5, SHAPE, shared=0.4)
    torch.manual_seed(12)
    torch.rand(7)
    assert torch.equal(clip_noise(3, 5, SHAPE, shared=0.4), expected)
    before = torch.get_rng_state()
    clip_noise(3, 6, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)  # and nothing else is disturbed


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_every_seed_and_clip_has_its_own(shared):
    pairs = [(0, 0), (0, 1), (1, 0), (42, 0), (42, 1), (2**31 - 1, 0), (42, 10_000)]
    drawn = [clip_noise(*pair, SHAPE, shared=shared) for pair in pairs]
    digests = {hashlib.sha256(noise.numpy().tobytes()).hexdigest() for noise in drawn}
    assert len(digests) == len(pairs)


def test_unit_variance_without_shared_part():
    noise = clip_noise(1, 0, (8, 16, 32, 32))
    assert noise.shape == (1, 8, 16, 32, 32)
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02
    frames = noise[0].transpose(0, 1).flatten(1)
    assert torch.corrcoef(frames).fill_diagonal_(0).abs().max() < 0.06


@pytest.mark.parametrize("shared", [0.25, 0.9])
def test_frames_share_the_stated_part_of_their_variance(shared):
    first, second = (clip_noise(1, clip, (8, 8, 32, 32), shared) for clip in (0, 1))
    frames = torch.cat([first, second], dim=2)[0].transpose(0, 1).flatten(1)  # of both clips
    covariance = torch.cov(frames)
    expected = torch.full_like(covariance, shared).fill_diagonal_(1.0)
    assert (covariance - expected).abs().max() < 0.06


def test_all_shared_is_one_picture_for_every_frame_and_clip():
    first, second = clip_noise(9, 0, SHAPE, 1.0), clip_noise(9, 3, SHAPE, 1.0)
    assert torch.equal(first, second)
    assert torch.equal(first, first[:, :, :1].expand_as(first))


def test_the_noise_of_a_clip_does_not_depend_on_how_many_clips_there_are():
    """Nor on the order they are drawn in: a run that was cut goes on with the same noise."""
    backwards = [clip_noise(4, clip, SHAPE) for clip in (2, 1, 0)][::-1]
    assert all(torch.equal(clip_noise(4, clip, SHAPE), noise) for clip, noise in enumerate(backwards))
