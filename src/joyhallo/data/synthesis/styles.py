"""One picture as a painting, a drawing or a sculpture: the networks are to know such faces too.

Pictures are [H, W, 3] uint8 RGB. What is drawn at random is the same for all frames of a clip.
"""

from collections.abc import Callable

import cv2
import numpy as np

_STYLED_SHARE = 0.2  # of the clips
_STROKE = 9 / 256  # of the side
_MIDDLE_GREY = 0.45  # of most pictures; their own mean would change as a mouth opens


def stylise(picture: np.ndarray, seed: int) -> np.ndarray:
    """Most pictures as they are; one in five in a style: the seed decides whether, and which."""
    random = np.random.default_rng(seed)
    if random.random() >= _STYLED_SHARE:
        return picture
    return _STYLES[int(random.integers(len(_STYLES)))](picture, random)


def _in_one_colour(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Grey, or sepia as in old photographs."""
    tint = 1 + float(random.choice([0.0, random.uniform(0.3, 1.0)])) * np.array([0.1, 0.0, -0.2])
    return _as_picture(_grey(picture)[..., None] * tint)


def _drawn(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Soft pencil: what is darker than its surroundings becomes a line."""
    shade = 0.75 + 0.25 * _blurred(_grey(picture), 3 / 256)
    return _as_picture((_lines(picture, 2.2) * shade)[..., None] * _paper(random))


def _hatched(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Lines, and strokes where it is dark, closer where it is darker; crossed in the darkest parts."""
    tone = _blurred(_grey(picture), 1.5 / 256) ** float(random.uniform(0.5, 1.0))
    angle, ink = float(random.uniform(0, np.pi)), float(random.uniform(0.35, 0.8))
    drawn = _lines(picture, float(random.uniform(1.5, 3.0)))
    for turn, lightest in ((0.0, 0.85), (np.pi / 2, 0.45)):
        strokes = _strokes(tone.shape, angle + turn, random)
        drawn = drawn * (1 - ink * np.clip((lightest - tone) * 1.5 + strokes - 0.5, 0, 1))
    return _as_picture(drawn[..., None] * _paper(random))


def _carved(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Stone or bronze: light from one side on the picture's relief, without its colours."""
    grey = _grey(picture)
    height = _blurred(grey, float(random.uniform(0.6, 2.0)) / 256)
    angle = float(random.uniform(-0.8, 0.8)) - np.pi / 2
    slope = np.cos(angle) * cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) + np.sin(angle) * cv2.Sobel(
        height, cv2.CV_32F, 0, 1, ksize=3
    )
    lit = 0.55 + float(random.uniform(0.15, 0.6)) * (grey - _MIDDLE_GREY) + float(random.uniform(0.2, 0.6)) * slope
    lit *= 1 + _blurred(random.standard_normal(grey.shape).astype(np.float32), 1 / 256) * float(random.uniform(0, 0.06))
    stone, bronze = np.array([1.15, 1.12, 1.06]), np.array([0.85, 0.62, 0.4])
    return _as_picture(lit[..., None] * (stone + (bronze - stone) * float(random.choice([0.0, random.uniform(0, 1)]))))


def _painted(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Paint: fine detail runs together, edges stay, colours grow richer; coarse paint has fewer tones."""
    painted = picture
    for _ in range(3):
        painted = cv2.bilateralFilter(painted, 7, 40, 5)
    colour = painted.astype(np.float32) / 255
    if random.random() < 0.5:
        tones = float(random.integers(10, 18))
        colour = cv2.GaussianBlur(np.round(colour * tones) / tones, (0, 0), 0.6)
    grey = colour.mean(2, keepdims=True)
    return _as_picture(grey + (colour - grey) * float(random.uniform(1.1, 1.4)))


_STYLES: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (
    _in_one_colour, _drawn, _hatched, _hatched, _carved, _carved, _painted, _painted,
)  # fmt: skip


def _grey(picture: np.ndarray) -> np.ndarray:
    """[H, W] float32 from 0 to 1."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def _blurred(values: np.ndarray, share: float) -> np.ndarray:
    """Blurred over a share of the side."""
    return cv2.GaussianBlur(values, (0, 0), share * values.shape[0])


def _lines(picture: np.ndarray, strength: float) -> np.ndarray:
    """[H, W] 1 on paper, less on lines."""
    grey = _grey(picture) + 1 / 255
    return np.clip(grey / _blurred(grey, 6 / 256), 0, 1) ** strength


def _strokes(size: tuple[int, ...], angle: float, random: np.random.Generator) -> np.ndarray:
    """Noise [H, W] along strokes of one direction, 0 to 1, even."""
    length = max(3, round(_STROKE * size[0])) | 1
    kernel = np.zeros((length, length), np.float32)
    middle = length // 2
    reach = middle * np.array([np.cos(angle), np.sin(angle)])
    ends = np.round(np.stack([middle - reach, middle + reach])).astype(int).tolist()
    cv2.line(kernel, ends[0], ends[1], 1.0)
    noise = cv2.filter2D(random.standard_normal(size).astype(np.float32), -1, kernel)
    return np.clip(noise / (4 * noise.std()) + 0.5, 0, 1)


def _paper(random: np.random.Generator) -> np.ndarray:
    return np.array([1.0, 0.985, 0.95], np.float32) * float(random.uniform(0.88, 1.0))


def _as_picture(values: np.ndarray) -> np.ndarray:
    """From 0 to 1, to [H, W, 3] uint8."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
