"""Samplers: batches of some clusters with as many images of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from mabm._core.arguments import check_integer
from mabm._core.arrays import IntArray
from mabm._core.columns import Column, Labels, check_categories, check_labels

# No batch has as many; a number above this is a mistyped argument, not a wish.
_MOST = 2**16
_EACH = "one a sample"


class IdentityBatchSampler(Sampler[list[int]]):
    """Batches of ``num_identities`` clusters with ``num_instances`` samples of each.

    Clusters are drawn without replacement: all of them, shuffled, then all of them shuffled anew,
    and so on through the epoch. From each, one sample is drawn at random, the anchor, and the
    others beside it. Without cameras those are any other samples of the cluster. With cameras they
    are samples that other cameras took, or, where there are none, others of the same camera. They
    are drawn without replacement where there are enough, else with it; a cluster of one sample is
    that sample ``num_instances`` times.

    The clusters of one batch are distinct, on all ranks together. Where there are fewer clusters
    than a batch of all ranks holds, each occurs in it equally often, give or take one.

    The batches of R ranks are those that one process would draw with R times the identities: rank
    ``r`` takes part ``r`` of each. So all ranks have as many batches, and no cluster is on two of
    them at one time. All ranks need the same labels, seed and epoch.

    Order depends on the seed and the epoch alone; the random state of the process is neither read
    nor changed. As with :class:`torch.utils.data.DistributedSampler`, call :meth:`set_epoch`
    before each epoch, else all have one order.

    Args:
        labels: (N,) integers, the cluster of each sample, or the :class:`mabm.PseudoLabels`; noise,
            below 0, is never drawn.
        cameras: (N,) integers or words, the camera of each sample, or ``None`` to draw without
            regard to it.
        num_identities: Clusters in a batch, in [1, 65536]. Published: 8.
        num_instances: Samples of a cluster, in [1, 65536]. Published: 16.
        num_batches: Batches of an epoch on each rank; by default as many as it takes to draw every
            cluster at least once. Published: 200 on SYSU-MM01, 100 on RegDB.
        seed: An integer >= 0, or a generator that one is drawn from, once, now.
        num_replicas: Number of ranks, in [1, 65536]; by default those of ``torch.distributed``
            where that is initialized by now, else 1.
        rank: This process's rank, in [0, num_replicas); by default likewise, else 0.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range, or labels without a cluster.

    Source:
        Wang et al., AAAI 2026 (BMIL), section "Implementation details"; cameras as in SpCL and
        Cluster-Contrast.

    Example:
        >>> import torch, mabm
        >>> labels = torch.tensor([0, 0, 0, 1, 1, -1, 2])
        >>> sampler = mabm.IdentityBatchSampler(labels, num_identities=2, num_instances=4)
        >>> sampler.set_epoch(3)
        >>> [labels[batch].unique_consecutive(return_counts=True)[1].tolist() for batch in sampler]
        [[4, 4], [4, 4]]
        >>> images = torch.arange(7)  # any dataset; batches of 8
        >>> loader = torch.utils.data.DataLoader(images, batch_sampler=sampler)
        >>> [len(batch) for batch in loader]
        [8, 8]
    """

    def __init__(
        self,
        labels: Labels,
        cameras: Column | None = None,
        *,
        num_identities: int = 8,
        num_instances: int = 16,
        num_batches: int | None = None,
        seed: int | torch.Generator = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        clusters = _copied(check_labels(labels, None, "labels", _EACH))
        self._cameras = None
        if cameras is not None:
            found = check_categories(cameras, len(clusters), "cameras", _EACH)
            self._cameras = _copied(found.columns[0])
        self.num_identities = _count("num_identities", num_identities)
        self.num_instances = _count("num_instances", num_instances)
        in_processes = dist.is_available() and dist.is_initialized()
        if num_replicas is None:
            num_replicas = dist.get_world_size() if in_processes else 1
        if rank is None:
            rank = dist.get_rank() if in_processes else 0
        self.num_replicas = _count("num_replicas", num_replicas)
        self.rank = check_integer("rank", rank, at_least=0, at_most=self.num_replicas - 1)
        self._members = _members(clusters)
        if not self._members:
            raise ValueError(
                f"labels must hold a cluster, a label of at least 0, got {len(clusters)} samples "
                "and none"
            )
        self._width = self.num_identities * self.num_replicas
        if num_batches is None:
            num_batches = -(-len(self._members) // self._width)
        self.num_batches = check_integer("num_batches", num_batches, at_least=1)
        if isinstance(seed, torch.Generator):
            seed = int(torch.randint(2**62, (), generator=seed, device=seed.device))
        self.seed = check_integer("seed", seed, at_least=0, at_most=None)
        self.epoch = 0

    @property
    def num_clusters(self) -> int:
        """Number of clusters drawn from."""
        return len(self._members)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that the order depends on.

        Args:
            epoch: An integer >= 0; every rank sets the same.

        Raises:
            TypeError: ``epoch`` is no integer.
            ValueError: ``epoch`` is negative.
        """
        self.epoch = check_integer("epoch", epoch, at_least=0, at_most=None)

    def __len__(self) -> int:
        """Number of batches of an epoch on each rank."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the batches of this rank: sample numbers, cluster by cluster, anchors first."""
        epoch = self.epoch
        steps = self._clusters(self._stream(epoch))
        mine = range(self.rank * self.num_identities, (self.rank + 1) * self.num_identities)
        for step in range(self.num_batches):
            clusters = next(steps)
            batch: list[int] = []
            for place in mine:  # each has a stream of its own: no rank draws for another
                batch += self._draw(clusters[place], self._stream(epoch, step, place))
            yield batch

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _clusters(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """Yields the clusters of one batch of all ranks after the other, without end."""
        waiting: list[int] = []
        while True:
            batch: list[int] = []
            while len(batch) < self._width:
                if not waiting:
                    # Those that this batch holds once more often than the others come last.
                    fresh = rng.permutation(self.num_clusters)
                    held = np.isin(fresh, batch[len(batch) - len(batch) % self.num_clusters :])
                    waiting = [*fresh[~held].tolist(), *fresh[held].tolist()]
                taken = waiting[: self._width - len(batch)]
                del waiting[: len(taken)]
                batch += taken
            yield batch

    def _draw(self, cluster: int, rng: np.random.Generator) -> list[int]:
        members = self._members[cluster]
        anchor = int(rng.integers(len(members)))
        others = np.delete(members, anchor)
        if self._cameras is not None:
            cameras = self._cameras[members]
            elsewhere = members[cameras != cameras[anchor]]
            others = elsewhere if len(elsewhere) else others
        if not len(others):
            others = members
        missing = self.num_instances - 1
        drawn = rng.choice(others, missing, replace=len(others) < missing)
        return [int(members[anchor]), *drawn.tolist()]


def _count(name: str, value: object) -> int:
    return check_integer(name, value, at_least=1, at_most=_MOST)


def _copied(column: Tensor) -> IntArray:
    return column.cpu().numpy().copy()


def _members(clusters: IntArray) -> list[IntArray]:
    """The samples of each cluster, ascending, clusters by ascending label; noise is in none."""
    order = np.argsort(clusters, kind="stable")
    order = order[clusters[order] >= 0]
    starts = np.flatnonzero(np.diff(clusters[order])) + 1
    return np.split(order, starts) if len(order) else []
