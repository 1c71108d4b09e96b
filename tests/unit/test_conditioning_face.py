"""Finding faces: what needs no model, and the real networks where the data folder is there."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from joyhallo.conditioning.anatomy import SILHOUETTE, head_roll_deg, head_yaw_deg, silhouette_box
from joyhallo.conditioning.face import Face, FaceMesh, _distinct, _merge, _region_of, _starts
from joyhallo.errors import UserError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TASK = DATA / "models" / "face_landmarker_v2_with_blendshapes.task"
PORTRAITS = sorted((DATA / "portraits").glob("*/*.jpg")) if DATA.exists() else []
needs_data = pytest.mark.skipif(not (TASK.exists() and PORTRAITS), reason="no shared data folder")


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def mesh():
    return FaceMesh.from_path(TASK)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"face_landmarker \.task"):
        FaceMesh.from_path(tmp_path / "nothing.task")
    (tmp_path / "face_detector.tflite").write_bytes(b"x")
    with pytest.raises(UserError, match=r"must hold .*face_landmarks_detector\.tflite"):
        FaceMesh.from_path(tmp_path)


def test_merging_weighs_boxes_of_one_face():
    rows = np.array([[0, 0, 10, 10, 1.0], [2, 0, 12, 10, 2.0], [50, 50, 60, 60, 3.0]])
    merged = _merge(rows, np.array([0.9, 0.6, 0.7]))
    assert len(merged) == 2
    assert np.allclose(merged[0], [0.8, 0, 10.8, 10, 1.4])  # weights 0.6 and 0.4
    assert np.allclose(merged[1], rows[2])


def test_one_face_seen_twice_is_one_face_and_the_largest_comes_first():
    def face(score, *box):
        return Face(score, np.array(box, np.float32), np.zeros((478, 3), np.float32))

    kept = _distinct([face(0.8, 0, 0, 10, 10), face(0.9, 1, 0, 11, 10), face(0.7, 40, 40, 60, 60), face(0.6, 45, 45, 52, 52)])
    assert [(f.score, f.area) for f in kept] == [(0.7, 400.0), (0.9, 100.0)]


def test_tiles_reach_the_borders_and_overlap_by_half():
    assert _starts(100, 100) == [0]
    starts = _starts(1001, 300)
    assert starts[0] == 0
    assert starts[-1] == 701
    assert max(b - a for a, b in pairwise(starts)) <= 150


def test_the_region_turns_with_the_head():
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (478, 3)) * [1, 1.3, 1]
    points[33], points[263] = (-30, 0, 0), (30, 0, 0)
    upright = _region_of(points)
    angle = np.radians(40)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = points.copy()
    turned[:, :2] = points[:, :2] @ turn.T + [200, 100]
    region = _region_of(turned)
    assert np.isclose(region.angle, angle)
    assert np.isclose(region.side, upright.side)
    expected = turn @ [upright.centre_x, upright.centre_y] + [200, 100]
    assert np.allclose([region.centre_x, region.centre_y], expected)
    assert np.isclose(head_roll_deg(turned), 40)


def test_yaw_is_measured_on_the_points():
    points = np.zeros((478, 3))
    points[234], points[454], points[33], points[263] = (-70, 0, 0), (70, 0, 0), (-45, -40, -20), (45, -40, -20)
    for yaw in (-50, 0, 30):
        angle = np.radians(yaw)
        turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        assert np.isclose(head_yaw_deg(points @ turn.T), yaw)


@needs_data
def test_every_portrait_has_one_face_where_the_head_is(mesh):
    for path in PORTRAITS[::17]:
        image = read(path)
        faces = mesh.detect(image)
        assert len(faces) == 1, path
        face = faces[0]
        assert face.landmarks.shape == (478, 3)
        assert face.score > 0.9
        box = silhouette_box(face.landmarks)
        assert (box[:2] > -10).all()
        assert (box[2:] < [image.shape[1] + 10, image.shape[0] + 30]).all()  # some pictures end at the chin
        assert 0.2 < (box[2] - box[0]) / image.shape[1] < 0.9
        eyes, mouth = face.landmarks[[33, 263], 1].mean(), face.landmarks[[61, 291], 1].mean()
        assert box[1] < eyes < mouth < box[3]


@needs_data
def test_pictures_without_a_face_have_none(mesh):
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (500, 700, 3), dtype=np.uint8), (0, 0), 8)
    ramp = np.repeat(np.linspace(0, 255, 640, dtype=np.uint8)[None, :, None], 480, 0).repeat(3, 2)
    for picture in (cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX), ramp, np.full((64, 64, 3), 200, np.uint8)):
        assert mesh.detect(picture) == []
        assert mesh.track(picture, None) is None


@needs_data
def test_a_small_face_in_a_large_picture_is_found_where_it_is(mesh):
    image = cv2.resize(read(PORTRAITS[0]), (120, 120), interpolation=cv2.INTER_AREA)
    alone = mesh.detect(image)[0]
    picture = np.full((1200, 2000, 3), 127, np.uint8)
    picture[900:1020, 1500:1620] = image
    faces = mesh.detect(picture)
    assert len(faces) == 1
    assert np.abs(faces[0].landmarks[:, :2] - [1500, 900] - alone.landmarks[:, :2]).mean() < 2


@needs_data
def test_two_faces_are_sorted_by_size(mesh):
    picture = np.full((512, 1100, 3), 127, np.uint8)
    picture[100:400, 50:350] = cv2.resize(read(PORTRAITS[0]), (300, 300))
    picture[:512, 500:1012] = cv2.resize(read(PORTRAITS[1]), (512, 512))
    faces = mesh.detect(picture)
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert faces[0].box[0] > 450 > faces[1].box[2]


@needs_data
def test_tracking_follows_a_moving_face_and_finds_it_again(mesh):
    image = read(PORTRAITS[0])
    face = mesh.track(image, None)
    for shift in (6, 12, 18):
        moved = np.roll(image, shift, axis=1)
        tracked = mesh.track(moved, face)
        assert np.abs(tracked.landmarks[list(SILHOUETTE), 0] - face.landmarks[list(SILHOUETTE), 0] - 6).mean() < 2
        face = tracked
    far = Face(1.0, face.box, face.landmarks + np.float32([5000, 5000, 0]))
    assert np.abs(mesh.track(image, far).landmarks - mesh.track(image, None).landmarks).max() < 1e-3
