"""The proof behind exact ranking: the error bound holds, and the certificate decides by it."""

import math

import numpy as np
import pytest
import torch
from cases import KINDS, make_features

import mabm
from mabm._candidates import ListLayout, propose_candidates


def one_list(count: int, width: int) -> ListLayout:
    groups = torch.zeros(count, dtype=torch.int32)
    return ListLayout(groups, torch.zeros(1, 1, dtype=torch.int32), [width])


def close_rows(dim: int, spread: float) -> np.ndarray:
    """Thirty rows about a long common vector: what centring is for, and what tempts it most."""
    rng = np.random.default_rng(dim)
    return (1 + spread * rng.normal(size=(30, dim))).astype(np.float32)


CLOSE = {
    f"D={d} spread={s:g}": close_rows(d, s) for d in (1, 300, 2048, 20_000) for s in (1e-4, 1e-6)
}
SPREAD_OUT = {kind: make_features(kind, np.arange(30) % 2, seed=8) for kind in KINDS}
HALF_ULP = {"one step of float32": 1 + 2.0**-22 * np.sign(close_rows(2048, 1.0) - 1)}


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize(
    "features", (inputs := CLOSE | SPREAD_OUT | HALF_ULP).values(), ids=inputs.keys()
)
def test_no_score_is_further_off_than_its_bound(features: np.ndarray, euclidean: bool) -> None:
    x = torch.from_numpy(features.astype(np.float32))
    count = len(x)
    (rows, found), *more = propose_candidates(x, one_list(count, count), euclidean)
    assert not more
    assert rows.tolist() == list(range(count))
    assert found.counts.tolist() == [[count]] * count  # nothing dropped: every score is there
    wide = x.numpy().astype(np.float64)
    for i in range(count):
        order = np.argsort(found.indices[i, 0, :count].numpy())
        scores = found.scores[i, 0, :count].numpy()[order].astype(np.float64)
        if euclidean:
            exact = [-math.fsum((wide[i] - other) ** 2) / 2 for other in wide]
        else:
            exact = [math.fsum(wide[i] * other) for other in wide]
        errors = scores - np.array(exact)  # up to a constant of the row
        assert errors.max() - errors.min() <= 2 * float(found.error_bounds[i])


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
def test_rows_that_float64_can_hardly_tell_apart(preset: str) -> None:
    # 1 + 2^-22 * signs: the inner products differ in the last bits of their float64 sums.
    rng = np.random.default_rng(0)
    signs = np.stack([rng.permutation(np.repeat([1, -1], 1024)) for _ in range(300)])
    x = torch.from_numpy((1 + 2.0**-22 * signs).astype(np.float32))
    ranking = mabm.rank_neighbors(x, torch.zeros(300, dtype=torch.int64), k1=5, preset=preset)
    layout = one_list(300, 5)
    exactly, _ = torch.ops.mabm.rank_exactly(
        x, torch.arange(300), layout.groups, layout.list_of_group, [5], preset == "spcl"
    )
    assert torch.equal(ranking.ranks, exactly)


def certify(scores: list[float], threshold: float, bound: float, exact: list[float]) -> object:
    """Ranks the two best of made-up candidates of a row [1]: exact scores are features."""
    features = torch.tensor([[1.0], *([value] for value in exact)])
    count = len(scores)
    ranks, _, certified = torch.ops.mabm.rank_candidates(
        features,
        torch.tensor([0]),
        torch.tensor([[scores]]),
        torch.arange(1, count + 1, dtype=torch.int32).view(1, 1, -1),
        torch.tensor([[count]], dtype=torch.int32),
        torch.tensor([[threshold]]),
        torch.tensor([bound], dtype=torch.float64),
        [2],
        False,
    )
    return ranks[0].tolist() if certified else None


def test_the_certificate_at_its_edges() -> None:
    scores, exact = [9.0, 8.0, 7.0, 6.0], [8.0, 7.0, 9.0, 10.0]
    # The second best is 8: within 2B = 1 of it stand 9, 8 and 7, all rescored, and 6 is out.
    assert certify(scores, threshold=5.0, bound=0.5, exact=exact) == [3, 1]
    # What was dropped may have scored 7 = 8 - 2B: it could belong to the list.
    assert certify(scores, threshold=7.0, bound=0.5, exact=exact) is None
    assert certify(scores, threshold=6.99, bound=0.5, exact=exact) == [3, 1]
    # With a wider bound 6 is rescored too, and wins.
    assert certify(scores, threshold=5.0, bound=1.0, exact=exact) == [4, 3]
    assert certify(scores, threshold=6.0, bound=1.0, exact=exact) is None
    # Nothing was dropped: the list is complete whatever the bound, unless there is none.
    assert certify(scores, threshold=-math.inf, bound=100.0, exact=exact) == [4, 3]
    assert certify(scores, threshold=-math.inf, bound=math.inf, exact=exact) is None
