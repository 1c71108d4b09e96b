"""Frames go back into the picture: exact outside and inside the crop, soft between."""

import numpy as np
import pytest

from joyhallo.media.paste import Crop, Paster


def picture(height=90, width=140, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_exact_outside_and_inside_soft_between():
    full, crop = picture(), Crop(top=20, left=30, height=50, width=60)
    frame = picture(50, 60, seed=1)
    pasted = Paster(full, crop, feather=0.1).paste(frame)
    outside = np.ones(full.shape[:2], bool)
    outside[20:70, 30:90] = False
    assert np.array_equal(pasted[outside], full[outside])
    assert np.array_equal(pasted[25:65, 35:85], frame[5:-5, 5:-5])
    white = Paster(np.zeros_like(full), crop, feather=0.1).paste(np.full((50, 60, 3), 255, np.uint8))
    edge = white[45, 30:36, 0].astype(int)
    assert 0 < edge[0] < 30
    assert (np.diff(edge) > 0).all()
    assert edge[-1] == 255
    assert np.array_equal(white[45, 30:90], white[45, 30:90][::-1]), "both sides fade alike"
    assert np.array_equal(white[20:70, 60], white[20:70, 60][::-1])
    assert white[20, 30, 0] <= white[20, 60, 0], "corners fade in both directions"


def test_sides_on_the_border_are_not_faded():
    full = np.zeros((80, 100, 3), np.uint8)
    pasted = Paster(full, Crop(top=0, left=40, height=40, width=60)).paste(np.full((40, 60, 3), 200, np.uint8))
    assert (pasted[0, 50:, 0] == 200).all()
    assert pasted[10, 99, 0] == 200
    assert pasted[10, 40, 0] < 200
    assert pasted[39, 70, 0] < 200
    whole = picture(80, 100, seed=2)
    assert np.array_equal(Paster(full, Crop(0, 0, 80, 100)).paste(whole), whole)


def test_frames_are_resized_to_the_crop_and_nothing_is_shared():
    full, frame = picture(), np.full((16, 32, 3), 77, np.uint8)
    before = full.copy()
    pasted = Paster(full, Crop(10, 20, 60, 70)).paste(frame)
    assert pasted.shape == full.shape
    assert (pasted[20:60, 30:80] == 77).all()
    pasted[:] = 0
    assert np.array_equal(full, before)


def test_colour_match_removes_a_cast_and_leaves_an_exact_frame_alone():
    full, crop = picture() // 2 + 40, Crop(20, 30, 50, 60)
    inside = full[20:70, 30:90]
    paster = Paster(full, crop, match_colour=True)
    assert np.array_equal(paster.paste(np.ascontiguousarray(inside)), full)
    cast = np.clip(inside * np.array([1.1, 1.0, 0.9]), 0, 255).astype(np.uint8)
    plain = Paster(full, crop).paste(cast)
    assert np.abs(plain.astype(int) - full).max() > 10
    assert np.abs(paster.paste(cast).astype(int) - full).max() <= 3


def test_a_crop_outside_the_picture_is_refused():
    for crop in (Crop(-1, 0, 10, 10), Crop(0, 0, 91, 10), Crop(0, 135, 10, 10), Crop(0, 0, 0, 5)):
        with pytest.raises(ValueError, match="inside"):
            Paster(picture(), crop)
    with pytest.raises(ValueError, match="feather"):
        Paster(picture(), Crop(0, 0, 10, 10), feather=0.6)
    with pytest.raises(ValueError, match="uint8"):
        Paster(picture(), Crop(0, 0, 10, 10)).paste(np.zeros((10, 10, 3), np.float32))
