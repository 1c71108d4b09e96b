"""Parted lips brought together in a picture."""

import cv2
import numpy as np
import pytest
import torch

from drawn_face import LIP, WHITE, drawn, face
from joyhallo.conditioning import anatomy
from joyhallo.conditioning.closed_lips import are_parted, close_lips
from joyhallo.conditioning.face import Face
from joyhallo.conditioning.portrait import Framing, PortraitError, prepare_portrait
from joyhallo.conditioning.stand_in import StandIn
from joyhallo.conditioning.stretch import source_heights
from joyhallo.models.lip_reader import LipReader


def num_white(picture: np.ndarray) -> int:
    return int((picture.min(-1) > 215).sum())


@pytest.mark.parametrize("roll_deg", [0.0, 12.0])
def test_teeth_are_gone_and_lips_meet(roll_deg):
    points = face(9, roll_deg)
    picture = drawn(points)
    assert num_white(picture) > 250
    closed, shut = close_lips(picture, points)
    assert num_white(closed) == 0
    gap = np.linalg.norm(shut[list(anatomy.INNER_UPPER_LIP), :2] - shut[list(anatomy.INNER_LOWER_LIP), :2], axis=1)
    assert gap.max() < 0.5
    redness = closed[..., 0].astype(int) - closed[..., 1]
    assert (redness > 90).sum() > 600  # both lips are still there


def test_what_is_not_around_the_mouth_is_as_it_was():
    points = face(9)
    picture = drawn(points)
    picture[::4, ::4] = np.random.default_rng(0).integers(0, 200, picture[::4, ::4].shape)
    given = picture.copy()
    closed, shut = close_lips(picture, points)
    assert np.array_equal(picture, given)
    changed = (closed != picture).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    corners = points[[61, 291], 0]
    assert corners.min() - 13 <= columns[0]
    assert columns[-1] <= corners.max() + 13
    assert points[2, 1] - 7 <= rows[0]
    assert rows[-1] <= points[anatomy.CHIN, 1] + 11
    eyes = [anatomy.RIGHT_EYE_OUTER, anatomy.LEFT_EYE_OUTER]
    assert np.allclose(shut[eyes], points[eyes], atol=1e-3)


def test_a_mouth_at_the_border_of_the_picture():
    points = face(9)
    picture = drawn(points)[:160, 100:150]
    closed, _ = close_lips(picture, points - [100, 0, 0])
    assert closed.shape == picture.shape


class Measured(LipReader):
    """Sees the lips of given points in the frame's middle, `apart` times as far apart as they are."""

    def __init__(self, points: np.ndarray, apart: float) -> None:
        super().__init__(len(anatomy.LIP_POINTS))
        self.places = points[list(anatomy.LIP_POINTS), :2].copy()
        self.places[len(anatomy.LIPS) :, 1] = (self.places[len(anatomy.LIPS) :, 1] - 153) * apart + 153
        self.middle = self.places.mean(0)

    def forward(self, mouths: torch.Tensor) -> torch.Tensor:
        assert mouths.shape == (5, 3, 96, 96)
        return torch.from_numpy(self.places - self.middle).flatten()[None].expand(5, -1)


@pytest.mark.parametrize(
    ("gap_px", "inside", "parted"),
    [(2.0, WHITE, False), (3.5, WHITE, True), (3.5, LIP, False), (4.2, LIP, False), (5.5, LIP, True)],
)
def test_parted_lips_have_teeth_between_them_or_are_far_apart(gap_px, inside, parted):
    # EYES pixels are 8.9 cm, so a pixel is a millimetre; the mean of the pairs that are measured is 0.95 of the middle.
    points = face(gap_px)
    pixels = torch.from_numpy(drawn(points, inside)).permute(2, 0, 1) / 127.5 - 1
    assert are_parted(pixels, points, Measured(points, 1.0)) is parted


def test_only_what_the_reader_sees_is_parted():
    points = face(6)
    pixels = torch.from_numpy(drawn(points)).permute(2, 0, 1) / 127.5 - 1
    assert are_parted(pixels, points, Measured(points, 1.0))
    assert not are_parted(pixels, points, Measured(points, 0.2))


