"""Somebody who stands in for pictures that are no frontal photographs in colour."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from joyhallo.conditioning import anatomy, stand_in
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.stand_in import StandIn, why_needed
from joyhallo.data.framing import FaceCrop
from joyhallo.errors import UserError
from joyhallo.media.image import read_image
from joyhallo.media.paste import Crop

ROOT = Path(__file__).parents[2]
CROP = Crop(106, 55, 534, 534)  # where the stand-in is cut out of the example's portrait
FACE_MODELS = ROOT.parent / "shared" / "data" / "models" / "face_landmarker_v2_with_blendshapes.task"


def test_it_is_laid_where_a_mesh_is():
    someone = StandIn.load()
    points = someone.face.landmarks
    assert someone.picture.shape == (256, 256, 3)
    own = someone.laid_on(points, (256, 256))
    shown = torch.from_numpy(someone.picture).permute(2, 0, 1).float() / 127.5 - 1
    assert (own - shown).abs().mean() < 0.01
    mirrored = points * [-1, 1, 1] + [255, 0, 0]
    assert (someone.laid_on(mirrored, (256, 256)) - shown.flip(2)).abs().mean() < 0.01
    with_irises = np.concatenate([points / 2, np.full((10, 3), 1e6, np.float32)])
    small = someone.laid_on(with_irises, (128, 100))
    assert small.shape == (3, 128, 100)
    assert (small[:, :100] - torch.nn.functional.avg_pool2d(shown, 2)[:, :100, :100]).abs().mean() < 0.06


SKIN, DARK, IN_LAMPLIGHT = (205, 160, 140), (92, 61, 48), (214, 160, 120)
GREY, STONE, SEPIA, BRONZE = (150, 150, 150), (190, 186, 176), (162, 150, 123), (150, 116, 70)


@pytest.mark.parametrize(
    ("colour", "reason"),
    [(colour, None) for colour in (SKIN, DARK, IN_LAMPLIGHT)]
    + [(colour, "is not in natural colours") for colour in (GREY, STONE, SEPIA, BRONZE)],
)
def test_faces_in_other_than_natural_colours_need_it(colour, reason):
    """What is around the face, and beyond the picture, does not count."""
    points = StandIn.load().face.landmarks
    picture = np.full((256, 256, 3), (0, 160, 0), np.uint8)
    outline = np.round(points[list(anatomy.SILHOUETTE), :2]).astype(np.int32)
    cv2.fillPoly(picture, [outline], colour)
    found = why_needed(picture, points, is_drawn=False)
    assert found == reason
    middle = int(points[:, 0].mean())
    half = np.ascontiguousarray(picture[:, middle:])
    assert why_needed(half, points - np.float32([middle, 0, 0]), is_drawn=False) == found


def test_heads_that_are_turned_far_and_drawings_need_it():
    picture = np.full((256, 256, 3), SKIN, np.uint8)
    points = StandIn.load().face.landmarks
    for turn_deg, reason in ((0, None), (11, None), (-13, "shows a head turned by 13°"), (20, "shows a head turned by 20°")):
        turned = points.copy()
        slope = np.tan(np.radians(turn_deg))
        turned[:, 2] = slope * (points[:, 0] - 128)
        assert why_needed(picture, turned, is_drawn=False) == reason
    assert why_needed(picture, points, is_drawn=True) == "is drawn in strokes"


def test_an_install_without_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(stand_in, "__file__", str(tmp_path / "joyhallo" / "conditioning" / "stand_in.py"))
    with pytest.raises(UserError, match="install the package again"):
        StandIn.load()


def test_it_has_the_face_of_the_examples_portrait():
    someone = StandIn.load()
    shown = FaceCrop(CROP, 256).cut(read_image(ROOT / "examples" / "portrait.png"))
    outline = np.round(someone.face.landmarks[list(anatomy.SILHOUETTE), :2]).astype(np.int32)
    face = cv2.erode(cv2.fillPoly(np.zeros((256, 256), np.uint8), [outline], 1), np.ones((7, 7), np.uint8)) > 0
    assert face.mean() > 0.25
    assert np.array_equal(someone.picture[face], shown[face])  # around it the portrait was drawn anew


@pytest.mark.skipif(not FACE_MODELS.exists(), reason="needs the face models of 478 points")
def test_its_mesh_is_the_one_that_is_found_in_it():
    someone, picture = StandIn.load(), read_image(ROOT / "examples" / "portrait.png").copy()
    CROP.of(picture)[:] = cv2.resize(someone.picture, (CROP.width, CROP.height), interpolation=cv2.INTER_CUBIC)
    found = FaceMesh.from_path(FACE_MODELS).detect(picture)[0].landmarks
    assert np.abs(someone.face.landmarks[:, :2] - FaceCrop(CROP, 256).move(found)[:468, :2]).max() < 0.5
