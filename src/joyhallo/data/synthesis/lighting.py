"""One picture in other light and other colours."""

import numpy as np


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
