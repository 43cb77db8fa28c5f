"""Routes from features to labels, each run in a process of its own: seconds and peak memory.

``ROUTES`` has them by name: mabm, whole, its ranking alone and stage by stage; the rankings that a
user would take instead (``rankings.py``); and what follows those, by the dense and by the sparse
route. ``run_apart`` runs one; ``speed_page.py`` asks for all of them.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dense_route
import numpy as np
import sparse_route
import torch
from features import make_features
from measuring import timed, with_peak
from rankings import RANKINGS, Ints, Lists, group_rows, missing
from torch import Tensor

import mabm
from mabm import reference

PRESETS = {"bmil": "modality-aware", "spcl": "classic"}
K1, K2 = 30, 6
FOLLOWS = {"dense", "sparse"}
"""Routes that start from the lists of a ranking that was run before them."""
OURS = {"mabm", "ranking", "stages"}
"""Routes of the library."""
Seconds = dict[str, float]

_WARM_UP = 400  # samples with which libraries are loaded and threads started
SMALL, _SMALL_DIM = 400, 128  # on which all routes are compared with the definition


@dataclass(frozen=True)
class Inputs:
    """What a route gets: features, their modality, a preset, and lists if it follows a ranking."""

    features: Tensor
    modality: Tensor
    preset: str
    lists: Lists | None = None


@dataclass(frozen=True)
class Outcome:
    """Seconds of each step of a route, and the labels or the lists that it ends with."""

    seconds: Seconds
    labels: Ints | None = None
    lists: Lists | None = None


def by_mabm(given: Inputs) -> Outcome:
    """The library, whole."""
    options: dict[str, Any] = {"k1": K1, "k2": K2, "preset": given.preset}
    seconds, found = timed(partial(mabm.pseudo_labels, given.features, given.modality, **options))
    return Outcome({"mabm": seconds}, found.labels.numpy())


def by_ranking(given: Inputs) -> Outcome:
    """The library's ranking alone."""
    options: dict[str, Any] = {"k1": K1, "preset": given.preset}
    seconds, _ = timed(partial(mabm.rank_neighbors, given.features, given.modality, **options))
    return Outcome({"ranking": seconds})


