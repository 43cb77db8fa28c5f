"""Identity-balanced batches: what each holds, what decides their order, how ranks share them."""

import random
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import mabm


@st.composite
def clusterings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels with noise and gaps, clusters of one among them, and cameras, some alone."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(1, 9, draw(st.integers(1, 30)))
    names = rng.permutation(100)[: len(sizes)]
    labels = np.concatenate([np.repeat(names, sizes), np.full(draw(st.integers(0, 5)), -1)])
    cameras = rng.integers(0, draw(st.integers(1, 4)), len(labels))
    order = rng.permutation(len(labels))
    return labels[order], cameras[order]


counts = st.integers(1, 6)


def clusters_of(batch: list[int], labels: np.ndarray, num_instances: int) -> list[int]:
    """The clusters of a batch, which must come in runs of ``num_instances``."""
    rows = labels[batch].reshape(-1, num_instances)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0].tolist()


@given(clusterings(), counts, counts, st.booleans(), st.integers(0, 2**40))
def test_every_cluster_appears_in_batches_of_distinct_clusters(
    case: tuple[np.ndarray, np.ndarray],
    num_identities: int,
    num_instances: int,
    with_cameras: bool,
    seed: int,
) -> None:
    labels, cameras = case
    sampler = mabm.IdentityBatchSampler(
        labels,
        cameras if with_cameras else None,
        num_identities=num_identities,
        num_instances=num_instances,
        seed=seed,
    )
    batches = list(sampler)
    names = set(labels[labels >= 0].tolist())
    assert sampler.num_clusters == len(names)
    assert len(batches) == len(sampler) == -(-len(names) // num_identities)
    drawn: list[int] = []
    for batch in batches:
        assert len(batch) == num_identities * num_instances
        clusters = clusters_of(batch, labels, num_instances)
        times = Counter(clusters)
        if num_identities <= len(names):
            assert max(times.values()) == 1
        else:  # all of them, equally often
            assert set(times) == names
            assert max(times.values()) - min(times.values()) <= 1
        drawn += clusters
    assert set(drawn) == names  # and so no noise


@given(clusterings(), counts, st.booleans())
def test_instances_of_a_cluster(
    case: tuple[np.ndarray, np.ndarray], num_instances: int, with_cameras: bool
) -> None:
    labels, cameras = case
    sampler = mabm.IdentityBatchSampler(
        labels, cameras if with_cameras else None, num_identities=2, num_instances=num_instances
    )
    for batch in sampler:
        for first in range(0, len(batch), num_instances):
            anchor, *others = batch[first : first + num_instances]
            members = np.flatnonzero(labels == labels[anchor])
            allowed = members[members != anchor]
            if with_cameras and (cameras[members] != cameras[anchor]).any():
                allowed = members[cameras[members] != cameras[anchor]]
            allowed = allowed if len(allowed) else members
            assert set(others) <= set(allowed.tolist())
            if len(allowed) >= len(others):  # with replacement only where there are too few
                assert len(set(others)) == len(others)


def draws_of(size: int, sampling: str) -> list[list[int]]:
    """The instances, but for the anchor, of 100 batches of four from one cluster."""
    sampler = mabm.IdentityBatchSampler(
        np.zeros(size, int), num_identities=1, num_instances=4, num_batches=100, sampling=sampling
    )
    return [batch[1:] for batch in sampler]


def test_as_released_samples_repeat_where_there_are_just_enough() -> None:
    def repeats(size: int, sampling: str) -> int:
        return sum(len(set(drawn)) < len(drawn) for drawn in draws_of(size, sampling))

    # Three are drawn from the others: of two, some repeat; of three, 2 / 9 of the draws do not.
    assert [repeats(3, sampling) for sampling in ("even", "released")] == [100, 100]
    assert repeats(4, "even") == 0
    assert 60 < repeats(4, "released") < 95
    assert [repeats(5, sampling) for sampling in ("even", "released")] == [0, 0]


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_as_released_clusters_that_fill_no_batch_are_dropped(num_replicas: int) -> None:
    labels = np.repeat(np.arange(11), 3)

    def batches(sampling: str, num_batches: int | None) -> list[list[int]]:
        ranks = [
            mabm.IdentityBatchSampler(
                labels,
                num_identities=4 // num_replicas,
                num_instances=1,
                num_batches=num_batches,
                num_replicas=num_replicas,
                rank=rank,
                sampling=sampling,
            )
            for rank in range(num_replicas)
        ]
        return [
            labels[list(chain.from_iterable(part))].tolist() for part in zip(*ranks, strict=True)
        ]

    found = batches("released", 400)
    dropped = Counter()
    for first, second in zip(found[::2], found[1::2], strict=True):  # a pass: 8 of 11 clusters
        assert len({*first, *second}) == 8
        dropped.update(set(range(11)) - {*first, *second})
    assert sum(dropped.values()) == 3 * 200
    assert all(30 < times < 80 for times in dropped.values())  # 55 expected: which, is drawn
    assert len(dropped) == 11
    assert found[:2] == batches("even", 2)  # the first pass is the same
    assert [len(batches(sampling, None)) for sampling in ("even", "released")] == [3, 2]


def test_as_released_fewer_clusters_than_a_batch_holds_are_repeated() -> None:
    labels = np.repeat(np.arange(3), 5)
    found = [
        list(mabm.IdentityBatchSampler(labels, num_identities=8, num_batches=3, sampling=sampling))
        for sampling in ("even", "released")
    ]
    for one, other in zip(*found, strict=True):
        assert len(other) == 8 * 16
        assert labels[one].tolist() == labels[other].tolist()
    assert len(mabm.IdentityBatchSampler(labels, num_identities=8, sampling="released")) == 1


def test_a_cluster_of_one_sample_repeats_it() -> None:
    sampler = mabm.IdentityBatchSampler(
        np.array([-1, 4, -1]), np.array([0, 1, 0]), num_identities=2, num_instances=3
    )
    assert list(sampler) == [[1] * 6]


def test_all_anchors_and_all_cameras_are_drawn() -> None:
    labels, cameras = np.zeros(6, int), np.array([0, 0, 1, 1, 2, 2])
    sampler = mabm.IdentityBatchSampler(
        labels, cameras, num_identities=1, num_instances=3, num_batches=200
    )
    anchors = Counter(batch[0] for batch in sampler)
    assert set(anchors) == set(range(6))
    assert min(anchors.values()) > 15  # 33 expected


def test_clusters_come_in_another_order_every_time() -> None:
    labels = np.arange(20)  # of one sample each, so that their order is all there is
    sampler = mabm.IdentityBatchSampler(labels, num_identities=5, num_instances=1, num_batches=8)
    drawn = list(chain.from_iterable(sampler))
    sampler.set_epoch(1)
    orders = [drawn[:20], drawn[20:], list(chain.from_iterable(sampler))[:20], list(range(20))]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_clusters_of_one_batch_have_independent_draws() -> None:
    labels = np.repeat(np.arange(8), 10)
    (batch,) = mabm.IdentityBatchSampler(labels, num_identities=8, num_instances=4)
    places = np.reshape(batch, (8, 4)) % 10
    assert len(np.unique(places, axis=0)) == 8


@given(clusterings(), st.integers(0, 1000), st.integers(0, 1000))
def test_order_depends_on_seed_and_epoch(
    case: tuple[np.ndarray, np.ndarray], seed: int, epoch: int
) -> None:
    labels, cameras = case

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = mabm.IdentityBatchSampler(labels, cameras, seed=seed)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        return list(sampler)

    assert order(seed, epoch) == order(seed, epoch)
    if np.unique(labels[labels >= 0], return_counts=True)[1].max() > 2:
        assert order(seed, epoch) != order(seed, epoch + 1)
        assert order(seed, epoch) != order(seed + 1, epoch)
        assert order(seed, epoch + 1) != order(seed + 1, epoch)


def test_a_generator_seeds_once() -> None:
    labels = np.repeat(np.arange(20), 5)
    samplers = [
        mabm.IdentityBatchSampler(labels, seed=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    first, again, other = (list(sampler) for sampler in samplers)
    assert first == again != other
    assert list(samplers[0]) == first
    generator = torch.Generator().manual_seed(3)
    one, two = (mabm.IdentityBatchSampler(labels, seed=generator) for _ in range(2))
    assert list(one) != list(two)


@given(clusterings(), counts, st.integers(1, 4), st.integers(1, 5))
def test_ranks_share_the_batches_of_one_process(
    case: tuple[np.ndarray, np.ndarray], num_identities: int, num_replicas: int, num_batches: int
) -> None:
    labels, cameras = case
    options = {"num_instances": 3, "seed": 7, "num_batches": num_batches}
    together = mabm.IdentityBatchSampler(
        labels, cameras, num_identities=num_identities * num_replicas, **options
    )
    ranks = [
        mabm.IdentityBatchSampler(
            labels,
            cameras,
            num_identities=num_identities,
            num_replicas=num_replicas,
            rank=rank,
            **options,
        )
        for rank in range(num_replicas)
    ]
    for sampler in (together, *ranks):
        sampler.set_epoch(2)
        assert len(sampler) == num_batches
    parts = list(zip(*ranks, strict=True))
    assert [list(chain.from_iterable(part)) for part in parts] == list(together)
    if num_identities * num_replicas <= together.num_clusters:
        for part in parts:
            held = [set(labels[batch].tolist()) for batch in part]
            assert sum(map(len, held)) == len(set.union(*held))


def test_ranks_are_those_of_torch_distributed_unless_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.repeat(np.arange(9), 5)
    alone = mabm.IdentityBatchSampler(labels)
    assert (alone.num_replicas, alone.rank) == (1, 0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    found = mabm.IdentityBatchSampler(labels, num_identities=2)
    given = mabm.IdentityBatchSampler(labels, num_identities=2, num_replicas=3, rank=2)
    assert list(found) == list(given)
    alone = mabm.IdentityBatchSampler(labels, num_replicas=1, rank=0)
    assert (alone.num_replicas, alone.rank) == (1, 0)


def test_ranks_together_see_every_cluster_by_default() -> None:
    labels = np.repeat(np.arange(37), 4)
    ranks = [
        mabm.IdentityBatchSampler(labels, num_identities=4, num_replicas=3, rank=rank)
        for rank in range(3)
    ]
    assert [len(sampler) for sampler in ranks] == [4] * 3
    seen = {int(labels[n]) for sampler in ranks for batch in sampler for n in batch}
    assert seen == set(range(37))


def test_a_long_epoch_draws_all_clusters_equally_often() -> None:
    labels = np.repeat(np.arange(11), 3)
    sampler = mabm.IdentityBatchSampler(labels, num_identities=4, num_instances=1, num_batches=55)
    times = Counter(labels[np.concatenate(list(sampler))].tolist())
    assert set(times.values()) == {20}


def test_random_state_of_the_process_is_neither_read_nor_changed() -> None:
    def state() -> tuple[object, ...]:
        numpy_state = str(np.random.get_state())  # noqa: NPY002 - the global state is what must not change
        return random.getstate(), numpy_state, torch.get_rng_state().tolist()

    labels = np.repeat(np.arange(9), 5)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not change
    torch.manual_seed(1)
    before = state()
    found = list(mabm.IdentityBatchSampler(labels, np.arange(45) % 3))
    assert state() == before
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002 - the global state is what must not change
    torch.manual_seed(2)
    assert list(mabm.IdentityBatchSampler(labels, np.arange(45) % 3)) == found


def test_arrays_of_the_caller_are_copied() -> None:
    labels, cameras = np.repeat(np.arange(5), 4), np.arange(20) % 2
    sampler = mabm.IdentityBatchSampler(labels, cameras)
    before = list(sampler)
    labels[:], cameras[:] = 0, 0
    assert list(sampler) == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_in_a_data_loader(num_workers: int) -> None:
    labels = torch.arange(10).repeat_interleave(6)
    sampler = mabm.IdentityBatchSampler(labels, num_identities=2, num_instances=4)
    loader = DataLoader(
        TensorDataset(torch.randn(60, 3), labels), batch_sampler=sampler, num_workers=num_workers
    )
    assert len(loader) == 5
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for images, targets in loader:
            assert images.shape == (8, 3)
            assert targets.unique().numel() == 2


LABELS = np.array([0, 0, 1, -1])
REFUSED = [
    ({"labels": ["a", "b"]}, TypeError, "labels must be integers, one per sample, got words such as 'a'"),
    ({"labels": np.zeros(3)}, TypeError, "labels must be integers, one per sample, got dtype torch.float64"),
    ({"labels": np.zeros((3, 1), int)}, ValueError, r"labels must be \(N,\), one per sample, got shape \(3, 1\)"),
    ({"labels": np.full(3, -1)}, ValueError, r"labels must contain a cluster \(a label >= 0\), got 3 samples and none"),
    ({"labels": np.zeros(0, int)}, ValueError, "labels must contain a cluster .* got 0 samples"),
    ({"cameras": np.zeros(3, int)}, ValueError, r"cameras must be \(4,\), one per sample, got shape \(3,\)"),
    ({"cameras": np.zeros(4)}, TypeError, "cameras must be integers"),
    ({"num_identities": 0}, ValueError, r"num_identities must be in \[1, 65536\], got 0"),
    ({"num_instances": 1.5}, TypeError, "num_instances must be an integer, got float"),
    ({"sampling": "fair"}, ValueError, r"sampling must be one of \('even', 'released'\), got 'fair'"),
    ({"num_batches": 0}, ValueError, "num_batches must be at least 1, got 0"),
    ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ({"seed": None}, TypeError, "seed must be an integer, got NoneType"),
    ({"num_replicas": 0}, ValueError, r"num_replicas must be in \[1, 65536\], got 0"),
    ({"num_replicas": 2, "rank": 2}, ValueError, r"rank must be in \[0, 1\], got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mabm.IdentityBatchSampler(**{"labels": LABELS, **change})


def test_epoch_is_checked() -> None:
    sampler = mabm.IdentityBatchSampler(LABELS)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        sampler.set_epoch(-1)
    with pytest.raises(TypeError, match="epoch must be an integer, got float"):
        sampler.set_epoch(1.0)
