"""Who is shown: the held-out portraits, the groups they belong to, and pictures of them in other styles."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from joyhallo.conditioning.anatomy import head_yaw_deg
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.lip_sync import lip_measures
from joyhallo.data.synthesis.stills import Still, list_stills
from joyhallo.errors import UserError
from joyhallo.media.image import read_image

STYLES = ("painting", "sketch", "sculpture")
TURNED = "turned"  # to 20°, see `turning`
SEEN_BY_EYE = ("glasses", "beard", "dark skin", "light skin")  # listed in groups.json
FROM_MESH = ("turned head", "toothy smile")
_LIST = Path(__file__).parent / "groups.json"
_TURNED_DEG, _TEETH_SHOW = 6.0, 0.07  # degrees; opening of the lips in eye distances
_STONE = np.array([0.93, 0.92, 0.89], np.float32)


def held_out_stills(folder: Path) -> list[Still]:
    """The portraits of held-out people, in an order that mixes them."""
    stills = [still for still in list_stills([folder]) if still.is_held_out]
    if not stills:
        raise UserError(f"no portrait of a held-out person is below '{folder}': give the folders that mini is trained on")
    order = np.random.default_rng(175).permutation(len(stills))  # chosen so that the first six are of many kinds
    return [stills[number] for number in order]


def groups_of(still: Still, mesh: FaceMesh) -> tuple[str, ...]:
    """The groups a portrait belongs to."""
    listed = json.loads(_LIST.read_text(encoding="utf-8"))
    found = [group for group in SEEN_BY_EYE if still.name in listed[group]]
    faces = mesh.detect(read_image(still.path))
    if faces:
        points = faces[0].landmarks
        if abs(head_yaw_deg(points)) >= _TURNED_DEG:
            found.append("turned head")
        if lip_measures(points[None])[0, 0] >= _TEETH_SHOW:
            found.append("toothy smile")
    return tuple(found)


def in_style(picture: np.ndarray, style: str) -> np.ndarray:
    """A picture [H, W, 3] uint8 RGB as a painting, a pencil sketch or a grey sculpture; "" leaves it as it is.

    None of these filters is among those of the training data.
    """
    if not style:
        return picture
    return {"painting": _painting, "sketch": _sketch, "sculpture": _sculpture}[style](picture)


def _painting(picture: np.ndarray) -> np.ndarray:
    """Flat patches of colour within kept edges, on canvas."""
    flat = cv2.edgePreservingFilter(picture, flags=cv2.RECURS_FILTER, sigma_s=30, sigma_r=0.35)
    rows, columns = np.indices(picture.shape[:2])
    canvas = 1 + 0.02 * (np.sin(rows * 1.9) + np.sin(columns * 1.9))
    return np.clip(flat * canvas[..., None], 0, 255).astype(np.uint8)


def _sketch(picture: np.ndarray) -> np.ndarray:
    """Pencil on paper: hatched where it is dark."""
    grey, _ = cv2.pencilSketch(picture, sigma_s=40, sigma_r=0.07, shade_factor=0.04)
    tone = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    drawn = grey.astype(np.float32) / 255 * (0.55 + 0.45 * cv2.GaussianBlur(tone, (0, 0), 2))
    return np.repeat((drawn[..., None] * 255).clip(0, 255).astype(np.uint8), 3, 2)


def _sculpture(picture: np.ndarray) -> np.ndarray:
    """Stone: shape without colour, dark parts lightened, a fine grain."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    around = cv2.GaussianBlur(grey, (0, 0), picture.shape[0] / 16)
    relief = 0.62 + 0.35 * (around - around.mean()) + 0.9 * (grey - around)
    grain = np.random.default_rng(0).normal(0, 0.015, grey.shape)
    stone = np.clip(relief + cv2.GaussianBlur(grain, (0, 0), 0.8), 0.08, 1)
    return (stone[..., None] * _STONE * 255).clip(0, 255).astype(np.uint8)


def chosen(stills: Sequence[Still], only: int | None) -> list[Still]:
    """The first `only` of them, or all."""
    return list(stills if only is None else stills[:only])
