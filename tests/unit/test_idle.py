"""Head and eyes that move by themselves in the finished picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from joyhallo.conditioning.anatomy import LEFT_EYE, NOSE_TIP, RIGHT_EYE, SILHOUETTE, head_roll_deg, silhouette_box
from joyhallo.conditioning.face import FaceMesh
from joyhallo.errors import UserError
from joyhallo.idle.curves import loudness_of_levels
from joyhallo.idle.eyelids import Eyelids
from joyhallo.idle.liveliness import Liveliness
from joyhallo.idle.motion import HeadPose, IdleMotion, draw_idle_motion
from joyhallo.idle.sway import Sway
from joyhallo.media.image import read_image
from joyhallo.media.paste import Crop, Paster
from joyhallo.output import Output
from joyhallo.weights.hub import face_models_path

EXAMPLE = Path(__file__).parents[2] / "examples" / "portrait.png"
STILL = HeadPose(0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh.from_path(face_models_path())


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return read_image(EXAMPLE)


@pytest.fixture(scope="module")
def points(mesh, picture) -> np.ndarray:
    return mesh.detect(picture)[0].landmarks


def colourless(picture: np.ndarray, points: np.ndarray) -> float:
    """Share of the eyes' pixels with less than half the saturation of the skin under them: eyeball, not lid."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    for ring in (RIGHT_EYE, LEFT_EYE):
        cv2.fillPoly(mask, [points[list(ring), :2].astype(np.int32)], 1)
    saturation = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1]
    skin = np.median([saturation[int(y), int(x)] for x, y in points[[230, 450, 119, 348], :2]])
    return float((saturation[mask > 0] < skin / 2).mean())


def seen(mesh: FaceMesh, picture: np.ndarray) -> np.ndarray:
    return mesh.detect(picture)[0].landmarks


class TestEyelids:
    def test_skin_comes_over_the_eyes_step_by_step(self, picture, points):
        eyelids = Eyelids(picture.shape[:2], points)
        found = []
        for share in (0.0, 0.5, 1.0):
            shut = picture.copy()
            eyelids.shut(shut, share)
            found.append(colourless(shut, points))
        assert found[0] > 0.4
        assert 0.1 < found[1] < 0.25
        assert found[2] < 0.02

    def test_nothing_else_changes_and_no_share_changes_nothing(self, picture, points):
        eyelids, changed = Eyelids(picture.shape[:2], points), picture.copy()
        eyelids.shut(changed, 0.0)
        assert (changed == picture).all()
        eyelids.shut(changed, 1.0)
        rows, columns = np.nonzero((changed != picture).any(-1))
        eyes = points[[*RIGHT_EYE, *LEFT_EYE], :2]
        width = np.linalg.norm(points[33] - points[133])
        assert rows.max() < eyes[:, 1].max() + width / 2
        assert rows.min() > eyes[:, 1].min() - width
        assert columns.min() >= np.floor(eyes[:, 0].min())
        assert columns.max() <= np.ceil(eyes[:, 0].max())

    def test_eyes_that_are_shut_stay_as_they_are(self, picture, points):
        shut = points.copy()
        for ring in (RIGHT_EYE, LEFT_EYE):
            shut[list(ring[9:]), 1] = shut[list(ring[7:0:-1]), 1]
        changed = picture.copy()
        Eyelids(picture.shape[:2], shut).shut(changed, 1.0)
        assert (changed == picture).all()

    def test_eyes_at_the_border_of_a_picture(self, picture, points):
        left, top = points[[*RIGHT_EYE], :2].min(0).astype(int) + 2
        cut = np.ascontiguousarray(picture[top:, left:])
        Eyelids(cut.shape[:2], points - [left, top, 0]).shut(cut, 0.7)


