"""Clips → everything the denoiser's training reads, as plain arrays that can be memory-mapped.

A cache is a folder of shards; a shard is a folder of .npy files over N clips with S frames in all:

- `start` [N], `num_frames` [N]: the clip's rows in the per-frame arrays
- `latents` [S, 16, 16, 16] float16, `speech` [S, 640] float16 (unit variance over the recording it was cut from)
- `still` [N, 16, 16, 16] float16: the latent of the portrait; of a video its frame with the mouth most nearly shut
- `lip_d`, `expression_d`, `pose_d` [N, h, h] float16 for the depths d = 0, 1, 2 (h = 16, 8, 4)
- `face_box` [N, 4]: x0, y0, x1, y1 of the face rectangle in the 256 px crop
- `aligned` [N, 112, 112, 3] uint8: the still's face as the identity encoder takes it
- `person` [N] text, `name` [N] text, `is_portrait` [N], `is_held_out` [N]
- `opening` [S]: opening of the lips per frame, centimetres (what the frames show, for the scores)
"""

import argparse
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.identity import align_face
from joyhallo.conditioning.masks import FACE_EXPAND, expanded_box, region_masks
from joyhallo.data import heldout, motion
from joyhallo.data.canonical import read_canonical_mesh
from joyhallo.data.pixels import prefer_channels_last, to_network
from joyhallo.data.synthesis import unit_speech
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.speech_encoder import SAMPLES_PER_FRAME

logger = logging.getLogger(__name__)
_SIZE, _LATENT_SIZE, _NUM_DEPTHS = (256, 256), (16, 16), 3


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip before encoding."""

    name: str
    person: str
    is_portrait: bool
    is_held_out: bool
    frames: np.ndarray  # [F, 256, 256, 3] uint8
    still: np.ndarray  # [256, 256, 3] uint8
    points: np.ndarray  # [478, 3] of the still
    speech: np.ndarray  # [F · 640] of unit variance
    opening: np.ndarray  # [F] centimetres


def read_talking_clip(path: Path) -> Clip:
    """A clip that `joyhallo.data.synthesis` wrote."""
    with np.load(path) as file:
        return Clip(
            name=f"{path.parent.name}/{path.stem}",
            person=str(file["person"]),
            is_portrait=True,
            is_held_out=bool(file["is_held_out"]),
            opening=file["opening_cm"],
            **{name: file[name] for name in ("frames", "still", "points", "speech")},
        )


def read_video_clip(path: Path, is_held_out: bool, template: np.ndarray) -> Clip:
    """A video that `joyhallo.data.faces` wrote; `template`: vertices of the average face."""
    with np.load(path) as file:
        frames, points, speech = file["frames"], file["points"], file["speech"]
    opening = motion.lip_gap(motion.rigid_free(points, template)[0])
    still = int(opening.argmin())
    return Clip(path.stem, "video", False, is_held_out, frames, frames[still], points[still], unit_speech(speech), opening)


@torch.no_grad()
def encode(network: PatchAutoencoder, images: np.ndarray, batch_size: int = 12) -> np.ndarray:
    """uint8 [N, 256, 256, 3] → latents [N, 16, 16, 16] float16."""
    starts = range(0, len(images), batch_size)
    return torch.cat([network.encode(to_network(images[first : first + batch_size])) for first in starts]).half().numpy()


def write_shard(clips: list[Clip], network: PatchAutoencoder, folder: Path) -> None:
    """Encode clips and write one shard, whole or not at all."""
    lengths = np.array([len(clip.frames) for clip in clips])
    masks = [region_masks(clip.points, _SIZE, _LATENT_SIZE, num_depths=_NUM_DEPTHS) for clip in clips]
    boxes = [expanded_box(clip.points, anatomy.SILHOUETTE, _SIZE, FACE_EXPAND) for clip in clips]
    arrays = {
        "start": np.cumsum(lengths) - lengths,
        "num_frames": lengths,
        "latents": np.concatenate([encode(network, clip.frames) for clip in clips]),
        "still": encode(network, np.stack([clip.still for clip in clips])),
        "speech": np.concatenate([clip.speech.reshape(-1, SAMPLES_PER_FRAME) for clip in clips]).astype(np.float16),
        "opening": np.concatenate([clip.opening for clip in clips]).astype(np.float32),
        "face_box": np.array(boxes, np.int32),
        "aligned": np.stack([align_face(clip.still, clip.points) for clip in clips]),
        "person": np.array([clip.person for clip in clips]),
        "name": np.array([clip.name for clip in clips]),
        "is_portrait": np.array([clip.is_portrait for clip in clips]),
        "is_held_out": np.array([clip.is_held_out for clip in clips]),
    }
    for region in ("lip", "expression", "pose"):
        for depth in range(_NUM_DEPTHS):
            stacked = torch.cat([getattr(mask, region)[depth][0] for mask in masks])
            arrays[f"{region}_{depth}"] = stacked.half().numpy()
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(temporary / f"{name}.npy", array)
    temporary.replace(folder)


def plan_shards(title: str, paths: Sequence[Path], size: int, first: int = 0) -> dict[str, Sequence[Path]]:
    """Names of shards and the clips of each, `size` at most; `first`: number of the first clip in the whole corpus."""
    return {f"shard_{title}_{first + at:04d}": paths[at : at + size] for at in range(0, len(paths), size)}


def write_missing(
    plan: Mapping[str, Sequence[Path]], read: Callable[[Path], Clip], network: PatchAutoencoder, cache: Path
) -> None:
    """Write the planned shards that are not there yet."""
    for name, paths in plan.items():
        if not (cache / name).exists():
            write_shard([read(path) for path in paths], network, cache / name)
            logger.info("%s: %d clips", name, len(paths))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="output folder of joyhallo.data.faces")
    parser.add_argument("--talking", type=Path, nargs="*", default=[], help="folders of clips of joyhallo.data.synthesis")
    parser.add_argument("--videos", type=int, nargs=2, metavar=("FIRST", "END"), default=(0, 0), help="which videos to add")
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--face-models", type=Path, required=True, help="face_landmarker_v2_with_blendshapes.task")
    parser.add_argument("--clips-per-shard", type=int, default=100)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    network = PatchAutoencoder.from_pretrained(arguments.autoencoder).eval()
    prefer_channels_last(network)
    template = read_canonical_mesh(arguments.face_models).vertices
    split = heldout.split_videos((arguments.faces / "videos").glob("*.npz"))
    first, end = arguments.videos
    # A video is about three times as long as a made clip.
    plan = plan_shards("videos", (split.held_out + split.known)[first:end], max(1, arguments.clips_per_shard // 3), first)
    write_missing(plan, lambda path: read_video_clip(path, path in split.held_out, template), network, arguments.output)
    for folder in arguments.talking:
        plan = plan_shards(folder.name, sorted(folder.glob("*.npz")), arguments.clips_per_shard)
        write_missing(plan, read_talking_clip, network, arguments.output)


if __name__ == "__main__":
    main()
