"""The visible mark: a short text on a half-transparent box in the top left corner.

GB 45438-2025 (5.4) wants, at the edge of the first frames, a text that names both artificial intelligence and generation, at
least 5 % of the shortest side high, for two seconds or more. We draw 6 % for three.
"""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from joyhallo.errors import UserError
from joyhallo.media.strokes import advance, draw_character, has_strokes

DEFAULT_TEXT = "AI生成"
ENGLISH_TEXT = "AI generated"
DIGITAL_HUMAN_TEXT = "AI生成 · 数字人"
START_S = 3.0

_TEXT_SHARE = 0.06  # of the shortest side
_MARGIN_SHARE = 0.03
_BOX_OPACITY = 0.5
_CAPITAL_SHARE = 0.8  # height of a capital beside a Chinese character's square, when we draw both
_GAP_SHARE = 0.06  # between two drawn characters
_SCRIPT_GAP_SHARE = 0.1  # between Latin and Chinese letters
_MISSING = "\U0010fffe"  # never a character: shows what a font draws for those it lacks

MarkMode = Literal["start", "persistent"]


class MarkError(UserError):
    """A mark that cannot be drawn or would not say what it must; the message says why and what to give instead."""


class Mark:
    """The mark for frames of one size; everything that does not depend on the frame is drawn here, once.

    Parameters
    ----------
    size : (height, width) of the frames.
    text : must name AI; a Chinese text must also say 生成 or 合成.
    mode : "start" marks the first three seconds, "persistent" every frame (digital humans, live pictures).
    font : a TrueType or OpenType file for other characters than ASCII and those of our own table.

    Raises
    ------
    MarkError : the text does not say what it must, lacks a glyph, or does not fit; an unknown mode; an unreadable font.
    """

    def __init__(
        self, size: tuple[int, int], text: str = DEFAULT_TEXT, mode: MarkMode = "start", font: Path | None = None
    ) -> None:
        if mode not in ("start", "persistent"):
            raise MarkError(f"the mark's mode is '{mode}', but must be 'start' or 'persistent'")
        _check_text(text)
        self.size = size
        self.mode = mode
        shortest = min(size)
        wanted_px = math.ceil(_TEXT_SHARE * shortest)
        line, self.text_height_px = _render_at_least(text, wanted_px, font)
        padding, self._margin = math.ceil(0.4 * wanted_px), math.ceil(_MARGIN_SHARE * shortest)
        box = (line.height + 2 * padding, line.width + 2 * padding)
        if box[0] + self._margin > size[0] or box[1] + self._margin > size[1]:
            raise MarkError(f"the mark '{text}' does not fit into {size[0]}x{size[1]} px (height x width): give a shorter text")
        shape = Image.new("L", (box[1], box[0]))
        ImageDraw.Draw(shape).rounded_rectangle((0, 0, box[1] - 1, box[0] - 1), radius=padding // 2, fill=255)
        ink = Image.new("L", shape.size)
        ink.paste(line, (padding, padding))
        coverage = np.asarray(ink, np.float32)[:, :, None] / 255.0
        backdrop = np.asarray(shape, np.float32)[:, :, None] / 255.0 * _BOX_OPACITY
        self._keep = (1.0 - coverage) * (1.0 - backdrop)  # what stays of the frame under black box and white text
        self._add = 255.0 * coverage
        self._where = tuple(slice(self._margin, self._margin + side) for side in box)

    def apply(self, frame: np.ndarray, time_s: float) -> np.ndarray:
        """Return the frame with the mark on it, or the frame itself once the mark is over.

        Parameters
        ----------
        frame : [H, W, 3], uint8, of the mark's size; not changed.
        time_s : when the frame is shown, in seconds from the start.

        Returns
        -------
        [H, W, 3], uint8.
        """
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"the mark is for frames uint8 {[*self.size, 3]}, got {frame.dtype} {list(frame.shape)}")
        if self.mode == "start" and time_s >= START_S:
            return frame
        marked = frame.copy()
        marked[self._where] = np.rint(frame[self._where] * self._keep + self._add)
        return marked


def draw_mark(frame: np.ndarray, text: str = DEFAULT_TEXT, font: Path | None = None) -> np.ndarray:
    """One picture with the mark on it: previews and stills. See `Mark`.

    Parameters
    ----------
    frame : [H, W, 3], uint8; not changed.

    Returns
    -------
    [H, W, 3], uint8.
    """
    return Mark((frame.shape[0], frame.shape[1]), text, "persistent", font).apply(frame, 0.0)


def _check_text(text: str) -> None:
    is_chinese = any(_is_square(character) for character in text)
    names_ai = "AI" in text or "人工智能" in text
    if not names_ai or (is_chinese and not ("生成" in text or "合成" in text)):
        raise MarkError(f"the mark '{text}' must name AI and, in Chinese, 生成 or 合成: use for example '{DEFAULT_TEXT}'")
    if not text.isprintable():
        raise MarkError(f"the mark {text!r} has characters that cannot be printed: use one line of plain text")


