"""Exact scores by tiles: the bits of the definition, and of the CPU."""

import numpy as np
import pytest
import torch
from kernel_bench import assert_same_bits, bench, in_every_order, shuffled, tensors
from numpy.typing import NDArray


def make_features(kind: str, count: int, dim: int) -> NDArray[np.float32]:
    rng = np.random.default_rng((count, dim))
    noise = rng.normal(size=(count, dim))
    if kind == "zeros of both signs":
        noise = np.where(noise > 0, 0.0, -0.0)
    elif kind == "subnormal":
        noise *= 1e-41
    elif kind == "huge":
        noise = np.clip(noise, -3, 3) * 1e38
    elif kind == "near each other":
        noise = 1 + 1e-6 * noise
    elif kind == "of every magnitude":
        bits = rng.integers(0, 2**32, noise.shape, dtype=np.uint32)
        bits &= ~np.uint32(0x00800000)  # neither infinite nor not-a-number
        bits[rng.random(noise.shape) < 0.1] &= 0x807FFFFF  # zero or subnormal
        return bits.view(np.float32)
    return noise.astype(np.float32)


def exact_scores(own: NDArray, others: NDArray, euclidean: bool) -> NDArray[np.float64]:
    """32 partial sums over d modulo 32, each in ascending d, folded by halves."""
    pairs = [x.astype(np.float64)[..., None, :] for x in (own, others)]
    a, b = pairs[0], np.swapaxes(pairs[1], 0, 1)
    terms = (a - b) ** 2 if euclidean else a * b
    sums = np.zeros((len(own), len(others), 32))
    for start in range(0, terms.shape[-1], 32):
        part = terms[..., start : start + 32]
        sums[..., : part.shape[-1]] += part
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    return -sums[..., 0] if euclidean else sums[..., 0]


KINDS = (
    "gaussian",
    "zeros of both signs",
    "subnormal",
    "huge",
    "near each other",
    "of every magnitude",
)


def test_features_are_scaled_exactly() -> None:
    # Every sign and exponent but the last, with the mantissas where something may change, and some.
    mantissas = [2**bit + step for bit in range(24) for step in (-1, 0, 1)]
    mantissas += np.random.default_rng(0).integers(0, 2**23, 2000).tolist()
    exponents = np.arange(2 * 256)[np.arange(2 * 256) % 256 != 255]
    bits = exponents[:, None] << 23 | np.array(sorted(set(mantissas)))[None] & 0x7FFFFF
    features = bits.astype(np.uint32).view(np.float32).ravel()
    assert np.isfinite(features).all()
    assert {0.0, np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max} <= set(features)
    wide = features.astype(np.float64)
    for found, power in zip(bench().scaled_features(features), (-896, 0, 896), strict=True):
        assert_same_bits(found, wide * 2.0**power)
        assert (found * 2.0**-power == wide).all()


@in_every_order
@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_definition(kind: str, euclidean: bool, seed: int) -> None:
    grid = shuffled(seed)
    rng = np.random.default_rng(1)
    for dim in (1, 31, 32, 33, 100):
        features = make_features(kind, 77, dim)
        for num_rows, first, num_columns in [(1, 0, 77), (5, 3, 1), (3, 76, 1), (33, 40, 31)]:
            rows = rng.integers(0, 77, num_rows)
            tile = grid.score_tile(features, rows, first, num_columns, euclidean)
            columns = features[first : first + num_columns]
            assert_same_bits(tile, exact_scores(features[rows], columns, euclidean))


@in_every_order
@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_cpu(kind: str, euclidean: bool, seed: int) -> None:
    features = make_features(kind, 41, 70)
    rows = np.arange(41)[::-1].copy()
    tile = shuffled(seed).score_tile(features, rows, 0, 41, euclidean)
    groups, list_of_group = torch.zeros(41, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    ranks, scores = torch.ops.mabm.rank_exactly(
        *tensors(features, rows), groups, list_of_group, [41], euclidean
    )
    expected = np.empty((41, 41))
    np.put_along_axis(expected, ranks.numpy(), scores.numpy(), axis=1)
    assert_same_bits(tile, expected)


@in_every_order
@pytest.mark.parametrize("shape", [(257, 33), (33, 257), (1, 1), (4, 4), (5, 3)])
def test_tiles_of_all_shapes_are_written_whole(shape: tuple[int, int], seed: int) -> None:
    features = make_features("gaussian", 257, 3)
    rows = np.random.default_rng(2).permutation(257)[: shape[0]]
    tile = shuffled(seed).score_tile(features, rows, 257 - shape[1], shape[1], False)
    assert_same_bits(tile, exact_scores(features[rows], features[257 - shape[1] :], False))


def test_scores_do_not_depend_on_which_sample_is_the_row() -> None:
    features = make_features("gaussian", 33, 100)
    for euclidean in (False, True):
        tile = shuffled(1).score_tile(features, np.arange(33), 0, 33, euclidean)
        assert_same_bits(tile, tile.T.copy())
