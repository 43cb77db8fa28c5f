"""Adapters of other libraries: real faiss, and stand-ins that keep what the documentation says."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mabm
from mabm.distance.search import cuvs_search

RNG = np.random.default_rng(0)
PERSON = RNG.integers(0, 100, size=2000)
MODALITY = RNG.integers(0, 2, size=2000)
FEATURES = RNG.normal(size=(100, 32))[PERSON] + 0.6 * RNG.normal(size=(2, 32))[MODALITY]
FEATURES = (FEATURES + 0.4 * RNG.normal(size=(2000, 32))).astype(np.float32)
FEATURES /= np.linalg.norm(FEATURES, axis=1, keepdims=True)

needs_faiss = pytest.mark.needs("faiss")


@needs_faiss
@pytest.mark.parametrize("preset", mabm.PRESETS)
def test_a_flat_index_of_faiss_gives_the_exact_ranking(preset: str) -> None:
    exact = mabm.rank_neighbors(FEATURES, MODALITY, preset=preset)
    found = mabm.rank_neighbors(
        FEATURES, MODALITY, preset=preset, precision=mabm.FaissSearch("Flat")
    )
    np.testing.assert_array_equal(found.ranks, exact.ranks)
    np.testing.assert_array_equal(found.scores, exact.scores)
    assert found.recall == mabm.RankingRecall(1.0, (1.0,) * len(exact.widths), 256)


@needs_faiss
@pytest.mark.parametrize("preset", ["bmil", "spcl"])
def test_more_lists_of_faiss_find_more(preset: str) -> None:
    exact = mabm.rank_neighbors(FEATURES, MODALITY, preset=preset)
    few, some, all_of_them = (
        mabm.rank_neighbors(
            FEATURES,
            MODALITY,
            preset=preset,
            precision=mabm.FaissSearch(parameters=parameters, recall_rows=2000),
        )
        for parameters in ("nprobe=1", "", "nprobe=1000")
    )
    np.testing.assert_array_equal(all_of_them.ranks, exact.ranks)
    assert few.recall is not None
    assert some.recall is not None
    assert 0.1 < few.recall.total < some.recall.total <= 1
    shared = [len(set(a) & set(b)) for a, b in zip(exact.ranks, some.ranks, strict=True)]
    assert some.recall.total == sum(shared) / exact.ranks.size


@needs_faiss
def test_small_groups_are_searched_whole() -> None:
    features, modality = FEATURES[:130], np.r_[np.zeros(127, int), [1, 1, 2]]
    exact = mabm.pseudo_labels(features, modality, k1=30, k2=3)
    found = mabm.pseudo_labels(features, modality, k1=30, k2=3, precision=mabm.FaissSearch())
    np.testing.assert_array_equal(found.labels, exact.labels)


@needs_faiss
@pytest.mark.parametrize(
    ("search", "message"),
    [
        (mabm.FaissSearch("Fast"), "got 'Fast' and ''"),
        (mabm.FaissSearch("Flat", "nprobe=3"), "got 'Flat' and 'nprobe=3'"),
        (mabm.FaissSearch("IVF4096,Flat"), "can train on 2000 samples, got 'IVF4096,Flat'"),
    ],
)
def test_what_faiss_refuses_is_named(search: mabm.FaissSearch, message: str) -> None:
    with pytest.raises(ValueError, match=f"^factory and parameters must be .*{message}"):
        mabm.rank_neighbors(FEATURES, precision=search)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (mabm.FaissSearch, {"factory": 3}, TypeError, "factory must be a str or None, got int: 3"),
        (mabm.FaissSearch, {"parameters": None}, TypeError, "parameters must be a str, got None"),
        (mabm.FaissSearch, {"recall_rows": 0}, ValueError, "recall_rows must be at least 1, got 0"),
        (mabm.CuvsSearch, {"method": "hnsw"}, ValueError, "method must be one of .* got 'hnsw'"),
        (mabm.CuvsSearch, {"index_options": 3}, TypeError, "index_options must be a mapping, got"),
        (mabm.CuvsSearch, {"search_options": []}, TypeError, "search_options must be a mapping"),
        (mabm.CuvsSearch, {"recall_rows": -1}, ValueError, "recall_rows must be at least 1"),
        (mabm.CertexSearch, {"recall_rows": 1.0}, TypeError, "recall_rows must be an integer"),
    ],
)
def test_options_are_checked_at_construction(
    kind: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        kind(**options)


@pytest.mark.parametrize(
    ("search", "module", "extra"),
    [
        (mabm.FaissSearch(), "faiss", "faiss"),
        (mabm.CuvsSearch(), "cuvs", "cuvs"),
        (mabm.CertexSearch(), "certex", "certex"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    search: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "mabm\[{extra}\]"$'):
        mabm.pseudo_labels(FEATURES, MODALITY, precision=search)


def nearest(members: Any, queries: Any, k: int, by_product: bool) -> tuple[Any, Any]:
    """Products, largest first, or squared distances, smallest first; and indices."""
    if by_product:
        return (queries @ members.T).topk(k, dim=1)
    return torch.cdist(queries, members).square().topk(k, dim=1, largest=False)


class StandInOfCuvs:
    """The modules of methods of cuVS 26.10, with arrays of NumPy instead of a GPU's."""

    def __init__(self, method: str, index_dtype: type) -> None:
        self.built: list[dict[str, Any]] = []
        self.searched: list[dict[str, Any]] = []
        self.module = ModuleType(f"cuvs.neighbors.{method}")
        self.module.__dict__.update(
            IndexParams=lambda *, metric="sqeuclidean", **options: {"metric": metric, **options},
            SearchParams=lambda **options: options,
            build=self.build,
            search=self.search,
        )
        self.index_dtype = index_dtype

    def build(self, index_params: dict[str, Any], dataset: torch.Tensor) -> Any:
        self.built.append(index_params)
        return SimpleNamespace(members=dataset, metric=index_params["metric"])

    def search(
        self, search_params: dict[str, Any], index: Any, queries: torch.Tensor, k: int
    ) -> tuple[Any, Any]:
        self.searched.append({**search_params, "k": k})
        by_product = index.metric == "inner_product"
        distances, neighbors = nearest(index.members, queries, k, by_product)
        found = neighbors.numpy().astype(self.index_dtype)
        found[0, -1] = np.iinfo(self.index_dtype).max  # as where it finds too few
        return distances.numpy(), found


