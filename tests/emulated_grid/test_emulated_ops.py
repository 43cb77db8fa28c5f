"""The library with its GPU ops in place of the CPU's, on the emulated grid: the same bits."""

import logging

import grid_build
import numpy as np
import pytest
import torch
from cases import KINDS, Case, cases, make_features
from golden_files import GOLDEN, Golden
from grid_ops import on_the_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from some_rows import check_some_rows

import mabm
from mabm._core.work import QUIET
from mabm.distance import candidates, ranking
from mabm.distance.list_layout import ListLayout
from mabm.distance.sides import Sides

ONLY_ON_CPUS = {"screen_pairs_", "cut_candidates_"}


def check_same_results(
    features: np.ndarray, modality: np.ndarray, options: dict[str, object]
) -> None:
    """Compares every result of the pipeline with the CPU's, to the bit."""

    def results() -> dict[str, np.ndarray]:
        encoding = mabm.encode_samples(features, modality, **options)
        graph = mabm.jaccard_graph(features, modality, max_distance=0.8, **options)
        return {
            "indptr": encoding.indptr,
            "indices": encoding.indices,
            "weights": encoding.weights,
            "distance": mabm.jaccard_distance(encoding),
            "part": mabm.jaccard_distance(encoding, slice(0, 3), slice(1, None)),
            "graph indptr": graph.indptr,
            "graph indices": graph.indices,
            "graph distances": graph.distances,
            **{f"labels at {eps}": graph.dbscan(eps, 3) for eps in (0.0, 0.3, 0.6, 0.8)},
        }

    expected = results()
    with on_the_grid():
        found = results()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype


def check_same_parts(name: str, *args: object) -> tuple[torch.Tensor, ...]:
    """Compares an op that returns rows with the CPU's, and returns its result."""
    emulated = grid_build.load_ops()
    expected, found = getattr(torch.ops.mabm, name)(*args), getattr(emulated, name)(*args)
    assert len(found) == len(expected)
    for part, wanted in zip(found, expected, strict=True):
        assert torch.equal(part, wanted)
    return found


