"""Films of a talking person, made from the portrait of the examples: what tests of the data preparation are fed with.

The mouth opens with the loudness of a sound that is no speech but goes up and down like it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from joyhallo.conditioning.face import FaceMesh
from joyhallo.errors import UserError
from joyhallo.media.image import read_image
from joyhallo.weights.hub import face_models_path

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "portrait.png"
RATE_HZ = 16_000
# Of examples/portrait.png: the line of the mouth, its corners and the chin, in shares of the side.
MOUTH_Y, MOUTH_X, CHIN_Y = 0.763, (0.425, 0.575), 0.906


@dataclass(frozen=True)
class Film:
    """How a test film is coded."""

    times: tuple[Fraction, ...]  # of the pictures, in seconds
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    quarter_turns: int = 0  # written into the file, for the player to undo


def open_face_mesh() -> FaceMesh:
    """The real one; the test is skipped where its models cannot be had."""
    try:
        return FaceMesh.from_path(face_models_path())
    except UserError as problem:
        pytest.skip(f"no face models: {problem}")


def loudness(times_s: np.ndarray, seed: int = 0) -> np.ndarray:
    """Opening of the mouth in [0, 1] at the given times: syllables about three times a second, unevenly, with pauses."""
    random = np.random.RandomState(seed)
    starts = np.cumsum(random.uniform(0.13, 0.6, 100))
    sizes = random.uniform(0.3, 1.0, 100) * (random.uniform(size=100) > 0.15)
    distance = (times_s[:, None] - starts[None]) / 0.07
    return (sizes * np.exp(-(distance**2))).max(1)


def babble(duration_s: float, seed: int = 0) -> np.ndarray:
    """A buzzing voice that follows `loudness`: [T] float32 at 16 kHz."""
    times = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    voice = sum(np.sin(2 * np.pi * 140 * number * times) / number for number in range(1, 30))
    noise = np.random.RandomState(seed + 1).standard_normal(len(times))
    level = np.interp(times, times[::160], loudness(times[::160], seed))
    return (0.25 * level**1.5 * (voice + 0.3 * noise) / 2 + 2e-4 * noise).astype(np.float32)


@cache
def portrait(side: int) -> np.ndarray:
    """The example's picture, square."""
    return cv2.resize(read_image(PORTRAIT), (side, side), interpolation=cv2.INTER_AREA if side < 640 else cv2.INTER_CUBIC)


def face(opening: float, side: int = 320, shift_px: float = 0.0) -> np.ndarray:
    """The portrait with the mouth open, moved to the right: [side, side, 3] uint8."""
    picture = portrait(side)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    across = np.clip(1.15 - np.square((x - np.mean(MOUTH_X)) / (MOUTH_X[1] - MOUTH_X[0])) * 4, 0, 1)
    drop = 0.05 * opening * across
    is_below = y > MOUTH_Y + drop / 2
    fade = np.clip((CHIN_Y + 0.12 - y) / 0.12, 0, 1)
    source = np.where(is_below, y - drop * fade, y)
    warped = cv2.remap(
        picture,
        x * side - np.float32(shift_px),
        source.astype(np.float32) * side,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inside = (y > MOUTH_Y) & (y < MOUTH_Y + drop) & (drop > 0.004)
    return np.where(np.roll(inside, round(shift_px), 1)[..., None], np.uint8(25), warped)


def talking(times: Iterable[Fraction], side: int = 320, seed: int = 0) -> list[np.ndarray]:
    """Pictures of the talking person at the given times, who also sways a little."""
    times_s = np.array([float(time) for time in times])
    sway = 0.01 * side * np.sin(2 * np.pi * times_s / 2.3)
    return [face(float(a), side, float(s)) for a, s in zip(loudness(times_s, seed), sway, strict=True)]


def steady(duration_s: float, fps: int = 25) -> tuple[Fraction, ...]:
    return tuple(Fraction(number, fps) for number in range(round(duration_s * fps)))


def write_film(
    path: Path,
    pictures: Iterable[np.ndarray],
    film: Film,
    sound: np.ndarray | None,
    place: Callable[[np.ndarray], np.ndarray] = lambda picture: picture,
) -> Path:
    """Write a film; `sound` [T] at 16 kHz or None for a film without; `place` changes every picture before it is coded."""
    import av

    clock = Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        stream = audio = None
        for number, picture in enumerate(pictures):
            picture = np.ascontiguousarray(np.rot90(place(picture), -film.quarter_turns))
            if stream is None:
                stream = container.add_stream(film.codec, rate=25, options={"preset": "ultrafast", "crf": "18", "threads": "1"})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt, stream.codec_context.time_base, stream.time_base = film.pixel_format, clock, clock
                if sound is not None:
                    audio = container.add_stream("aac", rate=RATE_HZ, layout="mono")
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(film.times[number] / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None and audio is not None:
            for start in range(0, len(sound), 1024):
                block = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[None, start : start + 1024]), format="fltp", layout="mono"
                )
                block.sample_rate, block.pts = RATE_HZ, start
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    if film.quarter_turns:
        _turn(path, film.quarter_turns)
    return path


def write_talking_film(path: Path, num_frames: int, seed: int = 0) -> Path:
    """A plain one with its sound."""
    times = steady(num_frames / 25)
    return write_film(path, talking(times, seed=seed), Film(times), babble(num_frames / 25, seed))


def _turn(path: Path, quarter_turns: int) -> None:
    """Write a quarter turn into the film's track header, as telephones do (ISO 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes after the name
    cos, sin = {1: (0, -1), 2: (-1, 0), 3: (0, 1)}[quarter_turns]
    for number, value in enumerate((cos, sin, 0, -sin, cos)):
        content[at + 4 * number : at + 4 * number + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(content))
