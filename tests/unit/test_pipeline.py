"""The pipeline on tiny untrained networks and a drawn portrait: clips, resuming, options, sizes, errors, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from joyhallo.errors import UserError
from joyhallo.media.audio import read_speech
from joyhallo.media.labels import read_label
from joyhallo.media.paste import Crop
from joyhallo.models.conditions import RegionScale
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.presets import Sampling
from joyhallo.sampling.options import Options
from joyhallo.video import Video
from tiny import drawn_pipeline, drawn_portrait, drawn_speech

NUM_FRAMES = 10  # of the speech: two whole clips of four, and half a clip
OPTIONS = Options(num_steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def pipe() -> JoyHalloPipeline:
    return drawn_pipeline()


@pytest.fixture(scope="module")
def portrait():
    return drawn_portrait((32, 32))


@pytest.fixture(scope="module")
def speech(pipe):
    return pipe.speech(drawn_speech(NUM_FRAMES))


@pytest.fixture(scope="module")
def clips(pipe, portrait, speech):
    return list(pipe.stream(portrait, speech, OPTIONS))


def frames_of(clips) -> np.ndarray:
    return np.concatenate([clip.frames for clip in clips])


def test_streamed_clips_are_the_whole_video(pipe, portrait, speech, clips):
    video = pipe(portrait, speech, OPTIONS)
    assert isinstance(video, Video)
    assert video.fps == 25
    assert np.array_equal(video.frames, frames_of(clips))
    by_waveform = pipe(portrait, drawn_speech(NUM_FRAMES), num_steps=2, guidance_scale=2.0)
    assert np.array_equal(by_waveform.frames, video.frames)


def test_there_is_a_frame_for_every_25th_of_a_second(pipe, clips):
    assert pipe.num_clips(pipe.speech(drawn_speech(NUM_FRAMES))) == 3
    assert [len(clip.frames) for clip in clips] == [4, 4, 2]  # the last clip is cut
    assert [clip.index for clip in clips] == [0, 1, 2]
    assert all(clip.frames.shape[1:] == (32, 32, 3) and clip.frames.dtype == np.uint8 for clip in clips)
    begun = pipe.speech(np.append(drawn_speech(4), np.float32(0.1)))
    assert (begun.num_frames, pipe.num_clips(begun)) == (5, 2)


@pytest.mark.parametrize("index", [0, 1])
def test_a_run_goes_on_after_any_clip(pipe, portrait, speech, clips, index):
    rest = list(pipe.stream(portrait, speech, OPTIONS, resume=clips[index]))
    assert [clip.index for clip in rest] == [clip.index for clip in clips[index + 1 :]]
    for again, first in zip(rest, clips[index + 1 :], strict=True):
        assert np.array_equal(again.frames, first.frames)
        assert torch.equal(again.past, first.past)
    assert not list(pipe.stream(portrait, speech, OPTIONS, resume=clips[-1]))


def test_the_past_is_the_end_of_the_clip_and_matters(pipe, portrait, speech, clips):
    past = clips[0].past
    assert past.shape == (2, 3, 32, 32)
    shown = (past * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(shown, clips[0].frames[-2:])
    other = replace(clips[0], past=-past)
    assert not np.array_equal(next(pipe.stream(portrait, speech, OPTIONS, resume=other)).frames, clips[1].frames)


@pytest.mark.parametrize(
    "change",
    [{"seed": 43}, {"num_steps": 3}, {"guidance_scale": 4.0}, {"guidance_scale": 1.0}, {"region_scale": RegionScale(lip=3.0)}],
)
def test_every_option_changes_the_frames(pipe, portrait, speech, clips, change):
    changed = next(pipe.stream(portrait, speech, replace(OPTIONS, **change)))
    assert not np.array_equal(changed.frames, clips[0].frames)


def test_options_by_name_win_and_unknown_ones_are_named(pipe, portrait, speech):
    by_name = pipe(portrait, speech, OPTIONS, seed=7)
    assert np.array_equal(by_name.frames, pipe(portrait, speech, replace(OPTIONS, seed=7)).frames)
    with pytest.raises(UserError, match=r"'nums_steps' is not known.*'num_steps'"):
        pipe(portrait, speech, nums_steps=3)


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 1), (1.0, 1), (1.5, 2)])
def test_without_guidance_there_is_no_second_half(pipe, portrait, speech, scale, rows):
    seen = []
    hook = pipe.denoising_network.register_forward_pre_hook(lambda _module, given: seen.append(given[0].shape[0]))
    try:
        next(pipe.stream(portrait, speech, replace(OPTIONS, guidance_scale=scale)))
    finally:
        hook.remove()
    assert seen == [rows] * 2


def test_the_silent_half_of_frames_that_begin_alike_is_one_frame(portrait, speech):
    seen = []
    pipe = drawn_pipeline(unconditional_drops=("audio",), shared_noise=1.0)
    pipe.denoising_network.register_forward_pre_hook(lambda _module, given: seen.append(tuple(given[0].shape[:3:2])))
    next(pipe.stream(portrait, speech, OPTIONS))
    length = pipe.sampling.clip_length
    assert sorted(seen[:2]) == [(1, 1), (1, length)]
    assert seen[2:] == [(2, length)]


def test_global_randomness_and_gradients_do_not_matter(pipe, portrait, speech, clips):
    torch.manual_seed(77)
    with torch.enable_grad():
        first = next(pipe.stream(portrait, speech, OPTIONS))
    assert np.array_equal(first.frames, clips[0].frames)
    assert not first.past.requires_grad


@pytest.mark.parametrize("size", [(32, 48), (40, 24)])
def test_frames_need_not_be_square(pipe, size):
    video = pipe(drawn_portrait(size), drawn_speech(5), OPTIONS)
    assert video.frames.shape == (5, *size, 3)
    assert video.frames.std() > 1


@pytest.mark.parametrize(
    "sampling",
    [
        {"num_past_frames": 0},
        {"num_past_frames": 3, "clip_length": 2},  # a clip shorter than what the next looks back at
        {"unconditional_drops": ("audio",), "latent_form": "residual", "shared_noise": 0.5, "latent_scale": 2.0},
    ],
)
@pytest.mark.parametrize("row_order", ["aligned", "interleaved"])
def test_other_ways_of_sampling(portrait, sampling, row_order):
    other = drawn_pipeline(row_order, **sampling)
    speech = other.speech(drawn_speech(NUM_FRAMES))
    clips = list(other.stream(portrait, speech, OPTIONS))
    assert frames_of(clips).shape == (NUM_FRAMES, 32, 32, 3)
    assert {clip.past.shape[0] for clip in clips} == {other.sampling.num_past_frames}
    rest = list(other.stream(portrait, speech, OPTIONS, resume=clips[0]))
    assert np.array_equal(frames_of(rest), frames_of(clips[1:]))


def test_latents_that_are_not_finite_stop_the_run(portrait):
    broken = drawn_pipeline()
    features = broken.speech(drawn_speech(NUM_FRAMES))
    first = next(broken.stream(portrait, features, OPTIONS))
    with torch.no_grad():
        broken.denoising_network.conv_out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"clip 2 of \d+, step 1 of 2: .* in float32: .* lower --guidance") as caught:
        next(broken.stream(portrait, features, OPTIONS, resume=first))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"in bfloat16: run again with --dtype fp32"):
        next(broken.to(torch.bfloat16).stream(portrait, features, OPTIONS))


def test_half_precision_is_close(portrait, clips):
    half = drawn_pipeline().to(torch.bfloat16)
    found = next(half.stream(portrait, half.speech(drawn_speech(NUM_FRAMES)), OPTIONS)).frames.astype(int)
    assert np.abs(found - clips[0].frames).mean() < 8


def test_silence_is_refused_in_one_line(pipe):
    with pytest.raises(UserError, match="silent from end to end"):
        pipe.speech(np.zeros(16_000, np.float32))


@pytest.mark.parametrize("crop", [None, Crop(10, 20, 64, 64)])
def test_a_written_video_has_its_frames_and_its_label(tmp_path, pipe, crop):
    av = pytest.importorskip("av")
    video = pipe(replace(drawn_portrait((32, 32)), crop=crop), drawn_speech(5), OPTIONS)
    path = video.write(tmp_path / "out.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]
    assert read_label(path) is not None
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == 5
    assert shown[0].shape == ((32, 32, 3) if crop is None else (96, 128, 3))


def test_a_video_without_a_mark_needs_a_reason(tmp_path, pipe):
    video = pipe(drawn_portrait((32, 32)), drawn_speech(2), OPTIONS)
    with pytest.raises(UserError, match="reason"):
        video.write(tmp_path / "out.mp4", mark="off")
    assert not list(tmp_path.iterdir())


def test_sampling_options_are_those_of_the_configuration(pipe):
    assert pipe.sampling == Sampling(**{**vars(Sampling()), **vars(pipe.sampling)})
    assert pipe.config["sampling"]["clip_length"] == 4


def test_a_video_made_from_a_waveform_has_its_sound(tmp_path, pipe, portrait):
    samples = 0.3 * np.sin(np.arange(640 * NUM_FRAMES) * (2 * np.pi * 440 / 16000)).astype(np.float32)
    path = pipe(portrait, samples, num_steps=1, guidance_scale=1.0).write(tmp_path / "spoken.mp4")
    heard = read_speech(path)[: len(samples)]
    assert np.corrcoef(heard, samples[: len(heard)])[0, 1] > 0.95