@pytest.mark.parametrize("part", [(slice(60, 250), slice(0, 256)), (slice(0, 256), slice(30, 226))])
def test_a_frame_that_is_not_square(part):
    points = face(6)
    pixels = torch.from_numpy(drawn(points)[part]).permute(2, 0, 1) / 127.5 - 1
    moved = points - [part[1].start, part[0].start, 0]
    side = round(3 / 8 * min(pixels.shape[1:]))
    reader = Measured(points, 1.0)
    reader.units *= 96 / side
    assert are_parted(pixels, moved, reader)


@pytest.mark.parametrize(("gap_px", "parted"), [(1.0, False), (1.5, True)])
def test_a_mesh_with_irises_is_believed(gap_px, parted):
    points = np.concatenate([face(gap_px), np.full((10, 3), 88, np.float32)])
    assert are_parted(torch.zeros(3, 256, 256), points, Measured(face(9), 1.0)) is parted


def test_a_larger_frame_is_shown_to_the_reader_as_it_knows_them():
    points = face(6)
    pixels = torch.from_numpy(cv2.resize(drawn(points), (512, 512))).permute(2, 0, 1) / 127.5 - 1
    assert are_parted(pixels, points * 2, Measured(points, 1.0))
    assert not are_parted(pixels, points * 2, Measured(points, 0.2))


def test_skin_between_lines_is_stretched_and_beyond_them_stays():
    heights = np.linspace(0, 10, 11)[None]
    lines = tuple(np.full((1, 11), value) for value in (2.0, 6.0, 8.0))
    sources = tuple(np.full((1, 11), value) for value in (2.0, 4.0, 8.0))
    came = source_heights(heights, lines, sources)[0]
    assert came.tolist() == [0, 1, 2, 2.5, 3, 3.5, 4, 6, 8, 9, 10]


