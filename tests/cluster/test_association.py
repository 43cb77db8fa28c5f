"""Matching clusters of two modalities: exact against brute force, transport by its marginals."""

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mabm

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def total(cost: np.ndarray, pairs: np.ndarray) -> float:
    return float(cost[pairs[:, 0], pairs[:, 1]].sum())


def least_total(cost: np.ndarray) -> float:
    """The least cost of matching every row of a (A, B >= A) cost with a column of its own."""
    rows = range(cost.shape[0])
    return min(
        float(cost[rows, list(columns)].sum())
        for columns in itertools.permutations(range(cost.shape[1]), cost.shape[0])
    )


@given(sizes, sizes, seeds)
def test_one_to_one_is_the_least_of_all_matchings(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).normal(size=(rows, columns))
    pairs = mabm.match_clusters(cost, one_to_one=True)
    assert pairs.dtype == np.int64
    assert pairs.shape == (min(rows, columns), 2)
    assert all(len(set(side)) == len(side) for side in pairs.T.tolist())
    expected = least_total(cost if rows <= columns else cost.T)
    assert total(cost, pairs) == pytest.approx(expected, abs=1e-9)


@given(sizes, sizes, seeds)
def test_every_cluster_gets_a_partner_round_by_round(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).normal(size=(rows, columns))
    pairs = mabm.match_clusters(cost)
    assert pairs.tolist() == sorted(pairs.tolist())
    short, longer = (0, 1) if rows <= columns else (1, 0)
    few, many = min(rows, columns), max(rows, columns)
    assert sorted(pairs[:, longer].tolist()) == list(range(many))
    times = np.bincount(pairs[:, short], minlength=few)
    assert times.max() - times.min() <= 1
    # The first round is the matching that stops there; what is left is matched likewise.
    first = mabm.match_clusters(cost, one_to_one=True)
    assert {tuple(pair) for pair in first.tolist()} <= {tuple(pair) for pair in pairs.tolist()}
    left = sorted(set(range(many)) - set(first[:, longer].tolist()))
    rest = mabm.match_clusters(cost[:, left] if longer else cost[left], one_to_one=len(left) < few)
    rest[:, longer] = np.array(left, dtype=np.int64)[rest[:, longer]]
    together = sorted(first.tolist() + rest.tolist())
    assert together == pairs.tolist()


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_match(shape: tuple[int, int]) -> None:
    assert mabm.match_clusters(torch.zeros(shape)).shape == (0, 2)


@given(sizes, sizes, seeds, st.sampled_from([0.01, 0.05, 1.0, 100.0]))
def test_plan_has_its_marginals(rows: int, columns: int, seed: int, regularization: float) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 2, size=(rows, columns))
    row_mass, column_mass = rng.uniform(0.1, 3, rows), rng.integers(1, 5, columns)
    plan = mabm.transport_plan(
        cost, row_mass, column_mass, regularization=regularization, tolerance=1e-9
    )
    assert plan.dtype == np.float64
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(axis=0), column_mass / column_mass.sum(), atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), row_mass / row_mass.sum(), atol=1e-9)


@given(st.integers(2, 6), seeds)
def test_plan_is_the_scaled_kernel(count: int, seed: int) -> None:
    # The optimum is the only plan of the form u_i exp(-cost / regularization) v_j: every
    # two by two minor of T * exp(cost / regularization) vanishes.
    cost = np.random.default_rng(seed).uniform(0, 1, size=(count, count))
    logs = np.log(mabm.transport_plan(cost, regularization=0.3)) + cost / 0.3
    np.testing.assert_allclose(logs[1:, 1:] + logs[0, 0], logs[1:, :1] + logs[:1, 1:], atol=1e-9)


