"""What pictures share: counts of pairs against brute force, and how they are drawn."""

import itertools

import numpy as np
import pytest

from mabm.report.plots import draw_spread, new_figure, pair_histogram, styled


def test_histogram_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    count = 300  # more than one block of rows
    distance = np.sqrt(rng.random((count, count), dtype=np.float32))
    distance = np.maximum(distance, distance.T)
    distance[5, 7] = distance[7, 5] = 1
    distance[5, 8] = distance[8, 5] = 0
    identity, modality = rng.integers(0, 9, count), rng.integers(0, 2, count)
    histogram = pair_histogram(distance, identity, modality, eps=0.6)
    rows, columns = np.triu_indices(count, 1)
    values = distance[rows, columns]
    for across, same in itertools.product((0, 1), (0, 1)):
        kind = (modality[rows] != modality[columns]) == across
        kind &= (identity[rows] == identity[columns]) == same
        # Values on an inner edge may fall to either side in NumPy's own arithmetic.
        expected = np.histogram(values[kind], bins=len(histogram.edges) - 1, range=(0, 1))[0]
        assert np.abs(histogram.counts[across, same] - expected).sum() <= 2
        assert histogram.num_near[across, same] == (values[kind] <= np.float32(0.6)).sum()
    assert histogram.counts.sum() == count * (count - 1) // 2
    with pytest.raises(ValueError, match="distance and identity must have shapes"):
        pair_histogram(distance, identity[:5], modality, eps=0.6)
    unknown = pair_histogram(distance, None, modality, eps=0.6)
    assert np.array_equal(unknown.counts[:, 0], histogram.counts.sum(axis=1))
    assert np.array_equal(unknown.num_near[:, 0], histogram.num_near.sum(axis=1))
    assert not unknown.counts[:, 1].any()
    assert histogram.has_identity
    assert not unknown.has_identity


def test_spread_tells_its_numbers() -> None:
    distance = np.array([[0, 0.2, 0.9], [0.2, 0, 0.5], [0.9, 0.5, 0]], dtype=np.float32)
    modality = np.array([0, 1, 1])
    for identity, across, words in (
        (np.array([4, 4, 5]), True, "across modalities: J ≤ 0.5 for 100.0% of same-identity pairs"),
        (np.array([4, 4, 5]), False, "within a modality: J ≤ 0.5 for 0.0% of same-identity pairs"),
        (None, True, "across modalities: J ≤ 0.5 for 50.0% of pairs"),
    ):
        with styled():
            axes = new_figure(4, 3).subplots()
            draw_spread(axes, pair_histogram(distance, identity, modality, eps=0.5), across)
        assert words in [text.get_text() for text in axes.texts]
