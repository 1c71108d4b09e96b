"""Whatever bytes come in: a result or one clear refusal, never anything else."""

import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from joyhallo.errors import UserError
from joyhallo.media.audio import probe_speech, read_speech
from joyhallo.media.image import read_image
from joyhallo.media.labels import read_label
from joyhallo.media.video import VideoWriter, probe_video, read_frames

LIMITS = settings(max_examples=60, deadline=5000, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SOUNDS = ("WAV", "FLAC", "OGG", "MP3")


@functools.cache
def valid_picture(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    stream, image = io.BytesIO(), Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(stream, kind, **({"exif": exif} if kind not in ("BMP", "GIF") else {}))
    return stream.getvalue()


@functools.cache
def valid_sound(kind):
    stream = io.BytesIO()
    sound = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(stream, sound, 16000, format=kind)
    return stream.getvalue()


@functools.cache
def valid_film():
    with tempfile.TemporaryDirectory() as folder:
        sound, path = Path(folder, "a.wav"), Path(folder, "a.mp4")
        sound.write_bytes(valid_sound("WAV"))
        with VideoWriter(path, size=(64, 64), speech=sound, metadata={"AIGC": "{}"}) as writer:
            for index in range(4):
                writer.write(np.full((64, 64, 3), index * 60, np.uint8))
        return path.read_bytes()


@st.composite
def damage(draw):
    """A change of some bytes, a cut, or something pushed in; positions are shares, so that headers are hit often."""
    return draw(
        st.lists(
            st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 2), st.binary(min_size=1, max_size=6)),
            min_size=1,
            max_size=5,
        )
    )


def damaged(content, changes):
    for share, is_near_start, kind, data in changes:
        span = min(len(content), 256) if is_near_start else len(content)
        place = int(share * span)
        if kind == 0:
            content = content[:place] + data + content[place + len(data) :]
        elif kind == 1:
            content = content[:place] + data + content[place:]
        elif not is_near_start:
            content = content[:place]
    return content


def feed(function, content, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "input" + suffix)
        path.write_bytes(content)
        try:
            return function(path)
        except UserError as problem:
            message = str(problem)
    assert message
    assert "\n" not in message
    return None


def check_picture(content, suffix):
    picture = feed(read_image, content, suffix)
    assert picture is None or (picture.dtype == np.uint8 and picture.ndim == 3 and min(picture.shape[:2]) >= 64)


def check_sound(content, suffix):
    speech = feed(read_speech, content, suffix)
    assert speech is None or (speech.dtype == np.float32 and np.isfinite(speech).all())
    info = feed(probe_speech, content, suffix)
    assert (info is None) == (speech is None)


@LIMITS
@given(st.binary(max_size=300), st.sampled_from([".png", ".mp3", ".mp4", ""]))
def test_random_bytes(content, suffix):
    check_picture(content, suffix)
    check_sound(content, suffix)
    feed(lambda path: list(read_frames(path)), content, suffix)
    feed(read_label, content, suffix)


@LIMITS
@given(st.sampled_from(PICTURES), damage())
def test_damaged_pictures(kind, changes):
    check_picture(damaged(valid_picture(kind), changes), "." + kind.lower())


@LIMITS
@given(st.sampled_from(SOUNDS), damage())
def test_damaged_sounds(kind, changes):
    check_sound(damaged(valid_sound(kind), changes), "." + kind.lower())


@LIMITS
@given(damage())
def test_damaged_films(changes):
    content = damaged(valid_film(), changes)
    check_sound(content, ".mp4")
    feed(lambda path: list(read_frames(path)), content, ".mp4")
    feed(probe_video, content, ".mp4")
    feed(read_label, content, ".mp4")


@pytest.mark.parametrize("kind", PICTURES)
def test_the_undamaged_picture_is_read(kind):
    assert feed(read_image, valid_picture(kind), "") is not None


@pytest.mark.parametrize("kind", SOUNDS)
def test_the_undamaged_sound_is_read(kind):
    assert feed(read_speech, valid_sound(kind), "") is not None
