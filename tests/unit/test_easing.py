"""The curve by which weights and movements begin and end."""

import numpy as np
import pytest

from joyhallo.easing import smooth_step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_goes_from_nothing_to_all_and_is_level_at_both_ends(dtype):
    values = np.linspace(1, 5, 401, dtype=dtype)
    eased = smooth_step(values, 2, 4)
    assert eased.dtype == dtype
    assert np.all(eased[values <= 2] == 0)
    assert np.all(eased[values >= 4] == 1)
    assert eased[200] == pytest.approx(0.5)
    assert np.all(np.diff(eased) >= 0)
    slopes = np.gradient(eased, values)
    assert slopes[[100, 300]] == pytest.approx(0, abs=0.02)
    assert slopes.max() == pytest.approx(0.75, abs=0.01)


def test_it_falls_where_the_end_is_below_the_beginning():
    values = np.linspace(-1, 3, 41)
    assert smooth_step(values, 2, 0) == pytest.approx(1 - smooth_step(values, 0, 2))
