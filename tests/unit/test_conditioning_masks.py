"""Region masks: hand-computed rectangles, and the whole path derived again in plain numpy."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from joyhallo.conditioning.anatomy import LIPS, SILHOUETTE
from joyhallo.conditioning.masks import clip_box, clip_masks, expanded_box, face_region, region_masks


def landmarks_with(lip_box, face_box):
    """478 points whose silhouette and lips have the given extents (x0, y0, x1, y1)."""
    points = np.zeros((478, 3), np.float32)
    for ids, (x0, y0, x1, y1) in ((SILHOUETTE, face_box), (LIPS, lip_box)):
        corners = [(x0, y0), (x1, y0), (x0, y1), (x1, y1)]
        for i, point in enumerate(ids):
            points[point, :2] = corners[i % 4]
    return points


LIP_BOX, FACE_BOX = (220.4, 330.6, 291.5, 365.2), (131.7, 120.2, 377.9, 430.4)


def test_published_point_lists():
    assert len(SILHOUETTE) == len(set(SILHOUETTE)) == 36
    assert len(LIPS) == len(set(LIPS)) == 20


@pytest.mark.parametrize(
    ("box", "size", "expand", "expected"),
    [
        # x: 220..292 → middle 256, side 144, half 72; y: 331..365 → middle 348, side 68, half 34
        (LIP_BOX, (512, 512), 2.0, (184, 314, 328, 382)),
        # x: 132..378 → middle 255, side 295.2, half 147; y: 120..430 → middle 275, side 372, half 186
        (FACE_BOX, (512, 512), 1.2, (108, 89, 402, 461)),
        # x: 10..110 → middle 60, half 60, starts at 0; y: 5..105 → middle 55, half 60: -5 shifts down
        ((10, 5, 110, 105), (300, 200), 1.2, (0, 0, 120, 120)),
        # x: 150..198 → middle 174, side 96, half 48: 222 > 200 shifts left; y: odd sum 101 // 2 = 50, side 98, half 49
        ((150, 26, 198, 75), (300, 200), 2.0, (104, 1, 200, 99)),
        # a rectangle larger than the picture covers it
        ((5, 5, 95, 95), (100, 100), 1.2, (0, 0, 100, 100)),
    ],
)
def test_expanded_box_by_hand(box, size, expand, expected):
    points = landmarks_with(box, box)
    assert expanded_box(points, LIPS, size, expand).tolist() == list(expected)
    assert expanded_box(points, SILHOUETTE, size, expand).tolist() == list(expected)


def reflected_blur(picture, kernel):
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    x = np.arange(kernel) - kernel // 2
    weights = np.exp(-(x**2) / (2 * sigma**2))
    weights /= weights.sum()
    padded = np.pad(picture.astype(np.float64), kernel // 2, mode="reflect")
    rows = np.stack([np.convolve(row, weights, "valid") for row in padded])
    return np.stack([np.convolve(column, weights, "valid") for column in rows.T]).T


def expected_blur(box, kernel):
    """512×512 rectangle → 64×64 by point sampling between the two middle pixels → blur → stretch."""
    picture = np.zeros((512, 512))
    picture[box[1] : box[3], box[0] : box[2]] = 255
    at = np.arange(64) * 8 + 3  # 8·i + 3.5 lies between the pixels 3 and 4
    small = (picture[at][:, at] + picture[at + 1][:, at] + picture[at][:, at + 1] + picture[at + 1][:, at + 1]) / 4
    soft = reflected_blur(small, kernel)
    return (soft - soft.min()) / (soft.max() - soft.min()) * 255


def test_square_masks_are_the_published_ones_derived_again():
    masks = region_masks(landmarks_with(LIP_BOX, FACE_BOX), (512, 512), (64, 64))
    lip, face = expected_blur((184, 314, 328, 382), 31), expected_blur((108, 89, 402, 461), 51)
    expected = {"lip": lip, "expression": np.clip(face - lip, 0, None), "pose": 255 - face}
    for name, picture in expected.items():
        levels = getattr(masks, name)
        assert [tuple(t.shape) for t in levels] == [(1, 1, s, s) for s in (64, 32, 16, 8)]
        assert all(t.dtype == torch.float32 and t.min() >= 0 and t.max() <= 1 for t in levels)
        exact = levels[0][0, 0].numpy() * 255
        assert np.abs(exact - exact.round()).max() < 1e-4  # the uint8 path
        assert np.abs(exact - picture).max() < 6  # OpenCV blurs uint8 in fixed point (off by 2), the stretch multiplies that
        for level in levels[1:]:  # antialiased, not sampled: PIL on the full level
            full = Image.fromarray(exact.round().astype(np.uint8))
            small = np.asarray(full.resize((level.shape[3], level.shape[2]), Image.Resampling.BILINEAR))
            assert np.array_equal((level[0, 0].numpy() * 255).round(), small)


def test_square_masks_equal_the_published_steps_bit_for_bit():
    grey = {}
    for name, box, kernel in (("lip", (184, 314, 328, 382), 31), ("face", (108, 89, 402, 461), 51)):
        mask = np.zeros((512, 512), np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = 255
        blurred = cv2.GaussianBlur(cv2.resize(mask, (64, 64)), (kernel, kernel), 0)
        grey[name] = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    grey["expression"] = cv2.subtract(grey["face"], grey["lip"])
    grey["pose"] = ((1 - grey["face"] / 255) * 255).astype(np.uint8)
    masks = region_masks(landmarks_with(LIP_BOX, FACE_BOX), (512, 512), (64, 64))
    for name in ("lip", "expression", "pose"):
        assert np.array_equal((getattr(masks, name)[0][0, 0].numpy() * 255).round(), grey[name])


def test_background_is_truncated_as_published():
    masks = region_masks(landmarks_with(LIP_BOX, FACE_BOX), (512, 512), (64, 64))
    # outside the lips the expression mask is the face mask: where both are seen their sum is 255, or 254 by truncation
    alone = masks.lip[0] == 0
    total = ((masks.expression[0] + masks.pose[0])[alone] * 255).round()
    assert set(total.int().tolist()) == {254, 255}


def test_any_aspect_ratio_keeps_the_blur_round():
    lip, face = (120, 300, 180, 330), (60, 100, 240, 380)
    masks = region_masks(landmarks_with(lip, face), (512, 320), (64, 40))
    assert [tuple(t.shape[2:]) for t in masks.pose] == [(64, 40), (32, 20), (16, 10), (8, 5)]
    turned = landmarks_with((300, 120, 330, 180), (100, 60, 380, 240))
    flipped = region_masks(turned, (320, 512), (40, 64))
    for name in ("lip", "expression", "pose"):
        for a, b in zip(getattr(masks, name), getattr(flipped, name), strict=True):
            assert torch.allclose(a, b.transpose(2, 3), atol=2 / 255)
    assert [tuple(t.shape[2:]) for t in region_masks(turned, (320, 512), (11, 17), 3).lip] == [(11, 17), (6, 9), (3, 5)]


def test_a_face_that_fills_the_picture_is_everywhere():
    masks = region_masks(landmarks_with((40, 60, 60, 70), (1, 1, 99, 99)), (100, 100), (64, 64))
    assert masks.pose[0].max() == 0
    assert masks.expression[0].max() == 1


def test_face_region_is_a_hard_rectangle():
    points = landmarks_with(LIP_BOX, FACE_BOX)
    region = face_region(points, (512, 512))
    assert region.shape == (3, 512, 512)
    assert set(region.unique().tolist()) == {0.0, 1.0}
    inside = region[0].nonzero()
    assert inside.amin(0).tolist() == [89, 108]
    assert inside.amax(0).tolist() == [460, 401]
    resized = face_region(points, (512, 512), size=(256, 200))
    assert resized.shape == (3, 256, 200)
    assert abs(float(resized.mean()) - float(region.mean())) < 2e-3


def test_clip_masks_are_of_the_rectangle_around_all_frames():
    frames = np.stack([landmarks_with((220, 330, 292, 364), FACE_BOX), landmarks_with((250, 350, 300, 400), FACE_BOX)])
    assert clip_box(frames, LIPS, (512, 512)).tolist() == [220, 330, 300, 400]
    united = landmarks_with((220, 330, 300, 400), FACE_BOX)[None]
    assert np.array_equal(clip_masks(frames, (512, 512)), clip_masks(united, (512, 512)))
    assert not np.array_equal(clip_masks(frames, (512, 512)), clip_masks(frames[:1], (512, 512)))


def test_clip_masks_are_not_made_larger_and_follow_the_published_arithmetic():
    points = landmarks_with(LIP_BOX, FACE_BOX)
    masks = clip_masks(points[None], (512, 512))
    assert masks.shape == (3, 64, 64)
    assert masks.dtype == np.uint8
    known = region_masks(points, (512, 512), (64, 64), 1, lip_expand=1.0, face_expand=1.0)
    lip, expression, pose = (
        np.round(255 * mask[0][0, 0].numpy()).astype(int) for mask in (known.lip, known.expression, known.pose)
    )
    assert np.array_equal(masks[0], lip)
    assert np.array_equal(masks[1], expression)
    assert 0 <= (masks[2] - pose).min() <= (masks[2] - pose).max() <= 1  # the portrait's is truncated
    face = 255 - masks[2].astype(int)
    assert np.array_equal(masks[1], np.maximum(face - masks[0], 0))
