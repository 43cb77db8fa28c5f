"""Samplers: batches of a number of clusters with the same number of images each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from mabm._core.arguments import check_choice, check_integer
from mabm._core.arrays import IntArray
from mabm._core.columns import Column, Labels, check_categories, check_labels

Sampling = Literal["even", "released"]

# Far above any real batch: a greater number is a mistake.
_LARGEST_COUNT = 2**16
_EACH = "one per sample"


class IdentityBatchSampler(Sampler[list[int]]):
    """Batches of ``num_identities`` clusters with ``num_instances`` samples of each.

    Clusters are drawn without replacement from a shuffled list, which is shuffled again when it is
    used up. From each cluster one sample, the anchor, is drawn at random, then the other samples.
    Without cameras these come from the rest of the cluster. With cameras they come from the
    cluster's samples of other cameras, or from the same camera if there are no others. They are
    drawn without replacement if there are enough, otherwise with replacement. A cluster with a
    single sample repeats it ``num_instances`` times. ``sampling`` says what happens to left-over
    clusters, and how many samples are enough.

    The clusters of one batch are distinct, across all ranks. If there are fewer clusters than the
    batch of all ranks needs, clusters repeat, and their counts in it differ by at most one.

    R ranks draw the batches that one process would draw with R times the identities; rank ``r``
    takes part ``r`` of each batch. All ranks therefore have the same number of batches, and no
    cluster is on two ranks at the same step. All ranks need the same labels, seed and epoch.

    The order depends only on the seed and the epoch; the global random state is neither read nor
    changed. As with :class:`torch.utils.data.DistributedSampler`, call :meth:`set_epoch` before
    each epoch; otherwise all epochs have the same order.

    Args:
        labels: (N,) integers, the cluster of each sample, or :class:`mabm.PseudoLabels`; noise,
            below 0, is never drawn.
        cameras: (N,) integers or words, the camera of each sample; ``None`` ignores cameras.
        num_identities: Number of clusters in a batch, in [1, 65536]. The paper uses 8.
        num_instances: Number of samples per cluster, in [1, 65536]. The paper uses 16.
        num_batches: Number of batches per epoch on each rank; ``None`` goes through the clusters
            once: the smallest number that draws each at least once, or, if ``sampling`` drops
            clusters, the largest that draws none twice. The paper uses 200 on SYSU-MM01 and 100 on
            RegDB.
        sampling: ``"even"``: clusters that are left over at the end of the list come first in the
            next batch, so that all are drawn equally often, and the ``num_instances - 1`` other
            samples are distinct if there are enough. ``"released"``, as implemented in SpCL,
            Cluster-Contrast and BMIL: clusters that do not fill a batch are dropped and the list is
            shuffled again (unless it is shorter than one batch of all ranks), and other samples are
            distinct only if there are at least ``num_instances``.
        seed: An integer >= 0, or a generator; a seed is drawn from it once, in the constructor.
        num_replicas: Number of ranks, in [1, 65536]; ``None`` is the world size if
            ``torch.distributed`` is initialized, otherwise 1.
        rank: Rank of this process, in [0, num_replicas); ``None`` is the rank in
            ``torch.distributed`` if that is initialized, otherwise 0.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or the labels have no cluster.

    Source:
        Wang et al., AAAI 2026 (BMIL), section "Implementation details"; cameras, and
        ``sampling="released"``, as in SpCL and Cluster-Contrast.

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
        sampling: Sampling = "even",
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
                f"labels must contain a cluster (a label >= 0), got {len(clusters)} samples "
                "and none"
            )
        self._width = self.num_identities * self.num_replicas
        check_choice("sampling", sampling, get_args(Sampling))
        self.sampling = sampling
        self._drops = sampling == "released" and self._width <= len(self._members)
        if num_batches is None:
            num_batches, left_over = divmod(len(self._members), self._width)
            num_batches += bool(left_over) and not self._drops
        self.num_batches = check_integer("num_batches", num_batches, at_least=1)
        if isinstance(seed, torch.Generator):
            seed = int(torch.randint(2**62, (), generator=seed, device=seed.device))
        self.seed = check_integer("seed", seed, at_least=0, at_most=None)
        self.epoch = 0

    @property
    def num_clusters(self) -> int:
        """Number of clusters to draw from."""
        return len(self._members)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order.

        Args:
            epoch: An integer >= 0, the same on all ranks.

        Raises:
            TypeError: ``epoch`` is not an integer.
            ValueError: ``epoch`` is negative.
        """
        self.epoch = check_integer("epoch", epoch, at_least=0, at_most=None)

    def __len__(self) -> int:
        """Number of batches per epoch on each rank."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the batches of this rank: sample indices, cluster by cluster, the anchor first."""
        epoch = self.epoch
        steps = self._clusters(self._stream(epoch))
        positions = range(self.rank * self.num_identities, (self.rank + 1) * self.num_identities)
        for step in range(self.num_batches):
            clusters = next(steps)
            batch: list[int] = []
            for position in positions:  # each has its own stream: no rank draws for another
                batch += self._draw(clusters[position], self._stream(epoch, step, position))
            yield batch

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _clusters(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """Yields the clusters of the batches of all ranks, batch by batch, endlessly."""
        waiting: list[int] = []
        while True:
            batch: list[int] = []
            if self._drops and len(waiting) < self._width:
                waiting = []
            while len(batch) < self._width:
                if not waiting:
                    # Clusters that occur once more than others in this batch come last.
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
        enough = missing if self.sampling == "even" else self.num_instances
        drawn = rng.choice(others, missing, replace=len(others) < enough)
        return [int(members[anchor]), *drawn.tolist()]


def _count(name: str, value: object) -> int:
    return check_integer(name, value, at_least=1, at_most=_LARGEST_COUNT)


def _copied(column: Tensor) -> IntArray:
    return column.cpu().numpy().copy()


def _members(clusters: IntArray) -> list[IntArray]:
    """The samples of each cluster in ascending order, clusters by ascending label, no noise."""
    order = np.argsort(clusters, kind="stable")
    order = order[clusters[order] >= 0]
    starts = np.flatnonzero(np.diff(clusters[order])) + 1
    return np.split(order, starts) if len(order) else []
