"""One sample: what is written is what is read, whole or not at all."""

import json
from dataclasses import replace

import numpy as np
import pytest

from joyhallo.data.frames import KEY_FRAME_EVERY
from joyhallo.data.samples import Facts, SampleError, read_annotations, read_facts, write_sample
from joyhallo.media.audio import read_speech
from joyhallo.media.video import probe_video, read_frames
from made_data import NUM_FRAMES, SIZE_PX, grey_of, made_annotations, made_facts, made_frames, made_portrait, nearly_full_disk

ARRAYS = ("points", "speech", "masks", "face_box", "face_embedding", "speech_features")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_sample_is_four_plain_files(tmp_path):
    write_sample(tmp_path, made_facts("a"), made_annotations(), made_frames(), made_portrait())
    write_sample(tmp_path, made_facts("b"), made_annotations(), made_frames(), None)
    assert names(tmp_path) == ["a.json", "a.mp4", "a.png", "a.safetensors", "b.json", "b.mp4", "b.safetensors"]


def test_the_film_is_plain_25_fps_with_the_sound_beside_the_picture(tmp_path):
    import av

    times = np.arange(NUM_FRAMES * 640) / 16000
    tone = (8000 * np.sin(2 * np.pi * 440 * times) * (times > 0.5)).astype(np.int16)
    write_sample(tmp_path, made_facts("a"), replace(made_annotations(), speech=tone), made_frames(), None)
    info = probe_video(tmp_path / "a.mp4")
    assert (info.num_frames, info.fps, info.height, info.width, info.has_audio) == (NUM_FRAMES, 25, SIZE_PX, SIZE_PX, True)
    with av.open(str(tmp_path / "a.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        is_key = [packet.is_keyframe for packet in film.demux(stream) if packet.size]
    assert is_key == [number % KEY_FRAME_EVERY == 0 for number in range(NUM_FRAMES)]
    levels = [frame.mean() for frame in read_frames(tmp_path / "a.mp4")]
    assert np.abs(np.array(levels) - [grey_of(number) for number in range(NUM_FRAMES)]).max() < 3
    heard = read_speech(tmp_path / "a.mp4")
    onset = np.flatnonzero(np.abs(heard) > 0.05)[0] / 16000
    assert onset == pytest.approx(0.5, abs=0.02)


def test_colours_come_back(tmp_path):
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 180, 150)]
    frames = [np.full((SIZE_PX, SIZE_PX, 3), colour, np.uint8) for colour in colours]
    write_sample(tmp_path, made_facts("a", num_frames=4), made_annotations(4), frames, None)
    for frame, colour in zip(read_frames(tmp_path / "a.mp4"), colours, strict=True):
        assert np.abs(frame.reshape(-1, 3).mean(0) - colour).max() < 4


@pytest.mark.parametrize("has_features", [True, False])
def test_what_was_measured_comes_back(tmp_path, has_features):
    facts, written = made_facts("a"), made_annotations()
    if not has_features:
        facts, written = replace(facts, speech_encoder=None), replace(written, speech_features=None)
    write_sample(tmp_path, facts, written, made_frames(), None)
    assert read_facts(json.loads((tmp_path / "a.json").read_text("utf-8")), "a") == facts
    read = read_annotations((tmp_path / "a.safetensors").read_bytes(), "a")
    for name in ARRAYS:
        if name == "speech_features" and not has_features:
            assert read.speech_features is None
        else:
            np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
            assert getattr(read, name).dtype == getattr(written, name).dtype


