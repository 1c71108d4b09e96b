"""The picture's own pixels follow a small, soft frame."""

import cv2
import numpy as np
import pytest

from joyhallo.media.moved_picture import MovedPicture, _Enlarging

SIZE, SCALE = 96, 4
MOUTH = (slice(56, 76), slice(30, 66))
NOWHERE = np.zeros((SIZE, SIZE), np.float32)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Skin: broad shapes that a small frame shows too, and a fine grain that it does not."""
    random = np.random.default_rng(seed)
    broad = cv2.resize(random.uniform(60, 190, (12, 12, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 2)
    return np.clip(broad + 12 / fine.std() * fine[..., None], 0, 255).astype(np.uint8)


def reduced(picture: np.ndarray, size: int = SIZE) -> np.ndarray:
    return cv2.GaussianBlur(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), (0, 0), 0.8)


def mouth_mask() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[MOUTH] = 1
    return cv2.GaussianBlur(mask, (0, 0), 1)


def grain(picture: np.ndarray) -> np.ndarray:
    grey = picture.astype(np.float32).mean(2)
    return grey - cv2.GaussianBlur(grey, (0, 0), 5)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(grain(one).ravel(), grain(other).ravel())[0, 1])


PICTURE = textured(SIZE * SCALE, SIZE * SCALE)
STILL = reduced(PICTURE)


def test_what_does_not_move_keeps_its_very_pixels():
    moved = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE)
    assert np.array_equal(moved.follow(STILL), PICTURE)
    frame = (STILL.astype(int) + np.random.default_rng(1).integers(-2, 3, STILL.shape)).clip(0, 255).astype(np.uint8)
    frame[MOUTH] = 20
    followed = moved.follow(frame)
    assert np.array_equal(followed[:160], PICTURE[:160])
    assert (followed[256:280, 160:220] != PICTURE[256:280, 160:220]).any()


def test_skin_that_moves_takes_its_grain_along():
    down = 3  # pixels of the frame that everything below the middle moves by
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    share = np.clip((rows - 30) / 20, 0, 1)
    frame = cv2.remap(STILL, columns, rows - down * share, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    followed = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE).follow(frame)
    below, above = slice(60 * SCALE, 85 * SCALE), slice((60 - down) * SCALE, (85 - down) * SCALE)
    inner = slice(15 * SCALE, -15 * SCALE)
    enlarged = cv2.resize(frame, PICTURE.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert likeness(followed[below, inner], PICTURE[above, inner]) > 0.9
    assert likeness(followed[below, inner], PICTURE[below, inner]) < 0.2
    assert np.abs(grain(enlarged[below, inner])).mean() < 0.5 * np.abs(grain(followed[below, inner])).mean()
    assert np.abs(followed.astype(float) - enlarged).mean() < 15, "the grain itself, and no more"


def test_in_the_mouth_the_frame_says_what_is_there_and_it_is_stressed():
    frame = STILL.copy()
    frame[MOUTH] = (20, 10, 15)
    frame[58:62, 34:62] = 240
    followed = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE).follow(frame)
    enlarged = cv2.resize(frame, PICTURE.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(int)
    inside = (slice(58 * SCALE, 74 * SCALE), slice(36 * SCALE, 60 * SCALE))
    stressed = (PICTURE[inside] + 1.3 * (enlarged[inside] - PICTURE[inside])).clip(0, 255)
    assert np.abs(followed[inside] - stressed).mean() < 6
    assert followed[60 * SCALE, 48 * SCALE].min() > 200


def test_what_is_drawn_outside_the_mouth_is_left_out():
    flat = np.full((SIZE * SCALE, SIZE * SCALE, 3), 150, np.uint8)
    still = reduced(flat)
    lined = still.copy()
    cv2.line(lined, (70, 50), (90, 46), (40, 40, 40), 1, cv2.LINE_AA)
    enlarged = cv2.resize(lined, flat.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert enlarged.min() < 60
    assert np.array_equal(MovedPicture(flat, still, mouth_mask(), NOWHERE).follow(lined), flat)


def test_a_haze_on_the_upper_lip_is_left_out_and_teeth_are_not():
    flat = np.full((SIZE * SCALE, SIZE * SCALE, 3), 120, np.uint8)
    still, upper = reduced(flat), (slice(58, 74), slice(32, 48))
    upper_lip = NOWHERE.copy()
    upper_lip[MOUTH[0], : upper[1].stop] = 1

    def shown(level: int) -> tuple[int, int]:
        frame = still.copy()
        frame[MOUTH] = level
        followed = MovedPicture(flat, still, mouth_mask(), upper_lip).follow(frame)
        return followed[66 * SCALE, 40 * SCALE, 0], followed[66 * SCALE, 56 * SCALE, 0]

    haze, lower = shown(135)
    assert haze == 120
    assert lower > 135
    teeth, _ = shown(240)
    assert teeth > 235


def test_the_mask_moves_with_the_lips():
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    frame = cv2.remap(STILL, columns, rows - 4, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    frame[76:79, 36:60] = 0
    entered = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE).follow(frame)  # a place that only the moved lips hold
    assert entered[77 * SCALE + 2, 40 * SCALE : 56 * SCALE].max() < 40
    frame[56:59, 36:60] = 0  # and one that they left
    left = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE).follow(frame)
    assert left[57 * SCALE, 40 * SCALE : 56 * SCALE].mean() > 60


@pytest.mark.parametrize(("height", "width"), [(401, 333), (60, 80), (96, 96)])
def test_pictures_of_any_size(height, width):
    picture = textured(height, width, seed=2)
    still = reduced(picture)
    moved = MovedPicture(picture, still, mouth_mask(), NOWHERE)
    assert np.array_equal(moved.follow(still), picture)
    frame = still.copy()
    frame[MOUTH] = 10
    followed = moved.follow(frame)
    assert followed.shape == picture.shape
    middle = followed[round(66 / 96 * height), round(48 / 96 * width)]
    assert middle.max() < 60


@pytest.mark.parametrize("full_size", [(217, 291), (64, 80), (192, 240), (1001, 997)])
def test_a_part_is_enlarged_as_the_whole_is(full_size):
    frame = textured(64, 80).astype(np.float32)
    whole = _Enlarging((slice(0, 64), slice(0, 80)), (64, 80), full_size)
    part = _Enlarging((slice(11, 50), slice(7, 61)), (64, 80), full_size)
    assert whole.there == (slice(0, full_size[0]), slice(0, full_size[1]))
    assert np.abs(part(frame) - whole(frame)[part.there]).max() < 2, "the rounding of places by OpenCV"


@pytest.mark.parametrize("side", [96, 100, 333, 1000])
def test_where_nothing_moves_pixels_stay_to_the_last_level(side):
    picture = textured(side, side, seed=4)
    still = reduced(picture)
    part = _Enlarging((slice(11, 50), slice(7, 61)), (SIZE, SIZE), picture.shape[:2])
    assert np.array_equal(part.taken(picture, np.zeros((SIZE, SIZE, 2), np.float32)), picture[part.there])
    frame = still.copy()
    frame[MOUTH], frame[2:8, :] = 20, 255  # the mouth, and a strip along the edge
    followed = MovedPicture(picture, still, mouth_mask(), NOWHERE).follow(frame)
    between = slice(round(side * 0.25), round(side * 0.42))
    assert np.array_equal(followed[between], picture[between])


def test_patches_that_overlap_do_not_undo_each_other():
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    frame = cv2.remap(STILL, columns, rows - 3 * np.clip((rows - 30) / 20, 0, 1), cv2.INTER_CUBIC)
    frame[10:14, 40:56] = 255 - frame[10:14, 40:56]
    moved = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE)
    first = moved.follow(frame)
    small = STILL.copy()
    small[90:, 90:] = 255
    moved.follow(small)
    assert np.array_equal(moved.follow(frame), first), "a frame means the same whatever came before it"
    low = slice(60 * SCALE, 85 * SCALE)
    assert likeness(first[low], PICTURE[57 * SCALE : 82 * SCALE]) > 0.85


@pytest.mark.parametrize("size", [(24, 30), (64, 64), (70, 150), (256, 40), (31, 256)])
def test_frames_of_any_shape_are_survived(size):
    picture = textured(300, 300, seed=5)
    still = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    moved = MovedPicture(picture, still, np.ones(size, np.float32), np.zeros(size, np.float32))
    for rows, columns in ((slice(-4, None), slice(None)), (slice(None), slice(0, 5)), (slice(0, 3), slice(0, 3))):
        frame = still.copy()
        frame[rows, columns] = 255 - frame[rows, columns]
        assert moved.follow(frame).shape == picture.shape


def test_other_frames_than_the_still_are_refused():
    moved = MovedPicture(PICTURE, STILL, mouth_mask(), NOWHERE)
    for frame in (STILL.astype(np.float32), STILL[:50], STILL[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            moved.follow(frame)


@pytest.mark.parametrize("sizes", [((10, 10), (SIZE, SIZE)), ((SIZE, SIZE), (SIZE, 10))])
def test_a_mask_of_another_size_is_refused(sizes):
    with pytest.raises(ValueError, match="mask"):
        MovedPicture(PICTURE, STILL, *(np.zeros(size, np.float32) for size in sizes))
