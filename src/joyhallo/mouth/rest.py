"""How frames show somebody at rest, and how far lips have gone from there."""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning.lip_reading import inner_gap, read_lips
from joyhallo.conditioning.similarity import upright
from joyhallo.conditioning.speech import SpeechFeatures
from joyhallo.models.latents import to_pixels
from joyhallo.models.lip_reader import LipReader
from joyhallo.mouth.heard import closing, freedom
from joyhallo.mouth.shape import brought_together

_FASTEST_CM = 0.85  # that lips close within a frame: the fastest of each of twenty films, 0.8 in the median, 1.1 at most
_NUM_VIEWS = 2  # of a frame; five are 0.2 px of 256 from them, steady in time as they are, and take twice as long


@dataclass(frozen=True, eq=False)
class Rest:
    """The unmoved portrait as the weights draw it, what reads the lips in frames like it, and what is heard of lips."""

    still: np.ndarray  # [H, W, 3] uint8
    reader: LipReader
    freedom: np.ndarray | None = None  # [F] of a video's frames, see `heard`; None where its sound is not known
    closings: np.ndarray | None = None  # [F] how far lips are closed, 0 to 1, see `heard`; None where nothing tells

    @classmethod
    def of_speech(cls, still: np.ndarray, reader: LipReader, speech: SpeechFeatures, fps: int) -> "Rest":
        """With what the recording alone says of lips."""
        told = speech.shut_logits()
        return cls(still, reader, freedom(speech.levels_db(), fps), None if told is None else closing(told))

    def free(self, frame: int) -> float:
        """How far lips may leave rest in a frame, 0 to 1."""
        return 1.0 if self.freedom is None else float(self.freedom[frame])

    def closed(self, first: int, num_frames: int) -> np.ndarray:
        """How far lips are closed in frames from `first` on, whatever the frames show: [num_frames]."""
        return np.zeros(num_frames) if self.closings is None else self.closings[first : first + num_frames]


class LipFollower:
    """Reads how far the lips of one person have moved in frames."""

    def __init__(self, rest: Rest, landmarks: np.ndarray) -> None:
        """`landmarks` [K, 2 or 3] of the face mesh in pixels of the frames."""
        self._rest, self._landmarks = rest, landmarks
        pose = upright(landmarks.astype(np.float64))
        self._down, self._fastest_px = pose.rotation[:2, 1], _FASTEST_CM * pose.scale
        self._at_rest = self._read(rest.still[None])

    def moves(self, frames: np.ndarray) -> np.ndarray:
        """How far lip points (`anatomy.LIP_POINTS`) are from rest, in pixels of the frames [F, H, W, 3] uint8: [F, P, 2]."""
        return self._read(frames) - self._at_rest

    def shown(self, moves: np.ndarray, first: int) -> np.ndarray:
        """How far they are to go, [F, P, 2], in frames that follow one another; `first` is the first one's number in the video.

        Lips are shut where they are heard to be (small networks smear what is quick, and b, p, m between two vowels would not
        close), and begin to close in time (within the frames that are given together).
        """
        return self._unhurried(brought_together(moves, self._down, self._rest.closed(first, len(moves))))

    def _unhurried(self, moves: np.ndarray) -> np.ndarray:
        """Lips that would close too fast begin to do so a frame before."""
        moves = moves.copy()
        gaps = inner_gap(moves, self._down)
        for before in range(len(moves) - 2, -1, -1):
            most = max(gaps[before + 1], 0.0) + self._fastest_px
            if gaps[before] > most:
                moves[before] *= most / gaps[before]
                gaps[before] = most
        return moves

    def _read(self, frames: np.ndarray) -> np.ndarray:
        return read_lips(to_pixels(frames), self._landmarks, self._rest.reader, _NUM_VIEWS)
