"""Portraits and videos → face crops and points on disk, which everything else of training reads.

Writes below the output folder

- `portraits.npz`: crops [N, 320, 320, 3] with the face at half the side, crops256 [N, 256, 256, 3] in the training framing,
  points [N, 478, 3] of crops256, names, persons
- `videos/<name>.npz`, one per video whose face was found in every frame: frames [F, 256, 256, 3], points [F, 478, 3] of them,
  speech [F·640]
"""

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np

from joyhallo.data import heldout, pictures
from joyhallo.data.facemesh import FaceMesh

logger = logging.getLogger(__name__)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def prepare_portraits(root: Path, mesh: FaceMesh, output: Path) -> None:
    """Find, crop and store the face of every portrait below a folder; portraits without a face are left out and logged."""
    wide, tight, points, names, persons = [], [], [], [], []
    for path in pictures.portrait_files(root):
        image = pictures.read_picture(path)
        found = mesh.find(image)
        if found is None:
            logger.warning("%s: no face found, left out", path)
            continue
        height, width = image.shape[:2]
        crop = pictures.face_crop(found, height, width)
        tight.append(crop.cut(image))
        refined = mesh.find(tight[-1])
        points.append(crop.move(found) if refined is None else refined)
        wide.append(pictures.face_crop(found, height, width, size_px=320, face_share=0.5).cut(image))
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
    frames = pictures.read_frames(path)
    tracked = []
    for index, frame in enumerate(frames):
        found = mesh.find(frame, follow=index > 0)
        if found is None:
            logger.warning("%s: no face in frame %d, left out", path, index)
            return False
        tracked.append(found)
    points = np.stack(tracked)
    crop = pictures.face_crop(points, *frames.shape[1:3])
    write_npz(
        output / "videos" / f"{path.stem}.npz",
        frames=np.stack([crop.cut(frame) for frame in frames]),
        points=crop.move(points),
        speech=pictures.read_speech(path, len(frames)),
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
    mesh = FaceMesh(arguments.face_models)
    if not (arguments.output / "portraits.npz").exists():
        prepare_portraits(arguments.portraits, mesh, arguments.output)
    videos = sorted(arguments.videos.glob("*.mp4"))
    # The held-out videos first, then an even choice of the others, so that a small number still covers the whole corpus.
    held, rest = videos[: heldout.NUM_HELD_OUT_VIDEOS], videos[heldout.NUM_HELD_OUT_VIDEOS :]
    order = np.random.default_rng(0).permutation(len(rest))
    chosen = (held + [rest[index] for index in order])[: arguments.num_videos]
    for index, path in enumerate(chosen):
        if not (arguments.output / "videos" / f"{path.stem}.npz").exists():
            prepare_video(path, mesh, arguments.output)
        if index % 50 == 0:
            logger.info("video %d of %d", index, len(chosen))


if __name__ == "__main__":
    main()
