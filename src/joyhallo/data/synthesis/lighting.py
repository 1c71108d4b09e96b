"""One picture in other light, other colours, or as a painting or a drawing."""

import cv2
import numpy as np

_STYLED_SHARE = 0.08  # of the clips: painted, drawn, or grey


def relight(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A picture [H, W, 3] uint8 RGB as it might look under another lamp and through another camera; often nearly as it is."""
    strength = float(random.choice([0.25, 1.0], p=[0.4, 0.6]))
    changed = picture.astype(np.float32) / 255
    changed = changed ** float(np.exp(random.normal(0, 0.13 * strength)))
    changed *= np.exp(random.normal(0, 0.035 * strength, 3)).astype(np.float32) * float(
        np.exp(random.normal(0, 0.1 * strength))
    )
    changed *= _lamp(changed.shape[:2], strength, random)[..., None]
    grey = changed.mean(2, keepdims=True)
    changed = grey + (changed - grey) * float(np.exp(random.normal(0, 0.1 * strength)))
    middle = float(changed.mean())
    changed = middle + (changed - middle) * float(np.exp(random.normal(0, 0.06 * strength)))
    return np.clip(changed * 255 + 0.5, 0, 255).astype(np.uint8)


def _lamp(size: tuple[int, int], strength: float, random: np.random.Generator) -> np.ndarray:
    """Light [H, W] that falls off to one side."""
    y, x = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    angle, slope = random.uniform(0, 2 * np.pi), random.normal(0, 0.16 * strength)
    return np.exp(slope * (x * np.cos(angle) + y * np.sin(angle))).astype(np.float32)


def stylise(picture: np.ndarray, seed: int) -> np.ndarray:
    """Most pictures as they are; one in twelve as a painting, a pencil drawing or in shades of grey: the seed decides."""
    random = np.random.default_rng(seed)
    if random.random() >= _STYLED_SHARE:
        return picture
    style = int(random.integers(4))
    if style == 0:
        return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if style == 1:
        return _drawn(picture, random)
    return _painted(picture, random, is_coarse=style == 2)


def _drawn(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Pencil: what is darker than its surroundings becomes a line."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) + 1
    side = picture.shape[0] / 256
    around = cv2.GaussianBlur(grey, (0, 0), 6 * side)
    lines = np.clip(grey / around, 0, 1) ** 2.2
    shade = 0.75 + 0.25 * cv2.GaussianBlur(grey, (0, 0), 3 * side) / 255
    paper = np.array([1.0, 0.985, 0.95], np.float32) * float(random.uniform(0.88, 1.0))
    return np.clip((lines * shade)[..., None] * paper * 255, 0, 255).astype(np.uint8)


def _painted(picture: np.ndarray, random: np.random.Generator, is_coarse: bool) -> np.ndarray:
    """Paint: fine detail runs together, edges stay, colours grow richer; coarse paint has fewer tones."""
    painted = picture
    for _ in range(3):
        painted = cv2.bilateralFilter(painted, 7, 40, 5)
    colour = painted.astype(np.float32)
    if is_coarse:
        tones = float(random.integers(10, 18))
        colour = np.round(colour / 255 * tones) / tones * 255
        colour = cv2.GaussianBlur(colour, (0, 0), 0.6)
    grey = colour.mean(2, keepdims=True)
    return np.clip(grey + (colour - grey) * float(random.uniform(1.1, 1.4)), 0, 255).astype(np.uint8)
