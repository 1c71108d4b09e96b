"""Portraits and identity: geometry and errors without models, the whole preparation with the data folder."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.face import Face, FaceMesh
from joyhallo.conditioning.identity import ALIGNED_POINTS, InsightFaceIdentity, MiniIdentity, align_face, covering
from joyhallo.conditioning.masks import face_region, region_masks
from joyhallo.conditioning.portrait import Framing, PortraitError, _check_usable, choose_face, frame_crop, prepare_portrait
from joyhallo.errors import UserError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TASK = DATA / "models" / "face_landmarker_v2_with_blendshapes.task"
PORTRAITS = sorted((DATA / "portraits" / "congress").glob("*.jpg")) if DATA.exists() else []
needs_data = pytest.mark.skipif(not (TASK.exists() and PORTRAITS), reason="no shared data folder")


def face_at(x0, y0, x1, y1, score=1.0):
    landmarks = np.zeros((478, 3), np.float32)
    corners = [(x0, y0), (x1, y0), (x0, y1), (x1, y1)]
    for i, point in enumerate(anatomy.SILHOUETTE):
        landmarks[point, :2] = corners[i % 4]
    middle = (y0 + y1) / 2
    landmarks[anatomy.RIGHT_CHEEK, :2], landmarks[anatomy.LEFT_CHEEK, :2] = (x0, middle), (x1, middle)
    landmarks[anatomy.RIGHT_EYE_OUTER, :2], landmarks[anatomy.LEFT_EYE_OUTER, :2] = (x0, middle), (x1, middle)
    return Face(score, np.array([x0, y0, x1, y1], np.float32), landmarks)


def test_square_crop_by_hand():
    # silhouette 200×240 → side 240 / 0.6 = 400; middle (500, 420); top = 420 - 200 - 16
    crop = frame_crop(face_at(400, 300, 600, 540).landmarks, (1000, 1200), (512, 512), 0.6)
    assert (crop.top, crop.left, crop.height, crop.width) == (204, 300, 400, 400)


@pytest.mark.parametrize(("size", "expected"), [((512, 288), (593, 333)), ((288, 512), (400, 711))])
def test_crop_has_the_shape_of_the_frame(size, expected):
    # upright: the width decides, 200 / 0.6; wide: the height, 240 / 0.6
    crop = frame_crop(face_at(400, 300, 600, 540).landmarks, (1000, 1200), size, 0.6)
    assert (crop.height, crop.width) == expected


def test_crop_stays_inside_the_picture():
    crop = frame_crop(face_at(5, 2, 205, 242).landmarks, (500, 380), (512, 512), 0.6)
    assert (crop.top, crop.left, crop.height, crop.width) == (0, 0, 380, 380)
    crop = frame_crop(face_at(250, 280, 370, 400).landmarks, (420, 380), (256, 256), 0.6)
    assert (crop.top, crop.left, crop.height, crop.width) == (220, 180, 200, 200)  # the bottom edge
    with pytest.raises(UserError, match="face share 0"):
        frame_crop(face_at(0, 0, 9, 9).landmarks, (50, 50), (8, 8), 0.0)


def test_no_face_and_open_choices_are_errors():
    large, similar, small = face_at(0, 0, 100, 100), face_at(300, 0, 390, 100), face_at(200, 0, 240, 40)
    assert choose_face([large, small], (400, 400)) is large
    assert choose_face([large, similar], (400, 400), 1) is similar
    with pytest.raises(PortraitError, match=r"no face was found in the picture \(640x480 px\)"):
        choose_face([], (480, 640))
    with pytest.raises(PortraitError, match=r"2 faces .* --face N: 0 is 100 px wide around x=50, y=50; 1 is 90 px"):
        choose_face([large, similar], (400, 400))
    with pytest.raises(PortraitError, match="no face 2"):
        choose_face([large, similar], (400, 400), 2)


def test_profiles_and_tiny_faces_are_errors():
    _check_usable(face_at(0, 0, 50, 64))
    with pytest.raises(PortraitError, match="60 px high"):
        _check_usable(face_at(0, 0, 50, 60))
    turned = face_at(0, 0, 100, 200)
    for point in (anatomy.LEFT_CHEEK, anatomy.LEFT_EYE_OUTER):
        turned.landmarks[point, 2] = 100 * np.tan(np.radians(50))
    with pytest.raises(PortraitError, match="turned 50°"):
        _check_usable(turned)


def test_alignment_undoes_turning_scaling_and_moving():
    size = 112
    y, x = np.mgrid[0:size, 0:size] / size
    pattern = np.stack([np.sin(6 * x) * 0.5 + 0.5, np.cos(5 * y) * 0.5 + 0.5, x * y], -1)
    aligned = (pattern * 255).astype(np.uint8)
    angle, scale = np.radians(25), 2.3
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = np.concatenate([turn, [[180], [60]]], 1)
    image = cv2.warpAffine(aligned, place, (520, 480), borderMode=cv2.BORDER_REPLICATE)
    landmarks = np.zeros((478, 3))
    targets = (ALIGNED_POINTS * size) @ turn.T + [180, 60]
    along = turn @ [5, 0]
    landmarks[[33, 133], :2] = targets[0] - along, targets[0] + along
    landmarks[[362, 263], :2] = targets[1] - along, targets[1] + along
    landmarks[[61, 291], :2] = targets[2:]
    found = align_face(image, landmarks)
    assert found.shape == (size, size, 3)
    assert np.abs(found[4:-4, 4:-4].astype(int) - aligned[4:-4, 4:-4]).mean() < 1.5


class TinyIdentity(torch.nn.Module):
    """Means of the four quarters and three channels: 12 numbers."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels, 56).flatten(1) * self.gain


