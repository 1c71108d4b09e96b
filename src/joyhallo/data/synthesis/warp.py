"""A still portrait that moves: its picture is stretched over the face mesh, triangle by triangle.

The edges of the lips, lids and nostrils are drawn with several samples a pixel, so that they neither sparkle nor break.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.anatomy import SILHOUETTE
from joyhallo.conditioning.closed_lips import close_lips
from joyhallo.conditioning.lips import (
    INNER_LOWER,
    INNER_PAIRS,
    INNER_UPPER,
    PARTED_CM,
    closed_mouth,
    lip_gap,
    settle_lip_line,
    without_teeth,
)
from joyhallo.conditioning.similarity import Similarity
from joyhallo.conditioning.teeth import Teeth
from joyhallo.data.synthesis import motion
from joyhallo.data.synthesis.canonical import CanonicalMesh
from joyhallo.data.synthesis.gestures import Gesture
from joyhallo.data.synthesis.raster import (
    Patches,
    Window,
    blend_into,
    cut_patches,
    draw,
    signed_areas,
    soft_polygon,
    window_around,
)
from joyhallo.mouth.inside import Opening, mouth_look, paint_inside

_NUM_MESH = 468
# Rings around the silhouette: radius, share of the head's movement, share of the skin's movement.
_RINGS = ((1.15, 0.9, 0.5), (1.42, 0.55, 0.12), (1.8, 0.2, 0.0))
_EYES = (
    (anatomy.RIGHT_EYE, motion.RIGHT_EYE_UPPER, motion.RIGHT_EYE_LOWER, anatomy.RIGHT_EYE_FOLD),
    (anatomy.LEFT_EYE, motion.LEFT_EYE_UPPER, motion.LEFT_EYE_LOWER, anatomy.LEFT_EYE_FOLD),
)
_NOSTRILS = (48, 64, 98, 97, 2, 326, 327, 294, 278, 4)  # where the nose hides some of the lip behind it
_SAMPLES = 3  # a pixel and direction, around lips and lids
_SEAM = 0.45  # how dark the line between shut lips is that the picture does not show


@dataclass(frozen=True, eq=False)
class Placed:
    """Where one frame has everything, in pixels of the frame."""

    points: np.ndarray  # [478, 3] the face mesh with the irises
    flat: np.ndarray  # [468 + O, 2] the mesh and the points around the face
    rigid: np.ndarray  # [468, 2] where the mesh would go if the head moved and the face did not


def _within(triangles: np.ndarray, ring: tuple[int, ...]) -> np.ndarray:
    """Which triangles [T, 3] have all their corners in a ring, [T]."""
    return np.asarray(np.isin(triangles, ring).all(1))


class TalkingPortrait:
    """One square portrait prepared for moving; `render` gives its frames."""

    def __init__(self, image: np.ndarray, points: np.ndarray, mesh: CanonicalMesh) -> None:
        """`image` [S, S, 3] uint8 RGB; `points` [478, 3] of it. Its teeth are painted until `with_teeth` gives it some."""
        self.image, self.size = image, image.shape[0]
        self.points = points.astype(np.float64).copy()
        self.pose = motion.fit_pose(self.points, mesh.vertices)
        self.opening = float(lip_gap(self.pose.undo(self.points)))
        self._is_shut = self.opening < PARTED_CM
        if self._is_shut:
            settle_lip_line(self.image, self.points, self.pose.scale)
        self.canonical = self.pose.undo(self.points)
        self.rest = closed_mouth(self.canonical)
        self._prepare_outside()
        self._split_triangles(mesh.triangles)
        self.look = mouth_look(self.image, self.points)

    def with_teeth(self, teeth: Teeth | None, is_own: bool) -> "TalkingPortrait":
        """This portrait, with a strip of teeth to show; `is_own`: read from this very picture, in its light."""
        self.look = replace(self.look, teeth=teeth, has_own_teeth=is_own)
        return self

    def with_closed_lips(self) -> np.ndarray:
        """The picture with its lips together, as portraits are shown to the networks: RGB [S, S, 3] uint8."""
        return self.image if self._is_shut else close_lips(self.image, self.points)[0]

    def _prepare_outside(self) -> None:
        """Points around the face that follow it less and less, fixed ones on the border, and triangles between them."""
        from scipy.spatial import Delaunay

        outline = self.points[list(SILHOUETTE), :2]
        centre = outline.mean(0)
        rows = []  # place, share of the head's movement, share of the skin's, the silhouette's point that is followed
        for radius, head, skin in _RINGS:
            for owner, place in zip(SILHOUETTE, centre + (outline - centre) * radius, strict=True):
                if ((place > 3) & (place < self.size - 4)).all():
                    rows.append((place, head, skin, owner))
        for step in np.linspace(-1, self.size, 9):
            border = ((step, -1), (step, self.size), (-1, step), (self.size, step))
            rows += [(np.array(place), 0.0, 0.0, 0) for place in border]
        places, heads, skins, owners = zip(*rows, strict=True)
        self._outside, self._owners = np.stack(places), np.array(owners)
        self._head_share, self._skin_share = np.array(heads)[:, None], np.array(skins)[:, None]
        every, first = np.unique(np.concatenate([outline, self._outside]).round(2), axis=0, return_index=True)
        triangles = first[Delaunay(every).simplices]
        all_places = np.concatenate([outline, self._outside])
        hull = outline.astype(np.float32)
        middles = all_places[triangles].mean(1)
        is_outside = [cv2.pointPolygonTest(hull, (float(x), float(y)), False) < 0 for x, y in middles]
        numbers = np.concatenate([SILHOUETTE, _NUM_MESH + np.arange(len(self._outside))])
        self._outer_triangles = numbers[triangles[np.array(is_outside)]]

    def _split_triangles(self, triangles: np.ndarray) -> None:
        """The mesh's triangles [T, 3] as skin and as the two eyes; those within the lips are painted instead."""
        self._eye_triangles = []
        is_other = _within(triangles, anatomy.INNER_LIP_RING)
        for ring, *_ in _EYES:
            is_eye = _within(triangles, ring)
            self._eye_triangles.append((list(ring), triangles[is_eye]))
            is_other |= is_eye
        self._skin_triangles = triangles[~is_other]
        texture = self.points[:, :2] if self._is_shut else without_teeth(self.image, self.points, self.pose)
        self._source = np.concatenate([texture[:_NUM_MESH], self._outside])
        facing = np.sign(signed_areas(self._source[self._skin_triangles]).sum())
        is_other_way = signed_areas(self._source[self._outer_triangles]) * facing < 0
        self._outer_triangles[is_other_way] = self._outer_triangles[is_other_way, ::-1]

    def place(self, gesture: Gesture, frame: int) -> Placed:
        """Where the mesh and the points around the face go in a frame of a gesture."""
        shape = self._shape(gesture, frame)
        pose = Similarity(
            self.pose.scale * gesture.scale[frame],
            gesture.rotation[frame] @ self.pose.rotation,
            self.pose.shift + gesture.shift[frame] * self.pose.scale,
        )
        points, rigid = pose.apply(shape), pose.apply(self.canonical[:_NUM_MESH])[:, :2]
        moved = points[:_NUM_MESH, :2]
        head = (rigid - self.points[:_NUM_MESH, :2])[self._owners]
        skin = (moved - rigid)[self._owners]
        outside = self._outside + self._head_share * head + self._skin_share * skin
        return Placed(points, np.concatenate([moved, outside]), rigid)

    def _shape(self, gesture: Gesture, frame: int) -> np.ndarray:
        """Canonical points [478, 3] of this face making the gesture; the irises stay in their places."""
        mouth_width = np.linalg.norm(self.canonical[61] - self.canonical[291])
        delta = gesture.shape[frame, :_NUM_MESH].copy()
        is_low = self.canonical[:_NUM_MESH, 1] > self.canonical[1, 1]  # below the tip of the nose
        delta[is_low, 0] *= np.clip(mouth_width / 5.2, 0.85, 1.2)
        delta[~is_low] *= 0.5  # brows at half strength
        shape = self.rest.copy()
        shape[:_NUM_MESH] += delta
        up, low, gap = list(INNER_UPPER), list(INNER_LOWER), gesture.gap[frame, 1:-1]
        line = (shape[up, 1] + shape[low, 1]) / 2  # the opening itself, not its change: lips really meet
        shape[up, 1], shape[low, 1] = line - gap / 2, line + gap / 2
        # Lips that meet do so in the same points, or slits would stay between the two lines.
        nearness = 0.5 * np.clip(1 - gap / 0.25, 0, 1)[:, None]
        apart = nearness * (shape[low] - shape[up])[:, ::2]
        shape[up, ::2] += apart
        shape[low, ::2] -= apart
        blink = gesture.blink[frame]
        for _, upper, lower, fold in _EYES:
            shape[list({*upper, *lower, *fold})] = self.rest[list({*upper, *lower, *fold})]
            above, below, crease = list(upper[1:-1]), list(lower[1:-1]), list(fold)
            height = self.canonical[below, 1] - self.canonical[above, 1]
            shape[above, 1] += 0.92 * blink * height
            shape[below, 1] -= 0.08 * blink * height
            shape[crease, 1] += 0.45 * blink * height
        return shape

    def render(self, placed: Placed) -> np.ndarray:
        """One frame of the moving portrait, RGB [S, S, 3] uint8."""
        flat = placed.flat
        targets = [flat[self._outer_triangles], flat[self._skin_triangles]]
        sources = [self._source[self._outer_triangles], self._source[self._skin_triangles]]
        for ring, triangles in self._eye_triangles:  # the eyeball moves with the head, the lids pass over it
            to_source = np.linalg.lstsq(np.c_[placed.rigid[ring], np.ones(len(ring))], self._source[ring], rcond=None)[0]
            targets.append(flat[triangles])
            sources.append(np.concatenate([flat[triangles], np.ones((*triangles.shape, 1))], -1) @ to_source)
        patches = cut_patches(np.concatenate(targets), np.concatenate(sources))
        frame = draw(self.image, patches, Window(0, 0, self.size, self.size)).pixels
        for ring in (_NOSTRILS, *(eye[0] for eye in _EYES)):
            outline = cv2.convexHull(flat[list(ring)].astype(np.float32))[:, 0]
            window = window_around(outline, 5, self.size, _SAMPLES)
            weights = soft_polygon(outline, window, 1.0, 0.8)
            blend_into(frame, draw(self.image, patches, window).pixels, weights, window)
        self._render_mouth(frame, patches, placed)
        return frame

    def _render_mouth(self, frame: np.ndarray, patches: Patches, placed: Placed) -> None:
        """Draw the lips' edges and what is between them into the frame."""
        ring = placed.flat[list(anatomy.INNER_LIP_RING)]
        window = window_around(ring, 6, self.size, _SAMPLES)
        drawn = draw(self.image, patches, window)
        pixels = drawn.pixels.astype(np.float32)
        columns, rows = window.grid()
        if not drawn.is_covered.all():
            behind = ~drawn.is_covered
            to_mouth = _mouth_axes(placed.rigid, self.pose.scale)
            at = to_mouth(np.stack(np.meshgrid(columns, rows), -1))
            lines = (to_mouth(placed.flat[list(line)]) for line in (anatomy.INNER_UPPER_LIP, anatomy.INNER_LOWER_LIP))
            pixels[behind] = paint_inside(at[..., 0], at[..., 1], Opening(*lines), self.look)[behind]
        if not self._is_shut:
            pixels *= self._seam(placed, window)[..., None]
        weights = soft_polygon(ring, window, 1.2, 0.8)
        blend_into(frame, np.clip(pixels, 0, 255).astype(np.uint8), weights, window)

    def _seam(self, placed: Placed, window: Window) -> np.ndarray:
        """How much light, [h·f, w·f], is left of the line where parted lips have met."""
        factor = window.factor
        pairs = np.array(INNER_PAIRS)
        upper, lower = placed.flat[pairs[:, 0]], placed.flat[pairs[:, 1]]
        ends = placed.flat[[78, 308]]
        line = np.concatenate([ends[:1], (upper + lower) / 2, ends[1:]])
        gap_cm = np.linalg.norm(lower - upper, axis=1).mean() / self.pose.scale
        strength = _SEAM * float(np.clip(1 - gap_cm / 0.15, 0, 1))
        mask = np.zeros((window.height * factor, window.width * factor), np.uint8)
        at = np.round((line - [window.left, window.top] + 0.5) * factor * 16).astype(np.int32)
        width = max(1, round(0.05 * self.pose.scale * factor))
        cv2.polylines(mask, [at], False, 255, width, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.05 * self.pose.scale * factor).astype(np.float32) / 255
        return 1 - strength * soft


def _mouth_axes(rigid: np.ndarray, px_per_cm: float) -> Callable[[np.ndarray], np.ndarray]:
    """What brings places [..., 2] of a frame to centimetres across and down from the middle of the shut lips.

    `rigid` [468, 2]: the mesh with shut lips and the head of the frame.
    """
    across = rigid[308] - rigid[78]
    across = across / np.linalg.norm(across)
    axes = np.stack([across, [-across[1], across[0]]], 1) / px_per_cm
    middle = (rigid[13] + rigid[14]) / 2
    return lambda places: (places - middle) @ axes
