"""The oracle itself, held against what the released implementations put out."""

import numpy as np
import pytest
from golden_files import GOLDEN, Golden

from mabm import reference


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_reference_reproduces_released_distances(golden: Golden) -> None:
    distance = reference.modality_jaccard(golden.features, golden.modality, **golden.options)
    np.testing.assert_allclose(distance, golden.distance, rtol=0, atol=1e-5)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_reference_reproduces_released_labels(golden: Golden) -> None:
    for eps, labels in golden.labels.items():
        found = reference.dbscan(golden.distance, eps=eps, min_samples=4)
        np.testing.assert_array_equal(found, labels)
