"""Arrays and numbers of odd kinds, given to everything: read as they are, or refused in words."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.masked import masked_tensor

import mabm
from mabm.compat import bmil, ca_jaccard, clustercontrast, evaluation, fastreid, reranking

pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of (MaskedTensors|nested tensors)"),
    pytest.mark.filterwarnings("ignore:.*quantize_per_tensor"),
]

N = 24
FEATURES = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
LABELS, MODALITY = np.arange(N) // 4, np.arange(N) % 2
PROTOTYPES = torch.eye(6, 4) + 0.1
ROWS, TARGETS, CLUSTERS = torch.from_numpy(FEATURES), torch.from_numpy(LABELS), torch.arange(6)
DISTANCE = np.abs(FEATURES @ FEATURES.T)
LISTS = {"k1": 6, "k2": 2}
OPTIONS = argparse.Namespace(
    k1=6, k2=2, ckrnns=True, k1_intra=3, k1_inter=3, clqe=True, k2_intra=2, k2_inter=2
)
ENCODING = mabm.encode_samples(FEATURES, MODALITY, **LISTS)
GRAPH = mabm.prune_distances(ENCODING)
Call = Callable[[Any], Any]


def updated(kind: Any, features: Tensor = ROWS, targets: Tensor = TARGETS) -> Tensor:
    memory = kind(PROTOTYPES)
    memory.update(features, targets)
    return memory.prototypes


def old_memory(labels: Any) -> Tensor:
    memory = clustercontrast.ClusterMemory(4, 6, use_hard=True, has_multi_pos_loss=True)
    memory.features, memory.proxy_pseudo_labels = PROTOTYPES.clone(), labels
    return memory(ROWS, TARGETS)


def scores(**change: Any) -> Any:
    given = {"distance": DISTANCE, "query_ids": LABELS, "gallery_ids": LABELS, **change}
    return mabm.evaluate_retrieval(**given, protocol="regdb").cmc


def search(**change: Any) -> Any:
    ids = np.arange(N) // 4
    given = {"features": FEATURES, "identity": ids, "camera": ids, "modality": MODALITY, **change}
    return mabm.evaluate_search(**given, task=mabm.SEARCH_TASKS["regdb"][0]).cmc


TAKE_FEATURES: list[tuple[str, Call]] = [
    ("features", lambda f: mabm.modality_jaccard(f, MODALITY, **LISTS)),
    ("features", lambda f: mabm.pseudo_labels(f, MODALITY, **LISTS).labels),
    ("features", lambda f: mabm.rank_neighbors(f, MODALITY, k1=6).ranks),
    ("features", lambda f: mabm.center_modalities(f, MODALITY)),
    ("query", lambda f: mabm.rerank(f, FEATURES, **LISTS)),
    ("gallery", lambda f: mabm.rerank(FEATURES, f, **LISTS)),
    ("features", lambda f: mabm.split_prototypes(f, LABELS, MODALITY).prototypes),
    ("features", lambda f: mabm.associate_clusters(f, LABELS, MODALITY).labels),
    ("cost", mabm.match_clusters),
    ("cost", mabm.transport_plan),
    ("features", lambda f: search(features=f)),
    ("X", lambda f: mabm.ModalityDBSCAN(**LISTS).fit(f, modality=MODALITY).labels_),
    ("target_features", lambda f: clustercontrast.compute_jaccard_distance(f, 6, 2)),
    ("features", lambda f: fastreid.compute_jaccard_distance(f, 6, 2)),
    ("probFea", lambda f: reranking.re_ranking(f, FEATURES, 6, 2, 0.3)),
    ("features", lambda f: ca_jaccard.compute_jaccard_distance(f, MODALITY, 1, OPTIONS)),
]
"""The name of an argument, and what passes its value there."""

TAKE_INTEGERS: list[tuple[str, Call]] = [
    ("modality", lambda n: mabm.modality_jaccard(FEATURES, n, **LISTS)),
    ("modality", lambda n: mabm.pseudo_labels(FEATURES, n, **LISTS).labels),
    ("modality", lambda n: mabm.center_modalities(FEATURES, n)),
    ("query_modality", lambda n: mabm.rerank(FEATURES, FEATURES, n, MODALITY, **LISTS)),
    ("labels", lambda n: mabm.split_prototypes(FEATURES, n, MODALITY).targets),
    ("modality", lambda n: mabm.split_prototypes(FEATURES, MODALITY, n).prototypes),
    ("labels", lambda n: mabm.associate_clusters(FEATURES, n, MODALITY).labels),
    ("labels", lambda n: np.array(list(mabm.IdentityBatchSampler(n)))),
    ("cameras", lambda n: np.array(list(mabm.IdentityBatchSampler(LABELS, n)))),
    ("query_ids", lambda n: scores(query_ids=n)),
    ("identity", lambda n: search(identity=n)),
    ("camera", lambda n: search(camera=n)),
    ("identity", lambda n: mabm.draw_gallery(n, MODALITY, cameras=(0, 1), trial=0)),
    ("camera", lambda n: mabm.draw_gallery(LABELS, n, cameras=(0, 1), trial=0)),
    ("cam_labels", lambda n: ca_jaccard.compute_jaccard_distance(FEATURES, n, 1, OPTIONS)),
]

TAKE_TARGETS: list[tuple[str, Call]] = [
    ("targets", lambda y: mabm.cluster_contrast_loss(ROWS, PROTOTYPES, y)),
    ("targets", lambda y: mabm.hybrid_contrast_loss(ROWS, PROTOTYPES.expand(2, 6, 4), y)),
    ("targets", lambda y: mabm.multi_positive_loss(ROWS, PROTOTYPES, y, CLUSTERS // 2)),
    *(
        ("targets", lambda y, kind=kind: updated(kind, targets=y))
        for kind in (mabm.MeanMemory, mabm.HardMemory, mabm.HybridMemory)
    ),
    ("indexes", lambda y: clustercontrast.cm(ROWS, y, PROTOTYPES.clone())),
]

TAKE_ROWS: list[tuple[str, Call]] = [
    ("features", lambda f: mabm.cluster_contrast_loss(f, PROTOTYPES, TARGETS)),
    ("features", lambda f: mabm.multi_positive_loss(f, PROTOTYPES, TARGETS, CLUSTERS)),
    ("prototypes", lambda p: mabm.cluster_contrast_loss(ROWS, p, TARGETS)),
    ("features", lambda f: updated(mabm.HybridMemory, f)),
    ("source", mabm.MeanMemory),
    ("inputs", lambda f: clustercontrast.ClusterMemory(4, 6)(f, TARGETS)),
]


def fake(tensor: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(tensor)


def structured(array: np.ndarray) -> np.ndarray:
    """An array whose columns are a field of a packed structure, at odd addresses."""
    packed = np.zeros(len(array), [("a", "i1"), ("of", array.dtype, array.shape[1:]), ("b", "i2")])
    packed["of"] = array
    return packed


ODD_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "nested": lambda t: torch.nested.nested_tensor([t, t[:2]]),
    "jagged": lambda t: torch.nested.nested_tensor([t, t[:2]], layout=torch.jagged),
    "sparse": lambda t: t.to_sparse(),
    "masked": lambda t: masked_tensor(t.clone(), t > 0),
    "complex": lambda t: t.to(torch.complex64),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 1.0, 0, torch.qint32),
    "bool": lambda t: t > 0,
}
WITHOUT_VALUES = {"meta": lambda t: t.to("meta"), "fake": fake}
ODD_ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": lambda a: np.ma.masked_less(a, 1),
    "masked nowhere": np.ma.array,
    "structure": structured,
    "objects": lambda a: a.astype(object),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
}


def refused(name: str, call: Call, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call(value)
    message = str(caught.value)
    assert message.startswith(f"{name} must ")
    assert "\n" not in message
    assert "got " in message
    assert len(message) < 300


def names(table: list[tuple[str, Call]]) -> list[str]:
    return [f"{number}-{row[0]}" for number, row in enumerate(table)]


@pytest.mark.parametrize(("name", "call"), TAKE_FEATURES, ids=names(TAKE_FEATURES))
@pytest.mark.parametrize("kind", [*ODD_TENSORS, *WITHOUT_VALUES, "float8"])
def test_features_in_odd_tensors(name: str, call: Call, kind: str) -> None:
    change = {
        **ODD_TENSORS, **WITHOUT_VALUES, "float8": lambda t: t.to(torch.float8_e4m3fn)
    }[kind]  # fmt: skip
    refused(name, call, change(ROWS))


@pytest.mark.parametrize(("name", "call"), TAKE_FEATURES, ids=names(TAKE_FEATURES))
@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_features_in_odd_arrays(name: str, call: Call, kind: str) -> None:
    if kind == "objects" and name == "X":
        call(ODD_ARRAYS[kind](FEATURES))  # as scikit-learn takes them
    else:
        refused(name, call, ODD_ARRAYS[kind](FEATURES))


@pytest.mark.parametrize(("name", "call"), TAKE_INTEGERS, ids=names(TAKE_INTEGERS))
@pytest.mark.parametrize("kind", [*ODD_TENSORS, *WITHOUT_VALUES])
def test_integers_in_odd_tensors(name: str, call: Call, kind: str) -> None:
    value = {**ODD_TENSORS, **WITHOUT_VALUES}[kind](TARGETS)
    if kind == "bool" and name in ("modality", "cam_labels"):
        call(value)  # a modality may be bool
    else:
        refused(name, call, value)


@pytest.mark.parametrize(("name", "call"), TAKE_INTEGERS, ids=names(TAKE_INTEGERS))
@pytest.mark.parametrize("kind", sorted(ODD_ARRAYS.keys() - {"objects"}))
def test_integers_in_odd_arrays(name: str, call: Call, kind: str) -> None:
    refused(name, call, ODD_ARRAYS[kind](LABELS))


@pytest.mark.parametrize(("name", "call"), TAKE_INTEGERS, ids=names(TAKE_INTEGERS))
@pytest.mark.parametrize("greatest", [2**63, 2**64 - 1])
def test_integers_beyond_int64_are_named_as_they_are(name: str, call: Call, greatest: int) -> None:
    too_great = LABELS.astype(np.uint64)
    too_great[7] = greatest
    for value in (too_great, torch.from_numpy(too_great)):
        with pytest.raises(ValueError, match=rf"^{name} must be below 2\*\*63, got {greatest}$"):
            call(value)


@pytest.mark.parametrize(("name", "call"), TAKE_ROWS, ids=names(TAKE_ROWS))
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_rows_of_a_step_in_odd_tensors(name: str, call: Call, kind: str) -> None:
    refused(name, call, ODD_TENSORS[kind](ROWS))


@pytest.mark.parametrize(("name", "call"), TAKE_TARGETS, ids=names(TAKE_TARGETS))
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_targets_in_odd_tensors(name: str, call: Call, kind: str) -> None:
    refused(name, call, ODD_TENSORS[kind](TARGETS))


UNSIGNED = [np.uint8, np.uint16, np.uint32, np.uint64]


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(("name", "call"), TAKE_TARGETS, ids=names(TAKE_TARGETS))
@pytest.mark.parametrize("dtype", UNSIGNED)
def test_targets_of_any_unsigned_type(name: str, call: Call, dtype: type) -> None:
    unsigned = torch.from_numpy(LABELS.astype(dtype))
    same(call(unsigned), call(TARGETS))
    unsigned[3] = 200  # uint64 of more is no noise either
    with pytest.raises(ValueError, match=rf"^{name} must be in \[-1, 6\), .* got 200$"):
        call(unsigned)
    if dtype is np.uint64:
        unsigned = torch.tensor([2**64 - 1] * N, dtype=torch.uint64)
        with pytest.raises(ValueError, match=rf"^{name} must be below 2\*\*63, got {2**64 - 1}$"):
            call(unsigned)


@pytest.mark.parametrize(("name", "call"), TAKE_INTEGERS, ids=names(TAKE_INTEGERS))
@pytest.mark.parametrize("dtype", UNSIGNED)
def test_integers_of_any_unsigned_type(name: str, call: Call, dtype: type) -> None:
    unsigned, expected = LABELS.astype(dtype), call(LABELS)
    same(call(unsigned), expected)
    same(call(torch.from_numpy(unsigned)), expected)


def test_clusters_of_any_unsigned_type() -> None:
    expected = mabm.multi_positive_loss(ROWS, PROTOTYPES, TARGETS, CLUSTERS)
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        found = mabm.multi_positive_loss(ROWS, PROTOTYPES, TARGETS, CLUSTERS.to(dtype))
        assert torch.equal(found, expected)
    for same_clusters in (np.arange(6, dtype=np.uint16), CLUSTERS.to(torch.uint64)):
        assert torch.equal(old_memory(same_clusters), old_memory(CLUSTERS))


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_distances_and_costs_of_any_unsigned_type(dtype: type) -> None:
    whole = np.round(10 * DISTANCE).astype(np.int64)
    same(scores(distance=whole.astype(dtype)), scores(distance=whole))
    same(mabm.match_clusters(whole.astype(dtype)), mabm.match_clusters(whole))


@pytest.mark.parametrize(("name", "call"), TAKE_FEATURES, ids=names(TAKE_FEATURES))
def test_features_in_any_memory_are_read_as_they_are(name: str, call: Call) -> None:
    expected = np.asarray(call(FEATURES))
    same(call(structured(FEATURES)["of"]), expected)
    same(call(FEATURES[::-1, ::-1].copy()[::-1, ::-1]), expected)
    same(call(FEATURES.view(np.matrix)), expected)
    same(call(torch.complex(ROWS, -ROWS).conj().imag), expected)  # minus is a bit of the view


@pytest.mark.parametrize(("name", "call"), TAKE_INTEGERS, ids=names(TAKE_INTEGERS))
def test_integers_in_any_memory_are_read_as_they_are(name: str, call: Call) -> None:
    expected = call(LABELS)
    same(call(structured(LABELS)["of"]), expected)
    same(call(LABELS[::-1].copy()[::-1]), expected)
    same(call(LABELS.astype(">i4")), expected)


def test_labels_near_the_end_of_int64_are_split_as_small_ones_are() -> None:
    great = LABELS + (2**63 - 10)
    found = mabm.split_prototypes(FEATURES, great, MODALITY)
    expected = mabm.split_prototypes(FEATURES, LABELS, MODALITY)
    same(found.targets, expected.targets)
    same(found.prototypes, expected.prototypes)
    same(found.clusters - (2**63 - 10), expected.clusters)
    same(found.modality, expected.modality)


def test_a_loss_runs_under_vmap_and_on_fake_tensors() -> None:
    batches = torch.stack([ROWS, 2 * ROWS]), torch.stack([TARGETS, TARGETS.flip(0)])
    found = torch.func.vmap(lambda f, y: mabm.cluster_contrast_loss(f, PROTOTYPES, y))(*batches)
    expected = [mabm.cluster_contrast_loss(f, PROTOTYPES, y) for f, y in zip(*batches, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
    with FakeTensorMode() as mode:
        loss = mabm.cluster_contrast_loss(*map(mode.from_tensor, (ROWS, PROTOTYPES, TARGETS)))
    assert loss.shape == ()


# Numbers


def labels_of_any(min_samples: Any) -> Any:
    """Pseudo-labels, for which ``min_samples=None`` is the default."""
    return mabm.pseudo_labels(FEATURES, MODALITY, min_samples=min_samples, **LISTS).labels


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("min_samples", lambda n: GRAPH.dbscan(0.5, n)),
        ("min_samples", lambda n: mabm.DBSCAN(min_samples=n)),
        ("min_samples", lambda n: labels_of_any(min_samples="none" if n is None else n)),
        ("k1", lambda n: mabm.rank_neighbors(FEATURES, k1=n)),
        ("num_samples", lambda n: mabm.estimate(n, 8)),
        ("dim", lambda n: mabm.estimate(8, n)),
        ("num_groups", lambda n: mabm.estimate(8, 8, "none" if n is None else n)),
        ("k2", lambda n: mabm.expand_queries(ENCODING, mabm.rank_neighbors(FEATURES, k1=6), k2=n)),
        ("num_selected", lambda n: mabm.MultiPositiveLoss(num_selected=n)),
        ("max_repeats", lambda n: mabm.MeanMemory(PROTOTYPES, max_repeats=n)),
        ("num_identities", lambda n: mabm.IdentityBatchSampler(LABELS, num_identities=n)),
        ("num_instances", lambda n: mabm.IdentityBatchSampler(LABELS, num_instances=n)),
        ("num_replicas", lambda n: mabm.IdentityBatchSampler(LABELS, num_replicas=n)),
        ("num_batches", lambda n: mabm.IdentityBatchSampler(LABELS, num_batches=n)),
        ("max_rank", lambda n: evaluation.eval_regdb(DISTANCE, LABELS, LABELS, max_rank=n)),
        ("max_iterations", lambda n: mabm.transport_plan(DISTANCE, max_iterations=n)),
        ("recall_rows", lambda n: mabm.FaissSearch(recall_rows=n)),
        ("num_features", lambda n: clustercontrast.ClusterMemory(n, 4)),
        ("rgbNum", lambda n: bmil.compute_jaccard_distance_xmodal(FEATURES, 6, 2, rgbNum=n)),
    ],
)  # fmt: skip
def test_integers_that_no_op_counts_to(name: str, call: Call) -> None:
    for value in (2**63, 10**5000, -(2**63), np.uint64(2**63)):
        with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
            call(value)
        assert len(str(caught.value)) < 200
    for value in (1.0, True, None, "1", np.array([1, 2]), torch.tensor([1]), torch.tensor(True)):
        if value is not None or name not in ("max_repeats", "num_replicas", "num_batches"):
            with pytest.raises(TypeError, match=f"^{name} must be an integer, got ") as caught:
                call(value)
            assert "\n" not in str(caught.value)


def test_seeds_and_epochs_may_be_of_any_size() -> None:
    sampler = mabm.IdentityBatchSampler(LABELS, seed=2**200)
    sampler.set_epoch(2**70)
    assert len(list(sampler)) == 1
    assert len(mabm.draw_gallery(LABELS, MODALITY, cameras=(0, 1), trial=2**200)) == 12


REFUSED_NUMBERS: list[tuple[str, Call, tuple[Any, ...]]] = [
    ("temperature", lambda x: mabm.ClusterContrastLoss(temperature=x), (1e-45, 5e-324, 0, -1)),
    ("temp", lambda x: clustercontrast.ClusterMemory(4, 6, temp=x), (1e-45, 0.0)),
    ("margin", lambda x: mabm.HybridContrastLoss(margin=x), (-1e-45,)),
    ("momentum", lambda x: mabm.MeanMemory(PROTOTYPES, momentum=x), (-5e-324, 1 + 1e-9)),
    ("eps", GRAPH.dbscan, (1e308, 0.7)),
    ("max_distance", lambda x: mabm.prune_distances(ENCODING, max_distance=x), (1e308,)),
    ("lambda_value", lambda x: mabm.rerank(FEATURES, FEATURES, lambda_value=x), (1e308, -1)),
    ("regularization", lambda x: mabm.transport_plan(DISTANCE, regularization=x), (0, 1e-320)),
]


@pytest.mark.parametrize(
    ("name", "call", "values"), REFUSED_NUMBERS, ids=[row[0] for row in REFUSED_NUMBERS]
)
def test_numbers_out_of_every_range(name: str, call: Call, values: tuple[Any, ...]) -> None:
    for value in (*values, float("inf"), float("nan"), -(10**400), 10**5000):
        refused(name, call, value)
    for value in (None, "1", True, np.array(0.5), torch.tensor(0.5), np.ones((9, 9))):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got ") as caught:
            call(value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-30, 1e-8, 1e30, 1e308])
def test_losses_of_extreme_temperatures_are_finite(temperature: float) -> None:
    for loss in (
        lambda f: mabm.cluster_contrast_loss(f, PROTOTYPES, TARGETS, temperature=temperature),
        lambda f: mabm.multi_positive_loss(
            f, PROTOTYPES, TARGETS, CLUSTERS // 2, temperature=temperature
        ),
    ):
        features = ROWS.clone().requires_grad_()
        value = loss(features)
        value.backward()
        assert value.isfinite()
        assert features.grad.isfinite().all()


@pytest.mark.parametrize("weight", [torch.inf, torch.nan, -1.0, 3e38, 1e-45, 1e-39, -1e-45])
def test_weights_that_spoil_a_mean_are_refused(weight: float) -> None:
    weights = torch.ones(6)
    weights[4] = weight
    refused(
        "positive_weights",
        lambda w: mabm.multi_positive_loss(
            ROWS, PROTOTYPES, TARGETS, CLUSTERS // 2, positive_weights=w
        ),
        weights,
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_of_any_scale_weigh_alike(scale: float) -> None:
    weights = torch.tensor([1.0, 3.0, 0.0, 1.0, 2.0, 2.0]).clamp(max=1 if scale > 1 else 3)
    found = [
        mabm.multi_positive_loss(ROWS, PROTOTYPES, TARGETS, CLUSTERS // 2, positive_weights=w)
        for w in (weights, scale * weights)
    ]
    torch.testing.assert_close(found[1], found[0])


def test_what_a_selector_answers_is_a_mask() -> None:
    for answer, message in (
        (torch.ones(N, 6), "must be a bool mask, got dtype torch.float32"),
        (torch.ones(5, dtype=torch.bool), r"must broadcast to \(24, 6\), got shape \(5,\)"),
        (None, "must be a torch.Tensor, got NoneType"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^the result of select {message}$"):
            mabm.multi_positive_loss(
                ROWS, PROTOTYPES, TARGETS, CLUSTERS, select=lambda *_, answer=answer: answer
            )
    with pytest.raises(TypeError, match=r"^select must be a function or None, got int: 3$"):
        mabm.SplitContrastLoss(select=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("preset", lambda x: mabm.modality_jaccard(FEATURES, MODALITY, preset=x)),
        ("precision", lambda x: mabm.modality_jaccard(FEATURES, MODALITY, precision=x)),
        ("preset", lambda x: mabm.estimate(8, 8, preset=x)),
        ("progress", lambda x: mabm.rank_neighbors(FEATURES, k1=6, progress=x)),
        ("method", lambda x: mabm.associate_clusters(FEATURES, LABELS, MODALITY, method=x)),
        ("protocol", lambda x: mabm.evaluate_retrieval(DISTANCE, LABELS, LABELS, protocol=x)),
        ("metric", lambda x: fastreid.build_dist(FEATURES, FEATURES, metric=x)),
        ("encoding", mabm.jaccard_distance),
        ("encoding", mabm.prune_distances),
        ("ranking", mabm.k_reciprocal_neighbors),
        ("neighbors", lambda x: mabm.encode_neighbors(FEATURES, x)),
        ("encoding", lambda x: mabm.expand_queries(x, mabm.rank_neighbors(FEATURES, k1=6))),
        ("eps_values", lambda x: GRAPH.sweep(0.5 if isinstance(x, np.ndarray) else x)),
        ("file", lambda x: bmil.modality_of_names("file", [x] * N, N)),
    ],
)  # fmt: skip
def test_words_and_kinds(name: str, call: Call) -> None:
    for value in (np.arange(100).reshape(10, 10), 3, 10**5000):
        refused(name, call, value)


def test_lists_of_old_interfaces_are_arrays_and_masks_are_none() -> None:
    expected = evaluation.eval_regdb(DISTANCE, LABELS, LABELS)[0]
    same(evaluation.eval_regdb(DISTANCE.tolist(), LABELS.tolist(), LABELS)[0], expected)
    bfloat = torch.from_numpy(DISTANCE).bfloat16()
    same(
        evaluation.eval_regdb(bfloat, LABELS, LABELS)[0],
        evaluation.eval_regdb(bfloat.float(), LABELS, LABELS)[0],
    )
    masked = np.ma.masked_less(DISTANCE, 1)
    refused("distmat", lambda d: evaluation.eval_regdb(d, LABELS, LABELS), masked)
    refused("distmat", lambda d: evaluation.eval_regdb(d, LABELS, LABELS), [[1.0], [2.0, 3.0]])


@pytest.mark.parametrize("great", [1e20, 1e300])
def test_distances_whose_squares_overflow_are_refused(great: float) -> None:
    with pytest.raises(ValueError, match="distances must have squares that are finite in float32"):
        reranking.re_ranking(DISTANCE.astype(float) * great, DISTANCE, DISTANCE, 6, 2)