def by_stages(given: Inputs) -> Outcome:
    """The library, stage by stage; each result is dropped where ``pseudo_labels`` drops it."""
    seconds: Seconds = {}

    def stage(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        taken, result = timed(partial(function, *arguments, **options))
        seconds[name] = seconds.get(name, 0.0) + taken
        return result

    def encoding() -> Any:
        preset = {"k1": K1, "preset": given.preset}
        ranking = stage("ranking", mabm.rank_neighbors, given.features, given.modality, **preset)
        sets = stage("neighbors", mabm.k_reciprocal_neighbors, ranking)
        rows = stage("encoding and expansion", mabm.encode_neighbors, given.features, sets)
        return stage("encoding and expansion", mabm.expand_queries, rows, ranking, k2=K2)

    graph = stage("graph", mabm.prune_distances, encoding())
    labels = stage("DBSCAN", graph.dbscan)
    return Outcome(seconds, labels.numpy())


def by_product(name: str, given: Inputs) -> Outcome:
    """A ranking of another library, alone."""
    groups = group_rows(given.modality, given.preset)
    seconds, lists = timed(RANKINGS[name], given.features, groups, K1)
    return Outcome({name: seconds}, lists=lists)


def by_dense(given: Inputs) -> Outcome:
    """What follows a ranking on dense matrices."""
    loop, distance = timed(dense_route.dense_jaccard, given.features, given.lists, K1, K2)
    dbscan, labels = timed(dense_route.cluster, distance)
    return Outcome({"loop over rows": loop, "dense DBSCAN": dbscan}, labels)


def by_sparse(given: Inputs) -> Outcome:
    """What follows a ranking on sparse matrices."""
    encode, encoding = timed(sparse_route.sparse_encoding, given.features, given.lists, K1, K2)
    prune, distance = timed(sparse_route.sparse_jaccard, encoding)
    dbscan, labels = timed(sparse_route.cluster, distance)
    return Outcome(
        {"sparse encoding": encode, "sparse distances": prune, "sparse DBSCAN": dbscan}, labels
    )


Route = Callable[[Inputs], Outcome]
ROUTES: dict[str, Route] = {
    "mabm": by_mabm,
    "ranking": by_ranking,
    **{name: partial(by_product, name) for name in RANKINGS},
    "dense": by_dense,
    "sparse": by_sparse,
    "stages": by_stages,
}


def prepare(folder: Path, kind: str, samples: int, dim: int) -> None:
    """Draws the features that routes read from this folder."""
    features, modality = make_features(samples, dim, kind=kind)
    np.save(folder / "features.npy", features.numpy())
    np.save(folder / "modality.npy", modality.numpy())


def run_here(route: str, folder: Path, preset: str, threads: int) -> dict[str, Any]:
    """Runs one route in this process: its seconds, its peak memory and what mabm logged.

    Labels and lists go to files in the folder, which ``labels_of`` and later routes read.
    """
    torch.set_num_threads(threads)
    ROUTES[route](_warm_up(preset))
    features = torch.from_numpy(np.load(folder / "features.npy"))
    modality = torch.from_numpy(np.load(folder / "modality.npy"))
    lists = _load_lists(folder) if route in FOLLOWS else None
    given = Inputs(features, modality, preset, lists)
    with _log_of_ranking() as said:
        peak, outcome = with_peak(ROUTES[route], given)
    if outcome.labels is not None:
        np.save(folder / f"labels_{route}.npy", outcome.labels)
    if outcome.lists is not None:
        _save_lists(folder, outcome.lists)
    return {"seconds": outcome.seconds, "peak": peak, "log": said}


def run_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of this module in a fresh process, in which libraries are loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "scipy.sparse", "sklearn.cluster", "faiss"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            what = " ".join([function.__name__, *map(str, arguments)])
            raise RuntimeError(f"the process of {what} died; was memory short?") from error


def labels_of(folder: Path, route: str) -> Ints:
    """Labels that a route has left in the folder."""
    labels: Ints = np.load(folder / f"labels_{route}.npy")
    return labels


def summary_of(labels: Ints, modality: Ints) -> dict[str, int]:
    """Numbers of clusters, of those that span the modalities, and of samples in none."""
    found = mabm.PseudoLabels(labels, modality)
    return {
        "clusters": found.num_clusters,
        "spanning": int(found.num_spanning or 0),
        "noise": found.num_noise,
    }


def check_equality(kind: str, preset: str, threads: int) -> None:
    """Compares every route with the definition in float64, on a small input.

    Distances of mabm agree to 1e-6 and those of the dense and the sparse route to 1e-5, labels are
    equal, and the inner products that a ranking finds are the greatest ones, to 1e-5.
    """
    torch.set_num_threads(threads)
    features, modality = make_features(SMALL, _SMALL_DIM, kind=kind)
    expected = reference.modality_jaccard(features, modality, k1=K1, k2=K2, preset=preset)
    labels = reference.dbscan(expected, eps=dense_route.EPS, min_samples=dense_route.MIN_SAMPLES)
    found = mabm.modality_jaccard(features, modality, k1=K1, k2=K2, preset=preset)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    lists = RANKINGS["torch"](features.double(), group_rows(modality, preset), K1)
    given = Inputs(features, modality, preset, lists)
    for route in ("mabm", *FOLLOWS):
        np.testing.assert_array_equal(ROUTES[route](given).labels, labels)
    dense = dense_route.dense_jaccard(features, lists, K1, K2)
    np.testing.assert_allclose(dense, expected, rtol=0, atol=1e-5)
    sparse = sparse_route.sparse_jaccard(sparse_route.sparse_encoding(features, lists, K1, K2))
    near = np.full(expected.shape, np.inf, np.float32)
    near[np.repeat(np.arange(len(near)), np.diff(sparse.indptr)), sparse.indices] = sparse.data
    is_kept = np.isfinite(near)
    np.testing.assert_allclose(near[is_kept], expected[is_kept], rtol=0, atol=1e-5)
    assert (expected[~is_kept] > dense_route.EPS - 1e-5).all()
    for name in RANKINGS:
        if missing(name) is None:
            for (_, scores), (_, exact) in zip(ROUTES[name](given).lists, lists, strict=True):
                np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-5)


@contextmanager
def _log_of_ranking() -> Iterator[list[str]]:
    """Collects what the library's ranking logs, from its shares of rows to its warnings."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Listener()
    logger = logging.getLogger("mabm.distance.ranking")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _warm_up(preset: str) -> Inputs:
    features, modality = make_features(_WARM_UP, 64)
    lists = RANKINGS["torch"](features, group_rows(modality, preset), K1)
    return Inputs(features, modality, preset, lists)


def _save_lists(folder: Path, lists: Lists) -> None:
    ranks = {f"r{i}": ranks for i, (ranks, _) in enumerate(lists)}
    scores = {f"s{i}": scores for i, (_, scores) in enumerate(lists)}
    np.savez(folder / "lists.npz", **ranks, **scores)


def _load_lists(folder: Path) -> Lists:
    with np.load(folder / "lists.npz") as saved:
        return [(saved[f"r{i}"], saved[f"s{i}"]) for i in range(len(saved.files) // 2)]
