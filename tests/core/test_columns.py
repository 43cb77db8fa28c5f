"""Labels, modalities, identities and cameras in whatever people keep them in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from devices import Device

import mabm
from mabm.cluster.quality import (
    adjusted_rand_index,
    cross_modality_pairs,
    evenly_chosen_clusters,
    normalized_mutual_information,
)
from mabm.train.diagnostics import diagnose, diagnose_epoch
from mabm.train.steps import build_memory, cluster_modalities, cluster_together, split_within

PERSON = np.arange(60) % 6
NUMBERS = (np.arange(60) // 6) % 2
WORDS = [("visible", "infrared")[number] for number in NUMBERS]
IN_ORDER = 1 - NUMBERS  # infrared before visible
FEATURES = (np.eye(8)[PERSON] + np.random.default_rng(0).normal(size=(60, 8)) / 20).astype("f4")
LISTS: dict[str, Any] = {"k1": 10, "k2": 2}


class _Arraylike:
    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype)


INTEGERS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "list of NumPy integers": lambda v: list(np.array(v)),
    "list of tensors": lambda v: list(torch.tensor(v)),
    "array": np.array,
    "array of objects": lambda v: np.array(v, dtype=object),
    "tensor": torch.tensor,
    "Series": pd.Series,
    "Series from another row on": lambda v: pd.Series(v, index=range(100, 100 + len(v))),
    "nullable Series": lambda v: pd.Series(v, dtype="Int64"),
    "Series of objects": lambda v: pd.Series(v, dtype=object),
    "Index": pd.Index,
    "Categorical": pd.Categorical,
    "anything with __array__": _Arraylike,
}
STRINGS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "array of objects": lambda v: np.array(v, dtype=object),
    "Series": pd.Series,
    "string Series": lambda v: pd.Series(v, dtype="string"),
    "Series of objects": lambda v: pd.Series(v, dtype=object),
    "Categorical": pd.Categorical,
    "Series of categories in another order": lambda v: pd.Series(
        pd.Categorical(v, categories=sorted(set(v), reverse=True), ordered=True)
    ),
    "Index": pd.Index,
}


TAKE_MODALITY: dict[str, Callable[[Any], Any]] = {
    "modality_jaccard": lambda m: mabm.modality_jaccard(FEATURES, m, **LISTS),
    "jaccard_graph": lambda m: mabm.jaccard_graph(FEATURES, m, **LISTS).distances,
    "encode_samples": lambda m: mabm.encode_samples(FEATURES, m, **LISTS).weights,
    "rank_neighbors": lambda m: mabm.rank_neighbors(FEATURES, m, k1=10).ranks,
    "pseudo_labels": lambda m: mabm.pseudo_labels(FEATURES, m, **LISTS).modality,
    "rerank": lambda m: mabm.rerank(FEATURES, FEATURES, m, m, **LISTS),
    "split_prototypes": lambda m: mabm.split_prototypes(FEATURES, PERSON, m).modality,
    "associate_clusters": lambda m: mabm.associate_clusters(FEATURES, PERSON, m).modality,
    "PseudoLabels": lambda m: mabm.PseudoLabels(PERSON, m).num_spanning,
    "ModalityDBSCAN": lambda m: mabm.ModalityDBSCAN(**LISTS).fit_predict(FEATURES, modality=m),
    "cross_modality_pairs": lambda m: cross_modality_pairs(PERSON, PERSON, m).num_found,
    "evenly_chosen_clusters": lambda m: evenly_chosen_clusters(PERSON, m),
    "diagnose": lambda m: diagnose(PERSON, m).num_spanning,
    "cluster_modalities": lambda m: cluster_modalities(torch.tensor(FEATURES), m),
    "cluster_together": lambda m: cluster_together(torch.tensor(FEATURES), m, PERSON),
    "split_within": lambda m: split_within(torch.tensor(FEATURES), PERSON, m, 1).targets,
}


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("call", TAKE_MODALITY.values(), ids=TAKE_MODALITY)
def test_every_modality_gives_what_its_numbers_give(call: Callable[[Any], Any]) -> None:
    expected = call(IN_ORDER)
    for make in INTEGERS.values():
        same(call(make(IN_ORDER.tolist())), expected)
    for spell in STRINGS.values():
        same(call(spell(WORDS)), expected)
    for flags in (IN_ORDER == 1, (IN_ORDER == 1).tolist(), torch.tensor(IN_ORDER == 1)):
        same(call(flags), expected)
    for dtype in (bool, "boolean", object):
        same(call(pd.Series(IN_ORDER == 1, dtype=dtype)), expected)


def test_a_range_is_a_modality() -> None:
    features = FEATURES[:4]
    expected = mabm.modality_jaccard(features, np.arange(4), k1=4, k2=1)
    same(mabm.modality_jaccard(features, range(4), k1=4, k2=1), expected)


@pytest.mark.parametrize("make", INTEGERS.values(), ids=INTEGERS)
def test_labels_identities_and_cameras(make: Callable[[list[int]], Any]) -> None:
    labels = np.where(PERSON == 5, -1, PERSON)
    given = make(labels.tolist())
    split = mabm.split_prototypes(FEATURES, labels, NUMBERS)
    same(mabm.split_prototypes(FEATURES, given, NUMBERS).targets, split.targets)
    joined = mabm.associate_clusters(FEATURES, labels, NUMBERS)
    same(mabm.associate_clusters(FEATURES, given, NUMBERS).labels, joined.labels)
    batches = list(mabm.IdentityBatchSampler(labels, PERSON // 2 * 0 + NUMBERS))
    assert list(mabm.IdentityBatchSampler(given, make(NUMBERS.tolist()))) == batches
    assert mabm.PseudoLabels(given).num_clusters == 5
    assert adjusted_rand_index(given, PERSON) == adjusted_rand_index(labels, PERSON)
    same(draw(make(PERSON.tolist()), make(NUMBERS.tolist())), draw(PERSON, NUMBERS))
    same(draw([f"{person:04d}" for person in PERSON], NUMBERS), draw(PERSON, NUMBERS))
    scores = search(make(PERSON.tolist()), make(NUMBERS.tolist()), NUMBERS)
    assert repr(scores) == repr(search(PERSON, NUMBERS, NUMBERS))


def draw(identity: Any, camera: Any) -> Any:
    return mabm.draw_gallery(identity, camera, cameras=(0, 1), trial=0)


def search(identity: Any, camera: Any, modality: Any) -> mabm.SearchScores:
    noisy = FEATURES + np.random.default_rng(1).normal(size=FEATURES.shape).astype("f4")
    task = mabm.SEARCH_TASKS["regdb"][0]
    return mabm.evaluate_search(noisy, identity, camera, modality, task=task)


@pytest.mark.parametrize("spell", STRINGS.values(), ids=STRINGS)
def test_identities_in_words(spell: Callable[[list[str]], Any]) -> None:
    names = [f"{person:04d}" for person in PERSON]
    distance = np.random.default_rng(2).random((20, 40))
    expected = mabm.evaluate_retrieval(distance, PERSON[:20], PERSON[20:], protocol="regdb")
    query, gallery = spell(names[:20]), spell(names[20:])
    found = mabm.evaluate_retrieval(distance, query, gallery, protocol="regdb")
    assert repr(found) == repr(expected)
    assert repr(search(spell(names), NUMBERS, NUMBERS)) == repr(search(PERSON, NUMBERS, NUMBERS))
    given = spell(names)
    labels = np.roll(PERSON, 1)
    assert adjusted_rand_index(labels, given) == adjusted_rand_index(labels, PERSON)
    mutual = normalized_mutual_information(labels, PERSON)
    assert normalized_mutual_information(labels, given) == mutual


def test_identities_are_numbered_over_queries_and_gallery_together() -> None:
    distance = np.array([[0.1, 0.2], [0.2, 0.1]])
    found = mabm.evaluate_retrieval(distance, ["b", "c"], ["c", "b"], protocol="regdb")
    assert found.mean_average_precision == 0.5
    one_sided = mabm.evaluate_retrieval(distance[:1], ["c"], ["b", "c"], protocol="regdb")
    assert one_sided.mean_average_precision == 0.5


def test_modalities_are_numbered_over_queries_and_gallery_together() -> None:
    words = ["infrared"] * 20, ["visible"] * 40
    expected = mabm.rerank(FEATURES[:20], FEATURES[20:], [0] * 20, [1] * 40, **LISTS)
    same(mabm.rerank(FEATURES[:20], FEATURES[20:], *words, **LISTS), expected)
    one_group = mabm.rerank(FEATURES[:20], FEATURES[20:], [0] * 20, [0] * 40, **LISTS)
    assert (one_group != expected).any()
    with pytest.raises(TypeError, match=r"^query_modality must contain integers as gallery_m"):
        mabm.rerank(FEATURES[:20], FEATURES[20:], words[0], [1] * 40, **LISTS)


def test_words_keep_the_published_numbers_where_these_mean_something() -> None:
    expected = repr(search(PERSON, NUMBERS, NUMBERS))
    assert repr(search(PERSON, NUMBERS, WORDS)) == expected
    assert repr(search(PERSON, NUMBERS, NUMBERS == 1)) == expected
    with pytest.raises(ValueError, match=r"modality must be one of .*'infrared'.*, got 'thermal'"):
        search(PERSON, NUMBERS, ["thermal"] * 60)
    by_words = diagnose_epoch(FEATURES, WORDS[:40] + WORDS[:20], alone=PERSON)
    numbers = np.concatenate([NUMBERS[:40], NUMBERS[:20]])
    assert by_words == diagnose_epoch(FEATURES, numbers, alone=PERSON)


def test_words_of_digits_go_by_their_number() -> None:
    found = mabm.PseudoLabels(np.zeros(4, int), ["10", "9", "2", "10"])
    assert found.modality_names == ("2", "9", "10")
    assert found.modality.tolist() == [2, 1, 0, 2]


def test_names_are_kept_and_shown(device: Device) -> None:
    features = device.put(torch.tensor(FEATURES))
    found = mabm.pseudo_labels(features, WORDS, **LISTS)
    assert found.modality_names == ("infrared", "visible")
    assert found.modality.dtype == torch.int64
    assert found.modality.device == features.device
    same(device.get(found.modality), IN_ORDER)
    assert found.summary().samples == {"infrared": 30, "visible": 30}
    assert "30 infrared, 30 visible" in str(found.summary())
    split = mabm.split_prototypes(features, found)
    assert split.modality_names == found.modality_names
    assert str(split.summary()) == "6 clusters by modality (6 of infrared+visible), 0 noise"
    assert "6 of infrared+visible" in repr(split)
    by_words = mabm.split_prototypes(features, found.labels, WORDS)
    assert str(by_words.summary()) == str(split.summary())
    joined = mabm.associate_clusters(features, found.labels, WORDS)
    assert joined.modality_names == found.modality_names
    assert mabm.associate_clusters(features, found).modality_names == found.modality_names


def test_names_of_bool_are_those_of_both() -> None:
    found = mabm.pseudo_labels(FEATURES, NUMBERS == 1, **LISTS)
    assert found.modality_names == ("False", "True")
    same(found.modality, NUMBERS)
    only = mabm.PseudoLabels(PERSON, [True] * 60)
    assert only.modality.tolist() == [1] * 60
    assert only.num_spanning == 6


def test_numbers_have_no_names() -> None:
    found = mabm.pseudo_labels(FEATURES, NUMBERS.tolist(), **LISTS)
    assert found.modality_names is None
    assert found.summary().samples == {"0": 30, "1": 30}
    assert "60 samples (30 of modality 0, 30 of modality 1), " in str(found.summary())
    split = mabm.split_prototypes(FEATURES, found)
    assert str(split.summary()) == "6 clusters by modality (6 of 0+1), 0 noise"


def test_summary_counts_what_a_loop_counts() -> None:
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(-1, 9, 100), rng.integers(0, 3, 100)
    found = mabm.PseudoLabels(labels, groups).summary()
    sizes = sorted(int((labels == cluster).sum()) for cluster in set(labels[labels >= 0].tolist()))
    assert (found.num_samples, found.num_clusters) == (100, len(sizes))
    assert found.num_noise == (labels == -1).sum()
    assert found.num_spanning == sum(
        set(groups[labels == cluster].tolist()) == {0, 1, 2} for cluster in range(9)
    )
    assert found.samples == {str(group): int((groups == group).sum()) for group in range(3)}
    assert (found.smallest_cluster, found.largest_cluster) == (sizes[0], sizes[-1])
    assert found.median_cluster == np.median(sizes)
    assert found.largest_share == sizes[-1] / 100


@pytest.mark.parametrize("count", [0, 3])
def test_summary_without_a_cluster(count: int) -> None:
    found = mabm.PseudoLabels(np.full(count, -1)).summary()
    assert (found.num_clusters, found.largest_cluster, found.largest_share) == (0, 0, 0.0)
    assert found.num_spanning is None
    assert found.samples == {}
    assert "0 clusters" in str(found)


def test_pseudo_labels_are_taken_wherever_labels_are(device: Device) -> None:
    labels = device.put(np.where(PERSON == 5, -1, PERSON))
    groups = device.put(NUMBERS)
    features = device.put(FEATURES)
    found = mabm.PseudoLabels(labels, groups)
    expected = mabm.split_prototypes(features, labels, groups)
    for split in (
        mabm.split_prototypes(features, found, groups),
        mabm.split_prototypes(features, found),
    ):
        same(device.get(split.targets), device.get(expected.targets))
        same(device.get(split.modality), device.get(expected.modality))
    assert len(mabm.split_prototypes(features, found.labels)) == 5
    sampler = mabm.IdentityBatchSampler(found)
    assert list(sampler) == list(mabm.IdentityBatchSampler(labels))
    joined = mabm.associate_clusters(features, found, groups)
    same(device.get(joined.labels), device.get(mabm.associate_clusters(features, found).labels))
    assert adjusted_rand_index(found, PERSON) == adjusted_rand_index(labels, PERSON)
    assert cross_modality_pairs(found, PERSON) == cross_modality_pairs(labels, PERSON, groups)
    same(evenly_chosen_clusters(found), evenly_chosen_clusters(labels, groups))
    assert diagnose(found).to_dict() == diagnose(labels, groups).to_dict()


def test_steps_of_training_take_pseudo_labels() -> None:
    features, groups = torch.tensor(FEATURES), torch.tensor(NUMBERS)
    found = mabm.PseudoLabels(torch.tensor(PERSON), groups)
    expected = split_within(features, found.labels, groups, 1)
    assert torch.equal(split_within(features, found, groups, 1).targets, expected.targets)
    assert build_memory(mabm.split_prototypes(features, found)).clusters.tolist() == [
        *(cluster for cluster in range(6) for _ in range(2))
    ]
    with pytest.raises(TypeError, match=r"got PseudoLabels; use mabm.split_prototypes\("):
        build_memory(found)  # type: ignore[arg-type]


def test_a_series_whose_index_holds_the_word_labels_is_a_column() -> None:
    index = ["labels", "modality", *map(str, range(58))]
    split = mabm.split_prototypes(FEATURES, pd.Series(PERSON, index=index), NUMBERS)
    same(split.targets, mabm.split_prototypes(FEATURES, PERSON, NUMBERS).targets)


def test_clusters_without_modality_join_nothing() -> None:
    found = mabm.PseudoLabels(PERSON)
    assert len(mabm.split_prototypes(FEATURES, found)) == 6
    for call in (
        lambda: mabm.associate_clusters(FEATURES, found),
        lambda: cross_modality_pairs(found, PERSON),
        lambda: evenly_chosen_clusters(found),
    ):
        with pytest.raises(
            ValueError, match="modality must be given unless labels are PseudoLabels with one"
        ):
            call()


def test_a_ranking_accepts_groups_as_a_list() -> None:
    ranking = mabm.rank_neighbors(FEATURES, NUMBERS, k1=10, preset="modal_invariant")
    parts = (ranking.ranks, ranking.scores, ranking.widths, ranking.preset, 10)
    encoding = mabm.encode_neighbors(FEATURES, mabm.k_reciprocal_neighbors(ranking))
    expected = mabm.expand_queries(encoding, ranking, k2=4).weights
    given = mabm.Ranking(*parts, groups=NUMBERS.tolist())  # type: ignore[arg-type]
    same(mabm.expand_queries(encoding, given, k2=4).weights, expected)


MISSING: dict[str, Any] = {
    "None in a list": [0, None, *[1] * 58],
    "None among words": ["a", None, *["b"] * 58],
    "NaN in a list": [0.0, float("nan"), *[1.0] * 58],
    "NaN in an array of objects": np.array([0, np.nan, *[1] * 58], dtype=object),
    "a Series made floating by it": pd.Series([0, None, *[1] * 58]),
    "a nullable Series": pd.Series([0, None, *[1] * 58], dtype="Int64"),
    "nullable bool": pd.Series([True, None, *[False] * 58], dtype="boolean"),
    "a string Series": pd.Series(["a", None, *["b"] * 58], dtype="string"),
    "a Series of words": pd.Series(["a", None, *["b"] * 58]),
    "a Categorical": pd.Categorical(["a", None, *["b"] * 58]),
}


@pytest.mark.parametrize("value", MISSING.values(), ids=MISSING)
def test_missing_values_are_named(value: Any) -> None:
    message = "must have a value in every row, got none in row 1; remove these rows from all"
    with pytest.raises(ValueError, match=f"^modality {message}"):
        mabm.pseudo_labels(FEATURES, value, **LISTS)
    with pytest.raises(ValueError, match=f"^labels {message}"):
        mabm.split_prototypes(FEATURES, value)


HALVES = (NUMBERS / 1).tolist()
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("whole floats in a list", HALVES, TypeError, r"use numpy.array\({name}\).astype\(int\)$"),
    ("whole floats", np.array(HALVES), TypeError, r"use {name}.astype\(int\)$"),
    ("whole floats in a Series", pd.Series(HALVES), TypeError, r"use {name}.astype\(int\)$"),
    ("whole floats in a tensor", torch.tensor(HALVES), TypeError, r"use {name}.long\(\)$"),
    ("a list of arrays", [NUMBERS[:30], NUMBERS[30:]], ValueError, r"numpy.concatenate\({name}\)$"),
    ("a list of tensors", [torch.tensor(NUMBERS)], ValueError, r"use torch.cat\({name}\)$"),
    ("a list of lists", [[0], [1]], ValueError, "must be one column"),
    ("numbers and words", [0, "a"], TypeError, "got values of int and str"),
    ("numbers and bool", [0, True], TypeError, "got values of bool and int"),
    ("a set", {0, 1}, TypeError, r"must be a tensor, an array, a list or a Series, .* got set"),
    ("a dict", {"a": 1}, TypeError, r"must be a tensor, an array, a list or a Series, .* got dict"),
    ("a number", 3, TypeError, r"must be a tensor, an array, a list or a Series, .* got int: 3"),
    ("too great a number", [0, 2**64], ValueError, "must be within 64 bits, got 1844674407370955"),
    ("a data frame", pd.DataFrame({"a": NUMBERS}), ValueError, r"use numpy.ravel\({name}\)$"),
    ("bytes", np.array(WORDS, dtype="S"), TypeError, r"t be bytes, .*; use {name}.astype\(str\)$"),
    ("dates", pd.Series(pd.date_range("2020", periods=60)), TypeError, "must contain real numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "error", "message"), [row[1:] for row in REFUSED],
                         ids=[row[0] for row in REFUSED])  # fmt: skip
def test_errors_on_columns_suggest_a_conversion(
    value: Any, error: type[Exception], message: str
) -> None:
    calls = {
        "modality": lambda: mabm.pseudo_labels(FEATURES, value, **LISTS),
        "labels": lambda: mabm.split_prototypes(FEATURES, value),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=message.format(name=name)) as caught:
            call()
        assert str(caught.value).startswith(f"{name} must ")
        assert "\n" not in str(caught.value)


def test_an_empty_list_is_a_column() -> None:
    nothing = FEATURES[:0]
    for empty in ([], (), range(0), np.array([], dtype=str), pd.Series([], dtype=object)):
        found = mabm.pseudo_labels(nothing, empty)
        assert found.modality.tolist() == found.labels.tolist() == []
    with pytest.raises(TypeError, match=r"labels must be integers, .* got an array of words; num"):
        mabm.split_prototypes(nothing, np.array([], dtype=str))


def test_labels_of_words_are_refused() -> None:
    with pytest.raises(TypeError, match=r"labels must be integers, .* words such as 'a'; number "):
        mabm.split_prototypes(FEATURES, ["a"] * 60)
    with pytest.raises(TypeError, match=r"camera must be integers, .* words such as '1'"):
        search(PERSON, ["1"] * 60, NUMBERS)


@pytest.mark.parametrize(
    ("features", "hint"),
    [
        (FEATURES.tolist(), r"got list; use numpy.array\(features\)"),
        (list(torch.tensor(FEATURES)), r"got a list of tensors; use torch.stack\(features\)"),
        ([torch.tensor(FEATURES)] * 2, r"got a list of tensors; use torch.cat\(features\)"),
        (list(FEATURES), r"got a list of arrays; use numpy.stack\(features\)"),
        ((FEATURES, FEATURES), r"got a tuple of arrays; use numpy.concatenate\(features\)"),
        (pd.DataFrame(FEATURES), r"got DataFrame; use features.to_numpy\(\)"),
        (_Arraylike([1]), r"got _Arraylike; use numpy.asarray\(features\)"),
    ],
)
def test_errors_on_features_suggest_a_conversion(features: Any, hint: str) -> None:
    for call in (mabm.pseudo_labels, mabm.rank_neighbors, mabm.modality_jaccard):
        with pytest.raises(TypeError, match=f"^features must be a torch.Tensor or a .*, {hint}$"):
            call(features, NUMBERS)
    with pytest.raises(TypeError, match=hint):
        mabm.split_prototypes(features, PERSON)


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame(FEATURES),
        FEATURES.tolist(),
        list(FEATURES),
        FEATURES.astype(object),
        pd.DataFrame(FEATURES).convert_dtypes(),
    ],
)
def test_the_estimator_takes_what_scikit_learn_takes(rows: Any) -> None:
    expected = mabm.pseudo_labels(FEATURES, NUMBERS, **LISTS).labels
    same(mabm.ModalityDBSCAN(**LISTS).fit_predict(rows, modality=WORDS), expected)


def test_the_estimator_takes_integers() -> None:
    whole = (FEATURES * 100).astype(np.int64)
    expected = mabm.pseudo_labels(whole.astype("f8"), NUMBERS, **LISTS).labels
    for rows in (whole, torch.tensor(whole), whole.tolist(), pd.DataFrame(whole)):
        same(mabm.ModalityDBSCAN(**LISTS).fit_predict(rows, modality=NUMBERS), expected)


def test_the_estimator_names_what_is_sparse() -> None:
    from scipy.sparse import csr_array

    with pytest.raises(TypeError, match=r"X must be dense, got csr_array; use X.toarray\(\)"):
        mabm.ModalityDBSCAN().fit(csr_array(FEATURES))


def test_columns_on_a_gpu_are_read_without_waiting(gpu: Device) -> None:
    from mabm._core.columns import read_categories

    columns = (gpu.put(torch.tensor(NUMBERS)), gpu.put(torch.tensor(NUMBERS == 1)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for column in columns:
            read_categories((column,), ("modality",), "one per row")
    finally:
        torch.cuda.set_sync_debug_mode("default")
