"""Features that are not finite are found wherever they are."""

import numpy as np
import pytest
from devices import Device

from mabm._core.arrays import check_features


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 255, 256, 4095, 4096, 4999])
def test_the_first_row_that_is_not_finite_is_named(device: Device, row: int, bad: float) -> None:
    features = np.zeros((5000, 3), dtype=np.float32)
    features[row, row % 3] = bad
    message = f"x must be finite in float32, got NaN or Inf in row {row}$"
    with pytest.raises(ValueError, match=message):
        check_features(device.put(features), "x")
    features[4999, :2] = np.inf, -np.inf
    later = "" if row == 4999 else " and 1 more"
    with pytest.raises(ValueError, match=f"in row {row}{later}$"):
        check_features(device.put(features), "x")


def test_the_greatest_numbers_and_no_rows_are_finite(device: Device) -> None:
    greatest = np.finfo(np.float32).max
    features = device.put(np.array([[greatest, -greatest], [1e-45, -0.0]], dtype=np.float32))
    assert check_features(features).shape == (2, 2)
    assert check_features(features[:0]).shape == (0, 2)
