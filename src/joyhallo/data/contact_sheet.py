"""Samples of a dataset in one picture: frames, the region masks over them, and who it is.

Axes: S pixels of a frame's side, T pixels of a tile's side.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from joyhallo.data.dataset import Dataset
from joyhallo.data.frames import FPS
from joyhallo.data.samples import Annotations, Facts
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole

TILE_PX = 168
NUM_COLUMNS = 2
NUM_MASKED = 3  # tiles with masks, after the one without
REGION_COLOURS = ((255, 60, 60), (60, 220, 80), (70, 120, 255))  # lip, expression, pose
_OPACITY = 0.42
_GAP_PX = 8
_TEXT_PX = 236
_HEAD_PX = 34
_BACKGROUND = (24, 24, 26)
_FONT_PX = 13


def write_contact_sheet(dataset: Dataset, path: Path, num_samples: int = 12) -> int:
    """Draw samples spread evenly over a dataset into a PNG; returns how many.

    Raises UserError when the file cannot be written; a sample that cannot be read is shown with the reason in its place.
    """
    shown = choose_samples(len(dataset), num_samples)
    sheet = draw_contact_sheet(dataset, shown)
    with written_whole(Path(path), "contact sheet", UserError) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    return len(shown)


def choose_samples(num_samples: int, num_wanted: int) -> list[int]:
    """Numbers spread evenly over a dataset, always the same ones."""
    return sorted({int(number) for number in np.linspace(0, num_samples - 1, min(num_samples, num_wanted)).round()})


def draw_contact_sheet(dataset: Dataset, shown: list[int]) -> np.ndarray:
    """The sheet [H, W, 3] uint8: for each sample its facts, a frame (or the portrait) as it is, and frames under the masks."""
    cell_height, cell_width = TILE_PX + _GAP_PX, _TEXT_PX + (1 + NUM_MASKED) * (TILE_PX + 2) + _GAP_PX
    num_rows = -(-len(shown) // NUM_COLUMNS)
    sheet = Image.new("RGB", (NUM_COLUMNS * cell_width + _GAP_PX, _HEAD_PX + num_rows * cell_height), _BACKGROUND)
    _draw_head(ImageDraw.Draw(sheet), dataset)
    for place, i in enumerate(shown):
        row, column = divmod(place, NUM_COLUMNS)
        corner = (_GAP_PX + column * cell_width, _HEAD_PX + row * cell_height)
        try:
            tiles, lines = _tiles(dataset, i), _describe(dataset.facts[i])
        except UserError as problem:
            tiles, lines = [], [*_describe(dataset.facts[i])[:1], "cannot be read:", *_wrapped(str(problem))]
        _draw_lines(ImageDraw.Draw(sheet), corner, lines)
        for number, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (corner[0] + _TEXT_PX + number * (TILE_PX + 2), corner[1]))
    return np.array(sheet)


def tinted(picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] uint8 with the three masks [3, h, w] uint8 laid over it in their colours."""
    height, width = picture.shape[:2]
    mixed = picture.astype(np.float32)
    for mask, colour in zip(masks, REGION_COLOURS, strict=True):
        opacity = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)[..., None] * (_OPACITY / 255)
        mixed = mixed * (1 - opacity) + np.array(colour, np.float32) * opacity
    return np.round(mixed).astype(np.uint8)


def _tiles(dataset: Dataset, i: int) -> list[np.ndarray]:
    annotations = dataset.annotations(i)
    last = dataset.facts[i].num_frames - 1
    numbers = [round(last * share) for share in (0.1, 0.5, 0.9)]
    frames = dataset.frames(i, [0, *numbers])
    portrait = dataset.portrait(i)
    plain = frames[0] if portrait is None else portrait
    masked = [_masked(frame, annotations, number) for frame, number in zip(frames[1:], numbers, strict=True)]
    return [_small(plain), *masked]


def _masked(frame: np.ndarray, annotations: Annotations, number: int) -> np.ndarray:
    tile = tinted(_small(frame), annotations.masks)
    scale = TILE_PX / frame.shape[0]
    x0, y0, x1, y1 = (round(float(side) * scale) for side in annotations.face_box)
    cv2.rectangle(tile, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 1)
    points = annotations.points[number, :, :2] * scale
    for x, y in points[np.isfinite(points).all(1)].round().astype(int):
        if 0 <= x < TILE_PX and 0 <= y < TILE_PX:
            tile[y, x] = (255, 255, 0)
    return tile


def _small(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR))


def _describe(facts: Facts) -> list[str]:
    sync = "sync not measured"
    if facts.sync_offset_frames is not None:
        sync = f"lips {facts.sync_offset_frames:+d} frames, sure {facts.sync_confidence or 0:.2f}"
    marks = [word for word, holds in (("held out", facts.is_held_out), ("synthetic", facts.is_synthetic)) if holds]
    return [
        *_wrapped(facts.key)[:2],
        f"speaker {facts.speaker}",
        f"{Path(facts.source).name}",
        f"{facts.num_frames / FPS:.1f} s from {facts.start_s:.1f} s",
        f"face {facts.face_share:.2f}, sharpness {facts.sharpness:.2f}",
        f"speech {facts.speech_share:.2f}",
        sync,
        ", ".join(marks),
    ]


def _draw_head(draw: ImageDraw.ImageDraw, dataset: Dataset) -> None:
    hours = dataset.index.hours
    duration = f"{hours:.2f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    words = [f"{len(dataset)} clips, {duration}, {dataset.index.size_px} px", "lip", "expression", "pose"]
    at, colours = _GAP_PX, [(235, 235, 235), *REGION_COLOURS]
    for word, colour in zip(words, colours, strict=True):
        draw.text((at, 9), word, fill=colour, font=ImageFont.load_default(_FONT_PX + 2))
        at += round(draw.textlength(word, font=ImageFont.load_default(_FONT_PX + 2))) + 24


def _draw_lines(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[str]) -> None:
    font = ImageFont.load_default(_FONT_PX)
    for number, line in enumerate(lines):
        text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in line)
        while text and draw.textlength(text, font=font) > _TEXT_PX - 10:
            text = text[:-1]
        colour = (255, 255, 255) if number == 0 else (190, 190, 195)
        draw.text((corner[0], corner[1] + number * (_FONT_PX + 5)), text, fill=colour, font=font)


def _wrapped(text: str, num_letters: int = 32) -> list[str]:
    return [text[at : at + num_letters] for at in range(0, len(text), num_letters)][:8]
