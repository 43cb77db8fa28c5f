"""Re-ranking against the reference, and the rows it computes."""

import numpy as np
import pytest
import torch
from cases import GENERAL_POSITION, Case, cases
from hypothesis import given
from hypothesis import strategies as st

import mabm
from mabm import reference, reranking


@given(cases(GENERAL_POSITION), st.floats(0, 1), st.floats(0, 1))
def test_matches_the_reference(case: Case, share: float, lambda_value: float) -> None:
    split = round(share * len(case.features))
    arguments = (
        case.features[:split],
        case.features[split:],
        case.modality[:split],
        case.modality[split:],
    )
    found = mabm.rerank(*arguments, lambda_value=lambda_value, **case.options)
    expected = reference.rerank(*arguments, lambda_value=lambda_value, **case.options)
    assert found.shape == (split, len(case.features) - split)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_ends_of_lambda_are_the_two_distances() -> None:
    query, gallery = torch.randn(7, 5), torch.randn(30, 5)
    jaccard = mabm.modality_jaccard(torch.cat([query, gallery]), k1=20)
    assert torch.equal(mabm.rerank(query, gallery, lambda_value=0), jaccard[:7, 7:])
    squared = torch.cdist(query, torch.cat([query, gallery])).square()
    expected = (squared / squared.amax(dim=1, keepdim=True))[:, 7:]
    torch.testing.assert_close(
        mabm.rerank(query, gallery, lambda_value=1), expected, rtol=0, atol=1e-5
    )


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float32)
    whole = mabm.rerank(query, gallery)
    monkeypatch.setattr(reranking, "_ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(mabm.rerank(query, gallery), whole)


def test_all_duplicates_are_at_distance_zero() -> None:
    found = mabm.rerank(torch.ones(2, 3), torch.ones(4, 3))
    assert torch.equal(found, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gallery": torch.ones(4, 2)}, ValueError, "gallery must have 3 columns .* got 2"),
        ({"query": torch.ones(3)}, ValueError, r"query must be \(N, D\), got shape \(3,\)"),
        ({"gallery": torch.full((4, 3), torch.nan)}, ValueError, "gallery must be finite .*row 0"),
        (
            {"query_modality": torch.zeros(2, dtype=torch.int64)},
            ValueError,
            "must be given together, got no gallery_modality",
        ),
        (
            {"gallery_modality": torch.zeros(4, dtype=torch.int64)},
            ValueError,
            "must be given together, got no query_modality",
        ),
        ({"lambda_value": 1.5}, ValueError, r"lambda_value must be in \[0, 1\], got 1.5"),
        ({"lambda_value": None}, TypeError, "lambda_value must be a number, got NoneType"),
        ({"k1": 0}, ValueError, r"k1 must be in \[1, 1024\], got 0"),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {"query": torch.ones(2, 3), "gallery": torch.ones(4, 3)}
    with pytest.raises(error, match=message):
        mabm.rerank(**{**arguments, **change})
