"""The public functions in real processes, joined by gloo, against one process: the same bits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from cases import make_features
from golden_files import GOLDEN
from real_processes import run

import mabm
import mabm.distributed

RADII = (0.0, 0.3, 0.6)


class Components:
    """A clusterer of another kind: what a pair joins is a cluster, numbered from the last on."""

    max_distance = 0.4

    def __call__(self, graph: Any) -> Any:
        labels = graph.dbscan(0.4, 1)
        return np.where(labels < 0, -1, 1000 - labels)


class WithCores(Components):
    """The same, which tells core samples."""

    def core_samples(self, graph: Any) -> Any:
        return np.diff(graph.indptr) > 1


@dataclass(frozen=True)
class Case:
    """Features (N, D), modality and options of a call, and where the rows of processes begin."""

    features: Any
    modality: Any
    bounds: list[int]
    options: dict[str, Any]

    def rows(self, rank: int) -> tuple[Any, Any]:
        part = slice(self.bounds[rank], self.bounds[rank + 1])
        return self.features[part], None if self.modality is None else self.modality[part]

    @property
    def options_of_ranking(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name != "k2"}


def make_case(kind: str, count: int, bounds: list[int], seed: int, **options: Any) -> Case:
    modality = np.random.default_rng(seed).integers(0, 2, size=count)
    features = make_features(kind, modality, seed)
    return Case(features, modality, bounds, options or {"k1": 10, "k2": 3})


def in_words(case: Case) -> Case:
    words = [("visible", "infrared")[number] for number in case.modality]
    return replace(case, modality=words)


def by_modality(case: Case) -> Case:
    """The rows of one modality after those of the other."""
    order = np.argsort(case.modality, kind="stable")
    return replace(case, features=case.features[order], modality=case.modality[order])


def results(functions: Any, dbscan: Callable[..., Any], case: Case, rows: Any) -> dict[str, Any]:
    """What the functions of a module return for rows: features and modality."""
    ranking = functions.rank_neighbors(*rows, **case.options_of_ranking)
    graph = functions.jaccard_graph(*rows, **case.options)
    found = functions.pseudo_labels(*rows, **case.options)
    return {
        "ranks": ranking.ranks,
        "scores": ranking.scores,
        "sizes of rows": np.diff(graph.indptr),
        "indices": graph.indices,
        "distances": graph.distances,
        **{f"labels at {eps}": dbscan(graph, eps=eps) for eps in RADII},
        "labels": found.labels,
        "core": found.core,
        "modality": found.modality,
        "of all": statistics(found),
    }


def statistics(found: Any) -> list[Any]:
    return [
        *(found.num_clusters, found.num_noise, found.num_spanning, found.modality_names),
        *(found.size_histogram, found.summary()),
    ]


def in_one_process(case: Case) -> dict[str, Any]:
    rows = case.features, case.modality
    return results(mabm, mabm.NeighborGraph.dbscan, case, rows)


def all_calls(rank: int, cases: list[Case]) -> list[dict[str, Any]]:
    functions = mabm.distributed
    return [results(functions, functions.dbscan, case, case.rows(rank)) for case in cases]


def values(size: int, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    ended = run(size, act, *arguments)
    assert [each.code for each in ended] == [0] * size
    return [each.value for each in ended]


def check_same(parts: list[dict[str, Any]], expected: dict[str, Any], name: str) -> None:
    for key, value in expected.items():
        found = [part[key] for part in parts]
        if key == "of all":
            assert found == [value] * len(parts), name
        elif value is None:
            assert found == [None] * len(parts), f"{name}: {key}"
        else:
            np.testing.assert_array_equal(np.concatenate(found), value, err_msg=f"{name}: {key}")
            assert all(part.dtype == value.dtype for part in found), f"{name}: {key}"


SPLITS = {
    2: [[0, 40, 90], [0, 90, 90], [0, 0, 90]],
    3: [[0, 30, 31, 90], [0, 0, 45, 90], [0, 90, 90, 90]],
    4: [[0, 20, 40, 60, 90], [0, 1, 1, 2, 90]],
}


@pytest.mark.slow
@pytest.mark.parametrize("size", SPLITS)
def test_every_function_gives_the_bits_of_one_process(size: int) -> None:
    cases = [
        make_case(kind, 90, bounds, seed)
        for seed, kind in enumerate(("clustered", "duplicates", "ties", "norms"))
        for bounds in SPLITS[size]
    ]
    bounds = SPLITS[size][0]
    cases += [
        in_words(make_case("clustered", 90, bounds, 7)),
        replace(make_case("clustered", 90, bounds, 8), modality=None),
        make_case("clustered", 90, bounds, 9, preset="ca_jaccard"),
        make_case("clustered", 90, bounds, 10, k1=10, k2=3, preset="modal_invariant"),
        # Rows of one modality on a process, more processes than rows, and no rows at all.
        in_words(by_modality(make_case("clustered", 90, bounds, 13))),
        make_case("gaussian", 1, [0, *[1] * size], 11, k1=2, k2=1),
        make_case("gaussian", 0, [0] * (size + 1), 12, k1=2, k2=1),
        replace(
            make_case("gaussian", 0, [0] * (size + 1), 12, k1=2, k2=1),
            modality=np.zeros(0, dtype=bool),
        ),
    ]
    for golden in GOLDEN[:: 5 - size]:
        count = len(golden.features)
        bounds = [0, *[count // 3] * (size - 1), count]
        cases.append(Case(golden.features, golden.modality, bounds, dict(golden.options)))
    found = values(size, all_calls, cases)
    for number, case in enumerate(cases):
        parts = [of_rank[number] for of_rank in found]
        check_same(parts, in_one_process(case), f"case {number}")


def with_clusterers(rank: int, case: Case) -> list[Any]:
    features, modality = case.rows(rank)
    found = [
        mabm.distributed.pseudo_labels(features, modality, clusterer=clusterer, k1=10, k2=3)
        for clusterer in (Components(), WithCores(), mabm.DBSCAN(0.4, 2))
    ]
    return [(each.labels, each.core, statistics(each)) for each in found]


@pytest.mark.slow
def test_any_clusterer_gives_the_labels_of_one_process() -> None:
    case = make_case("clustered", 90, [0, 30, 30, 90], 3)
    found = values(3, with_clusterers, case)
    for number, clusterer in enumerate((Components(), WithCores(), mabm.DBSCAN(0.4, 2))):
        whole = mabm.pseudo_labels(case.features, case.modality, clusterer=clusterer, k1=10, k2=3)
        parts = [of_rank[number] for of_rank in found]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole.labels)
        if whole.core is None:
            assert all(part[1] is None for part in parts)
        else:
            np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), whole.core)
        assert all(part[2] == statistics(whole) for part in parts)


def in_a_part_of_the_group(rank: int, features: Any) -> Any:
    """Processes 0 and 2 work together; process 1 does something else."""
    pair = dist.new_group([0, 2])
    if rank == 1:
        return None
    rows = features[:30] if rank == 0 else features[30:]
    found = mabm.distributed.pseudo_labels(torch.from_numpy(rows), group=pair, k1=10, k2=3)
    return found.labels.numpy()


@pytest.mark.slow
def test_a_group_of_some_processes() -> None:
    features = make_case("clustered", 90, [], 5).features
    first, none, last = values(3, in_a_part_of_the_group, features)
    assert none is None
    labels = mabm.pseudo_labels(features, k1=10, k2=3).labels
    np.testing.assert_array_equal(np.concatenate([first, last]), labels)


def with_mistakes(rank: int, features: Any) -> list[str]:
    """The messages of calls that must fail on every process, and then of one that must not."""
    numbers = np.arange(len(features)) % 2
    names = np.array(["visible", "infrared"])[numbers]
    search = mabm.FaissSearch()
    graph = mabm.distributed.jaccard_graph(features, k1=4, k2=1)
    other = mabm.distributed.jaccard_graph(features[: len(features) - rank], k1=4, k2=1)
    call, cluster = mabm.distributed.pseudo_labels, mabm.distributed.dbscan
    attempts: list[Callable[[], Any]] = [
        lambda: call(features, names if rank else numbers),
        lambda: call(features, None if rank else numbers),
        lambda: call(features, np.arange(len(features)) + 100 * rank, k1=30),
        lambda: call(features, precision=search),
        lambda: call(features, eps=0.3 + 0.1 * rank),
        lambda: cluster(graph, eps=0.3, min_samples=2 + rank),
        lambda: cluster(other if rank else graph, eps=0.3),
        lambda: cluster(graph.in_tensors() if rank else "graph"),
        lambda: graph.dbscan(0.3, 4),
        lambda: mabm.k_reciprocal_neighbors(mabm.distributed.rank_neighbors(features, k1=4)),
    ]
    messages = []
    for attempt in attempts:
        try:
            attempt()
            messages.append("no error")
        except (TypeError, ValueError) as error:
            messages.append(f"{type(error).__name__}: {error}")
    return [*messages, call(features, numbers, k1=4, k2=1).summary()]


@pytest.mark.slow
def test_mistakes_are_named_on_every_process() -> None:
    features = make_case("clustered", 20, [], 6).features
    first, second = values(2, with_mistakes, features)
    assert first[-1] == second[-1]
    expected = (
        "TypeError: modality must contain words on every process or integers on every process",
        "ValueError: modality must be the same on every process",
        "ValueError: k1 must be in [40, 1024]",
        "ValueError: precision must be",
        "ValueError: clusterer must be the same on every process",
        "ValueError: min_samples must be the same on every process",
        "ValueError: graph",
        "TypeError: ",
        "ValueError: graph must have the rows of all 40 samples",
        "ValueError: ranking must have a row for each of its 40 samples",
    )
    for own, other, words_ in zip(first, second, expected, strict=False):
        for message in (own, other):
            start = message.replace("process 0: ", "").replace("process 1: ", "")
            assert start.startswith(words_)