def test_a_small_regularization_comes_to_the_exact_matching() -> None:
    cost = torch.rand(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plan = mabm.transport_plan(cost, regularization=0.002)
    pairs = mabm.match_clusters(cost)
    assert plan.argmax(dim=1).tolist() == pairs[:, 1].tolist()
    exact = float(cost[pairs[:, 0], pairs[:, 1]].mean())
    assert float((plan * cost).sum()) == pytest.approx(exact, abs=1e-3)


def test_a_great_regularization_comes_to_the_product_of_masses() -> None:
    plan = mabm.transport_plan(torch.rand(3, 5), regularization=1e6)
    torch.testing.assert_close(plan, torch.full((3, 5), 1 / 15, dtype=torch.float64))


def test_great_costs_neither_overflow_nor_vanish() -> None:
    cost = 1e6 * (1 - torch.eye(4)) + 1e8
    plan = mabm.transport_plan(cost, regularization=0.01)
    torch.testing.assert_close(plan, torch.eye(4, dtype=torch.float64) / 4)


def test_a_mass_of_zero_takes_no_part() -> None:
    plan = mabm.transport_plan(torch.rand(3, 2), np.array([1.0, 0.0, 1.0]), np.array([0, 2]))
    np.testing.assert_allclose(plan, [[0, 0.5], [0, 0], [0, 0.5]], atol=1e-12)


def test_what_did_not_converge_is_said(caplog: pytest.LogCaptureFixture) -> None:
    cost = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING, logger="mabm"):
        mabm.transport_plan(cost, regularization=0.001, max_iterations=2)
    assert "row sums differ from their masses by" in caplog.text
    assert "after 2 iterations" in caplog.text


