"""Subject and Background of VBench: how much every frame looks like the first one and like the one before it.

Subject sees frames with DINO's ViT-B/16, Background with CLIP's ViT-B/32; there is no mask of a background, the names are
VBench's. Its number for many films counts every frame alike, not every film: a measure's weight says how many there are.

Axes: N frames, E numbers of a feature.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from joyhallo.device import choose_device
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.lacking import lacking
from joyhallo.evaluation.measures import Measure
from joyhallo.weights import hub
from joyhallo.weights.checkpoint import load_strict, open_tensors
from joyhallo.weights.metric_files import CLIP_FILES, DINO_FILES

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTModel

SIZE_PX = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SET = "metrics-consistency"

# names of vision transformers before transformers 5, and since
_OLD_NAMES = (
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda found: f".attention.{found[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """A network that turns frames of one size into features."""

    embed: Callable[[Tensor], Tensor]  # frames [B, 3, H, W], RGB in 0 … 255 → [B, E]
    device: torch.device

    @torch.inference_mode()
    def __call__(self, frames: Iterable[np.ndarray], batch: int = 16) -> Iterator[np.ndarray]:
        """The feature [E] float32 of every frame [H, W, 3] uint8 RGB; `batch` of them are kept."""
        left = iter(frames)
        while part := list(islice(left, batch)):
            pixels = torch.from_numpy(np.stack(part)).to(self.device).permute(0, 3, 1, 2).float()
            yield from self.embed(pixels).float().cpu().numpy()


def consistency(features: Iterable[np.ndarray]) -> np.ndarray:
    """How alike each frame but the first is to its predecessor and to the first: [N - 1], from features [E] of any length.

    Each value is the mean of the two cosines, of which negative ones count as zero.
    """
    values: list[float] = []
    first = before = None
    for feature in features:
        unit = feature.astype(np.float64) / max(float(np.linalg.norm(feature)), 1e-12)
        if first is None or before is None:
            first = unit
        else:
            values.append((max(0.0, float(before @ unit)) + max(0.0, float(first @ unit))) / 2)
        before = unit
    return np.array(values)


def measure_subject(film: Film, features: FrameFeatures | None) -> list[Measure]:
    """`subject` with the features of `load_dino`; without a value, and with the command, where they are None."""
    return [_measure("subject", film, features)]


def measure_background(film: Film, features: FrameFeatures | None) -> list[Measure]:
    """`background` with the features of `load_clip`; without a value, and with the command, where they are None."""
    return [_measure("background", film, features)]


def load_dino(device: torch.device | str = "auto") -> FrameFeatures | None:
    """DINO's ViT-B/16 from the set "metrics-consistency"; None where its files are not on this machine.

    Raises
    ------
    CheckpointError : a file is broken, or holds something else.
    """
    files = _find(DINO_FILES)
    return None if files is None else dino_features(build_dino(*files), choose_device(str(device)))


def load_clip(device: torch.device | str = "auto") -> FrameFeatures | None:
    """The picture half of CLIP's ViT-B/32, as `load_dino`; in float32, where VBench takes float16 on GPUs."""
    files = _find(CLIP_FILES)
    return None if files is None else clip_features(build_clip(*files), choose_device(str(device)))


