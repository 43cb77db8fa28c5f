"""Prototypes of clusters split by modality, against the reference and by what they promise."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import mabm
from mabm import reference

Problem = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]


@st.composite
def problems(draw: st.DrawFn, noise: tuple[float, ...] = (0.0, 0.3, 1.0)) -> Problem:
    """Features, labels with gaps and noise, and a modality of up to four groups."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, clusters = draw(st.integers(0, 80)), draw(st.integers(1, 20))
    labels = rng.integers(0, clusters, size=count) * draw(st.sampled_from((1, 5)))
    labels[rng.random(count) < draw(st.sampled_from(noise))] = -1
    groups = np.array([3, 0, 900, 7])[: draw(st.integers(1, 4))]
    modality = rng.choice(groups, size=count)
    return rng.normal(size=(count, 6)).astype(np.float32), labels, modality


@given(problems())
def test_matches_the_reference(problem: Problem) -> None:
    split = mabm.split_prototypes(*problem)
    prototypes, clusters, modality, targets = reference.split_prototypes(*problem)
    np.testing.assert_allclose(split.prototypes, prototypes, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(split.clusters, clusters)
    np.testing.assert_array_equal(split.modality, modality)
    np.testing.assert_array_equal(split.targets, targets)
    assert split.prototypes.dtype == np.float32
    assert {a.dtype for a in (split.clusters, split.modality, split.targets)} == {np.dtype("i8")}


@given(problems())
def test_the_summary_counts_what_the_labels_say(problem: Problem) -> None:
    _, labels, modality = problem
    summary = mabm.split_prototypes(*problem).summary()
    owned = {c: tuple(sorted(set(modality[labels == c].tolist()))) for c in set(labels) - {-1}}
    assert summary.num_clusters == len(owned)
    assert summary.num_noise == (labels == -1).sum()
    kinds = sorted(set(owned.values()))
    expected = {kind: list(owned.values()).count(kind) for kind in kinds}
    assert list(summary.clusters.items()) == list(expected.items())
    groups = sorted(set(modality[labels >= 0].tolist()))
    assert summary.samples == {g: ((modality == g) & (labels >= 0)).sum() for g in groups}


@given(problems(), st.integers(0, 2**32 - 1))
def test_names_of_clusters_decide_their_order_alone(problem: Problem, seed: int) -> None:
    features, labels, modality = problem
    names = np.random.default_rng(seed).permutation(200)
    renamed = np.where(labels < 0, -1, names[labels])
    split = mabm.split_prototypes(features, labels, modality)
    found = mabm.split_prototypes(features, renamed, modality)
    clustered = labels >= 0
    np.testing.assert_array_equal(
        found.prototypes[found.targets[clustered]], split.prototypes[split.targets[clustered]]
    )
    np.testing.assert_array_equal(names[split.clusters], found.clusters[_order(split, found)])


def _order(split: Any, found: Any) -> NDArray[np.int64]:
    """Of each prototype of one split, its number in the other."""
    first = [np.flatnonzero(split.targets == number)[0] for number in range(len(split))]
    return np.asarray(found.targets)[np.array(first, dtype=np.int64)]


def test_clusters_of_one_modality_have_one_prototype() -> None:
    features = torch.eye(4)
    labels, modality = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    split = mabm.split_prototypes(features, labels, modality)
    assert torch.equal(split.prototypes, features)
    assert split.clusters.tolist() == [0, 0, 1, 2]
    assert split.modality.tolist() == [0, 1, 1, 0]
    assert split.summary().clusters == {(0,): 1, (0, 1): 1, (1,): 1}
    assert str(split.summary()) == "3 clusters by modality (1 of 0, 1 of 0+1, 1 of 1), 0 noise"
    assert pickle.loads(pickle.dumps(split.summary())) == split.summary()


def test_without_a_modality_every_cluster_has_one_prototype() -> None:
    features, labels = torch.randn(20, 3), torch.arange(20) % 4
    split = mabm.split_prototypes(features, labels)
    whole = mabm.split_prototypes(features, labels, torch.full((20,), 5))
    assert torch.equal(split.prototypes, whole.prototypes)
    assert split.clusters.tolist() == [0, 1, 2, 3]
    assert split.modality.tolist() == [0] * 4


def test_pseudo_labels_are_split_by_modality() -> None:
    features = torch.eye(8).repeat_interleave(10, dim=0) + 0.01 * torch.randn(80, 8)
    modality = torch.arange(80) % 2
    found = mabm.pseudo_labels(features, modality, k1=10, k2=2)
    split = mabm.split_prototypes(features, found.labels, modality)
    assert len(split) == 16
    assert split.summary().clusters == {(0, 1): 8}


@pytest.mark.parametrize("labels", [[-1, -1, -1], []])
def test_noise_alone_has_no_prototype(labels: list[int]) -> None:
    count = len(labels)
    features = torch.randn(count, 5, requires_grad=True)
    split = mabm.split_prototypes(features, torch.tensor(labels, dtype=torch.int64))
    assert split.prototypes.shape == (0, 5)
    assert split.targets.tolist() == labels
    assert repr(split) == f"PrototypeSplit(0 prototypes: 0 clusters by modality, {count} noise)"
    split.prototypes.sum().backward()
    assert torch.equal(features.grad, torch.zeros(count, 5))


def test_a_mean_of_zero_stays_zero() -> None:
    features = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], requires_grad=True)
    split = mabm.split_prototypes(features, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(split.prototypes, torch.zeros(1, 2))


@given(problems(noise=(0.0, 0.3)))
def test_gradients(problem: Problem) -> None:
    features, labels, modality = problem
    assume(len(features))  # gradcheck takes no empty input
    x = torch.tensor(features, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: mabm.split_prototypes(x, labels, modality).prototypes, (x,)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    features = torch.randn(30, 4).to(dtype).requires_grad_()
    labels, modality = torch.arange(30) % 5 - 1, torch.arange(30) % 2
    split = mabm.split_prototypes(features, labels, modality)
    full = torch.float64 if dtype == torch.float64 else torch.float32
    expected = mabm.split_prototypes(features.detach().to(full), labels, modality)
    assert split.prototypes.dtype == full
    assert torch.equal(split.prototypes, expected.prototypes)
    split.prototypes.sum().backward()
    assert features.grad.dtype == dtype


def test_same_bits_for_any_number_of_threads_and_memory_layout() -> None:
    features, labels = torch.randn(3000, 40), torch.randint(-1, 30, (3000,))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(mabm.split_prototypes(features, labels).prototypes)
    finally:
        torch.set_num_threads(before)
    found.append(mabm.split_prototypes(features.T.contiguous().T, labels).prototypes)
    assert all(torch.equal(prototypes, found[0]) for prototypes in found)


FEATURES, LABELS = torch.ones(4, 3), torch.tensor([0, 0, 1, -1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": [1.0]}, TypeError, "features must be a torch.Tensor .* got list"),
        ({"features": FEATURES.int()}, TypeError, "features must be floating point, got .*int32"),
        ({"features": FEATURES[0]}, ValueError, r"features must be \(N, D\), got shape \(3,\)"),
        ({"features": FEATURES / 0}, ValueError, "features must be finite .* in row 0 and 3 more"),
        ({"features": FEATURES.to_sparse()}, TypeError, "features must be a dense tensor"),
        (
            {"labels": LABELS[:2]},
            ValueError,
            r"labels must be \(4,\), one per row, got shape \(2,\)",
        ),
        ({"labels": LABELS.float()}, TypeError, "labels must be integers, .* got dtype .*float32"),
        ({"labels": LABELS == 0}, TypeError, "labels must be integers, .* got dtype torch.bool"),
        ({"labels": LABELS - 1}, ValueError, "labels must be clusters >= 0 or -1 .* got -2"),
        ({"labels": None}, TypeError, "labels must be a tensor, an array, .* got NoneType: None"),
        ({"modality": LABELS}, ValueError, "modality must not be negative, got -1"),
        ({"modality": LABELS[:1]}, ValueError, r"modality must be \(4,\), .* got shape \(1,\)"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mabm.split_prototypes(**{"features": FEATURES, "labels": LABELS, **change})
