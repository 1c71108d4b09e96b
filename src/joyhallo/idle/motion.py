"""What the head and the eyes of a speaker do by themselves, for weights that move the mouth alone."""

import hashlib
from dataclasses import dataclass

import numpy as np

from joyhallo.easing import smooth_step
from joyhallo.idle.curves import FPS, draw_blinks, smooth, wander

_BLINKS_PER_S = 0.3
_TURN_DEG, _NOD_DEG, _TILT_DEG = 0.9, 0.65, 0.6  # standard deviations of slow wandering
_BEAT_DEG = 1.3  # how much lower the chin is in the loudest than in the quietest part
_SHIFT = 0.006  # of the face's height
_BEGINS_S = 0.8  # a video begins as its picture, and moves off slowly


@dataclass(frozen=True)
class HeadPose:
    """The head against the picture: angles in radians, shifts in face heights; all 0 is the picture itself."""

    turn: float  # about the vertical axis, positive to the right of the picture
    nod: float  # positive brings the chin down
    tilt: float  # in the picture's plane, positive clockwise
    right: float
    down: float


@dataclass(frozen=True, eq=False)
class IdleMotion:
    """Movement of F frames."""

    blink: np.ndarray  # [F] of the lids, 0 as in the picture to 1 shut
    head: np.ndarray  # [F, 5] the numbers of `HeadPose`

    def pose(self, frame: int, share: float = 1.0) -> HeadPose:
        """The head in a frame, or a share of its movement; the last frame holds on."""
        return HeadPose(*(share * self.head[min(frame, len(self.head) - 1)]).tolist())

    def lids(self, frame: int) -> float:
        """How far shut the lids are in a frame."""
        return float(self.blink[min(frame, len(self.blink) - 1)])


def draw_idle_motion(loudness: np.ndarray, seed: int) -> IdleMotion:
    """Blinks, and a head that wanders slowly and nods with the speech; `loudness` [F] in [0, 1]."""
    digest = hashlib.sha256(f"idle motion {seed}".encode()).digest()
    random = np.random.default_rng(np.frombuffer(digest, np.uint32).tolist())
    count = len(loudness)
    beat = smooth(loudness, 3.0)
    turn, nod, tilt = (np.radians(degrees) * wander(count, random) for degrees in (_TURN_DEG, _NOD_DEG, _TILT_DEG))
    nod += np.radians(_BEAT_DEG) * beat
    shifts = [_SHIFT * wander(count, random) for _ in range(2)]
    head = np.stack([turn, nod, tilt, *shifts], 1)
    head = (head - head[:1]) * smooth_step(np.arange(count), 0, _BEGINS_S * FPS)[:, None]
    return IdleMotion(draw_blinks(count, _BLINKS_PER_S, random), head)
