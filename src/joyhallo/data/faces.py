"""Portraits and talking videos → face crops and points on disk, which everything else of training reads.

Writes below the output folder

- `portraits.npz`: crops [N, 320, 320, 3] with the face at half the side, crops256 [N, 256, 256, 3] in the training framing,
  points [N, 478, 3] of crops256, names, persons
- `videos/<name>.npz`, one per video whose face was found in every frame: frames [F, 256, 256, 3], points [F, 478, 3] of them,
  speech [F·640] at 16 kHz
"""

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning.face import FaceMesh
from joyhallo.data import heldout
from joyhallo.data.framing import face_crop
from joyhallo.media.audio import read_speech
from joyhallo.media.image import read_image
from joyhallo.media.video import read_frames
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME

logger = logging.getLogger(__name__)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def portrait_files(root: Path) -> list[Path]:
    """All JPEG and PNG files below a folder, sorted."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})


def prepare_portraits(root: Path, mesh: FaceMesh, output: Path) -> None:
    """Find, crop and store the face of every portrait below a folder; portraits without a face are left out and logged."""
    wide, tight, points, names, persons = [], [], [], [], []
    for path in portrait_files(root):
        image = read_image(path)
        face = mesh.track(image, None)
        if face is None:
            logger.warning("%s: no face found, left out", path)
            continue
        size = (image.shape[0], image.shape[1])
        crop = face_crop(face.landmarks, size)
        tight.append(crop.cut(image))
        refined = mesh.track(tight[-1], None)
        points.append(crop.move(face.landmarks) if refined is None else refined.landmarks)
        wide.append(face_crop(face.landmarks, size, size_px=320, face_share=0.5).cut(image))
        names.append(str(path.relative_to(root)))
        persons.append(heldout.person_of(path))
    write_npz(
        output / "portraits.npz",
        crops=np.stack(wide),
        crops256=np.stack(tight),
        points=np.stack(points),
        names=np.array(names),
        persons=np.array(persons),
    )
    logger.info("%d portraits", len(names))


def prepare_video(path: Path, mesh: FaceMesh, output: Path) -> bool:
    """Track, crop (one crop for the whole video) and store a video; False when a frame shows no face."""
    frames = np.stack(list(read_frames(path)))
    tracked, face = [], None
    for index, frame in enumerate(frames):
        face = mesh.track(frame, face)
        if face is None:
            logger.warning("%s: no face in frame %d, left out", path, index)
            return False
        tracked.append(face.landmarks)
    points = np.stack(tracked)
    crop = face_crop(points, (frames.shape[1], frames.shape[2]))
    num_samples = len(frames) * SAMPLES_PER_FRAME
    speech = read_speech(path)[:num_samples]
    write_npz(
        output / "videos" / f"{path.stem}.npz",
        frames=np.stack([crop.cut(frame) for frame in frames]),
        points=crop.move(points),
        speech=np.pad(speech, (0, num_samples - len(speech))),
    )
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--face-models", type=Path, required=True, help="face_landmarker_v2_with_blendshapes.task")
    parser.add_argument("--num-videos", type=int, default=400)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    mesh = FaceMesh.from_path(arguments.face_models)
    if not (arguments.output / "portraits.npz").exists():
        prepare_portraits(arguments.portraits, mesh, arguments.output)
    split = heldout.split_videos(arguments.videos.glob("*.mp4"))
    # The held-out videos first, then an even choice of the others, so that a small number still covers the whole corpus.
    order = np.random.default_rng(0).permutation(len(split.known))
    chosen = [*split.held_out, *(split.known[index] for index in order)][: arguments.num_videos]
    for index, path in enumerate(chosen):
        if not (arguments.output / "videos" / f"{path.stem}.npz").exists():
            prepare_video(path, mesh, arguments.output)
        if index % 50 == 0:
            logger.info("video %d of %d", index, len(chosen))


if __name__ == "__main__":
    main()