def build_dino(config: Path, weights: Path) -> "ViTModel":
    """The network of a folder in the layout of transformers, old or new. Raises CheckpointError."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig.from_json_file(config), add_pooling_layer=False)
    stored = open_tensors(weights)
    kept = {name: stored[name] for name in stored if not name.startswith("pooler.")}
    load_strict(model, kept if "layers.0.layernorm_before.weight" not in model.state_dict() else _today(kept))
    return model.eval()


def build_clip(config: Path, weights: Path) -> "CLIPVisionModelWithProjection":
    """The picture half of a folder that holds both, in the layout of transformers. Raises CheckpointError."""
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    whole = CLIPConfig.from_json_file(config)
    vision = cast("CLIPVisionConfig", whole.vision_config)
    vision.projection_dim = cast("int", whole.projection_dim)
    model = CLIPVisionModelWithProjection(vision)
    stored = open_tensors(weights)
    names = [name for name in stored if name.startswith(("vision_model.", "visual_projection."))]
    load_strict(model, {name: stored[name] for name in names if not name.endswith(".position_ids")})
    return model.eval()


def dino_features(model: "ViTModel", device: torch.device | str = "cpu") -> FrameFeatures:
    """Frames brought to 224 pixels on their shorter side, whole; the feature is the output of the class token."""
    cast("nn.Module", model).to(device)  # as the types of transformers' models do not say it

    def embed(pixels: Tensor) -> Tensor:
        ready = normalised(resized(pixels, "bilinear"), IMAGENET_MEAN, IMAGENET_STD)
        positions = partial(_positions, model)
        model.embeddings.interpolate_pos_encoding = positions  # type: ignore[method-assign]
        return model(pixel_values=ready, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    return FrameFeatures(embed, torch.device(device))


def clip_features(model: "CLIPVisionModelWithProjection", device: torch.device | str = "cpu") -> FrameFeatures:
    """The middle of frames brought to 224 pixels on their shorter side; the feature is the projected one."""
    cast("nn.Module", model).to(device)  # as the types of transformers' models do not say it

    def embed(pixels: Tensor) -> Tensor:
        large = resized(pixels, "bicubic")  # what it overshoots is kept
        top, left = (round((side - SIZE_PX) / 2) for side in large.shape[2:])
        ready = normalised(large[..., top : top + SIZE_PX, left : left + SIZE_PX], CLIP_MEAN, CLIP_STD)
        return model(pixel_values=ready).image_embeds

    return FrameFeatures(embed, torch.device(device))


def resized(pixels: Tensor, mode: str) -> Tensor:
    """Pixels [B, 3, H, W] with 224 on the shorter side and the longer one cut to a whole number; without antialiasing."""
    height, width = pixels.shape[2:]
    short = min(height, width)
    size = (int(SIZE_PX * height / short), int(SIZE_PX * width / short))
    return pixels if size == (height, width) else functional.interpolate(pixels, size, mode=mode, align_corners=False)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels [B, 3, H, W] of 0 … 255 as a network wants them."""
    means, stds = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return (pixels / 255 - means) / stds


def _measure(name: str, film: Film, features: FrameFeatures | None) -> Measure:
    if features is None:
        return Measure(name, None, note=lacking(_SET))
    values = consistency(features(film.frames()))
    if not len(values):
        return Measure(name, None, note="one frame is alike to nothing: at least 2 are needed")
    curve = np.full(film.num_frames, np.nan)
    curve[1 : len(values) + 1] = values
    return Measure(name, float(values.mean()), weight=float(len(values)), curve=curve)


def _find(names: tuple[str, ...]) -> list[Path] | None:
    found = [hub.find(name) for name in names]
    return None if None in found else cast("list[Path]", found)


def _today(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _OLD_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _positions(model: "ViTModel", embeddings: Tensor, height: int, width: int) -> Tensor:
    """Places of patches [1, 1 + h·w, E] in a picture of that size, as DINO's own code stretches them; [B, 1 + h·w, E] given.

    It asks for a tenth of a patch more, which moves the places a little, and takes them as they are for its own size.
    """
    learnt = model.embeddings.position_embeddings
    side = round((learnt.shape[1] - 1) ** 0.5)
    patch = cast("int", model.config.patch_size)
    rows, columns = height // patch, width // patch
    if embeddings.shape[1] == learnt.shape[1] and height == width:
        return learnt
    grid = learnt[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    factors = ((rows + 0.1) / side, (columns + 0.1) / side)
    stretched = functional.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([learnt[:, :1], stretched.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