class TestSway:
    def test_still_heads_are_the_picture_itself(self, picture, points):
        assert Sway(picture.shape[:2], points).move(picture, STILL) is picture

    def test_the_head_tilts_and_shifts_as_far_as_asked(self, mesh, picture, points):
        sway, face_px = Sway(picture.shape[:2], points), silhouette_box(points)[3] - silhouette_box(points)[1]
        tilted = seen(mesh, sway.move(picture, HeadPose(0, 0, np.radians(3), 0, 0)))
        assert head_roll_deg(tilted) - head_roll_deg(points) == pytest.approx(3, abs=0.6)
        shifted = seen(mesh, sway.move(picture, HeadPose(0, 0, 0, 0.02, 0.01)))
        assert np.allclose((shifted - points)[:, :2].mean(0) / face_px, [0.02, 0.01], atol=0.003)

    def test_a_turn_moves_the_nose_against_the_outline(self, mesh, picture, points):
        sway = Sway(picture.shape[:2], points)
        for pose, axis in ((HeadPose(0.05, 0, 0, 0, 0), 0), (HeadPose(0, 0.05, 0, 0, 0), 1)):
            moved = (seen(mesh, sway.move(picture, pose)) - points)[:, axis]
            assert moved[NOSE_TIP] > 3
            assert moved[NOSE_TIP] > 2 * abs(moved[list(SILHOUETTE)].mean())

    def test_the_picture_far_from_the_head_and_its_edge_stay(self, picture, points):
        moved = Sway(picture.shape[:2], points).move(picture, HeadPose(0.05, 0.05, 0.05, 0.02, 0.02))
        assert (moved != picture).mean() > 0.2
        assert np.abs(moved[0].astype(int) - picture[0]).max() <= 2
        assert np.abs(moved[:, [0, -1]].astype(int) - picture[:, [0, -1]]).max() <= 2
        assert (moved[:20, :20] == picture[:20, :20]).all()


class TestMotion:
    LOUDNESS = np.clip(np.sin(np.arange(25 * 120) / 11), 0, 1)

    def test_it_begins_as_the_picture_and_stays_small(self):
        motion = draw_idle_motion(self.LOUDNESS, 3)
        assert motion.pose(0) == STILL
        assert np.abs(np.diff(motion.head[:3], axis=0)).max() < 1e-3
        assert np.degrees(np.abs(motion.head[:, :3])).max() < 8
        assert np.degrees(motion.head[:, :3].std(0)).min() > 0.3

    def test_seeds(self):
        one, same, other = (draw_idle_motion(self.LOUDNESS, seed) for seed in (3, 3, 2**62))
        assert (one.head == same.head).all()
        assert (one.blink == same.blink).all()
        assert (one.head != other.head).any()

    def test_it_blinks_as_people_do(self):
        blink = np.concatenate([draw_idle_motion(self.LOUDNESS, seed).blink for seed in range(5)])
        per_minute = (np.diff((blink > 0.7).astype(int)) == 1).sum() / 10
        assert 8 < per_minute < 25

    def test_the_chin_sinks_with_the_voice(self):
        nods = np.stack([draw_idle_motion(self.LOUDNESS, seed).head[:, 1] for seed in range(30)]).mean(0)
        assert np.corrcoef(nods[50:], self.LOUDNESS[50:])[0, 1] > 0.7

    def test_loudness(self):
        assert np.allclose(loudness_of_levels(np.array([-100, 0, -20, -40])), [0, 1, 0.5, 0], atol=1e-6)

    def test_a_share_of_it_and_frames_after_the_end(self):
        motion = IdleMotion(np.array([0, 0.5]), np.array([[0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]]))
        assert motion.pose(7, 0.5) == HeadPose(0.05, 0.1, 0.15, 0.2, 0.25)
        assert motion.lids(7) == 0.5


def test_a_picture_moves_and_blinks(picture, points):
    motion = IdleMotion(np.array([0, 1.0, 0]), np.array([[0.0] * 5, [0.0] * 5, [0.05, 0, 0, 0, 0]]))
    lively = Liveliness(picture.shape[:2], points, motion)
    first, second, third = (lively.apply(picture.copy(), frame) for frame in range(3))
    eye = tuple(points[list(RIGHT_EYE), :2].mean(0).astype(int)[::-1])
    nose = tuple(points[NOSE_TIP, :2].astype(int)[::-1])
    assert (first == picture).all()
    assert (second[eye] != picture[eye]).any()
    assert (second[nose] == picture[nose]).all()
    assert (third[nose] != picture[nose]).any()


def test_points_of_a_frame_lie_in_the_picture():
    paster = Paster(np.zeros((300, 400, 3), np.uint8), Crop(10, 20, 128, 64))
    assert paster.in_picture(np.array([[16.0, 32, 8]]), (64, 32)).tolist() == [[52, 74, 16]]


def test_movement_has_bounds():
    with pytest.raises(UserError, match="movement"):
        Output(movement=2.5)
