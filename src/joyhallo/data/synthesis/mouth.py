"""What shows between parted lips: a dark cavity, a tongue that follows the jaw, upper teeth fixed to the skull."""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.data.synthesis.teeth import Teeth
from joyhallo.easing import smooth_step

_CAVITY, _TONGUE, _TEETH = np.array([58.0, 24, 22]), np.array([150.0, 78, 76]), np.array([206.0, 194, 178])
_TEETH_HEIGHT_CM, _TEETH_WIDTH_CM = 0.85, 0.72  # of painted teeth, where no strip is given
_EDGE_CM = 0.2  # the edge of painted teeth under the line of the shut lips
_THIN_CM = 0.16  # a slit narrower than this shows lips in their own shadow, not the mouth behind them


@dataclass(frozen=True, eq=False)
class MouthLook:
    """What decides the colours of a portrait's mouth."""

    skin: np.ndarray  # [3] mean colour of the cheeks, which gives the light of the scene
    lip: np.ndarray  # [3] mean colour of the lips
    teeth: Teeth | None  # a strip of real teeth; None: painted ones
    has_own_teeth: bool  # the strip is of this very picture: its colours are right as they are
    px_per_cm: float  # of the average face


@dataclass(frozen=True, eq=False)
class _Axes:
    """The mouth's own axes in the picture: across [2] to the person's left, down [2], and the middle [2] of the shut lips."""

    across: np.ndarray
    down: np.ndarray
    middle: np.ndarray

    def along(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] in pixels across and down from the middle, [..., 2]."""
        away = points - self.middle
        return np.stack([away @ self.across, away @ self.down], -1)


def _axes(rigid: np.ndarray) -> _Axes:
    across = rigid[308] - rigid[78]
    across = across / np.linalg.norm(across)
    return _Axes(across, np.array([-across[1], across[0]]), (rigid[13] + rigid[14]) / 2)


def _light(look: MouthLook) -> np.ndarray:
    """How the scene colours white, [3]."""
    brightness = float(np.clip((look.skin.mean() + 20) / 170, 0.4, 1.15))
    cast = look.skin / look.skin.mean() / np.array([1.22, 0.95, 0.83])  # against ordinary skin
    return brightness * cast**0.5


def paint_inside(places: np.ndarray, placed: np.ndarray, rigid: np.ndarray, look: MouthLook) -> np.ndarray:
    """The colours behind the lips at `places` [h, w, 2] (pixels of the picture), [h, w, 3] in 0..255.

    `placed` [468, 2]: the mesh as it is shown; `rigid` [468, 2]: the mesh with shut lips and the same head.
    """
    axes = _axes(rigid)
    at = axes.along(places) / look.px_per_cm
    x, y = at[..., 0], at[..., 1]
    upper, lower = (
        axes.along(placed[list(line)]) / look.px_per_cm for line in (anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP)
    )
    top, bottom = (np.interp(x, np.maximum.accumulate(line[:, 0]), line[:, 1]) for line in (upper, lower))
    gap = float((lower[3:8, 1] - upper[3:8, 1]).mean())
    thickness = np.maximum(bottom - top, 0)
    depth = np.clip((y - top) / np.maximum(thickness, 0.05), 0, 1)[..., None]
    half = max(0.5, float(lower[-1, 0] - lower[0, 0]) / 2)
    side = np.clip(np.abs(x) / half, 0, 1)[..., None]
    light = _light(look)
    colour = _CAVITY * (0.55 + 0.6 * depth) * (1 - 0.4 * side**2) * light
    tongue = np.exp(-((x / 1.4) ** 4 + ((y - lower[5, 1]) / max(0.6, 0.42 * gap)) ** 2))
    tongue = (0.8 * tongue * np.clip((gap - 0.25) / 0.9, 0, 1))[..., None]
    colour = colour * (1 - tongue) + _TONGUE * light * tongue
    teeth = _strip(x, y, look, light) if look.teeth else _painted(x, y, light)
    # The upper lip throws a shadow on the teeth; towards the corners the cheeks do.
    shade = (0.7 + 0.3 * np.clip((y - top) / 0.35, 0, 1))[..., None] * (1 - 0.45 * side**2.5)
    colour = colour * (1 - teeth[..., 3:]) + teeth[..., :3] * shade
    # In a slit, and so at the corners, there is nothing but lip in shadow: no dark or white speck.
    open_share = smooth_step(thickness, 0, _THIN_CM)[..., None]
    return np.clip(colour * open_share + 0.5 * look.lip * (1 - open_share), 0, 255)


def _strip(x: np.ndarray, y: np.ndarray, look: MouthLook, light: np.ndarray) -> np.ndarray:
    """The strip of teeth at places in centimetres: colour times alpha and alpha, [h, w, 4]."""
    teeth = look.teeth
    assert teeth is not None
    sampled = teeth.sample(x, y - teeth.edge_cm)
    gain = 1.0 if look.has_own_teeth else _TEETH * light / teeth.white
    return np.concatenate([sampled[..., :3] * gain, sampled[..., 3:]], -1)


def _painted(x: np.ndarray, y: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Plain teeth where there is no strip: colour times alpha and alpha, [h, w, 4]."""
    ripple = np.cos(2 * np.pi * x / _TEETH_WIDTH_CM)
    edge = _EDGE_CM - 0.045 * x**2 - 0.03 * ripple  # the arch rises towards the sides
    shown = 1 / (1 + np.exp(np.clip((y - edge) / 0.03, -30, 30)))
    shown *= 1 / (1 + np.exp(np.clip(-(y - edge + _TEETH_HEIGHT_CM) / 0.06, -30, 30)))
    shown = (0.94 * shown * np.clip((2.4 - np.abs(x)) / 0.4, 0, 1))[..., None]
    shade = (1 - 0.05 * (0.5 + 0.5 * ripple) ** 4)[..., None]
    return np.concatenate([_TEETH * light * shade * shown, shown], -1)
