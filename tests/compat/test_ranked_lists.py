"""Ranked lists as PPLR, GUR, SDCL, HIL and DMDL call for them, against a sort of all rows."""

import inspect

import numpy as np
import pytest
import torch
from cases import make_features
from hypothesis import given
from hypothesis import strategies as st

from mabm.compat import ranked_lists
from mabm.compat.ranked_lists import compute_ranked_list, compute_ranked_list_cm

X = torch.nn.functional.normalize(torch.randn(30, 8), dim=1)


def points(count: int, seed: int) -> np.ndarray:
    """Whole numbers, so that every product is exact and duplicates tie."""
    return np.random.default_rng(seed).integers(-3, 4, size=(count, 5)).astype(np.float32)


def sorted_rows(distance: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(distance, axis=1, kind="stable")[:, 1 : k + 1]


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 30), st.integers(0, 3))
def test_lists_leave_out_their_first(seed: int, count: int, k: int, search_option: int) -> None:
    x = points(count, seed)
    products = x @ x.T
    if search_option < 2:
        squares = np.diag(products)
        distance = squares[:, None] + squares - 2 * products
    else:
        distance = -products
    found = compute_ranked_list(torch.from_numpy(x), k=k, search_option=search_option)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int64
    assert found.shape == (count, min(k, count - 1))
    np.testing.assert_array_equal(found, sorted_rows(distance, k))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 60), st.integers(1, 30))
def test_lists_across_two_sets_leave_out_their_first(
    seed: int, count: int, others: int, k: int
) -> None:
    given_rows, ranked = points(count, seed), points(others, seed + 1)
    found = compute_ranked_list_cm(torch.from_numpy(given_rows), torch.from_numpy(ranked), k=k)
    assert found.dtype == np.int64
    assert found.shape == (count, min(k, others - 1))
    np.testing.assert_array_equal(found, sorted_rows(-given_rows @ ranked.T, k))


def test_on_unit_vectors_no_row_is_in_its_list_whatever_the_option() -> None:
    x = torch.from_numpy(make_features("flip_average", np.zeros(80, np.int64), 0))
    x = torch.nn.functional.normalize(x, dim=1)
    expected = compute_ranked_list(x)
    assert expected.shape == (80, 20)
    assert (expected != np.arange(80)[:, None]).all()
    for search_option in range(6):
        np.testing.assert_array_equal(compute_ranked_list(x, 20, search_option), expected)
    np.testing.assert_array_equal(compute_ranked_list_cm(x, x, 20, 3, False, False), expected)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compute_ranked_list_cm(X, X[:20], k=5)
    monkeypatch.setattr(ranked_lists, "_SCORES_AT_ONCE", 45)
    np.testing.assert_array_equal(compute_ranked_list_cm(X, X[:20], k=5), expected)


def test_an_agreement_score_as_those_code_bases_write_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    features_g, features_p, k = torch.randn(40, 16), torch.randn(40, 16, 3), 10
    ranked_list_g = compute_ranked_list(features_g, k=k, search_option=0, verbose=False)
    score = []
    for part in range(features_p.size(2)):
        ranked_list_p = compute_ranked_list(features_p[:, :, part], k=k, search_option=0)
        shared = [
            len(np.intersect1d(*pair)) for pair in zip(ranked_list_g, ranked_list_p, strict=True)
        ]
        joined = [len(np.union1d(*pair)) for pair in zip(ranked_list_g, ranked_list_p, strict=True)]
        score.append(torch.FloatTensor(shared) / torch.FloatTensor(joined))
    assert torch.stack(score, dim=1).shape == (40, 3)
    assert capsys.readouterr().out == ""


def test_signatures_are_the_old_ones() -> None:
    later = [("k", 20), ("search_option", 3), ("fp16", False), ("verbose", True)]
    for function, names in (
        (compute_ranked_list, ["features"]),
        (compute_ranked_list_cm, ["features_g", "features_p"]),
    ):
        parameters = inspect.signature(function).parameters
        assert list(parameters)[: len(names)] == names
        assert [(n, p.default) for n, p in parameters.items()][len(names) :] == later


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compute_ranked_list(X, k=0), ValueError, r"k must be in \[1, 1023\], got 0"),
        (lambda: compute_ranked_list(X, k=2.0), TypeError, "k must be an integer, got float"),
        (lambda: compute_ranked_list(X, search_option=6), ValueError, r"search_option must be in \[0, 5\]"),
        (lambda: compute_ranked_list(X[0]), ValueError, r"features must be \(N, D\)"),
        (lambda: compute_ranked_list_cm(X, X[:, :3]), ValueError, "features_p must have 8 columns as features_g has, got 3"),
        (lambda: compute_ranked_list_cm(X, X, k=1024), ValueError, r"k must be in \[1, 1023\], got 1024"),
    ],
)  # fmt: skip
def test_refused(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()