@pytest.mark.parametrize("shape", [(1, 1), (70, 19), (300, 130)], ids=str)
def test_what_is_measured_and_rounded_of_features(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mean = check_same_parts("measure_columns", features)[0]
    check_same_parts("measure_rows", features, mean)
    check_same_parts("halve_rows", features, mean, torch.tensor(2.0**9))
    for center in (None, mean):
        integers = [torch.full((shape[0], 192), 7, dtype=torch.int8) for _ in range(2)]
        for op, out in zip((torch.ops.mabm, grid_build.load_ops()), integers, strict=True):
            measures = op.round_rows_(features, center, out)
            assert torch.equal(measures, torch.ops.mabm.round_rows_(features, center, out.clone()))
        assert torch.equal(*integers)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_golden_files(golden: Golden) -> None:
    check_same_results(golden.features, golden.modality, golden.options)
    with on_the_grid():
        for eps, labels in golden.labels.items():
            found = mabm.pseudo_labels(golden.features, golden.modality, eps=eps, **golden.options)
            np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("num_sorts", [1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_encodings_of_about_as_many_entries_as_are_sorted_at_a_time(
    num_sorts: int, more: int
) -> None:
    generator = torch.Generator().manual_seed(more)
    count = num_sorts * grid_build.SORTED_AT_ONCE + more
    sizes = torch.full((40,), count // 40) + (torch.arange(40) < count % 40)
    rows = [torch.randperm(40, generator=generator)[:size].sort().values for size in sizes]
    encoding = mabm.Encoding.from_values(
        torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
        torch.cat(rows).to(torch.int32),
        torch.rand(count, generator=generator) + 0.1,
    )
    assert len(encoding.indices) == count
    check_same_parts("jaccard_graph", *encoding.tensors(), 0.8)
    distances = [
        op.jaccard_distance(*encoding.tensors(), *encoding.tensors(), 40)
        for op in (torch.ops.mabm, grid_build.load_ops())
    ]
    assert torch.equal(*distances)


def test_overlaps_of_the_greatest_rows_there_may_be() -> None:
    # Two rows of weights that sum to 2^31 - 1 overlap in all of it; a third one in one unit less.
    encoding = (
        torch.tensor([0, 2, 4, 6, 7]),
        torch.tensor([0, 1, 0, 1, 0, 1, 3], dtype=torch.int32),
        torch.tensor([2**30, 2**30 - 1] * 2 + [2**30, 2**30 - 2, 1], dtype=torch.int32),
    )
    near = 1 - (2**31 - 2) / (2**31 - 1)
    expected = torch.ones(4, 4)
    expected[:3, :3] = torch.tensor([[0, 0, near], [0, 0, near], [near, near, 0]])
    expected[3, 3] = 0
    for op in (torch.ops.mabm, grid_build.load_ops()):
        assert torch.equal(op.jaccard_distance(*encoding, *encoding, 4), expected)
    graph = check_same_parts("jaccard_graph", *encoding, 0.9)
    assert torch.equal(graph[2], expected[expected < 1])


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    modality = np.random.default_rng(1).integers(0, 3, size=300)
    features = make_features("ties", modality, seed=2)
    monkeypatch.setattr(candidates, "_TILE", 64)
    check_same_results(features, modality, {"k1": 9, "k2": 2})
    order = np.argsort(modality, kind="stable")  # lists that begin in later tiles
    check_same_results(features[order], modality[order], {"k1": 9, "k2": 2})


@pytest.mark.parametrize("product", ["float16", "8-bit integers"])
@pytest.mark.parametrize("kind", ["clustered", "duplicates", "norms"])
@pytest.mark.parametrize("ranges", [(slice(0, 90), slice(90, 200)), (slice(70, 199), slice(1, 9))])
def test_two_sides_ranked_among_each_other(
    kind: str,
    ranges: tuple[slice, slice],
    product: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    modality = np.random.default_rng(1).integers(0, 3, size=200)
    x = torch.from_numpy(make_features(kind, modality, seed=2))
    layout = ListLayout.of(x, torch.from_numpy(modality), mabm.PRESETS["bmil"], 9)
    monkeypatch.setattr(candidates, "_TILE", 64)
    monkeypatch.setattr(candidates, "_MOST_UNPROVEN", 1.0)

    def results(least: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        sides = Sides(ranges, least)
        return ranking.rank_lists(x, layout, False, "exact", QUIET, lambda number: None, sides)

    everything = results(None)
    # The second of each list, and nothing known of some.
    least = everything[1][:, 1::3].clone()
    least[::5] = -torch.inf
    expected = results(least)
    assert 0 < int((expected[0] >= 0).sum()) < int((everything[0] >= 0).sum())
    caplog.set_level(logging.DEBUG, logger="mabm")
    with on_the_grid(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "wants_integers", lambda x: product != "float16")
        assert all(map(torch.equal, results(None), everything))
        assert all(map(torch.equal, results(least), expected))
    assert caplog.text.count(f" by {product}") == 2


def test_autocast_changes_nothing() -> None:
    modality = np.arange(80) % 2
    features = make_features("norms", modality, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_same_results(features, modality, {"k1": 9, "k2": 2})


def test_exact_ranks_of_more_rows_and_columns_than_a_tile() -> None:
    # A tile of exact scores has 1,024 rows and 8,192 columns.
    features = torch.randint(-2, 3, (8300, 2)).float()
    groups = (torch.arange(8300) % 3).to(torch.int32)
    list_of_group = torch.arange(3, dtype=torch.int32).repeat(3, 1)
    few, many = torch.tensor([8299, 0, 77]), torch.arange(1030) % 40
    check_same_parts("rank_exactly", features, few, groups, list_of_group, [3, 9, 40], True)
    check_same_parts(
        "rank_exactly", features[:40], many, groups[:40], list_of_group, [2, 1, 5], False
    )


@settings(max_examples=15)
@given(cases(max_size=60))
def test_random_cases(case: Case) -> None:
    check_same_results(case.features, case.modality, case.options)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 257])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_about_a_warp(kind: str, count: int) -> None:
    modality = (np.arange(count) % 7 == 0).astype(np.int64)
    features = make_features(kind, modality, seed=count)
    check_same_results(features, modality, {"k1": 13, "k2": 4})


@pytest.mark.parametrize("members", [127, 128, 129, 400])
def test_long_sets(members: int) -> None:
    # 128 members of a list are weighed at a time.
    ranks = torch.arange(400).repeat(400, 1)  # one set is long, a few are short
    mask = torch.zeros(ranks.shape, dtype=torch.bool)
    mask[0, torch.randperm(400)[:members]] = True
    mask[1:9, :7] = True
    indptr, _ = check_same_parts("expand_neighbors", ranks, mask, None, None)
    assert int(indptr.diff().max()) == members
    # And one that becomes long: 90 members, and a neighbor whose half set adds the others.
    mask[0] = torch.arange(400) < 90
    half_mask = torch.zeros(ranks.shape, dtype=torch.bool)
    half_mask[0] = torch.arange(400) < members
    indptr, _ = check_same_parts("expand_neighbors", ranks, mask, ranks, half_mask)
    assert int(indptr.diff().max()) == (members if members < 135 else 90)  # 90 are over 2/3


@pytest.mark.parametrize("members", [1535, 1536, 1537, 1700])
def test_averages_about_the_size_of_a_table(members: int) -> None:
    generator = torch.Generator().manual_seed(members)
    sizes = torch.ones(1700, dtype=torch.int64)
    sizes[3:5] = torch.tensor([members, members // 2])
    rows = [torch.randperm(1700, generator=generator)[:size].sort().values for size in sizes]
    encoding = mabm.Encoding.from_values(
        torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
        torch.cat(rows).to(torch.int32),
        torch.rand(int(sizes.sum()), generator=generator) + 0.1,
    )
    neighbors = torch.stack([torch.arange(1700), torch.arange(1700).roll(1)], dim=1)
    weights = torch.full((1700, 2), 0.5, dtype=torch.float64)
    parts = check_same_parts("average_encodings", *encoding.tensors(), neighbors, weights)
    assert int(parts[0].diff().max()) >= members


@settings(max_examples=15)
@given(cases(max_size=60), st.floats(0, 1), st.sampled_from((0.0, 0.3, 0.6, 0.9)))
def test_ops_of_parts_of_the_samples(case: Case, share: float, max_distance: float) -> None:
    encoding = mabm.encode_samples(case.features, case.modality, **case.options)
    count = len(case.features)
    cut = int(share * count)

    def part(first: int, last: int) -> tuple[torch.Tensor, ...]:
        indptr, indices, weights = encoding.tensors()
        inside = slice(int(indptr[first]), int(indptr[last]))
        return indptr[first : last + 1] - indptr[first], indices[inside], weights[inside]

    for rows, columns in [((0, cut), (cut, count)), ((0, count), (0, cut))]:
        check_same_parts("near_rows", *part(*rows), *part(*columns), count, max_distance)
    indptr, indices, weights = part(cut, count)
    products = weights.to(torch.float64) / 2**29
    check_same_parts("weigh_products", indptr, indices, products, 2**30)


def test_joined_samples() -> None:
    generator = torch.Generator().manual_seed(1)
    for count, num_pairs in [(0, 0), (1, 0), (300, 0), (300, 200), (3000, 2500), (3000, 9000)]:
        pairs = torch.randint(0, max(count, 1), (2, num_pairs), generator=generator).int()
        found = [torch.arange(count, dtype=torch.int32) for _ in range(2)]
        for op, parents in zip((torch.ops.mabm, grid_build.load_ops()), found, strict=True):
            op.join_samples_(parents, *pairs)
        assert torch.equal(*found)


def test_there_is_an_op_for_each_of_the_cpu() -> None:
    names = {
        name.split("::")[1]: name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("mabm::")
    }
    emulated = grid_build.load_ops()
    for name in names.keys() - ONLY_ON_CPUS:
        assert hasattr(emulated, name)
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mabm_emulated::{name}", "CPU")


def test_no_samples() -> None:
    with on_the_grid():
        found = mabm.pseudo_labels(np.zeros((0, 3), dtype=np.float32))
    assert len(found.labels) == 0


@settings(max_examples=10)
@given(cases(max_size=40))
def test_some_rows(case: Case) -> None:
    check_some_rows(case, grid_build.load_ops())
