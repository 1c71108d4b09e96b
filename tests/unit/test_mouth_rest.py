"""Lips read in frames by the embedded reader."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from joyhallo.animator import Animator
from joyhallo.conditioning import anatomy
from joyhallo.conditioning.lip_reading import inner_gap
from joyhallo.conditioning.portrait import own_teeth
from joyhallo.conditioning.similarity import upright
from joyhallo.conditioning.teeth import HALF_WIDTH_CM, PX_PER_CM
from joyhallo.media.image import read_image
from joyhallo.models.lip_reader import WINDOW
from joyhallo.mouth.rest import LipFollower, Rest

PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.png"
LOWER = [anatomy.LIP_POINTS.index(point) for point in anatomy.INNER_LOWER_LIP[3:8]]
UPPER = [anatomy.LIP_POINTS.index(point) for point in anatomy.INNER_UPPER_LIP[3:8]]


@pytest.fixture(scope="module")
def pipe() -> Animator:
    return Animator.from_pretrained("mini")


@pytest.fixture(scope="module")
def portrait(pipe):
    return pipe.portrait(PORTRAIT)


@pytest.fixture(scope="module")
def follower(pipe, portrait) -> LipFollower:
    return LipFollower(rest_of(pipe, portrait), portrait.landmarks)


def rest_of(pipe: Animator, portrait) -> Rest:
    return Rest(pipe.still(portrait), pipe.lip_reader)


def test_at_rest_nothing_has_moved(pipe, portrait, follower):
    assert np.array_equal(follower.moves(rest_of(pipe, portrait).still[None])[0], np.zeros((len(anatomy.LIP_POINTS), 2)))


@pytest.mark.parametrize("shift", [-3, 3])
def test_lips_that_go_down_or_up_are_followed(pipe, portrait, follower, shift):
    still = rest_of(pipe, portrait).still
    moved = cv2.warpAffine(still, np.float32([[1, 0, 0], [0, 1, shift]]), still.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    moves = follower.moves(moved[None])[0]
    assert moves[LOWER + UPPER, 1].mean() == pytest.approx(shift, abs=1.2)
    assert abs(moves[:, 0].mean()) < 0.8


class Bright(torch.nn.Module):
    """Reads the inner lower lip as low as the window is bright, a pixel of the frame for every grey level."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"size_px": 32, "num_points": len(anatomy.LIP_POINTS)}
        self.register_buffer("units", torch.ones(2 * len(anatomy.LIP_POINTS)))
        self.low = torch.tensor([point in anatomy.INNER_LOWER_LIP[1:-1] for point in anatomy.LIP_POINTS])

    def forward(self, mouths: torch.Tensor) -> torch.Tensor:
        down = (mouths.mean((1, 2, 3))[:, None] + 1) * 127.5 / (WINDOW * 256 / 32) * self.low
        return torch.stack([torch.zeros_like(down), down], -1).flatten(1)


def test_lips_begin_to_close_in_time(portrait):
    def gray(level: int) -> np.ndarray:
        return np.full((256, 256, 3), level, np.uint8)

    follower = LipFollower(Rest(gray(0), Bright()), portrait.landmarks)
    pose = upright(portrait.landmarks.astype(np.float64))
    wide = round(2 * pose.scale)

    def opening_cm(*levels: int) -> np.ndarray:
        moves = follower.shown(follower.moves(np.stack([gray(level) for level in levels])), 0)
        return (moves[:, LOWER] @ pose.rotation[:2, 1]).mean(1) / pose.scale

    assert opening_cm(wide, wide, wide, wide, wide, 0, 0) == pytest.approx([2, 2, 2, 1.7, 0.85, 0, 0], abs=0.05)
    assert opening_cm(0, 0, wide, wide, wide) == pytest.approx([0, 0, 2, 2, 2], abs=0.05)  # they open as they are read


def test_lips_that_are_heard_to_close_do_whatever_frames_show(pipe, portrait):
    seen = rest_of(pipe, portrait)
    rest = replace(seen, closings=np.array([0, 0, 0, 0.5, 1]))
    opened = painted_open(seen.still, portrait.landmarks)
    follower = LipFollower(rest, portrait.landmarks)
    free = follower.moves(np.stack([opened, opened]))
    heard = follower.shown(free, first=3)
    down = upright(portrait.landmarks.astype(np.float64)).rotation[:2, 1]
    gaps = [inner_gap(moves, down) for moves in (free, heard)]
    assert gaps[0].min() > 3
    assert gaps[1] == pytest.approx(gaps[0] * [0.5, 0], abs=1e-6)


