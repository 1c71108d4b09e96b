"""Faces that only a softened copy of the picture shows."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from joyhallo.conditioning import anatomy
from joyhallo.conditioning.face import Face
from joyhallo.conditioning.softened_look import find_faces, look_again, softened_pixels, strokes
from joyhallo.evaluation.portrait_likeness import read_likeness


class Spots:
    """Finds a face wherever a light spot is, in pictures without strokes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def detect(self, picture: np.ndarray) -> list[Face]:
        self.seen.append(picture.shape[:2])
        grey = picture[..., 0].astype(float)
        if np.abs(np.diff(grey, axis=1)).max() > 150:
            return []
        count, _, spots, _ = cv2.connectedComponentsWithStats((grey > 90).astype(np.uint8))
        found = []
        for left, top, width, height, _ in spots[1:count].tolist():
            box = np.array([left, top, left + width, top + height], np.float32)
            found.append(Face(1.0, box, np.array([[*box[:2], 0], [*box[2:], 10]], np.float32)))
        return sorted(found, key=lambda face: -face.area)


def hatched(size: tuple[int, int], *spots: tuple[int, int, int, int]) -> np.ndarray:
    """Dark, with spots (left, top, right, bottom) of black and white strokes: grey, once they are softened."""
    picture = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom in spots:
        picture[top:bottom, left:right:2] = 255
    return picture


def test_a_picture_that_shows_its_face_is_looked_at_once():
    finder, picture = Spots(), np.zeros((400, 400, 3), np.uint8)
    picture[100:200, 60:140] = 120
    faces, is_softened = find_faces(finder, picture)
    assert (len(faces), is_softened, finder.seen) == (1, False, [(400, 400)])


@pytest.mark.parametrize(("times", "reduced"), [(1, 1), (5, 2)])
def test_without_a_face_a_softened_copy_is_searched_and_a_large_one_is_reduced(times, reduced):
    finder = Spots()
    picture = np.kron(hatched((400, 800), (60, 100, 160, 200)), np.ones((times, times, 1), np.uint8))
    faces, is_softened = find_faces(finder, picture)
    assert is_softened
    assert finder.seen == [(400 * times, 800 * times), (400 * times // reduced, 800 * times // reduced)]
    (face,) = faces
    assert np.allclose(face.box, np.array([60, 100, 160, 200]) * times, atol=3 * times)
    assert np.allclose(face.landmarks[:, :2].ravel(), face.box)
    assert face.landmarks[1, 2] == 10 * reduced


def test_nothing_is_found_in_nothing():
    assert find_faces(Spots(), hatched((400, 400))) == ([], False)


def test_of_two_faces_the_same_one_is_looked_at_again():
    spots = (60, 100, 160, 200), (240, 120, 345, 225)
    picture = hatched((400, 400), *spots)
    for spot in spots:
        chosen = Face(1.0, np.array(spot, np.float32) + 8, np.zeros((2, 3), np.float32))
        again = look_again(Spots(), picture, chosen)
        assert np.allclose(again.box, spot, atol=3)
        assert np.allclose(again.landmarks[:, :2].ravel(), spot, atol=3)


def test_another_face_is_no_answer():
    chosen = Face(1.0, np.array([60, 100, 160, 200], np.float32), np.zeros((2, 3), np.float32))
    assert look_again(Spots(), hatched((400, 400), (190, 120, 250, 180)), chosen) is None
    assert look_again(Spots(), hatched((400, 400), (90, 130, 130, 170)), chosen) is None  # much smaller
    assert look_again(Spots(), hatched((400, 400)), chosen) is None


def round_face(size_px: int) -> np.ndarray:
    """A mesh whose silhouette is a circle in a square of `size_px`."""
    points = np.full((468, 3), size_px / 2, np.float32)
    turn = np.linspace(0, 2 * np.pi, len(anatomy.SILHOUETTE), endpoint=False)
    points[list(anatomy.SILHOUETTE), :2] += 0.4 * size_px * np.stack([np.sin(turn), np.cos(turn)], 1)
    return points


@pytest.mark.parametrize("size_px", [166, 664])
def test_strokes_are_told_from_shades_at_any_size(size_px):
    rows, columns = np.indices((size_px, size_px)) * 166 // size_px
    shades = np.repeat((100 + 60 * np.sin(rows / 20))[..., None], 3, 2).astype(np.uint8)
    hatched = np.where((rows + columns)[..., None] % 4 < 2, shades, 240).astype(np.uint8)
    points = round_face(size_px)
    assert strokes(shades, points) < 1
    assert strokes(hatched, points) > 20
    beside = shades.copy()
    beside[: size_px // 20] = hatched[: size_px // 20]
    assert strokes(beside, points) < 1  # the face alone counts


def test_a_frame_is_softened_as_its_face_is_large():
    pixels = torch.zeros(3, 200, 200)
    pixels[:, 100, 100] = 1
    small, large = (softened_pixels(pixels, round_face(size_px))[0, 100, 100].item() for size_px in (100, 200))
    assert small > 2 * large > 0


def test_a_portrait_that_is_compared_with_is_found_as_one_that_speaks(tmp_path):
    Image.fromarray(hatched((400, 400), (60, 100, 160, 200))).save(tmp_path / "drawing.png")
    likeness = read_likeness(tmp_path / "drawing.png", Spots())
    assert np.allclose(likeness.face.box, (60, 100, 160, 200), atol=3)
