"""build_dist and compute_jaccard_distance as fast-reid and OpenUnReID call them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import Case, cases
from golden_files import GOLDEN, Golden
from hypothesis import given

import mabm
from mabm import reference
from mabm.compat.fastreid import build_dist, compute_jaccard_distance


@given(cases(("gaussian", "clustered", "flip_average", "norms")))
def test_jaccard_weighs_by_the_true_squared_distance(case: Case) -> None:
    k1, k2 = min(case.k1, 20), min(case.k2, case.k1, 20)
    found = compute_jaccard_distance(torch.from_numpy(case.features), k1=k1, k2=k2)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    preset = mabm.PRESETS["spcl"]
    groups = np.zeros(len(case.features), np.int64)
    lists = reference.rank(case.features, groups, preset, k1)
    sets = reference.k_reciprocal_sets(case.features, lists, preset, k1)
    squared = -reference.similarity(case.features, "euclidean")
    encoding = np.zeros_like(squared)
    for i, own in enumerate(sets):
        columns = sorted(own) or [i]
        weights = np.exp(squared[i, columns].min() - squared[i, columns])
        encoding[i, columns] = weights / weights.sum()
    encoding = reference.expand_queries(case.features, encoding, lists, groups, preset, k2)
    np.testing.assert_allclose(found, reference.jaccard(encoding), rtol=0, atol=1e-5)


@pytest.mark.parametrize("golden", [g for g in GOLDEN if g.preset.name == "spcl"], ids=str)
def test_unit_vectors_give_the_classic_distance(golden: Golden) -> None:
    features = torch.nn.functional.normalize(torch.from_numpy(golden.features), dim=1)
    expected = mabm.modality_jaccard(features, k1=golden.k1, k2=golden.k2)
    found = compute_jaccard_distance(features, golden.k1, golden.k2, search_option=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    norms = np.linalg.norm(golden.features, axis=1)
    if np.allclose(norms, 1, atol=1e-6):
        np.testing.assert_allclose(found, golden.distance, rtol=0, atol=1e-5)


def test_a_duplicate_in_no_list_of_its_own_is_encoded_as_itself() -> None:
    found = compute_jaccard_distance(torch.ones(30, 2), k1=3, k2=1)
    assert (np.diag(found) == 0).all()
    assert found[20, 21] == 1


def test_metrics() -> None:
    one, other = torch.randn(5, 7), torch.randn(9, 7)
    squared = build_dist(one, other)
    np.testing.assert_allclose(squared, torch.cdist(one, other).square(), rtol=1e-4)
    cosine = build_dist(one, other, metric="cosine")
    expected = 1 - torch.nn.functional.cosine_similarity(one[:, None], other, dim=2)
    np.testing.assert_allclose(cosine, expected, atol=1e-6)
    whole = compute_jaccard_distance(torch.cat([one, other]), k1=6, k2=2)
    part = build_dist(one, other, metric="jaccard", k1=6, k2=2)
    np.testing.assert_array_equal(part, whole[:5, 5:])
    for found in (squared, cosine, part):
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        assert found.shape == (5, 9)


def test_openunreid_gives_a_configuration() -> None:
    features, others = torch.randn(12, 5), torch.randn(6, 5)
    cfg = SimpleNamespace(dist_metric="jaccard", k1=5, k2=2, search_type=0, dist_cuda=True)
    whole = compute_jaccard_distance(features, k1=5, k2=2)
    np.testing.assert_array_equal(build_dist(cfg, features, verbose=True), whole)
    between = build_dist(cfg, features, others)
    np.testing.assert_array_equal(
        between, build_dist(features, others, metric="jaccard", k1=5, k2=2)
    )
    euclidean = build_dist(cfg, features, dist_m="euclidean")
    np.testing.assert_array_equal(euclidean, build_dist(features, features))
    np.testing.assert_array_equal(build_dist(cfg=cfg, feat_1=features), whole)


def test_an_evaluator_as_fastreid_writes_it() -> None:
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(8), 6)
    features = torch.from_numpy(rng.normal(size=(8, 24))[pids] + 0.8 * rng.normal(size=(48, 24)))
    predictions = [
        {"feats": features[n].float(), "pids": pids[n], "camids": n % 6} for n in range(48)
    ]
    is_query = [prediction["camids"] == 0 for prediction in predictions]
    feats = torch.stack([prediction["feats"] for prediction in predictions])
    feats = torch.nn.functional.normalize(feats, dim=1)
    query_features = feats[torch.tensor(is_query)]
    gallery_features = feats[~torch.tensor(is_query)]
    q_pids = np.array([p["pids"] for p, query in zip(predictions, is_query, strict=True) if query])
    g_pids = np.array(
        [p["pids"] for p, query in zip(predictions, is_query, strict=True) if not query]
    )

    dist = build_dist(query_features, gallery_features, metric="cosine")
    rerank_dist = build_dist(query_features, gallery_features, metric="jaccard", k1=6, k2=3)
    rerank_dist *= 1 - 0.3
    rerank_dist += dist * 0.3

    assert rerank_dist.shape == (8, 40)
    scores = mabm.evaluate_retrieval(rerank_dist, q_pids, g_pids, protocol="regdb")
    assert scores.mean_average_precision > 0.95


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(2, 3), torch.ones(2, 3)), {"metric": "l1"}, ValueError, r"metric must be one of \('euclidean', 'cosine', 'jaccard'\), got 'l1'"),
        ((torch.ones(2, 3), torch.ones(2, 4)), {}, ValueError, "others must have 3 columns as features has, got 4"),
        ((torch.ones(2, 3), torch.ones(2, 4)), {"metric": "jaccard"}, ValueError, "feat_2 must have 3 columns as feat_1 has, got 4"),
        (([1.0], torch.ones(2, 4)), {"metric": "jaccard"}, TypeError, "feat_1 must be a torch.Tensor"),
        ((torch.ones(2, 3),), {"metric": "jaccard", "k1": 0}, ValueError, "k1 must be in"),
        ((), {}, TypeError, "missing 1 required positional argument: 'feat_1'"),
    ],
)  # fmt: skip
def test_refused(
    arguments: tuple[object, ...],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        build_dist(*arguments, **options)
    with pytest.raises(ValueError, match=r"search_option must be in \[0, 5\], got 9"):
        compute_jaccard_distance(torch.ones(3, 2), search_option=9)
