"""Following the speaker: cuts, guests, long shots, holes; and heads that leave the crop."""

import cv2
import numpy as np
import pytest

from joyhallo.data.framing import face_crop
from joyhallo.data.preparation.checks import check_crop, check_track
from joyhallo.data.preparation.films import Settings, Thresholds
from joyhallo.data.preparation.footage import Picture
from joyhallo.data.preparation.one_video import VideoPreparer
from joyhallo.data.preparation.shots import ShotDetector
from joyhallo.data.preparation.tracking import NO_FACE, SEVERAL_FACES, SpeakerTracker, Stretch, measure_sharpness
from talking import face, open_face_mesh, portrait

SIDE = 320


class Shown:
    """Stands for a decoded picture."""

    def __init__(self, picture):
        self.picture = picture

    def pixels(self, longest_px):
        del longest_px
        return self.picture


class Slot(Picture):
    @property
    def size(self):
        return self.still.picture.shape[:2]


def film(pictures, first=0):
    last = None
    for slot, picture in enumerate(pictures, first):
        yield Slot(slot, slot / 25, picture is not last, Shown(picture))
        last = picture


@pytest.fixture(scope="module")
def mesh():
    cv2.setNumThreads(1)
    return open_face_mesh()


def follow(mesh, pictures, max_frames=250, min_frames=13):
    return list(SpeakerTracker(mesh, max_frames, min_frames).follow(pictures))


def outline(stretches):
    return [(s.first_slot, s.num_frames, s.reason) for s in stretches]


def swaying(count):
    return [face(0, SIDE, 3 * np.sin(number / 5)) for number in range(count)]


def mirrored(picture):
    """The same person elsewhere in another room."""
    return np.roll(255 - picture // 3 if picture.ndim == 2 else picture[:, ::-1], 60, axis=1) // 2


def test_a_shot_is_one_stretch_whose_points_are_on_the_face(mesh):
    (stretch,) = follow(mesh, film(swaying(20)))
    assert outline([stretch]) == [(0, 20, None)]
    assert stretch.points.shape[0] == 20
    nose = stretch.points[:, 1, :2] / SIDE
    assert np.abs(nose - (0.498, 0.672)).max() < 0.03
    assert stretch.num_pictures == 20
    assert 0.15 < stretch.sharpness < 1


def test_a_cut_ends_a_stretch(mesh):
    pictures = swaying(15)
    stretches = follow(mesh, film([*pictures, *map(mirrored, pictures)]))
    assert outline(stretches) == [(0, 15, None), (15, 15, None)]


def test_a_jump_within_the_same_scene_ends_a_stretch(mesh):
    jumped = [np.roll(picture, 70, axis=1) for picture in swaying(15)]
    assert outline(follow(mesh, film([*swaying(15), *jumped]))) == [(0, 15, None), (15, 15, None)]


def test_a_guest_takes_the_frames_since_the_last_count_along(mesh):
    alone = [np.concatenate([picture, np.full_like(picture, 200)], axis=1) for picture in swaying(20)]
    guest = portrait(SIDE)
    faded = [np.concatenate([picture, guest], axis=1) for picture in swaying(20)]
    grey = np.full_like(guest, 200)
    steps = [
        np.concatenate([face(0, SIDE), (grey * (1 - a) + guest * a).astype(np.uint8)], axis=1) for a in np.linspace(0, 1, 12)
    ]
    stretches = follow(mesh, film([*alone, *steps, *faded]))
    assert [s.reason for s in stretches] == [None, SEVERAL_FACES]
    assert stretches[0].num_frames + stretches[1].num_frames == 52
    assert stretches[0].num_frames % 12 == 1  # the first frame and whole counts: nothing that was not counted
    assert len(stretches[0].points) == stretches[0].num_frames


def test_no_face_and_then_one(mesh):
    empty = [np.full((SIDE, SIDE, 3), 120 + number % 2, np.uint8) for number in range(12)]
    stretches = follow(mesh, film([*empty, *swaying(14)]))
    assert [(s.num_frames, s.reason) for s in stretches] == [(12, NO_FACE), (14, None)]
    assert len(stretches[0].points) == 0


def test_a_long_shot_is_split_without_a_short_rest(mesh):
    pictures = swaying(30)
    assert [s.num_frames for s in follow(mesh, film(pictures), 20, 13)] == [15, 15]
    assert [s.num_frames for s in follow(mesh, film([*pictures, *pictures[:4]]), 20, 13)] == [20, 14]


def test_pictures_that_are_held_are_counted_once(mesh):
    held = [picture for picture in swaying(8) for _ in range(2)]
    (stretch,) = follow(mesh, film(held))
    assert (stretch.num_frames, stretch.num_pictures) == (16, 8)
    assert check_track(stretch, Thresholds(min_frames=10, min_face_px=50)).reason == "too few pictures a second"


def test_a_hole_in_the_film_ends_a_stretch(mesh):
    pictures = swaying(28)
    shown = [*film(pictures[:14]), *film(pictures[14:], first=30)]
    assert outline(follow(mesh, shown)) == [(0, 14, None), (30, 14, None)]


def test_flicker_and_slow_changes_are_no_cuts():
    shots = ShotDetector()
    ramp = [np.full((90, 160, 3), 40 + 3 * number, np.uint8) for number in range(40)]
    assert not any(shots.is_cut(picture) for picture in ramp)
    noisy = np.random.RandomState(0)
    shots = ShotDetector()
    assert not any(shots.is_cut(noisy.randint(0, 255, (90, 160, 3)).astype(np.uint8)) for _ in range(10))
    assert shots.is_cut(np.zeros((90, 160, 3), np.uint8))


def moved_head(num_frames, distance_px):
    """A head that walks to the right by so much in all, in a wide picture."""
    points = np.zeros((num_frames, 478, 3), np.float32)
    points[:, :, :2] = np.random.RandomState(0).uniform((200, 200), (300, 340), (478, 2))
    points[:, :, 0] += np.linspace(0, distance_px, num_frames)[:, None]
    return Stretch(0, num_frames, 0.0, (720, 1280), None, points, 1.0, num_frames)


def test_a_head_that_walks_is_followed_by_shorter_clips():
    preparer = VideoPreparer.__new__(VideoPreparer)
    preparer.settings = Settings()
    assert [p.num_frames for p in preparer._steady(moved_head(100, 20))] == [100]
    parts = list(preparer._steady(moved_head(100, 300)))
    assert [(p.first_slot, p.num_frames) for p in parts] == [(0, 25), (25, 25), (50, 25), (75, 25)]
    for part in parts:
        crop = face_crop(part.points, part.size, 256, 0.6).crop
        assert check_crop(part.points, crop, Thresholds()) is None
    fast = list(preparer._steady(moved_head(100, 1000)))
    crop = face_crop(fast[0].points, fast[0].size, 256, 0.6).crop
    assert check_crop(fast[0].points, crop, Thresholds()).reason == "face leaves the frame"


def test_blur_lowers_the_sharpness():
    picture = portrait(640)
    box = np.array([160, 230, 480, 580])
    found = [measure_sharpness(picture if not s else cv2.GaussianBlur(picture, (0, 0), s), box) for s in (0, 1.75, 3.5, 7)]
    assert found[0] > 0.3 > found[1] > 0.15 > found[2] > 0.09 > found[3]