def _is_square(character: str) -> bool:
    """Chinese, Japanese and Korean characters: as high as the line."""
    return "\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af" or "\uf900" <= character <= "\ufaff"


def _render_at_least(text: str, wanted_px: int, font: Path | None) -> tuple[Image.Image, int]:
    """Draw the text with letters of at least the height wanted, measured on their ink; also return that height."""
    side = wanted_px
    while True:
        line = _Line(text, side, font)
        if line.letter_height_px >= wanted_px:
            return line.image, line.letter_height_px
        side += max(1, round((wanted_px - line.letter_height_px) * 0.8))


class _Line:
    """A line of text as coverage; `side` is the square of a Chinese character or, with a user's font, its size."""

    def __init__(self, text: str, side: int, font: Path | None) -> None:
        self._side = side
        if font is None:
            pieces = [self._drawn(character) for character in text]
            space = Image.new("L", (round(_SCRIPT_GAP_SHARE * side), side))
            for place in range(len(text) - 1, 0, -1):  # Latin and Chinese letters need air between them
                pair = text[place - 1 : place + 1]
                if " " not in pair and has_strokes(pair[0]) != has_strokes(pair[1]):
                    pieces.insert(place, space)
        else:
            typeface = _open_font(font, side)
            _check_glyphs(text, _open_font(font, 50), font)
            pieces = [_with_font(text, typeface, side * 3, side * 2)]
        height = max(piece.height for piece in pieces)
        image = Image.new("L", (sum(piece.width for piece in pieces), height))
        left = 0
        for piece in pieces:
            image.paste(piece, (left, 0))
            left += piece.width
        ink = image.getbbox()
        if ink is None:
            raise MarkError(f"the mark '{text}' draws nothing: give a text that can be seen")
        self.image = image.crop(ink)
        # The highest letter of each script counts: a mark is as large as the smaller of its scripts.
        heights = []
        for script in (str.isascii, _is_square):
            letters = [character for character in text if script(character) and not character.isspace()]
            tops = [self._ink_height(character, font) for character in letters]
            heights += [max(tops)] if tops else []
        self.letter_height_px = min(heights)

    def _ink_height(self, character: str, font: Path | None) -> int:
        side = self._side
        piece = self._drawn(character) if font is None else _with_font(character, _open_font(font, side), side * 3, side * 2)
        box = piece.getbbox()
        return box[3] - box[1] if box else 0

    def _drawn(self, character: str) -> Image.Image:
        """One character by our strokes or, for ASCII, by the font that Pillow carries."""
        gap = round(_GAP_SHARE * self._side)
        if has_strokes(character):
            glyph = draw_character(character, self._side)
            piece = Image.new("L", (max(1, round(self._side * advance(character))) + gap, self._side))
            piece.paste(glyph, (gap // 2, 0))
            return piece
        if not (character.isascii() and character.isprintable()):
            raise MarkError(f"the mark's character '{character}' cannot be drawn without a font: give a font file that has it")
        typeface = _default_font(self._side)
        capital = typeface.getbbox("H", anchor="ls")
        baseline = round((self._side - capital[1]) / 2)  # capitals stand in the middle of the square
        return _with_font(character, typeface, round(self._side * 1.3), baseline)


def _with_font(text: str, typeface: ImageFont.FreeTypeFont, height: int, baseline: int) -> Image.Image:
    piece = Image.new("L", (max(1, math.ceil(typeface.getlength(text))), height))
    ImageDraw.Draw(piece).text((0, baseline), text, fill=255, font=typeface, anchor="ls")
    return piece


def _default_font(side: int) -> ImageFont.FreeTypeFont:
    """The font inside Pillow, with capitals of 0.8 of the square."""
    probe = ImageFont.load_default(100)
    if not isinstance(probe, ImageFont.FreeTypeFont):
        raise MarkError("this Pillow was built without FreeType and cannot draw Latin letters: install the usual Pillow wheel")
    capital_px = -probe.getbbox("H", anchor="ls")[1]
    font = ImageFont.load_default(_CAPITAL_SHARE * side * 100 / capital_px)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _open_font(path: Path, side: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), side)
    except (OSError, ValueError) as problem:
        raise MarkError(f"the font '{path}' cannot be read: give a TrueType or OpenType file (.ttf, .otf, .ttc)") from problem


def _check_glyphs(text: str, typeface: ImageFont.FreeTypeFont, path: Path) -> None:
    """A font draws an empty box, or nothing, for what it lacks."""
    missing = _with_font(_MISSING, typeface, 100, 70).tobytes()
    for character in text:
        glyph = _with_font(character, typeface, 100, 70)
        if not character.isspace() and (glyph.getbbox() is None or glyph.tobytes() == missing):
            raise MarkError(f"the font '{path}' has no glyph for '{character}': give a font that has it, or another text")