def test_mini_identity_sees_the_aligned_face_in_minus_one_to_one():
    identity = MiniIdentity(TinyIdentity())
    assert identity.embedding_size == 12
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[[33, 133, 362, 263, 61, 291], :2] = [(30, 40), (50, 40), (70, 40), (90, 40), (45, 90), (75, 90)]
    image = np.zeros((128, 128, 3), np.uint8)
    image[..., 0] = 255
    embedding = identity.embed(image, Face(1.0, np.zeros(4, np.float32), landmarks))
    assert torch.allclose(embedding, torch.tensor([1.0] * 4 + [-1.0] * 8))


def test_the_detection_over_the_face_is_taken():
    boxes = np.array([[0, 0, 300, 300], [400, 400, 500, 500]])
    assert covering(boxes, np.array([405, 395, 505, 500])) == 1
    assert covering(boxes, np.array([10, 10, 280, 290])) == 0
    assert covering(boxes, np.array([700, 700, 800, 800])) is None
    assert covering(np.zeros((0, 4)), np.array([0, 0, 1, 1])) is None


def test_missing_insightface_or_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"joyhallo\[official\].*non-commercial|no InsightFace models"):
        InsightFaceIdentity(tmp_path)


@pytest.fixture(scope="module")
def mesh():
    return FaceMesh.from_path(TASK)


@needs_data
def test_whole_picture_is_the_published_preprocessing(mesh):
    image = np.asarray(Image.open(PORTRAITS[3]).convert("RGB"))
    framing = Framing((256, 256), 8, face_share=None)
    portrait = prepare_portrait(image, mesh, MiniIdentity(TinyIdentity()), framing)
    face = mesh.detect(image)[0]
    expected = np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR), np.float32) / 255
    assert portrait.crop is None
    assert torch.allclose(portrait.pixels, torch.from_numpy((expected - 0.5) / 0.5).permute(2, 0, 1))
    masks = region_masks(face.landmarks, image.shape[:2], (32, 32))
    assert all(torch.equal(a, b) for a, b in zip(masks.lip + masks.pose, portrait.masks.lip + portrait.masks.pose, strict=True))
    assert torch.equal(portrait.face_region, face_region(face.landmarks, image.shape[:2], size=(256, 256)))
    scaled = face.landmarks[:, :2] * [256 / image.shape[1], 256 / image.shape[0]]
    assert np.abs(portrait.landmarks[:, :2] - scaled).max() < 1e-3


@needs_data
@pytest.mark.parametrize("size", [(256, 256), (256, 160), (160, 256)])
def test_framed_portrait(mesh, size):
    image = np.asarray(Image.open(PORTRAITS[3]).convert("RGB"))
    portrait = prepare_portrait(image, mesh, MiniIdentity(TinyIdentity()), Framing(size, 16, num_depths=3))
    assert portrait.pixels.shape == (3, *size)
    assert portrait.face_region.shape == (3, *size)
    assert -1 <= portrait.pixels.min() < portrait.pixels.max() <= 1
    expected = [(1, 1, -(-size[0] // cell), -(-size[1] // cell)) for cell in (16, 32, 64)]
    assert [tuple(t.shape) for t in portrait.masks.lip] == expected
    box = anatomy.silhouette_box(portrait.landmarks)
    share = max((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0])
    assert 0.58 < share < 1  # the picture may end before the share is reached
    # what the landmarks point at is the same in the frame and in the picture
    found = mesh.detect(((portrait.pixels.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8))[0]
    assert np.abs(found.landmarks[:, :2] - portrait.landmarks[:, :2]).mean() < 0.02 * max(size)


@needs_data
def test_frames_must_divide_into_latent_cells(mesh):
    with pytest.raises(UserError, match="multiples of 16"):
        prepare_portrait(np.zeros((99, 99, 3), np.uint8), mesh, MiniIdentity(TinyIdentity()), Framing((250, 256), 16))


def test_a_size_between_latent_cells_names_the_nearest_one():
    framing = Framing(size=(100, 70), latent_factor=16)
    with pytest.raises(UserError, match=r"100x70 px \(height x width\).* such as 96x64"):
        prepare_portrait(np.zeros((200, 200, 3), np.uint8), None, None, framing)
