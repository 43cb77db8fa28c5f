"""re_ranking and compute_jaccard_dist in their old forms, against the definition in sets."""

import numpy as np
import pytest
import torch
from cases import make_features
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import mabm
from mabm import reference
from mabm._core import device_memory
from mabm.compat import reranking
from mabm.compat.reranking import compute_jaccard_dist, re_ranking


def slow_encoding(original: np.ndarray, ranks: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """Zhong et al. (CVPR 2017) in sets, on relative squared distances, lists of k1 + 1."""
    neighbors = reference.reciprocal(list(ranks[:, : k1 + 1]))
    half = reference.reciprocal(list(ranks[:, : round(k1 / 2) + 1]))
    encoding = np.zeros_like(original)
    for i, expanded in enumerate(reference.expand(neighbors, half)):
        columns = sorted(expanded) or [i]
        weights = np.exp(-original[i, columns])
        encoding[i, columns] = weights / weights.sum()
    if k2 > 1:
        encoding = np.stack([encoding[row[:k2]].mean(axis=0) for row in ranks])
    return encoding


def slow_re_ranking(
    squared: np.ndarray, ranks: np.ndarray, split: int, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    original = squared / squared.max(axis=1, keepdims=True)
    jaccard = reference.jaccard(slow_encoding(original, ranks, k1, k2))
    mixed: np.ndarray = (1 - lambda_value) * jaccard + lambda_value * original
    return mixed[:split, split:]


def slow_half_precision_re_ranking(
    squared: np.ndarray, split: int, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    """The same formula as the released code evaluates it: V, its averages, sums, J in float16."""
    original = squared.astype(np.float32)
    original /= original.max(axis=1, keepdims=True)
    ranks = np.argsort(original, axis=1, kind="stable")
    encoding = slow_encoding(original, ranks, k1, 1).astype(np.float16)
    if k2 > 1:
        means = [encoding[row[:k2]].astype(np.float32).mean(axis=0) for row in ranks]
        encoding = np.stack(means).astype(np.float16)
    jaccard = np.empty((split, len(squared) - split), dtype=np.float16)
    for i in range(split):
        for j in range(split, len(squared)):
            shared = np.float16(0)
            for smaller in np.minimum(encoding[i], encoding[j]):
                shared = np.float16(shared + smaller)
            jaccard[i, j - split] = np.float16(1) - shared / (np.float16(2) - shared)
    return jaccard * (1 - lambda_value) + original[:split, split:] * lambda_value


def points(count: int, seed: int, kind: str = "clustered") -> np.ndarray:
    return make_features(kind, np.zeros(count, np.int64), seed)


def parts_of(distance: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return distance[:split, split:], distance[:split, :split], distance[split:, split:]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 90),
    st.integers(1, 25),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from(["clustered", "gaussian", "flip_average"]),
)
def test_distances_match_the_definition(
    seed: int, count: int, k1: int, k2: int, lambda_value: float, kind: str
) -> None:
    features = points(count, seed, kind)
    split = max(count // 4, 1)
    # Whole numbers of 2**-20 and their squares are the same in any precision: so are the ranks.
    distance = np.round(cdist(features, features), 3).astype(np.float32).astype(np.float64)
    squared = (distance**2).astype(np.float32).astype(np.float64)
    furthest = squared.astype(np.float32).max(axis=1, keepdims=True)
    ranks = np.argsort(squared.astype(np.float32) / furthest, axis=1, kind="stable")
    found = re_ranking(*parts_of(distance, split), k1=k1, k2=k2, lambda_value=lambda_value)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert found.shape == (split, count - split)
    expected = slow_re_ranking(squared, ranks, split, k1, k2, lambda_value)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def exact_points(count: int, seed: int) -> np.ndarray:
    """Whole numbers: squared distances, and the ranks by them, are the same in any precision."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(-40, 41, size=(max(count // 8, 1), 6))
    return (rng.choice(centers, size=count) + rng.integers(-12, 13, size=(count, 6))).astype(float)


@pytest.mark.parametrize(("k1", "k2"), [(8, 3), (8, 1), (5, 9), (20, 6)])
@pytest.mark.parametrize("lambda_value", [0.0, 0.3])
def test_float16_gives_what_the_released_forms_of_features_give(
    k1: int, k2: int, lambda_value: float
) -> None:
    features = exact_points(70, seed=k1 + k2)
    squared = cdist(features, features, "sqeuclidean")
    expected = slow_half_precision_re_ranking(squared, 15, k1, k2, lambda_value)
    arguments = (features[:15], features[15:], k1, k2, lambda_value)
    found = re_ranking(*arguments, use_float16=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.dtype == (np.float32 if lambda_value else expected.dtype)
    np.testing.assert_array_equal(found.argsort(kind="stable"), expected.argsort(kind="stable"))
    exact = re_ranking(*arguments)
    assert exact.dtype == np.float32
    assert 1e-4 < abs(exact - expected).max() < 0.02  # why there is the option


def test_both_forms_have_float16_and_it_is_off_by_default() -> None:
    features = exact_points(50, seed=1)
    of_features = re_ranking(features[:9], features[9:], 10, 4, 0.3, use_float16=True)
    distances = parts_of(cdist(features, features), 9)
    found = re_ranking(*distances, k1=10, k2=4, use_float16=True)
    np.testing.assert_allclose(found, of_features, rtol=0, atol=1e-6)
    plain = re_ranking(*distances, k1=10, k2=4)
    np.testing.assert_array_equal(plain, re_ranking(*distances, 10, 4, use_float16=False))
    assert abs(plain - found).max() > 1e-4


def slow_jaccard_dist(features: np.ndarray, k1: int, k2: int) -> tuple[np.ndarray, np.ndarray]:
    """J and the distance it ranks by, as MMT defines that on features of any length."""
    products = features @ features.T
    distance = 2 * np.diag(products) - 2 * products
    distance = distance / distance.max(axis=1, keepdims=True)
    ranks = np.argsort(distance.astype(np.float32), axis=1, kind="stable")
    return reference.jaccard(slow_encoding(distance, ranks, k1, k2)), distance


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (9, 1), (5, 8), (20, 70)])
def test_jaccard_dist_matches_the_definition(k1: int, k2: int) -> None:
    features = exact_points(60, seed=k2)
    expected, distance = slow_jaccard_dist(features, k1, k2)
    found = compute_jaccard_dist(torch.from_numpy(features), k1, k2, print_flag=False)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    mixed = compute_jaccard_dist(features, k1, k2, lambda_value=0.3)
    np.testing.assert_allclose(
        mixed, 0.7 * expected + 0.3 * distance.clip(min=0), rtol=0, atol=1e-5
    )


def test_jaccard_dist_mixes_in_the_distance_from_the_source() -> None:
    target, source = exact_points(50, 3) / 40, exact_points(30, 4) / 40
    away = 1 - np.exp(-cdist(target, source, "sqeuclidean").min(axis=1))
    away /= away.max()
    jaccard = compute_jaccard_dist(torch.from_numpy(target), 10, 4).numpy()
    found = compute_jaccard_dist(
        torch.from_numpy(target), 10, 4, lambda_value=0.1, source_features=torch.from_numpy(source)
    )
    np.testing.assert_allclose(found, 0.9 * jaccard + 0.1 * (away[:, None] + away), atol=1e-5)
    unmixed = compute_jaccard_dist(target, 10, 4, source_features=source, use_gpu=True)
    np.testing.assert_array_equal(unmixed, jaccard)


def test_jaccard_dist_of_duplicates() -> None:
    found = compute_jaccard_dist(torch.ones(30, 3), 4, 2, lambda_value=0.5)
    assert bool(found.isfinite().all())


def test_ties_go_to_the_lower_index_also_where_the_list_ends() -> None:
    distance = np.random.default_rng(0).integers(1, 4, size=(40, 40)).astype(np.float64)
    distance = np.minimum(distance, distance.T)
    np.fill_diagonal(distance, 0)
    ranks = np.argsort(distance, axis=1, kind="stable")
    expected = slow_re_ranking(distance**2, ranks, 10, 7, 3, 0.3)
    found = re_ranking(*parts_of(distance, 10), k1=7, k2=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_both_forms_agree_and_take_tensors_and_arrays() -> None:
    features = points(80, 3)
    query, gallery = features[:20], features[20:]
    expected = re_ranking(*parts_of(cdist(features, features), 20), k1=20, k2=6, lambda_value=0.3)
    of_tensors = re_ranking(torch.from_numpy(query), torch.from_numpy(gallery), 20, 6, 0.3)
    np.testing.assert_allclose(of_tensors, expected, rtol=0, atol=1e-5)
    of_arrays = re_ranking(query, gallery, 20, 6, 0.3, MemorySave=True, Minibatch=10)
    np.testing.assert_array_equal(of_arrays, of_tensors)
    np.testing.assert_array_equal(re_ranking(query, gallery, 20, 6, 0.3, True, 10), of_tensors)
    named = re_ranking(probFea=query, galFea=gallery, k1=np.int64(20), k2=6, lambda_value=0.3)
    np.testing.assert_array_equal(named, of_tensors)
    np.testing.assert_array_equal(re_ranking(query, gallery), of_tensors)
    np.testing.assert_array_equal(re_ranking(query, gallery, lambda_value=0.3), of_tensors)


def test_a_local_distance_is_added_or_replaces_the_other() -> None:
    features, other = points(50, 1), points(50, 2)
    local = cdist(other, other, "sqeuclidean")
    query, gallery = features[:10], features[10:]
    alone = re_ranking(query, gallery, 10, 3, 0.3, local_distmat=local, only_local=True)
    expected = re_ranking(other[:10], other[10:], 10, 3, 0.3)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(re_ranking(query, gallery, 10, 3, 0.3, local, True), alone)
    added = re_ranking(query, gallery, 10, 3, 0.3, local)
    together = np.sqrt(cdist(features, features, "sqeuclidean") + local)
    expected = re_ranking(*parts_of(together, 10), k1=10, k2=3)
    np.testing.assert_allclose(added, expected, rtol=0, atol=1e-5)
    plain = re_ranking(query, gallery, 10, 3, 0.3, None, False)
    np.testing.assert_array_equal(plain, re_ranking(query, gallery, 10, 3, 0.3))


def test_duplicates_and_few_samples() -> None:
    assert (re_ranking(np.ones((2, 3)), np.ones((30, 3)), 4, 2, 0.3) >= 0).all()
    assert re_ranking(np.ones((1, 3)), np.zeros((1, 3)), 20, 6, 0.3).shape == (1, 1)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = points(60, 5)
    whole = re_ranking(features[:9], features[9:], 12, 4, 0.3)
    monkeypatch.setattr(reranking, "_ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(re_ranking(features[:9], features[9:], 12, 4, 0.3), whole)


def test_a_matrix_that_cannot_fit_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setattr(device_memory, "available_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"dense \(50, 50\) distance.*use mabm\.rerank"):
        re_ranking(np.ones((10, 3)), np.ones((40, 3)), 20, 6, 0.3)


def test_a_test_loop_as_torchreid_writes_it() -> None:
    rng = np.random.default_rng(0)
    pids, features = np.repeat(np.arange(10), 6), points(60, 7)
    features = rng.normal(size=(10, 32))[pids] + 0.9 * rng.normal(size=(60, 32))
    order = rng.permutation(60)
    qf, gf = torch.from_numpy(features[order[:15]]), torch.from_numpy(features[order[15:]])
    q_pids, g_pids = pids[order[:15]], pids[order[15:]]

    distmat = torch.cdist(qf, gf).numpy()
    distmat_qq = torch.cdist(qf, qf).numpy()
    distmat_gg = torch.cdist(gf, gf).numpy()
    reranked = re_ranking(distmat, distmat_qq, distmat_gg, k1=5, k2=3)

    def average_precision(distance: np.ndarray) -> float:
        scores = mabm.evaluate_retrieval(distance, q_pids, g_pids, protocol="regdb")
        return scores.mean_average_precision

    assert average_precision(reranked) > average_precision(distmat)


EYE = np.eye(2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target_features": EYE[0]}, ValueError, r"target_features must be \(N, D\)"),
        ({"k1": 1024}, ValueError, r"k1 must be in \[1, 1023\], got 1024"),
        ({"k2": 0}, ValueError, r"k2 must be in \[1, 1024\], got 0"),
        ({"lambda_value": 2}, ValueError, r"lambda_value must be in \[0, 1\], got 2"),
        ({"source_features": np.ones((3, 5))}, ValueError, "source_features must have 2 columns as target_features has, got 5"),
    ],
)  # fmt: skip
def test_jaccard_dist_refuses(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compute_jaccard_dist(**{"target_features": EYE, **options})


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.ones((2, 3)), EYE, np.eye(4)), {}, ValueError, r"g_g_dist must be \(3, 3\), got shape \(4, 4\)"),
        ((np.ones((2, 3)), np.eye(3), np.eye(3)), {}, ValueError, r"q_q_dist must be \(2, 2\), got shape \(3, 3\)"),
        ((np.full((2, 2), np.nan), EYE, EYE), {}, ValueError, "q_g_dist must be finite, got NaN or Inf in row 0"),
        ((np.ones((2, 2), int), EYE, EYE), {}, TypeError, "q_g_dist must be floating point"),
        ((np.ones(2), EYE, EYE), {}, ValueError, r"q_g_dist must be \(Q, G\) with at least one of each"),
        ((EYE, EYE, EYE), {"k1": 0}, ValueError, r"k1 must be in \[1, 1023\], got 0"),
        ((EYE, EYE, EYE), {"k2": 0}, ValueError, r"k2 must be in \[1, 1024\], got 0"),
        ((EYE, EYE, EYE), {"lambda_value": 2}, ValueError, r"lambda_value must be in \[0, 1\], got 2"),
        ((EYE, np.ones((2, 3)), 20, 6, 0.3), {}, ValueError, "galFea must have 2 columns as probFea has, got 3"),
        (([[1.0]], EYE, 20, 6, 0.3), {}, TypeError, "probFea must be a torch.Tensor"),
        ((EYE, EYE, 20, 6, 0.3), {"only_local": True}, ValueError, "local_distmat must be given with only_local=True, got None"),
        ((EYE, EYE, 20, 6, 0.3), {"local_distmat": EYE}, ValueError, r"local_distmat must be \(4, 4\), got shape \(2, 2\)"),
        ((EYE,), {}, TypeError, "re_ranking must be called with probFea.* missing .*'galFea'"),
        ((EYE, EYE), {"k3": 1}, TypeError, "re_ranking must be called with .* unexpected .*'k3'"),
    ],
)  # fmt: skip
def test_refused(
    arguments: tuple[object, ...],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        re_ranking(*arguments, **options)
