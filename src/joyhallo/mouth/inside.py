"""What shows between parted lips: a dark cavity, a tongue that follows the jaw, upper teeth fixed to the skull.

Lengths are centimetres of the average face from the middle of the shut lips: x to the person's left, y down.
"""

from dataclasses import dataclass

import numpy as np

from joyhallo.conditioning.teeth import Teeth
from joyhallo.easing import smooth_step
from joyhallo.mouth.painted_teeth import paint_teeth
from joyhallo.mouth.shape import heights

_CAVITY, _TONGUE, _TEETH = np.array([58.0, 24, 22]), np.array([150.0, 78, 76]), np.array([214.0, 203, 188])
_CHEEKS, _LIPS = (205, 425, 187, 411, 50, 280), (0, 17, 37, 267, 84, 314)  # points whose colours are taken
_LEAST_COLOUR = 0.2  # of skin, against its brightness: less is a picture in one colour
_EDGE_CM = 0.2  # the edge of painted teeth under the line of the shut lips
_THIN_CM = 0.16  # a slit narrower than this shows lips in their own shadow, not the mouth behind them


@dataclass(frozen=True, eq=False)
class MouthLook:
    """What decides the colours of a portrait's mouth."""

    skin: np.ndarray  # [3] mean colour of the cheeks, which gives the light of the scene
    lip: np.ndarray  # [3] mean colour of the lips
    teeth: Teeth | None  # a strip of real teeth; None: painted ones
    has_own_teeth: bool  # the strip is of this very picture: its colours are right as they are


def mouth_look(picture: np.ndarray, points: np.ndarray, teeth: Teeth | None = None, *, is_own: bool = False) -> MouthLook:
    """How the mouth of a picture [H, W, 3] uint8 looks; `points` [K, 2 or 3] of the face mesh in its pixels."""
    size = np.array([picture.shape[1], picture.shape[0]])
    cheeks = np.clip(points[list(_CHEEKS), :2].astype(int), 2, size - 3)
    skin = np.median([picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0) for x, y in cheeks], 0)
    lips = np.clip(points[list(_LIPS), :2].astype(int), 0, size - 1)
    return MouthLook(skin, np.median([picture[y, x] for x, y in lips], 0), teeth, is_own)


@dataclass(frozen=True, eq=False)
class Opening:
    """The lips' inner lines, each [11, 2] from the corner at the person's right to the other."""

    upper: np.ndarray
    lower: np.ndarray

    @property
    def height(self) -> float:
        """Of the middle half."""
        return float((self.lower[3:8, 1] - self.upper[3:8, 1]).mean())


def paint_inside(x: np.ndarray, y: np.ndarray, opening: Opening, look: MouthLook) -> np.ndarray:
    """The colours behind the lips at places x and y, [h, w] or what broadcasts to it: [h, w, 3] in 0..255."""
    upper, lower, gap = opening.upper, opening.lower, opening.height
    top, bottom = heights(x, upper), heights(x, lower)
    thickness = np.maximum(bottom - top, 0)
    depth = np.clip((y - top) / np.maximum(thickness, 0.05), 0, 1)[..., None]
    half = max(0.5, float(lower[-1, 0] - lower[0, 0]) / 2)
    side = np.clip(np.abs(x) / half, 0, 1)[..., None]
    light = _light(look)
    colour = _CAVITY * (0.55 + 0.6 * depth) * (1 - 0.4 * side**2) * light
    tongue = np.exp(-((x / 1.4) ** 4 + ((y - lower[5, 1]) / max(0.6, 0.42 * gap)) ** 2))
    tongue = (0.8 * tongue * np.clip((gap - 0.25) / 0.9, 0, 1))[..., None]
    colour = colour * (1 - tongue) + _TONGUE * light * tongue
    teeth = _strip(x, y, look, light) if look.teeth else paint_teeth(x, y - _EDGE_CM, _TEETH * light)
    # The upper lip throws a shadow on the teeth; towards the corners the cheeks do.
    shade = (0.7 + 0.3 * np.clip((y - top) / 0.35, 0, 1))[..., None] * (1 - 0.45 * side**2.5)
    colour = colour * (1 - teeth[..., 3:]) + teeth[..., :3] * shade
    # In a slit, and so at the corners, there is nothing but lip in shadow: no dark or white speck.
    open_share = smooth_step(thickness, 0, _THIN_CM)[..., None]
    colour = _as_colourful(colour, look)
    return np.clip(colour * open_share + 0.5 * look.lip * (1 - open_share), 0, 255)


def _light(look: MouthLook) -> np.ndarray:
    """How the scene colours white, [3]."""
    brightness = float(np.clip((look.skin.mean() + 20) / 170, 0.4, 1.15))
    cast = look.skin / max(float(look.skin.mean()), 1.0) / np.array([1.22, 0.95, 0.83])  # against ordinary skin
    return brightness * cast**0.5


def _as_colourful(colour: np.ndarray, look: MouthLook) -> np.ndarray:
    """Colours [..., 3] with as much colour as the picture has: a grey one has no red mouth, one in sepia a brown one."""
    mean = max(float(look.skin.mean()), 1.0)
    own = np.clip(float(look.skin.max() - look.skin.min()) / mean / _LEAST_COLOUR, 0, 1)
    grey = colour.mean(-1, keepdims=True) * look.skin / mean
    return grey + own * (colour - grey)


def _strip(x: np.ndarray, y: np.ndarray, look: MouthLook, light: np.ndarray) -> np.ndarray:
    """The strip of teeth at places: colour times alpha and alpha, [h, w, 4]."""
    teeth = look.teeth
    assert teeth is not None
    sampled = teeth.sample(*np.broadcast_arrays(x, y - teeth.edge_cm))
    gain = 1.0 if look.has_own_teeth else _TEETH * light / teeth.white
    return np.concatenate([sampled[..., :3] * gain, sampled[..., 3:]], -1)
