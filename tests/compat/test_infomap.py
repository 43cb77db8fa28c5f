"""Infomap clustering under its old names: the graph it is given, and the labels made of modules."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import make_features

from mabm.compat.infomap import cluster_by_infomap, get_dist_nbr


def unit_rows(count: int, seed: int = 0, kind: str = "clustered") -> np.ndarray:
    rows = make_features(kind, np.zeros(count, np.int64), seed).astype(np.float64)
    unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def slow_links(nbrs: np.ndarray, dists: np.ndarray, min_sim: float) -> list[tuple[int, int, float]]:
    """The links of every row, in order, up to the first neighbor that is not similar enough."""
    links = []
    for i, (row, distances) in enumerate(zip(nbrs.tolist(), dists.tolist(), strict=True)):
        for j, distance in zip(row, distances, strict=True):
            if j == i:
                continue
            if distance > 1 - min_sim:
                break
            links.append((i, j, 1 - distance))
    return links


@pytest.mark.parametrize("k", [1, 7, 40])
def test_neighbors_are_those_of_greatest_inner_product(k: int) -> None:
    x = unit_rows(30)
    products = x.astype(np.float64) @ x.T.astype(np.float64)
    dists, nbrs = get_dist_nbr(features=x, k=k, knn_method="faiss-gpu")
    assert (dists.dtype, nbrs.dtype) == (np.float64, np.int32)
    assert dists.shape == nbrs.shape == (30, min(k, 30))
    np.testing.assert_array_equal(nbrs, np.argsort(-products, axis=1, kind="stable")[:, :k])
    expected = 1 - np.take_along_axis(products, nbrs.astype(np.int64), axis=1)
    np.testing.assert_allclose(dists, expected, atol=1e-6)
    assert (np.diff(dists, axis=1) >= 0).all()


@pytest.mark.needs("infomap")
@pytest.mark.parametrize(("k", "min_sim"), [(15, 0.5), (25, 0.8), (4, 0.3)])
@pytest.mark.parametrize("cluster_num", [0, 2, 8])
def test_labels_are_the_modules_that_are_large_enough(
    k: int, min_sim: float, cluster_num: int
) -> None:
    from infomap import Infomap

    dists, nbrs = get_dist_nbr(unit_rows(120, seed=3), k=k)
    network = Infomap("--two-level --directed --silent")
    for link in slow_links(nbrs, dists, min_sim):
        network.add_link(*link)
    modules = network.run().modules()
    members = [
        [row for row, module in modules.items() if module == number]
        for number in sorted(set(modules.values()))
    ]
    members += [[row] for row in range(120) if row not in modules]
    expected = np.full(120, -1)
    for label, rows in enumerate(rows for rows in members if len(rows) > cluster_num):
        expected[rows] = label
    found = cluster_by_infomap(nbrs, dists, min_sim=min_sim, cluster_num=cluster_num)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        cluster_by_infomap(torch.from_numpy(nbrs), torch.from_numpy(dists), min_sim, cluster_num),
        found,
    )


@pytest.mark.needs("infomap")
def test_weights_tell_modules_apart() -> None:
    # Two triangles, joined by links that are too weak to matter and would matter unweighted.
    nbrs = np.array(
        [[0, 1, 2, 3], [1, 0, 2, 4], [2, 0, 1, 5], [3, 4, 5, 0], [4, 3, 5, 1], [5, 3, 4, 2]]
    )
    dists = np.tile([0.0, 0.1, 0.1, 0.99], (6, 1))
    assert cluster_by_infomap(nbrs, dists, min_sim=0.0).tolist() == [0, 0, 0, 1, 1, 1]
    assert cluster_by_infomap(nbrs, dists, min_sim=0.5, cluster_num=3).tolist() == [-1] * 6


@pytest.mark.needs("infomap")
def test_without_a_link_every_sample_is_alone() -> None:
    dists, nbrs = get_dist_nbr(np.eye(5), k=3)
    assert cluster_by_infomap(nbrs, dists, min_sim=0.5).tolist() == [-1] * 5
    assert cluster_by_infomap(nbrs, dists, min_sim=0.5, cluster_num=0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.needs("infomap")
def test_nothing_global_is_touched_and_runs_agree(capfd: pytest.CaptureFixture[str]) -> None:
    dists, nbrs = get_dist_nbr(unit_rows(200, seed=5), k=20)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global state is what must not change
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the global state is what must not change
    first = cluster_by_infomap(nbrs, dists, 0.5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002 - the global state is what must not change
    torch.manual_seed(4)
    np.testing.assert_array_equal(cluster_by_infomap(nbrs, dists, 0.5), first)
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs("infomap")
def test_an_epoch_as_those_code_bases_write_it() -> None:
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(8), 12)
    features = torch.from_numpy(rng.normal(size=(8, 32))[pids] + 0.3 * rng.normal(size=(96, 32)))
    features_array = F.normalize(features, dim=1).cpu().numpy()
    feat_dists, feat_nbrs = get_dist_nbr(features=features_array, k=15, knn_method="faiss-gpu")
    pseudo_labels = cluster_by_infomap(feat_nbrs, feat_dists, min_sim=0.5, cluster_num=4)
    pseudo_labels = pseudo_labels.astype(np.intp)
    num_cluster = len(set(pseudo_labels)) - (1 if -1 in pseudo_labels else 0)
    assert num_cluster == 8
    assert len(set(zip(pseudo_labels, pids, strict=True))) == 8


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "infomap", None)
    dists, nbrs = get_dist_nbr(unit_rows(10), k=3)  # needs none
    with pytest.raises(ImportError, match=r'pip install "mabm\[infomap\]"'):
        cluster_by_infomap(nbrs, dists, 0.5)


NBRS = np.array([[0, 1], [1, 0]])
DISTS = np.array([[0.0, 0.1], [0.0, 0.1]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: get_dist_nbr(DISTS, k=0), ValueError, r"k must be in \[1, 1024\], got 0"),
        (lambda: get_dist_nbr(DISTS, knn_method="hnsw"), ValueError, "knn_method must be one of .*, got 'hnsw'"),
        (lambda: get_dist_nbr(DISTS[0]), ValueError, r"features must be \(N, D\)"),
        (lambda: cluster_by_infomap(DISTS, NBRS, 0.5), TypeError, "nbrs must be integers, got dtype torch.float64"),
        (lambda: cluster_by_infomap(NBRS, NBRS, 0.5), TypeError, "dists must be floating point"),
        (lambda: cluster_by_infomap(NBRS, DISTS[:1], 0.5), ValueError, r"dists must be \(2, 2\), got shape \(1, 2\)"),
        (lambda: cluster_by_infomap(NBRS[0], DISTS[0], 0.5), ValueError, r"nbrs must be \(N, K\) with N, K >= 1, got \(2,\)"),
        (lambda: cluster_by_infomap(NBRS + 1, DISTS, 0.5), ValueError, r"nbrs must be in \[0, 2\) up to min_sim, got 1 to 2"),
        (lambda: cluster_by_infomap(NBRS, DISTS * np.nan, 0.5), ValueError, "dists must not be NaN"),
        (lambda: cluster_by_infomap(NBRS, DISTS, 1.5), ValueError, r"min_sim must be in \[0, 1\], got 1.5"),
        (lambda: cluster_by_infomap(NBRS, DISTS, 0.5, -1), ValueError, "cluster_num must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_refused(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.needs("infomap")
def test_faiss_padding_behind_the_last_link_does_no_harm() -> None:
    nbrs, dists = np.array([[0, 1, -1], [1, 0, -1]]), np.array([[0.0, 0.1, np.inf]] * 2)
    assert cluster_by_infomap(nbrs, dists, 0.5, cluster_num=1).tolist() == [0, 0]


def test_the_extra_is_imported_where_it_is_used() -> None:
    code = "import sys, mabm.compat.infomap; sys.exit('infomap' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
