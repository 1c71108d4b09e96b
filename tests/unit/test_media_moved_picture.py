"""The picture's own pixels follow a small, soft frame."""

import cv2
import numpy as np
import pytest

from joyhallo.media.moved_picture import MovedPicture, _Enlarging

SIZE, SCALE = 96, 4
MOUTH = (slice(56, 76), slice(30, 66))


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Skin: broad shapes that a small frame shows too, and a fine grain that it does not."""
    random = np.random.default_rng(seed)
    broad = cv2.resize(random.uniform(60, 190, (12, 12, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), 2)
    return np.clip(broad + 12 / fine.std() * fine[..., None], 0, 255).astype(np.uint8)


def reduced(picture: np.ndarray, size: int = SIZE) -> np.ndarray:
    return cv2.GaussianBlur(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), (0, 0), 0.8)


def grain(picture: np.ndarray) -> np.ndarray:
    grey = picture.astype(np.float32).mean(2)
    return grey - cv2.GaussianBlur(grey, (0, 0), 5)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(grain(one).ravel(), grain(other).ravel())[0, 1])


def follow(moved: MovedPicture, frame: np.ndarray) -> np.ndarray:
    return moved.carried(moved.way(frame))


PICTURE = textured(SIZE * SCALE, SIZE * SCALE)
STILL = reduced(PICTURE)


def test_what_does_not_move_keeps_its_very_pixels():
    moved = MovedPicture(PICTURE, STILL)
    assert np.array_equal(follow(moved, STILL), PICTURE)
    noisy = (STILL.astype(int) + np.random.default_rng(1).integers(-2, 3, STILL.shape)).clip(0, 255).astype(np.uint8)
    assert np.array_equal(follow(moved, noisy), PICTURE)


def test_skin_that_moves_takes_its_grain_along():
    down = 3  # pixels of the frame that everything below the middle moves by
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    share = np.clip((rows - 30) / 20, 0, 1)
    frame = cv2.remap(STILL, columns, rows - down * share, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    followed = follow(MovedPicture(PICTURE, STILL), frame)
    below, above = slice(60 * SCALE, 85 * SCALE), slice((60 - down) * SCALE, (85 - down) * SCALE)
    inner = slice(15 * SCALE, -15 * SCALE)
    enlarged = cv2.resize(frame, PICTURE.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert likeness(followed[below, inner], PICTURE[above, inner]) > 0.9
    assert likeness(followed[below, inner], PICTURE[below, inner]) < 0.2
    assert np.abs(grain(enlarged[below, inner])).mean() < 0.5 * np.abs(grain(followed[below, inner])).mean()
    assert np.abs(followed.astype(float) - enlarged).mean() < 15, "the grain itself, and no more"


@pytest.mark.parametrize(("height", "width"), [(401, 333), (150, 200), (96, 96)])
def test_pictures_of_any_size(height, width):
    picture = textured(height, width, seed=2)
    still = reduced(picture)
    moved = MovedPicture(picture, still)
    assert np.array_equal(follow(moved, still), picture)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    frame = cv2.remap(still, columns, rows - 4, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    followed = follow(moved, frame)
    assert followed.shape == picture.shape
    down = round(4 / 96 * height)
    inner = slice(height // 4, -height // 4), slice(width // 4, -width // 4)
    unmoved, expected = (np.abs(followed.astype(int) - other)[inner].mean() for other in (picture, np.roll(picture, down, 0)))
    assert expected < 0.6 * unmoved


@pytest.mark.parametrize("full_size", [(217, 291), (64, 80), (192, 240), (1001, 997)])
def test_a_part_is_enlarged_as_the_whole_is(full_size):
    frame = textured(64, 80)[..., :2].astype(np.float32)
    whole = _Enlarging((slice(0, 64), slice(0, 80)), (64, 80), full_size)
    part = _Enlarging((slice(11, 50), slice(7, 61)), (64, 80), full_size)
    assert whole.there == (slice(0, full_size[0]), slice(0, full_size[1]))
    enlarged = whole.ways(frame)
    apart = np.abs(part.ways(frame) - enlarged[part.there]).max()
    assert apart < 0.02 * np.abs(enlarged).max(), "the rounding of places by OpenCV"


@pytest.mark.parametrize("side", [96, 100, 333, 1000])
def test_where_nothing_moves_pixels_stay_to_the_last_level(side):
    picture = textured(side, side, seed=4)
    still = reduced(picture)
    part = _Enlarging((slice(11, 50), slice(7, 61)), (SIZE, SIZE), picture.shape[:2])
    assert np.array_equal(part.taken(picture, np.zeros((SIZE, SIZE, 2), np.float32)), picture[part.there])
    frame = still.copy()
    frame[MOUTH], frame[2:8, :] = 20, 255  # the mouth, and a strip along the edge
    followed = follow(MovedPicture(picture, still), frame)
    between = slice(round(side * 0.25), round(side * 0.42))
    assert np.array_equal(followed[between], picture[between])


def test_patches_that_overlap_do_not_undo_each_other():
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    frame = cv2.remap(STILL, columns, rows - 3 * np.clip((rows - 30) / 20, 0, 1), cv2.INTER_CUBIC)
    frame[10:14, 40:56] = 255 - frame[10:14, 40:56]
    moved = MovedPicture(PICTURE, STILL)
    first = follow(moved, frame)
    small = STILL.copy()
    small[90:, 90:] = 255
    follow(moved, small)
    assert np.array_equal(follow(moved, frame), first), "a frame means the same whatever came before it"
    low = slice(60 * SCALE, 85 * SCALE)
    assert likeness(first[low], PICTURE[57 * SCALE : 82 * SCALE]) > 0.85


@pytest.mark.parametrize("size", [(24, 30), (64, 64), (70, 150), (256, 40), (31, 256)])
def test_frames_of_any_shape_are_survived(size):
    picture = textured(300, 300, seed=5)
    still = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    moved = MovedPicture(picture, still)
    for rows, columns in ((slice(-4, None), slice(None)), (slice(None), slice(0, 5)), (slice(0, 3), slice(0, 3))):
        frame = still.copy()
        frame[rows, columns] = 255 - frame[rows, columns]
        assert follow(moved, frame).shape == picture.shape


def test_other_frames_than_the_still_are_refused():
    moved = MovedPicture(PICTURE, STILL)
    for frame in (STILL.astype(np.float32), STILL[:50], STILL[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            follow(moved, frame)


def test_under_an_open_mouth_all_goes_the_way_of_the_skin_around():
    down = 3
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    frame = cv2.remap(STILL, columns, rows - down * np.clip((rows - 30) / 20, 0, 1), cv2.INTER_CUBIC)
    frame[MOUTH] = STILL[MOUTH[0].start + 5 : MOUTH[0].stop + 5, MOUTH[1]]  # what goes the other way
    covered = np.zeros((SIZE, SIZE), np.float32)
    covered[52:80, 26:70] = 1
    inside = (slice(60, 72), slice(36, 60), 1)
    moved = MovedPicture(PICTURE, STILL)
    bridged, read = (moved.way(frame, mask)[inside].mean() for mask in (covered, None))
    assert bridged < -0.4 * down
    assert read > 0.5 * bridged


def test_a_picture_too_small_to_follow_stays_as_it_is():
    picture = textured(60, 80, seed=2)
    moved = MovedPicture(picture, reduced(picture))
    assert np.array_equal(follow(moved, 255 - reduced(picture)), picture)
