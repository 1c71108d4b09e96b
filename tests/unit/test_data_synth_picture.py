"""How a still picture is stretched, what shows between its lips, and its light."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from joyhallo.conditioning import lips
from joyhallo.conditioning.similarity import Similarity
from joyhallo.data.synthesis import styles
from joyhallo.data.synthesis.lighting import relight
from joyhallo.data.synthesis.raster import Window, blend_into, cut_patches, draw
from joyhallo.data.synthesis.styles import stylise


class TestDrawing:
    square = np.array([[[2, 2], [20, 2], [2, 20]], [[20, 2], [20, 20], [2, 20]]], np.float64)

    def test_a_moved_square_shows_its_picture_at_the_new_place(self):
        image = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        drawn = draw(image, cut_patches(self.square + np.array([10, 5]), self.square), Window(0, 0, 40, 40))
        assert np.abs(drawn.pixels[9:24, 14:29].astype(int) - image[4:19, 4:19]).max() <= 1
        assert drawn.is_covered[10, 15]
        assert not drawn.is_covered[35, 35]
        assert np.array_equal(drawn.pixels[30:, :10], image[30:, :10])

    def test_finer_samples_average_to_the_same_pixels(self):
        image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8), (0, 0), 3)
        patches = cut_patches(self.square * 1.2, self.square)
        once = draw(image, patches, Window(0, 0, 40, 40)).pixels
        frame = image.copy()
        window = Window(3, 3, 15, 15, factor=3)
        blend_into(frame, draw(image, patches, window).pixels, np.ones((15, 15), np.float32), window)
        assert np.abs(frame[4:16, 4:16].astype(int) - once[4:16, 4:16]).max() <= 3

    def test_a_triangle_turned_over_lies_under_the_others(self):
        image = np.zeros((40, 40, 3), np.uint8)
        image[:, :20], image[:, 20:] = 200, 50
        bright = self.square * 0.8 + [1, 0]
        turned = (self.square * 0.8 + [20, 0])[:, ::-1]  # from the dark half
        targets = np.concatenate([bright + np.array([0, 10]), turned[:, ::-1] + [-19, 10]])
        drawn = draw(image, cut_patches(targets, np.concatenate([bright, turned])), Window(0, 0, 40, 40))
        assert drawn.pixels[20, 8, 0] == 200


class TestLips:
    def test_texture_of_parted_lips_begins_where_the_teeth_end(self):
        """Red lips 2 cm thick in all with teeth between them; the inner points lie 0.2 cm upon the teeth."""
        px_per_cm, across = 12.0, np.linspace(-2.2, 2.2, 9)
        points = np.full((478, 3), 64.0)
        for column, x in enumerate(across):
            for columns, sign in ((lips._UPPER_COLUMNS, -1), (lips._LOWER_COLUMNS, 1)):
                for number, y in zip(columns[column], (0.3, 0.6, 0.9, 1.2), strict=True):
                    points[number, :2] = [64 + px_per_cm * x, 64 + sign * px_per_cm * y]
        points[78, :2], points[308, :2] = [64 - 2.6 * px_per_cm, 64], [64 + 2.6 * px_per_cm, 64]
        image = np.full((128, 128, 3), (170, 70, 80), np.uint8)
        image[58:70] = (235, 225, 215)  # the teeth reach half a centimetre up and down
        moved = lips.without_teeth(image, points, Similarity(px_per_cm, np.eye(3), np.zeros(3)))
        for columns, sign in ((lips._UPPER_COLUMNS, -1), (lips._LOWER_COLUMNS, 1)):
            lines = np.array(columns).T
            away = [(moved[line, 1] - 64) * sign / px_per_cm for line in lines]
            assert away[0].min() > 0.5
            assert all((further > nearer).all() for nearer, further in pairwise(away))  # nothing folds over
            assert np.allclose(away[3], 1.2)

    def test_lips_without_teeth_keep_nearly_all_of_their_texture(self):
        points = np.random.default_rng(0).uniform(30, 90, (478, 3))
        image = np.full((128, 128, 3), (150, 80, 80), np.uint8)
        moved = lips.without_teeth(image, points, Similarity(10.0, np.eye(3), np.zeros(3)))
        assert np.abs(moved - points[:, :2]).max() < 2


class TestLight:
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)

    def test_light_changes_the_picture_a_little(self):
        lit = [relight(self.picture, np.random.default_rng(seed)) for seed in range(20)]
        means = [abs(float(image.mean()) - float(self.picture.mean())) for image in lit]
        assert max(means) > 4
        assert np.median(means) < 40
        assert all(image.shape == self.picture.shape and image.dtype == np.uint8 for image in lit)

    def test_most_pictures_are_photographs(self):
        changed = [not np.array_equal(stylise(self.picture, seed), self.picture) for seed in range(200)]
        assert 24 <= sum(changed) <= 60
        assert np.array_equal(stylise(self.picture, 7), stylise(self.picture, 7))

    @pytest.mark.parametrize("style", sorted(set(styles._STYLES), key=str))
    def test_a_style_keeps_the_dark_dark_and_what_is_far_from_a_change_as_it_is(self, style):
        shut = np.full((96, 96, 3), (200, 170, 150), np.uint8)
        parted = shut.copy()
        parted[60:76, 20:76] = (70, 40, 40)
        before, after = (style(picture, np.random.default_rng(3)) for picture in (shut, parted))
        assert after.shape == parted.shape
        assert after.dtype == np.uint8
        assert np.array_equal(before[:30], after[:30])
        assert after[64:72, 24:72].mean() < after[10:30, 20:76].mean() - 15