@pytest.mark.parametrize("preset", ["bmil", "spcl", "ca_jaccard"])
@pytest.mark.parametrize(
    ("method", "index_dtype", "built", "searched"),
    [
        ("cagra", np.uint32, {}, {"itopk_size": 64}),
        ("ivf_flat", np.int64, {"n_lists": 7}, {"n_probes": 5}),
    ],
)
def test_cuvs_is_called_as_documented(
    method: Any,
    index_dtype: type,
    built: dict[str, Any],
    searched: dict[str, Any],
    preset: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = StandInOfCuvs(method, index_dtype)
    monkeypatch.setitem(sys.modules, "cuvs", ModuleType("cuvs"))
    monkeypatch.setitem(sys.modules, "cuvs.neighbors", ModuleType("cuvs.neighbors"))
    monkeypatch.setitem(sys.modules, f"cuvs.neighbors.{method}", stand_in.module)
    monkeypatch.setattr(cuvs_search, "_wait_for_gpu", lambda members: None)
    options = {} if method == "cagra" else {"search_options": {"n_probes": 5}}
    search = mabm.CuvsSearch(method, **options)
    modality = np.arange(600) % 2
    exact = mabm.rank_neighbors(FEATURES[:600], modality, preset=preset)
    found = mabm.rank_neighbors(FEATURES[:600], modality, preset=preset, precision=search)
    np.testing.assert_array_equal(found.ranks, exact.ranks)
    kind = "sqeuclidean" if preset == "spcl" else "inner_product"
    groups = 1 if preset == "spcl" else 2
    lists = {"n_lists": 15 if preset == "spcl" else 7} if built else {}
    assert stand_in.built == [{"metric": kind, **lists}] * groups
    width = max(exact.widths)
    assert stand_in.searched == [{**searched, "k": width + 16}] * groups


def test_options_of_cuvs_are_yours(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandInOfCuvs("cagra", np.uint32)
    for name in ("cuvs", "cuvs.neighbors"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuvs.neighbors.cagra", stand_in.module)
    monkeypatch.setattr(cuvs_search, "_wait_for_gpu", lambda members: None)
    members = torch.from_numpy(FEATURES[:300])
    search = mabm.CuvsSearch(index_options={"graph_degree": 32}, search_options={"algo": "auto"})
    search.find_candidates(members, members, 100, "euclidean")
    assert stand_in.built == [{"metric": "sqeuclidean", "graph_degree": 32}]
    assert stand_in.searched == [{"itopk_size": 128, "algo": "auto", "k": 100}]


def test_cuvs_needs_features_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuvs", "cuvs.neighbors"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    stand_in = StandInOfCuvs("cagra", np.uint32)
    monkeypatch.setitem(sys.modules, "cuvs.neighbors.cagra", stand_in.module)
    with pytest.raises(ValueError, match="features must be on a GPU for CuvsSearch, got cpu"):
        mabm.rank_neighbors(FEATURES, precision=mabm.CuvsSearch())
    assert not stand_in.built


@pytest.mark.parametrize("preset", ["bmil", "spcl", "ca_jaccard"])
def test_certex_is_called_as_documented(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def search(xb: Any, xq: Any = None, k: int = 10, metric: str = "l2") -> tuple[Any, Any]:
        """As in certex 0.1: distances or similarities and indices, best first."""
        asked.append((k, metric))
        return nearest(xb, xq, k, metric == "ip")

    stand_in = ModuleType("certex")
    stand_in.__dict__["search"] = search
    monkeypatch.setitem(sys.modules, "certex", stand_in)
    exact = mabm.rank_neighbors(FEATURES, MODALITY, preset=preset)
    found = mabm.rank_neighbors(FEATURES, MODALITY, preset=preset, precision=mabm.CertexSearch())
    np.testing.assert_array_equal(found.ranks, exact.ranks)
    calls = 1 if preset == "spcl" else 2
    assert asked == [(max(exact.widths) + 16, "l2" if preset == "spcl" else "ip")] * calls
