"""Many ways to move: the head's sway, blinks, brows, how far a speaker opens the mouth, how fast it all goes.

A gesture taken off one speaker is changed at random, so that a corpus of one man does not make everyone move like him.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from joyhallo.conditioning.speech import levels_db
from joyhallo.data.synthesis.gestures import Gesture, part_of_rotation
from joyhallo.easing import smooth_step
from joyhallo.idle.curves import draw_blinks, loudness_of_levels, smooth, wander

_BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
_FOREHEAD = (108, 69, 104, 68, 337, 299, 333, 298, 9, 151)  # it follows the brows by half
_SILENT = 0.42  # loudness: 23 dB under the loudest
_AFTER_SOUND, _BEFORE_SOUND, _RAMP = 2, 4, 3  # frames that the mouth still or already moves, and takes to come to rest


@dataclass(frozen=True)
class Style:
    """One way to move; see `draw_style`."""

    filmed_head: float  # share of the filmed movement of the head
    sway_deg: tuple[float, float, float]  # nodding, turning, tilting
    sway_cm: float
    nod_deg: float  # with the loudness of the speech
    blinks_per_s: float
    keeps_blinks: bool  # those of the film
    brows_cm: float  # how far the brows rise and sink
    brow_accent_cm: float  # with the loudness of the speech
    mouth: float  # how far the mouth opens, against the film
    width: float  # how far its corners move

    def with_head(self, share: float) -> "Style":
        """The same with so much of the head's movement."""
        nod, turn, tilt = self.sway_deg
        return replace(
            self,
            filmed_head=share * self.filmed_head,
            sway_deg=(share * nod, share * turn, share * tilt),
            sway_cm=share * self.sway_cm,
            nod_deg=share * self.nod_deg,
        )

    def with_opening(self, factor: float) -> "Style":
        """The same with lips that part so much wider; closed ones stay closed."""
        return replace(self, mouth=factor * self.mouth)


def draw_style(random: np.random.Generator) -> Style:
    """A style at random; one in five hardly moves the head, as people do who read aloud."""
    liveliness = float(random.choice([0.3, 0.8, 1.2, 1.6], p=[0.2, 0.35, 0.3, 0.15]))
    return Style(
        filmed_head=float(random.uniform(0.3, 1.3)),
        sway_deg=(
            liveliness * float(random.uniform(0.8, 2.6)),
            liveliness * float(random.uniform(0.8, 3.5)),
            liveliness * float(random.uniform(0.5, 2.2)),
        ),
        sway_cm=liveliness * float(random.uniform(0.02, 0.14)),
        nod_deg=liveliness * float(random.uniform(0.0, 2.5)),
        blinks_per_s=float(random.uniform(0.12, 0.6)),
        keeps_blinks=bool(random.random() < 0.3),
        brows_cm=float(random.uniform(0.0, 0.22)),
        brow_accent_cm=float(random.choice([0.0, random.uniform(0.0, 0.35)])),
        mouth=float(np.exp(random.normal(0, 0.12))),
        width=float(np.exp(random.normal(0, 0.15))),
    )


def act_out(gesture: Gesture, loudness: np.ndarray, style: Style, random: np.random.Generator) -> Gesture:
    """The gesture in a style; `loudness` [F] in [0, 1] of the speech, which heads and brows follow."""
    count = len(gesture.blink)
    beat = smooth(loudness, 3.0)
    sway = np.stack([wander(count, random) for _ in range(3)], 1) * np.radians(style.sway_deg)
    sway[:, 0] += np.radians(style.nod_deg) * (beat - beat.mean())
    shift = np.stack([wander(count, random) for _ in range(3)], 1) * style.sway_cm * [1.0, 0.5, 0.0]
    rotation = np.stack(
        [
            cv2.Rodrigues(angles)[0] @ part_of_rotation(filmed, style.filmed_head)
            for angles, filmed in zip(sway, gesture.rotation, strict=True)
        ]
    )
    shape = gesture.shape * style.mouth
    shape[..., 0] *= style.width / style.mouth
    shape[:, (*_BROWS, *_FOREHEAD)] = _brows(gesture, beat, style, random)
    blink = gesture.blink if style.keeps_blinks else draw_blinks(count, style.blinks_per_s, random)
    return replace(
        gesture,
        shape=shape,
        gap=gesture.gap * style.mouth,
        blink=blink,
        rotation=rotation,
        scale=gesture.scale**style.filmed_head * (1 + 0.1 * style.sway_cm * wander(count, random)),
        shift=gesture.shift * style.filmed_head + shift,
    )