def test_the_same_sample_is_the_same_bytes(tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_sample(folder, made_facts("a"), made_annotations(), made_frames(), made_portrait())
    assert len(names(tmp_path / "one")) == 4
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_sample_of_the_same_key_is_replaced_with_all_its_files(tmp_path):
    write_sample(tmp_path, made_facts("a"), made_annotations(), made_frames(), made_portrait())
    write_sample(tmp_path, made_facts("a", num_frames=5), made_annotations(5), made_frames(5), None)
    assert names(tmp_path) == ["a.json", "a.mp4", "a.safetensors"]
    assert probe_video(tmp_path / "a.mp4").num_frames == 5


@pytest.mark.parametrize("num_given", [NUM_FRAMES - 1, NUM_FRAMES + 1, 0])
def test_another_number_of_frames_leaves_nothing(tmp_path, num_given):
    with pytest.raises(ValueError, match="frames"):
        write_sample(tmp_path, made_facts(), made_annotations(), made_frames(num_given), None)
    assert names(tmp_path) == []


def test_a_reader_that_fails_half_way_leaves_nothing(tmp_path):
    def broken():
        yield from made_frames(10)
        raise RuntimeError("the camera fell over")

    with pytest.raises(RuntimeError, match="camera"):
        write_sample(tmp_path, made_facts(), made_annotations(), broken(), None)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("points", np.zeros((NUM_FRAMES, 468, 3), np.float32)),
        ("points", np.zeros((NUM_FRAMES, 478, 3), np.float64)),
        ("speech", np.zeros(NUM_FRAMES * 640 - 1, np.int16)),
        ("masks", np.zeros((3, 32, 32), np.uint8)),
        ("face_box", np.zeros(4, np.int64)),
        ("face_embedding", np.full(8, np.nan, np.float32)),
        ("speech_features", np.full((NUM_FRAMES, 2, 4), np.inf, np.float16)),
        ("speech_features", np.zeros((NUM_FRAMES + 1, 2, 4), np.float16)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, name, array):
    with pytest.raises(ValueError, match=name):
        write_sample(tmp_path, made_facts(), replace(made_annotations(), **{name: array}), made_frames(), None)
    assert names(tmp_path) == []


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a", "ключ", "k" * 81, "-a"])
def test_keys_that_readers_of_tars_would_split_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="key"):
        write_sample(tmp_path, made_facts(key), made_annotations(), made_frames(), None)


def test_points_may_be_unknown(tmp_path):
    unknown = np.full((NUM_FRAMES, 478, 3), np.nan, np.float32)
    write_sample(tmp_path, made_facts("a"), replace(made_annotations(), points=unknown), made_frames(), None)
    assert np.isnan(read_annotations((tmp_path / "a.safetensors").read_bytes(), "a").points).all()


def test_missing_facts_and_broken_annotations_are_one_line(tmp_path):
    with pytest.raises(SampleError, match="no 'source'"):
        read_facts({"key": "a"}, "a.json")
    with pytest.raises(SampleError, match="no 'key'"):
        read_facts([1, 2], "a.json")
    write_sample(tmp_path, made_facts("a"), made_annotations(), made_frames(), None)
    content = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(SampleError, match="broken"):
        read_annotations(content[: len(content) // 2], "a.safetensors")


@pytest.mark.parametrize(("name", "value"), [("num_frames", "30"), ("num_frames", True), ("key", 3), ("is_held_out", None)])
def test_facts_of_another_kind_are_one_line(name, value):
    with pytest.raises(SampleError, match=f"for '{name}'"):
        read_facts({**vars(made_facts("a")), name: value}, "a.json")


def test_facts_of_a_later_program_can_be_read():
    values = {**vars(made_facts("a")), "mood": "glad"}
    assert read_facts(values, "a") == made_facts("a")
    assert isinstance(read_facts(values, "a"), Facts)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SampleError, match="cannot be written"):
        write_sample(tmp_path / "nowhere", made_facts(), made_annotations(), made_frames(), None)


@pytest.mark.parametrize("limit_bytes", [6_000, 120_000])
def test_a_full_disk_leaves_nothing(tmp_path, limit_bytes):
    """The first limit is hit by the film, the second by the arrays."""
    noise = (np.random.default_rng(n).integers(0, 255, (64, 64, 3)).astype(np.uint8) for n in range(NUM_FRAMES))
    with nearly_full_disk(limit_bytes), pytest.raises(SampleError, match="the disk is full"):
        write_sample(tmp_path, made_facts(), made_annotations(), noise, None)
    assert names(tmp_path) == []
