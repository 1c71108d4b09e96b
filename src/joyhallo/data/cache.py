"""Clips → everything the denoiser's training reads, as plain arrays that can be memory-mapped.

A cache is a folder of shards; a shard is a folder of .npy files over N clips with S frames in all:

- `start` [N], `num_frames` [N]: the clip's rows in the per-frame arrays
- `latents` [S, 16, 16, 16] float16, `speech` [S, 640] float16 (unit variance over the recording it was cut from)
- `still` [N, 16, 16, 16] float16: the latent of the portrait; of a video its frame with the mouth most nearly shut
- `lip_d`, `expression_d`, `pose_d` [N, h, h] float16 for the depths d = 0, 1, 2 (h = 16, 8, 4)
- `face_box` [N, 4]: x0, y0, x1, y1 of the face rectangle in the 256 px crop
- `aligned` [N, 112, 112, 3] uint8: the still's face as the identity encoder takes it
- `identity` [N, 128]: its embedding, once there is an identity encoder
- `person` [N] text, `name` [N] text, `is_portrait` [N], `is_held_out` [N]
- `opening` [S]: opening of the lips per frame, centimetres (what the frames show, for the scores)
"""

import argparse
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.identity import align_face
from joyhallo.conditioning.masks import FACE_EXPAND, expanded_box, region_masks
from joyhallo.data import heldout, motion
from joyhallo.data.facemesh import read_canonical_mesh
from joyhallo.data.synthesis import unit_speech
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.identity_encoder import IdentityNetwork

logger = logging.getLogger(__name__)
_SIZE, _NUM_DEPTHS, _SAMPLES = 256, 3, 640


@dataclass(frozen=True)
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
        name = f"{path.parent.name}/{path.stem}"
        values = [file[key] for key in ("frames", "still", "points", "speech", "opening_cm")]
        return Clip(name, str(file["person"]), True, bool(file["is_held_out"]), *values)


def read_video_clip(path: Path, is_held_out: bool, template: np.ndarray) -> Clip:
    """A video that `joyhallo.data.faces` wrote."""
    with np.load(path) as file:
        frames, points, speech = file["frames"], file["points"], file["speech"]
    opening = motion.lip_gap(motion.rigid_free(points, template)[0])
    still = int(opening.argmin())
    return Clip(path.stem, "video", False, is_held_out, frames, frames[still], points[still], unit_speech(speech), opening)


@torch.no_grad()
def encode(network: PatchAutoencoder, images: np.ndarray, batch_size: int = 12) -> np.ndarray:
    """uint8 [N, 256, 256, 3] → latents [N, 16, 16, 16] float16."""
    parts = []
    for first in range(0, len(images), batch_size):
        part = torch.from_numpy(np.ascontiguousarray(images[first : first + batch_size])).permute(0, 3, 1, 2)
        parts.append(network.encode((part.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts).half().numpy()


def write_shard(clips: list[Clip], network: PatchAutoencoder, folder: Path) -> None:
    """Encode clips and write one shard, whole or not at all."""
    lengths = np.array([len(clip.frames) for clip in clips])
    masks = [region_masks(clip.points, (_SIZE, _SIZE), (_SIZE // 16, _SIZE // 16), num_depths=_NUM_DEPTHS) for clip in clips]
    arrays = {
        "start": np.cumsum(lengths) - lengths,
        "num_frames": lengths,
        "latents": np.concatenate([encode(network, clip.frames) for clip in clips]),
        "still": encode(network, np.stack([clip.still for clip in clips])),
        "speech": np.concatenate([clip.speech.reshape(-1, _SAMPLES) for clip in clips]).astype(np.float16),
        "opening": np.concatenate([clip.opening for clip in clips]).astype(np.float32),
        "face_box": np.array(
            [expanded_box(clip.points, anatomy.SILHOUETTE, (_SIZE, _SIZE), FACE_EXPAND) for clip in clips], np.int32
        ),
        "aligned": np.stack([align_face(clip.still, clip.points) for clip in clips]),
        "person": np.array([clip.person for clip in clips]),
        "name": np.array([clip.name for clip in clips]),
        "is_portrait": np.array([clip.is_portrait for clip in clips]),
        "is_held_out": np.array([clip.is_held_out for clip in clips]),
    }
    for region in ("lip", "expression", "pose"):
        for depth in range(_NUM_DEPTHS):
            arrays[f"{region}_{depth}"] = np.stack([getattr(mask, region)[depth][0, 0].numpy() for mask in masks]).astype(
                np.float16
            )
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(temporary / f"{name}.npy", array)
    temporary.replace(folder)


@torch.no_grad()
def add_embeddings(network: IdentityNetwork, cache: Path) -> None:
    """Write `identity.npy` [N, E] float32 into every shard."""
    for folder in sorted(cache.glob("shard_*")):
        faces = torch.from_numpy(np.load(folder / "aligned.npy")).permute(0, 3, 1, 2).float() / 127.5 - 1
        temporary = folder / ".identity.part.npy"
        np.save(temporary, torch.cat([network(part) for part in faces.split(32)]).numpy())
        temporary.replace(folder / "identity.npy")


def write_cache(arguments: argparse.Namespace, network: PatchAutoencoder, template: np.ndarray) -> None:
    """Write the shards that are asked for and not there yet."""
    videos = sorted((arguments.faces / "videos").glob("*.npz"))
    jobs: list[tuple[str, list[Path]]] = [("videos", videos[arguments.videos[0] : arguments.videos[1]])]
    jobs += [(folder.name, sorted(folder.glob("*.npz"))) for folder in arguments.talking]
    held = {path.stem for path in videos[: heldout.NUM_HELD_OUT_VIDEOS]}
    for title, paths in jobs:
        size = arguments.clips_per_shard if title != "videos" else max(1, arguments.clips_per_shard // 3)
        for first in range(0, len(paths), size):
            number = first + (arguments.videos[0] if title == "videos" else 0)
            folder = arguments.output / f"shard_{title}_{number:04d}"
            if folder.exists():
                continue
            clips = [
                read_video_clip(path, path.stem in held, template) if title == "videos" else read_talking_clip(path)
                for path in paths[first : first + size]
            ]
            write_shard(clips, network, folder)
            logger.info("%s: %d clips", folder.name, len(clips))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="output folder of joyhallo.data.faces")
    parser.add_argument("--talking", type=Path, nargs="*", default=[], help="folders of clips of joyhallo.data.synthesis")
    parser.add_argument("--videos", type=int, nargs=2, metavar=("FIRST", "END"), default=(0, 0), help="which videos to add")
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--identity-encoder", type=Path, help="add the embeddings of this network to all shards, at the end")
    parser.add_argument("--face-models", type=Path, required=True, help="face_landmarker_v2_with_blendshapes.task")
    parser.add_argument("--clips-per-shard", type=int, default=100)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    network = PatchAutoencoder.from_pretrained(arguments.autoencoder).eval().to(memory_format=torch.channels_last)
    template = read_canonical_mesh(arguments.face_models).vertices
    write_cache(arguments, network, template)
    if arguments.identity_encoder:
        add_embeddings(IdentityNetwork.from_pretrained(arguments.identity_encoder).eval(), arguments.output)


if __name__ == "__main__":
    main()
