"""The pictures of the report that are made of others: in other styles, and of heads that look to the side."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from joyhallo.conditioning import anatomy  # noqa: E402
from joyhallo.conditioning.face import FaceMesh  # noqa: E402
from joyhallo.conditioning.portrait import PortraitError  # noqa: E402
from joyhallo.data.synthesis.canonical import read_canonical_mesh  # noqa: E402
from joyhallo.media.image import read_image  # noqa: E402
from mini_report import people, turning  # noqa: E402

FACE_MODELS = ROOT.parent / "shared" / "data" / "models" / "face_landmarker_v2_with_blendshapes.task"


@pytest.mark.parametrize("style", people.STYLES)
def test_styles_change_the_picture_and_keep_the_face_in_place(style):
    rows, columns = np.indices((256, 256))
    picture = np.stack([rows, columns, 255 - rows], -1).astype(np.uint8)
    picture[96:160, 96:160] = (220, 180, 150)
    picture[120:130, 110:146] = 20
    shown = people.in_style(picture, style)
    assert shown.shape == picture.shape
    assert shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - picture).mean() > 2
    assert np.array_equal(shown, people.in_style(picture, style))
    grey = shown.mean(-1)
    assert grey[122:128, 114:142].mean() < grey[100:112, 100:156].mean() - 10  # the dark bar is still there
    assert people.in_style(picture, "") is picture


@pytest.mark.skipif(not FACE_MODELS.exists(), reason="needs the face models of 478 points")
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_turned_portrait_looks_to_its_side_by_twenty_degrees(is_mirrored):
    mesh = FaceMesh.from_path(FACE_MODELS)
    tools = mesh, read_canonical_mesh(FACE_MODELS)
    picture = read_image(ROOT / "examples" / "portrait.png")
    looks_left = turning.turned(picture, tools)
    shown = turning.turned(np.ascontiguousarray(looks_left[:, ::-1]), tools) if is_mirrored else looks_left
    found = anatomy.head_yaw_deg(mesh.detect(shown)[0].landmarks)
    first = anatomy.head_yaw_deg(mesh.detect(looks_left)[0].landmarks)
    assert found == pytest.approx(np.sign(first) * (-20 if is_mirrored else 20), abs=1.5)
    with pytest.raises(PortraitError, match="no face"):
        turning.turned(np.full_like(picture, 127), tools)