class Fixed:
    """Identity of the picture's mean, and a face mesh that finds one known face."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points

    def detect(self, _picture: np.ndarray) -> list[Face]:
        return [Face(1.0, np.array([60, 40, 190, 230], np.float32), self.points)]

    def embed(self, picture: np.ndarray, _face: Face) -> torch.Tensor:
        return torch.tensor([picture.astype(float).mean()])


def whole_face(gap: float) -> np.ndarray:
    """A face with its silhouette."""
    points = face(gap)
    outline = np.linspace(0, 2 * np.pi, len(anatomy.SILHOUETTE), endpoint=False)
    points[list(anatomy.SILHOUETTE), :2] = np.stack([128 + 60 * np.sin(outline), 125 - 70 * np.cos(outline)], 1)
    return points


@pytest.mark.parametrize(
    ("num_points", "beside_px", "is_refused"), [(478, 2, False), (478, 4, True), (468, 4, False), (468, 6, True)]
)
def test_a_picture_whose_lips_are_seen_in_two_places_is_refused(num_points, beside_px, is_refused):
    """Lips of 56 px: 5.2 and 8 % of them are 2.9 and 4.5 px."""
    seen = whole_face(0)
    points = np.concatenate([seen, np.full((num_points - len(seen), 3), 88, np.float32)])
    points[list(anatomy.LIP_POINTS), 0] += beside_px
    fixed, reader = Fixed(points), Seeing(seen)
    framing = Framing((256, 256), 16, face_share=None)
    if is_refused:
        with pytest.raises(PortraitError, match="lips cannot be made out"):
            prepare_portrait(drawn(seen), fixed, fixed, framing, lip_reader=reader)
    else:
        assert prepare_portrait(drawn(seen), fixed, fixed, framing, lip_reader=reader).picture.shape == drawn(seen).shape


class Beside(Fixed):
    """Finds the face beside where it is, or nowhere, as long as the picture has strokes."""

    def __init__(self, points: np.ndarray, beside_px: float | None) -> None:
        super().__init__(points)
        self.beside_px = beside_px

    def detect(self, picture: np.ndarray) -> list[Face]:
        if np.abs(np.diff(picture[..., 2].astype(float), axis=1)).max() < 200:
            return super().detect(picture)
        return [] if self.beside_px is None else Fixed(self.points + np.float32([self.beside_px, 0, 0])).detect(picture)


@pytest.mark.parametrize(("beside_px", "gap_px"), [(None, 0), (8, 0), (None, 6)])
def test_somebody_stands_in_for_a_drawing_of_strokes(beside_px, gap_px):
    seen = whole_face(gap_px)
    plain, picture = drawn(seen), drawn(seen)
    picture[..., 2] = np.arange(256) % 2 * 255
    framing, finder = Framing((256, 256), 16, face_share=None), Beside(seen, beside_px)
    reader = Seeing(seen) if gap_px == 0 else Measured(seen, 1.0)
    portrait = prepare_portrait(picture, finder, finder, framing, lip_reader=reader)
    assert portrait.is_softened
    assert portrait.why_stand_in == "is drawn in strokes"
    assert portrait.has_closed_lips == (gap_px > 0)
    expected = close_lips(picture, seen) if gap_px else (picture, seen)
    assert np.array_equal(portrait.picture, expected[0])
    assert np.array_equal(portrait.landmarks, expected[1])
    someone = StandIn.load()
    assert torch.equal(portrait.pixels, someone.laid_on(portrait.landmarks, (256, 256)))
    assert torch.equal(portrait.face_embedding, finder.embed(someone.picture, someone.face))
    photographed = prepare_portrait(plain, finder, finder, framing, lip_reader=reader)
    assert not (photographed.is_softened)
    assert photographed.why_stand_in is None


def test_weights_that_draw_everything_draw_drawings_too():
    seen = whole_face(0)
    picture = drawn(seen)
    picture[..., 2] = np.arange(256) % 2 * 255
    portrait = prepare_portrait(picture, Fixed(seen), Fixed(seen), Framing((256, 256), 16, face_share=None))
    assert not (portrait.is_softened)
    assert portrait.why_stand_in is None
    assert torch.equal(portrait.pixels, torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1)


@pytest.mark.parametrize(("beside_px", "is_refused"), [(4, False), (6, True)])
def test_lips_of_a_drawing_are_compared_too(beside_px, is_refused):
    """Lips of 56 px: 8 % of them are 4.5 px."""
    seen = whole_face(0)
    picture = drawn(seen)
    picture[..., 2] = np.arange(256) % 2 * 255
    beside, framing = Fixed(seen + np.float32([beside_px, 0, 0])), Framing((256, 256), 16, face_share=None)
    if is_refused:
        with pytest.raises(PortraitError, match="up to 8% will do"):
            prepare_portrait(picture, beside, beside, framing, lip_reader=Seeing(seen))
    else:
        assert prepare_portrait(picture, beside, beside, framing, lip_reader=Seeing(seen)).why_stand_in == "is drawn in strokes"


class Seeing(torch.nn.Module):
    """Reads lips where they are drawn, whatever window it is shown: the window's place is found from the picture's red."""

    def __init__(self, points: np.ndarray) -> None:
        super().__init__()
        self.config = {"size_px": 96, "num_points": len(anatomy.LIP_POINTS)}
        self.register_buffer("units", torch.ones(2 * len(anatomy.LIP_POINTS)))
        lips = points[list(anatomy.LIP_POINTS), :2]
        self.shape = torch.from_numpy(lips - lips.mean(0))

    def forward(self, mouths: torch.Tensor) -> torch.Tensor:
        redness = (mouths[:, 0] - mouths[:, 1] > 0.6).float()
        places = torch.arange(96.0) - 47.5
        weight = redness.sum((1, 2))[:, None]
        middle = torch.cat([redness.sum(1) @ places[:, None], redness.sum(2) @ places[:, None]], 1) / weight
        return (self.shape + middle[:, None]).flatten(1)


def test_a_portrait_with_parted_lips_is_prepared_with_closed_ones():
    points = whole_face(6)
    picture, fixed = drawn(points), Fixed(points)
    framing = Framing((256, 256), 16, face_share=None)
    as_is = prepare_portrait(picture, fixed, fixed, framing)
    shut = prepare_portrait(picture, fixed, fixed, framing, lip_reader=Measured(points, 0.2))
    closed = prepare_portrait(picture, fixed, fixed, framing, lip_reader=Measured(points, 1.0))
    assert [portrait.has_closed_lips for portrait in (as_is, shut, closed)] == [False, False, True]
    assert np.array_equal(shut.picture, picture)
    expected = close_lips(picture, points)
    assert np.array_equal(closed.picture, expected[0])
    assert np.array_equal(closed.landmarks, expected[1])
    assert torch.equal(closed.pixels, torch.from_numpy(expected[0]).permute(2, 0, 1).float() / 127.5 - 1)
    assert torch.equal(closed.face_embedding, as_is.face_embedding)  # of the picture as it was given
