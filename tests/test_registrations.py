"""Every op as PyTorch sees it: opcheck, whole-graph compilation, no gradient, no segfault."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mabm

OPS = torch.ops.mabm


def samples() -> dict[str, tuple[Any, ...]]:
    """One call of each op, from one small problem."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(24, 5, generator=generator)
    groups = torch.arange(24, dtype=torch.int32) % 2
    list_of_group = torch.tensor([[0, 1], [0, 1]], dtype=torch.int32)
    rows = torch.arange(24)
    state = (
        torch.zeros(24, 2, 8),
        torch.zeros(24, 2, 8, dtype=torch.int32),
        torch.zeros(24, 2, dtype=torch.int32),
        torch.full((24, 2), -torch.inf),
    )
    collected = tuple(part.clone() for part in state)
    tile = (features @ features.T, torch.ones(24), groups, groups, list_of_group, 0)
    OPS.collect_candidates_(*tile, *collected)
    widths = [3, 3]
    bounds = torch.full((24,), 1e-4, dtype=torch.float64)
    ranks, _ = OPS.rank_exactly(features, rows, groups, list_of_group, widths, False)
    mask = OPS.reciprocal_mask(ranks)
    sets = OPS.expand_neighbors(ranks, mask, ranks, mask)
    encoding = OPS.encode_neighbors(features, *sets)
    graph = OPS.jaccard_graph(*encoding, 0.9)
    weights = torch.full((24, 6), 1 / 6, dtype=torch.float64)
    return {
        "collect_candidates_": (*tile, *state),
        "rank_candidates": (features, rows, *collected, bounds, widths, False),
        "rank_exactly": (features, rows, groups, list_of_group, widths, True),
        "reciprocal_mask": (ranks,),
        "expand_neighbors": (ranks, mask, ranks, mask),
        "encode_neighbors": (features, *sets),
        "average_encodings": (*encoding, ranks, weights),
        "jaccard_distance": (*encoding, *encoding, 24),
        "jaccard_graph": (*encoding, 0.9),
        "dbscan": (*graph, 0.6, 3),
    }


SAMPLES = samples()


def op(name: str) -> Callable[..., Any]:
    return getattr(OPS, name).default


def test_there_is_a_sample_of_every_op() -> None:
    registered = {
        name.removeprefix("mabm::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("mabm::")
    }
    assert registered == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(op(name), SAMPLES[name])


def test_opcheck_without_expansion() -> None:
    ranks, mask, *_ = SAMPLES["expand_neighbors"]
    torch.library.opcheck(op("expand_neighbors"), (ranks, mask, None, None))


@pytest.mark.parametrize("name", SAMPLES)
def test_compiles_whole(name: str) -> None:
    call = op(name)
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True)

    def run(function: Callable[..., Any]) -> list[Any]:
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in SAMPLES[name]]
        result = function(*args)
        results = result if isinstance(result, tuple) else (result,)
        return [*results, *args]  # the arguments too: an op may write to them

    for found, expected in zip(run(compiled), run(call), strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["rank_exactly", "rank_candidates"])
def test_a_gradient_is_refused_by_name(name: str) -> None:
    features, *rest = SAMPLES[name]
    scores = op(name)(features.clone().requires_grad_(), *rest)[1]
    with pytest.raises(RuntimeError, match=f"mabm::{name} has no gradient"):
        scores.sum().backward()


def test_labels_and_encodings_are_integers_without_gradient() -> None:
    features, *rest = SAMPLES["encode_neighbors"]
    results = op("encode_neighbors")(features.clone().requires_grad_(), *rest)
    assert not any(result.requires_grad for result in results)


def test_public_functions_give_no_gradient_and_take_features_that_have_one() -> None:
    features = torch.randn(20, 4, requires_grad=True)
    distance = mabm.modality_jaccard(features)
    assert not distance.requires_grad


@pytest.mark.parametrize(
    ("name", "position", "replacement", "message"),
    [
        ("encode_neighbors", 0, torch.zeros(24, 5, dtype=torch.float64), "features must be Float"),
        ("encode_neighbors", 0, torch.zeros(23, 5), "features must have size 24 on axis 0, got 23"),
        ("encode_neighbors", 0, torch.zeros(5, 24).T, "features must be contiguous"),
        (
            "encode_neighbors",
            1,
            torch.zeros(0, dtype=torch.int64),
            "indptr must have one entry more",
        ),
        ("encode_neighbors", 1, torch.tensor([0, 9999]), "indptr must run from 0 to"),
        ("dbscan", 2, torch.zeros(3), "distances must have size"),
        ("reciprocal_mask", 0, torch.zeros(4, dtype=torch.int64), "ranks must have 2 dimensions"),
    ],
)
def test_ops_check_what_they_are_given(
    name: str, position: int, replacement: torch.Tensor, message: str
) -> None:
    args = list(SAMPLES[name])
    args[position] = replacement
    with pytest.raises(RuntimeError, match=message):
        op(name)(*args)