def test_a_dark_gap_between_the_lips_is_an_open_mouth(pipe, portrait, follower):
    moves = follower.moves(painted_open(rest_of(pipe, portrait).still, portrait.landmarks)[None])[0]
    assert moves[LOWER, 1].mean() - moves[UPPER, 1].mean() > 3


def painted_open(still: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The still with its lips 9 px apart."""
    frame, points = still.copy(), landmarks[list(anatomy.INNER_LIP_RING), :2]
    middle = points.mean(0)
    ring = (points - middle) * [0.9, 1] + middle
    ring[:, 1] += np.where(np.arange(len(ring)) > 10, 9, 0)
    cv2.fillPoly(frame, [np.round(ring).astype(np.int32)], (35, 15, 15))
    return frame


@pytest.mark.parametrize("roll_deg", [25.0, -40.0])
def test_a_tilted_mouth_is_read_as_an_upright_one(pipe, portrait, follower, roll_deg):
    rest = rest_of(pipe, portrait)
    upright_moves = follower.moves(painted_open(rest.still, portrait.landmarks)[None])[0]
    turn = cv2.getRotationMatrix2D((128, 128), -roll_deg, 1)

    def turned(frame: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(frame, turn, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)

    landmarks = portrait.landmarks.copy()
    landmarks[:, :2] = landmarks[:, :2] @ turn[:, :2].T + turn[:, 2]
    tilted = LipFollower(Rest(turned(rest.still), rest.reader), landmarks)
    moves = tilted.moves(turned(painted_open(rest.still, portrait.landmarks))[None])[0]
    assert np.abs(moves - upright_moves @ turn[:, :2].T).mean() < 0.3


def test_a_mouth_at_the_lower_border_is_read(pipe, portrait, follower):
    rest = rest_of(pipe, portrait)
    opened = painted_open(rest.still, portrait.landmarks)
    height = round(float(portrait.landmarks[list(anatomy.LIPS), 1].max())) + 25
    low = LipFollower(Rest(np.ascontiguousarray(rest.still[:height]), rest.reader), portrait.landmarks)
    moves = (one.moves(np.ascontiguousarray(frame)[None])[0] for one, frame in ((follower, opened), (low, opened[:height])))
    whole, cut = (move[LOWER, 1].mean() - move[UPPER, 1].mean() for move in moves)
    assert cut == pytest.approx(whole, abs=1.5)


def test_where_landmarks_are_not_known_frames_are_left_as_they_are(pipe, portrait):
    unknown = replace(portrait, landmarks=np.full_like(portrait.landmarks, np.nan))
    assert pipe.rest(unknown, pipe.speech(np.random.default_rng(0).normal(size=6400))) is None


def test_a_mouth_of_one_colour_has_no_teeth(portrait):
    picture = read_image(PORTRAIT)
    scale = portrait.crop.width / portrait.pixels.shape[2]
    points = portrait.landmarks.copy()
    points[:, :2] = points[:, :2] * scale + [portrait.crop.left, portrait.crop.top]
    points[list(anatomy.INNER_LOWER_LIP[1:-1]), 1] += 0.7 * upright(points).scale
    picture[:] = 0
    assert own_teeth(picture, points) is None


def test_a_smile_keeps_its_own_teeth_and_a_shut_mouth_has_none(portrait):
    """Teeth of a colour that nobody has are found again between the lips that were closed."""
    picture = read_image(PORTRAIT)
    given = portrait.landmarks.copy()
    scale = portrait.crop.width / portrait.pixels.shape[2]
    given[:, :2] = given[:, :2] * scale + [portrait.crop.left, portrait.crop.top]
    assert portrait.teeth is None
    pose = upright(given)
    smile = given.copy()
    for line, way in ((anatomy.INNER_UPPER_LIP, -1), (anatomy.INNER_LOWER_LIP, 1)):
        arch = np.sqrt(np.clip(1 - np.linspace(-1, 1, 11) ** 2, 0, 1))
        smile[list(line), 1] += way * 0.35 * arch * pose.scale
    ring = np.round(smile[list(anatomy.INNER_LIP_RING), :2] * 16).astype(np.int32)
    shown = picture.copy()
    cv2.fillPoly(shown, [ring], (205, 214, 200), cv2.LINE_AA, 4)
    teeth = own_teeth(shown, smile)
    assert teeth is not None
    middle = teeth.pixels[-40:-20, round(HALF_WIDTH_CM * PX_PER_CM)]
    assert np.abs(middle[:, :3].max(0) - [205, 214, 200]).max() < 12
