"""Films on the clock of 25 a second: rates, holes, rotation, depth, size, damage."""

from fractions import Fraction

import av
import numpy as np
import pytest

from joyhallo.data.preparation.footage import MAX_HOLD, sound_start_s, watch
from joyhallo.media.video_error import VideoError
from talking import Film, steady, write_film

LEVELS = 8  # grey value of picture n: 16 + 8·n


def numbered(count, size=(48, 64)):
    return [np.full((*size, 3), 16 + LEVELS * number, np.uint8) for number in range(count)]


def numbers(path):
    """Which picture is seen in every slot."""
    return {picture.slot: round((float(picture.pixels().mean()) - 16) / LEVELS) for picture in watch(path)}


def write(path, times, **film):
    times = tuple(Fraction(time).limit_denominator(90_000) for time in times)
    return write_film(path, numbered(len(times)), Film(times, **film), None)


def test_25_a_second_is_taken_as_it_is(tmp_path):
    assert numbers(write(tmp_path / "a.mp4", steady(0.4))) == {number: number for number in range(10)}


def test_50_a_second_gives_every_second_picture(tmp_path):
    found = numbers(write(tmp_path / "a.mp4", steady(0.4, 50)))
    # slot k shows the last picture whose time, rounded to slots (halves up), is not after it: picture 2k, and 2k-1 rounds to k
    assert found == {k: 2 * k for k in range(10)} | {10: 19}


def test_10_a_second_holds_every_picture(tmp_path):
    pictures = list(watch(write(tmp_path / "a.mp4", steady(0.5, 10))))
    assert [p.slot for p in pictures] == list(range(11))
    starts = [0, 3, 5, 8, 10]  # 0.1 s is slot 2.5, rounded up
    assert [p.slot for p in pictures if p.is_new] == starts


def test_variable_rate_goes_by_the_timestamps(tmp_path):
    found = numbers(write(tmp_path / "a.mp4", (0, 0.03, 0.09, 0.13, 0.2, 0.21, 0.33)))
    assert found == {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 6: 5, 7: 5, 8: 6}


def test_a_hole_is_left_out_and_a_long_hold_is_not_a_hole(tmp_path):
    gap = Fraction(MAX_HOLD + 1, 25)
    found = numbers(write(tmp_path / "a.mp4", (0, Fraction(1, 25), gap, gap + Fraction(1, 25))))
    assert sorted(found) == [*range(MAX_HOLD + 3)]  # held for twelve slots
    longer = gap + Fraction(1, 25)
    found = numbers(write(tmp_path / "b.mp4", (0, Fraction(1, 25), longer, longer + Fraction(1, 25))))
    assert sorted(found) == [0, 1, MAX_HOLD + 2, MAX_HOLD + 3]


def corner(size=(64, 96)):
    """Red in the upper left corner."""
    picture = np.full((*size, 3), 90, np.uint8)
    picture[: size[0] // 2, : size[1] // 2] = (220, 20, 20)
    return picture


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_is_undone(tmp_path, turns):
    film = write_film(tmp_path / "a.mp4", [corner()] * 3, Film(steady(0.12), quarter_turns=turns), None)
    picture = next(iter(watch(film)))
    assert picture.size == (64, 96)
    pixels = picture.pixels().astype(int)
    assert pixels.shape == (64, 96, 3)
    redness = pixels[..., 0] - pixels[..., 1]
    assert redness[4:28, 4:44].min() > 100
    assert redness[36:].max() < 40


def test_ten_bits_look_like_eight(tmp_path):
    ramp = np.broadcast_to(np.linspace(30, 220, 96, dtype=np.uint8)[None, :, None], (64, 96, 3))
    found = []
    for name, pixel_format in (("a.mp4", "yuv420p"), ("b.mp4", "yuv420p10le")):
        path = write_film(tmp_path / name, [ramp] * 3, Film(steady(0.12), pixel_format=pixel_format), None)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.pix_fmt == pixel_format
        found.append(next(iter(watch(path))).pixels().astype(int))
    assert np.abs(found[0] - found[1]).max() <= 4


def test_large_pictures_are_reduced_when_asked(tmp_path):
    picture = np.zeros((2160, 3840, 3), np.uint8)
    picture[:, 1920:] = 200
    film = write_film(tmp_path / "a.mp4", [picture] * 2, Film(steady(0.08)), None)
    first = next(iter(watch(film)))
    assert first.size == (2160, 3840)
    assert first.pixels(1280).shape == (720, 1280, 3)
    assert first.pixels().shape == (2160, 3840, 3)
    small = first.pixels(1280).astype(int)
    assert small[:, :630].max() < 12
    assert small[:, 650:].min() > 180


def test_wide_pixels_are_made_square(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corner((64, 48)), format="rgb24")))
        container.mux(stream.encode(None))
    picture = next(iter(watch(path)))
    assert picture.size == (64, 96)
    assert picture.pixels().shape == (64, 96, 3)


def test_hdr_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.codec_context.color_trc = 16  # PQ
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corner((64, 64)), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="HDR"):
        list(watch(path))


def test_what_is_no_film_is_told(tmp_path):
    for name, content, message in (("a.mp4", b"", "empty"), ("b.mp4", b"not a film at all", "cannot be read|not a video")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=message):
            list(watch(tmp_path / name))


def test_a_film_cut_short_ends_where_it_was_cut(tmp_path):
    noise = np.random.RandomState(0)
    pictures = [noise.randint(0, 255, (96, 96, 3)).astype(np.uint8) for _ in range(25)]
    whole = write_film(tmp_path / "b.mkv", pictures, Film(steady(1)), None)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 3 <= len(list(watch(cut))) < 25


def test_the_beginning_of_the_sound_is_known(tmp_path):
    path = write_film(tmp_path / "a.mkv", numbered(25), Film(steady(1)), np.zeros(16_000, np.float32))
    assert abs(sound_start_s(path)) < 0.1
    late = tmp_path / "late.mkv"
    with av.open(str(late), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24")))
        container.mux(stream.encode(None))
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts = 16_000, 8000
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    assert sound_start_s(late) == pytest.approx(0.5, abs=0.002)