def people(
    num_visible: int, num_infrared: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, labels that each modality numbers for itself, modality, person."""
    generator = torch.Generator().manual_seed(seed)
    person = torch.cat([torch.arange(num_visible), torch.arange(num_infrared)]).repeat(6)
    modality = (torch.arange(num_visible + num_infrared) >= num_visible).long().repeat(6)
    centers = torch.eye(max(num_visible, num_infrared), 40)
    gap = 0.4 * torch.eye(40)[38 + modality]
    noise = 0.05 * torch.randn(len(person), 40, generator=generator)
    numbers = torch.stack([torch.randperm(40, generator=generator) for _ in range(2)])
    return centers[person] + gap + noise, numbers[modality, person], modality, person


@pytest.mark.parametrize("method", ["hungarian", "sinkhorn"])
def test_people_are_put_together(method: str) -> None:
    features, labels, modality, person = people(9, 9)
    found = mabm.associate_clusters(features, labels, modality, method=method)
    assert found.num_clusters == found.num_spanning == 9
    assert found.labels.tolist() == person.tolist()  # numbered by first sample


@pytest.mark.parametrize("method", ["hungarian", "sinkhorn"])
@pytest.mark.parametrize(("visible", "infrared"), [(4, 9), (9, 4), (1, 7)])
def test_unequal_numbers_of_clusters(method: str, visible: int, infrared: int) -> None:
    features, labels, modality, _ = people(visible, infrared)
    found = mabm.associate_clusters(features, labels, modality, method=method)
    assert found.num_clusters == min(visible, infrared)
    # Every cluster of either modality is in one cluster of the result, whole.
    for group in (0, 1):
        for number in labels[modality == group].unique():
            members = (labels == number) & (modality == group)
            assert found.labels[members].unique().numel() == 1
    alone = mabm.associate_clusters(features, labels, modality, method=method, one_to_one=True)
    assert alone.num_clusters == max(visible, infrared)
    assert alone.num_spanning == min(visible, infrared)


def test_sinkhorn_lets_clusters_share_a_partner_as_mass_goes() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    labels, modality = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 1])
    loose = mabm.associate_clusters(
        features, labels, modality, method="sinkhorn", regularization=1.0
    )
    assert loose.labels.tolist()[:2] == [0, 1]
    assert sorted(set(loose.labels.tolist())) == [0, 1]


def test_noise_stays_noise_and_one_modality_stays_as_it_is() -> None:
    features, labels, modality, _ = people(5, 5)
    labels[::4] = -1
    found = mabm.associate_clusters(features, labels, modality)
    assert torch.equal(found.labels < 0, labels < 0)
    alone = mabm.associate_clusters(features, labels, torch.zeros_like(modality))
    assert alone.num_clusters == labels[labels >= 0].unique().numel()
    labels[modality == 1] = -1
    visible = mabm.associate_clusters(features, labels, modality)
    assert visible.num_spanning == 0
    nothing = mabm.associate_clusters(features, torch.full_like(labels, -1), modality)
    assert nothing.num_clusters == 0
    assert nothing.num_noise == len(labels)


def test_numpy_in_numpy_out_and_no_gradient() -> None:
    features, labels, modality, _ = people(4, 6)
    expected = mabm.associate_clusters(features.requires_grad_(), labels, modality).labels
    found = mabm.associate_clusters(
        features.detach().numpy(), labels.numpy(), modality.numpy() * 5 + 2
    )
    assert isinstance(found.labels, np.ndarray)
    np.testing.assert_array_equal(found.labels, expected)


REFUSED = [
    (mabm.match_clusters, {"cost": [[1.0]]}, TypeError, "cost must be a torch.Tensor or a numpy.ndarray, got list"),
    (mabm.match_clusters, {"cost": np.zeros(3)}, ValueError, r"cost must be \(A, B\), got shape \(3,\)"),
    (mabm.match_clusters, {"cost": np.array([[0.0], [np.inf]])}, ValueError, "cost must be finite, got NaN or Inf in row 1"),
    (mabm.match_clusters, {"cost": np.zeros((2, 2), bool)}, TypeError, "cost must contain real numbers, got dtype torch.bool"),
    (mabm.transport_plan, {"cost": np.zeros((0, 2))}, ValueError, r"cost must not be empty, got shape \(0, 2\)"),
    (mabm.transport_plan, {"regularization": 0}, ValueError, "regularization must be above 0, got 0"),
    (mabm.transport_plan, {"regularization": -1.0}, ValueError, r"regularization must be in \[0, inf\), got -1.0"),
    (mabm.transport_plan, {"tolerance": "small"}, TypeError, "tolerance must be a number, got str"),
    (mabm.transport_plan, {"max_iterations": 0}, ValueError, "max_iterations must be at least 1, got 0"),
    (mabm.transport_plan, {"row_mass": np.ones(3)}, ValueError, r"row_mass must be \(2,\), as in cost, got \(3,\)"),
    (mabm.transport_plan, {"column_mass": np.array([1.0, -1, 1])}, ValueError, "column_mass must be finite and not negative"),
    (mabm.transport_plan, {"column_mass": np.zeros(3)}, ValueError, "column_mass must sum to a finite number above 0, got 0"),
    (mabm.transport_plan, {"column_mass": np.ones(3, bool)}, TypeError, "column_mass must contain real numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "change", "error", "message"), REFUSED)
def test_refused(
    function: object, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(**{"cost": np.ones((2, 3)), **change})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "greedy"}, ValueError, r"method must be one of \('hungarian', 'sinkhorn'\), got 'greedy'"),
        ({"modality": torch.arange(4)}, ValueError, "modality must contain at most two groups, got 4"),
        ({"modality": torch.zeros(3, dtype=torch.int64)}, ValueError, r"modality must be \(4,\)"),
        ({"features": torch.full((4, 2), torch.nan)}, ValueError, "features must be finite .* row 0"),
        ({"labels": torch.zeros(4)}, TypeError, "labels must be integers"),
        ({"method": "sinkhorn", "regularization": 0.0}, ValueError, "regularization must be above 0"),
    ],
)  # fmt: skip
def test_association_refuses(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {
        "features": torch.eye(4, 2),
        "labels": torch.tensor([0, 1, 0, 1]),
        "modality": torch.tensor([0, 0, 1, 1]),
    }
    with pytest.raises(error, match=message):
        mabm.associate_clusters(**{**arguments, **change})
