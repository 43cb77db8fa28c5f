"""Results through torch.save and torch.load with its safe default, pickle and copies."""

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import Device

import mabm

MODALITY = torch.arange(60) % 2
FEATURES = torch.eye(6).repeat_interleave(10, dim=0) + 0.3 * torch.eye(6)[MODALITY]
PRESET = mabm.Preset("mine", "per_group", "inner_product", "balanced", "list_means")


def make_results(put: Callable[[Any], Any]) -> dict[str, Any]:
    """One of every public result that holds values, by the name of its class."""
    features, modality = put(FEATURES), put(MODALITY)
    options: dict[str, Any] = {"k1": 10, "k2": 2}
    found = mabm.pseudo_labels(features, modality, **options)
    ranking = mabm.rank_neighbors(features, modality, k1=10, preset=PRESET)
    graph = mabm.jaccard_graph(features, modality, **options)
    split = mabm.split_prototypes(features, found.labels, modality)
    distance = mabm.modality_jaccard(features, modality, **options)
    ids = put(torch.arange(60) // 10)
    results = [
        found,
        found.summary(),
        replace(ranking, recall=mabm.RankingRecall(0.5, (0.6, 0.4), 60)),
        mabm.RankingRecall(0.5, (0.6, 0.4), 60),
        mabm.FaissSearch("HNSW32", "efSearch=64"),
        mabm.CuvsSearch("ivf_flat", {"n_lists": np.int64(4)}, {"n_probes": 2}, 10),
        mabm.CertexSearch(10),
        mabm.k_reciprocal_neighbors(ranking),
        mabm.encode_samples(features, modality, **options),
        graph,
        graph.sweep([0.3])[0],
        split,
        split.summary(),
        PRESET,
        mabm.DBSCAN(0.3),
        mabm.RerankOptions(k1=10),
        mabm.Progress("ranking", 5, 60, 0.5, None),
        mabm.Estimate(60, 6, 0.5, 0.75, 2**20, {"ranking": 0.5}, {"ranking": 2**20}),
        mabm.evaluate_retrieval(distance, ids, ids, protocol="regdb"),
        mabm.PROTOCOLS["sysu_mm01"],
        mabm.SEARCH_TASKS["sysu_mm01"][0],
        mabm.SearchScores(
            "regdb", "a", (1,), [[np.float64(0.9)]], [0.8], [0.7], (3,), mabm.RerankOptions()
        ),
    ]
    return {type(result).__name__: result for result in results}


ON_CPU = make_results(lambda value: value)
KINDS = tuple(ON_CPU)


def check_same(read: Any, saved: Any) -> None:
    assert type(read) is type(saved)
    if isinstance(saved, torch.Tensor):
        assert read.device == saved.device
        assert torch.equal(read, saved)
        assert read.dtype == saved.dtype
    elif isinstance(saved, np.ndarray):
        np.testing.assert_array_equal(read, saved)
        assert read.dtype == saved.dtype
    elif is_dataclass(saved):
        for field in fields(saved):
            check_same(getattr(read, field.name), getattr(saved, field.name))
    elif isinstance(saved, tuple):
        assert len(read) == len(saved)
        for one, other in zip(read, saved, strict=True):
            check_same(one, other)
    else:
        assert read == saved


def saved(result: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(result, file)
    file.seek(0)
    return file


def test_every_public_result_has_a_sample() -> None:
    here = {
        name
        for name in mabm.__all__
        if isinstance(kind := getattr(mabm, name), type)
        and (is_dataclass(kind) or issubclass(kind, tuple))
    }
    # What this process was built with and runs on; it says nothing of another.
    assert here - {"BuildInfo"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_reads_what_it_saved(device: Device, kind: str) -> None:
    result = make_results(device.put)[kind]
    check_same(torch.load(saved(result), weights_only=True), result)
    check_same(torch.load(saved({"epoch": 3, "result": [result]}))["result"][0], result)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_come_back_as_arrays(kind: str) -> None:
    result = make_results(torch.Tensor.numpy)[kind]
    check_same(torch.load(saved(result)), result)


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_and_copies(device: Device, kind: str) -> None:
    result = make_results(device.put)[kind]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        check_same(pickle.loads(pickle.dumps(result, protocol)), result)
    check_same(copy.deepcopy(result), result)
    check_same(copy.copy(result), result)


def test_a_deep_copy_shares_nothing() -> None:
    for put in (torch.clone, lambda value: value.clone().numpy()):
        found = make_results(put)["PseudoLabels"]
        copied = copy.deepcopy(found)
        copied.labels[:] = 7
        assert found.num_clusters == 6
        assert copied.num_clusters == 1


def test_another_process_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "results.pt"
    torch.save(ON_CPU, path)
    code = (
        "import sys, mabm, torch\n"
        "results = torch.load(sys.argv[1])\n"
        "assert 'mabm.train' not in sys.modules\n"
        "print(sorted(results), results['PseudoLabels'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.stdout == f"{sorted(ON_CPU)} {ON_CPU['PseudoLabels']}\n", result.stderr


def test_cached_values_are_not_saved() -> None:
    found = mabm.pseudo_labels(FEATURES, MODALITY, k1=10, k2=2)
    before = len(saved(found).getvalue())
    asked = repr(found), found.num_spanning, found.size_histogram
    assert len(saved(found).getvalue()) == before
    read = torch.load(saved(found))
    assert (repr(read), read.num_spanning, read.size_histogram) == asked


def test_numbers_of_numpy_become_plain_ones() -> None:
    summary = mabm.SplitSummary(np.int64(1), np.int64(0), {(np.int64(0),): np.int64(1)}, {0: 8})
    assert torch.load(saved(summary)) == summary
    ranking = mabm.Ranking(
        torch.tensor([[0], [1]]),
        torch.ones(2, 1, dtype=torch.float64),
        (np.int64(1),),
        mabm.PRESETS["spcl"],
        k1=np.int64(1),
    )
    check_same(torch.load(saved(ranking)).widths, (1,))


def test_names_of_modalities_are_saved() -> None:
    found = mabm.PseudoLabels([0, 0, 1], ["visible", "infrared", "visible"])
    read = torch.load(saved(found))
    check_same(read, found)
    assert read.summary().samples == {"infrared": 1, "visible": 2}


def test_a_view_of_a_read_only_array_backwards_is_saved() -> None:
    labels = np.array([0, 1, -1])[::-1]
    labels.flags.writeable = False
    assert torch.load(saved(mabm.PseudoLabels(labels))).labels.tolist() == [-1, 1, 0]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"labels": 1},
            r"state of NeighborSets must contain fields and arrays, got \{'labels': 1\}",
        ),
        (None, "must contain fields and arrays, got None"),
        ({"fields": 3, "arrays": []}, "must contain fields and arrays, got "),
        ({"fields": {}, "arrays": None}, "must contain fields and arrays, got "),
        ({"fields": {}, "arrays": ["indptr"]}, "must contain fields and arrays, got "),
        ({"fields": {"indptr": [0]}, "arrays": ["indptr"]}, "must contain fields and arrays, got "),
        ({"fields": {}, "arrays": [[]]}, "must contain fields and arrays, got "),
        (
            {"fields": {"rows": 3}, "arrays": []},
            r"must have only the fields \['indptr', 'indices'\], got \['rows'\]",
        ),
        (
            {
                "fields": {
                    "indptr": torch.tensor([0, 2]),
                    "indices": torch.tensor([0, 9], dtype=torch.int32),
                },
                "arrays": [],
            },
            r"indices must be in \[0, 1\), got 0 to 9",
        ),
    ],
)
def test_a_foreign_state_meets_the_checks(state: object, message: str) -> None:
    sets = object.__new__(mabm.NeighborSets)
    with pytest.raises(ValueError, match=message):
        sets.__setstate__(state)
