"""Still portraits + videos of a speaker → short talking clips of every portrait, with the speaker's sound.

The speaker's movement is taken off the tracked points and given to the portrait by stretching its picture over the face mesh;
the inside of the mouth is painted. Held-out people speak with held-out sound only.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from joyhallo.data import heldout, mandarin
from joyhallo.data.canonical import CanonicalMesh, read_canonical_mesh
from joyhallo.data.faces import write_npz
from joyhallo.data.gestures import Gesture, read_gesture
from joyhallo.data.warp import TalkingPortrait
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME

logger = logging.getLogger(__name__)
MAX_YAW_DEG, MAX_ROLL_DEG, MAX_OPENING_CM = 12.0, 8.0, 1.0


def is_usable(portrait: TalkingPortrait) -> bool:
    """Nearly frontal, upright, and not laughing: beyond, the stretched picture looks wrong."""
    rotation = portrait.pose.rotation
    yaw = np.degrees(np.arcsin(np.clip(rotation[0, 2], -1, 1)))
    roll = np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))
    return bool(abs(yaw) <= MAX_YAW_DEG and abs(roll) <= MAX_ROLL_DEG and portrait.opening <= MAX_OPENING_CM)


def talk(portrait: TalkingPortrait, gesture: Gesture) -> np.ndarray:
    """All frames of a portrait making a gesture, RGB [F, S, S, 3]."""
    return np.stack([portrait.render(gesture, frame) for frame in range(len(gesture.blink))])


def unit_speech(speech: np.ndarray) -> np.ndarray:
    """A recording [T] at zero mean and unit variance, as the speech encoders take it."""
    return ((speech - speech.mean()) / (speech.std() + 1e-7)).astype(np.float32)


def choose_part(gesture: Gesture, num_frames: int, random: np.random.Generator) -> int:
    """A start whose part is not mostly silence: of four random ones that with the most movement of the lips."""
    starts = random.integers(0, len(gesture.blink) - num_frames + 1, 4)
    return int(max(starts, key=lambda start: gesture.gap[start : start + num_frames, 5].std()))


class Synthesis:
    """Talking clips of prepared portraits (see `joyhallo.data.faces`), clip by clip."""

    def __init__(self, faces: Path, mesh: CanonicalMesh, syllables: Path | None = None, num_frames: int = 24) -> None:
        """`faces`: output of `joyhallo.data.faces`; with `syllables` the clips are Mandarin (see `joyhallo.data.mandarin`)."""
        with np.load(faces / "portraits.npz") as file:
            self._images, self._points, self.persons = file["crops256"], file["points"], file["persons"]
        self._mesh, self._num_frames = mesh, num_frames
        split = heldout.split_videos((faces / "videos").glob("*.npz"))
        self._videos: dict[bool, Sequence[Path]] = {True: split.held_out, False: split.known}
        self._gestures: dict[Path, tuple[Gesture, np.ndarray]] = {}
        self._portraits: dict[int, TalkingPortrait | None] = {}
        self._syllables = mandarin.read_syllables(syllables) if syllables else None
        donors = [self._gesture(path)[0] for path in self._videos[False][:20]] if syllables else []
        self._basis = mandarin.fit_lip_basis(donors) if donors else None

    def __len__(self) -> int:
        return len(self._images)

    def _gesture(self, path: Path) -> tuple[Gesture, np.ndarray]:
        if path not in self._gestures:
            with np.load(path) as file:
                self._gestures[path] = read_gesture(file["points"], self._mesh.vertices), unit_speech(file["speech"])
        return self._gestures[path]

    def portrait(self, index: int) -> TalkingPortrait | None:
        """The prepared portrait, or None when it is not usable."""
        if index not in self._portraits:
            portrait = TalkingPortrait(self._images[index], self._points[index], self._mesh)
            self._portraits[index] = portrait if is_usable(portrait) else None
        return self._portraits[index]

    def write_clip(self, index: int, take: int, path: Path) -> bool:
        """Write take `take` of a portrait; the same numbers give the same clip. False when the portrait is not usable."""
        portrait = self.portrait(index)
        if portrait is None:
            return False
        random = np.random.default_rng([index, take])
        is_held_out = heldout.is_held_out_person(str(self.persons[index]))
        videos = self._videos[is_held_out]
        gesture, speech = self._gesture(videos[int(random.integers(len(videos)))])
        start = choose_part(gesture, self._num_frames, random)
        if self._syllables and self._basis:
            sentence = mandarin.speak(self._syllables[is_held_out], self._num_frames, random)
            gesture, speech = mandarin.act(sentence, self._basis, gesture), unit_speech(sentence.speech)
            start = 0
        write_npz(
            path,
            frames=talk(portrait, gesture.part(start, self._num_frames)),
            speech=speech[start * SAMPLES_PER_FRAME : (start + self._num_frames) * SAMPLES_PER_FRAME],
            still=self._images[index],
            points=self._points[index],
            person=self.persons[index],
            is_held_out=np.array(is_held_out),
            opening_cm=gesture.gap[start : start + self._num_frames, 3:8].mean(1),
        )
        return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, required=True, help="output folder of joyhallo.data.faces")
    parser.add_argument("--face-models", type=Path, required=True, help="face_landmarker_v2_with_blendshapes.task")
    parser.add_argument("--mandarin", type=Path, help="a folder of recorded syllables (niu4.opus): Mandarin clips")
    parser.add_argument("--takes", type=int, default=3, help="clips per portrait")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    synthesis = Synthesis(arguments.faces, read_canonical_mesh(arguments.face_models), arguments.mandarin)
    kind = "mandarin" if arguments.mandarin else "take"
    for take in range(arguments.takes):
        written = 0
        for index in range(len(synthesis)):
            path = arguments.output / f"{kind}{take}" / f"{index:04d}.npz"
            written += path.exists() or synthesis.write_clip(index, take, path)
        logger.info("%s %d: %d of %d portraits", kind, take, written, len(synthesis))


if __name__ == "__main__":
    main()