def _brows(gesture: Gesture, beat: np.ndarray, style: Style, random: np.random.Generator) -> np.ndarray:
    """Movement [F, B, 3] of the brows and the forehead: the film's, a slow change, and accents."""
    points = [*_BROWS, *_FOREHEAD]
    moved = gesture.shape[:, points] * random.uniform(0.2, 1.2)
    rise = style.brows_cm * wander(len(beat), random) + style.brow_accent_cm * np.clip(beat - 0.6, 0, 0.4) / 0.4
    share = np.r_[np.full(len(_BROWS), 2.0), np.full(len(_FOREHEAD), 1.0)]  # the portrait shows brows at half strength
    moved[..., 1] -= rise[:, None] * share
    return moved


def rest_in_silence(gesture: Gesture, loudness: np.ndarray) -> Gesture:
    """The gesture with the mouth at rest in long silences, where speakers breathe with parted lips now and then.

    `loudness` [F]. The lips still end what they said, and begin before the sound does.
    """
    is_silent = np.r_[False, loudness < _SILENT, False]
    edges = np.flatnonzero(np.diff(is_silent.astype(int)))
    rest = np.zeros(len(loudness))
    for start, end in edges.reshape(-1, 2):
        first = start + _AFTER_SOUND if start > 0 else start - _RAMP
        last = end - _BEFORE_SOUND if end < len(loudness) else end + _RAMP
        frames = np.arange(len(loudness))
        rest = np.maximum(rest, np.clip(np.minimum(frames - first, last - 1 - frames) / _RAMP, 0, 1))
    share = 1 - smooth_step(rest, 0, 1)
    shape = gesture.shape.copy()
    kept = [*_BROWS, *_FOREHEAD]
    shape *= share[:, None, None]
    shape[:, kept] = gesture.shape[:, kept]
    return replace(gesture, shape=shape, gap=gesture.gap * share[:, None])


def loudness_of(speech: np.ndarray, num_frames: int) -> np.ndarray:
    """Loudness [F] in [0, 1] of speech [F·640]: decibels under the loudest frame, 40 dB and less are 0."""
    frames = speech[: num_frames * 640].reshape(num_frames, 640).astype(np.float64)
    return loudness_of_levels(levels_db(np.square(frames).mean(1)))


def faster(gesture: Gesture, factor: float, start: float, num_frames: int) -> Gesture:
    """`num_frames` frames from frame `start` on, `factor` times as fast as filmed, between the filmed frames."""
    at = np.clip(start + np.arange(num_frames) * factor, 0, len(gesture.blink) - 1)
    low = np.minimum(at.astype(int), len(gesture.blink) - 2)
    share = at - low

    def between(values: np.ndarray) -> np.ndarray:
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        return values[low] * (1 - weight) + values[low + 1] * weight

    parts = {name: between(getattr(gesture, name)) for name in gesture.__dataclass_fields__}
    # Halfway between two rotations is no rotation: the nearest one is.
    left, _, right = np.linalg.svd(parts["rotation"])
    parts["rotation"] = left @ right
    # A closure that lies between two frames is still a closure.
    nearest = np.where(share < 0.5, low, low + 1)
    is_shut = gesture.gap[nearest].max(1) <= 0
    parts["gap"][is_shut] = 0
    return Gesture(**parts)
