"""Memories: prototypes that move with the batches, by explicit updates.

A memory is read by the losses through ``memory.prototypes`` and changed by ``memory.update`` alone,
never by a backward pass. An update puts a new tensor in the place of the old one, so that a
backward pass that follows it still sees the memory as it was at forward.

A row of features that is not finite moves nothing: it is left out, on its device and without a
word, as noise is. A loss of such features is NaN, which is where it shows.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mabm._core.arguments import check_integer, check_real
from mabm._core.arrays import check_matrix, to_tensor
from mabm._core.batch import (
    check_batch,
    check_lengths,
    check_rows,
    full_precision,
    leave_out_not_finite,
    unit_rows,
    values_are_at_hand,
    without_autocast,
)
from mabm._core.columns import check_column, labels_of
from mabm._core.partition import NOISE
from mabm.contrast.module_state import WholeState
from mabm.contrast.prototypes import PrototypeSplit

DEFAULT_MOMENTUM = 0.1


class _Memory(WholeState):
    """What the kinds share: the buffers, their rebuilding, and the joined batch of all ranks."""

    prototypes: Tensor
    clusters: Tensor
    _num_banks: ClassVar[int | None] = None

    def __init__(
        self, source: Tensor | PrototypeSplit[Any], *, momentum: float = DEFAULT_MOMENTUM
    ) -> None:
        super().__init__()
        self.momentum = check_real("momentum", momentum, 0.0, 1.0)
        prototypes, clusters = _read_source(source)
        self.register_buffer("prototypes", self._fill(prototypes))
        self.register_buffer("clusters", clusters)

    def rebuild(self, source: Tensor | PrototypeSplit[Any]) -> None:
        """Starts over from new prototypes, as many as there are now, on the memory's device.

        Args:
            source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes that are their own
                clusters; copied, and taken as they are.

        Raises:
            TypeError: As the constructor.
            ValueError: As the constructor.

        Example:
            >>> import torch, mabm
            >>> memory = mabm.MeanMemory(torch.eye(3))
            >>> memory.rebuild(torch.eye(5)[:, :3])  # another epoch, other clusters
            >>> memory
            MeanMemory(5 prototypes of 3 dimensions, momentum=0.1)
        """
        prototypes, clusters = _read_source(source)
        clusters = clusters.to(self.clusters.device)
        self.prototypes = self._fill(prototypes.to(self.prototypes))
        self.clusters = clusters

    def update(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        gather: bool = True,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Moves the rows that the batch has samples of.

        Where ``torch.distributed`` is initialized this is a collective call: every rank updates
        with the batches of all, joined in the order of the ranks, and ends with the same memory as
        one process given the joined batch. Batches may be of unequal sizes, or empty; to learn
        them, the host waits for the device. In one process it does not.

        The batch counts as if rows that are not finite were not in it: those with NaN or Inf, as
        float16 gives where a gradient scaler skips the step, and those whose length is infinite
        in float32 (numbers of 1.8e19 or more; in float64 of such features).

        Args:
            features: (B, D) floating point on the memory's device, normalized here; detached.
            targets: (B,) integers in [-1, P), the row of each feature, -1 for noise.
            gather: Whether to join the batches of all ranks.
            group: The ranks to join, those of the default group unless given.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A shape, device or target out of contract.

        Example:
            >>> import torch, mabm
            >>> memory = mabm.HybridMemory(torch.eye(3), momentum=0.5)
            >>> memory.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]))
        """
        count, num_columns = self.prototypes.shape[-2:]
        rows, targets = check_batch(features, targets, num_columns, count, "prototypes")
        if rows.device != self.prototypes.device:
            raise ValueError(
                f"features must be on {self.prototypes.device} as the memory is, got {rows.device}"
            )
        # In inference mode too the memory is to be one that a later backward pass can use.
        with torch.inference_mode(False), torch.no_grad(), without_autocast(rows.device):
            rows = unit_rows(rows)
            targets = leave_out_not_finite(rows[:, :1], targets)  # unit rows are NaN as a whole
            if gather and dist.is_available() and dist.is_initialized():
                rows, targets = _join_batches(rows, targets, group)
            prototypes = full_precision(self.prototypes)
            rows = rows.to(prototypes.dtype)
            self.prototypes = self._moved(prototypes, rows, targets).to(self.prototypes.dtype)

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def _fill(self, prototypes: Tensor) -> Tensor:
        """A copy in every bank, of which losses can take a gradient whatever mode it is made in."""
        with torch.inference_mode(False):
            if self._num_banks is None:
                return prototypes.clone()
            return prototypes.expand(self._num_banks, -1, -1).clone()

    def extra_repr(self) -> str:
        """Sizes and options, as ``repr`` prints them."""
        count, num_columns = self.prototypes.shape[-2:]
        return f"{count} prototypes of {num_columns} dimensions, momentum={self.momentum:g}"

    def _prepare_for(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """Takes a state with another number of prototypes, which changes from epoch to epoch."""
        names = ("prototypes", "clusters")
        found = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        if not found:
            return []
        if missing := set(names) - set(found):
            (other,) = found
            return [f"{prefix}{missing.pop()} must be there beside {prefix}{other}, got none"]
        try:
            prototypes = to_tensor(found["prototypes"], f"{prefix}prototypes")
            rows = prototypes.flatten(0, -2) if prototypes.dim() > 1 else prototypes
            check_matrix(rows, f"{prefix}prototypes")
            check_lengths(rows, f"{prefix}prototypes")
            count = prototypes.shape[-2]
            clusters = to_tensor(found["clusters"], f"{prefix}clusters")
            check_column(clusters, count, f"{prefix}clusters", "one a prototype")
        except (TypeError, ValueError) as error:
            return [str(error)]
        shape = (*self.prototypes.shape[:-2], count, self.prototypes.shape[-1])
        if prototypes.shape == shape != self.prototypes.shape:  # PyTorch refuses other shapes
            self.prototypes = self.prototypes.new_empty(shape)
            self.clusters = self.clusters.new_empty(count)
        return []


class MeanMemory(_Memory):
    """One bank, moved by every sample in turn: ``row <- normalize(m * row + (1 - m) * sample)``.

    Samples of one row come in the order of the batch, and each finds the row as the one before
    left it; rows do not meet, so that all move at once, a sample each at a time.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes that are their own clusters.
            Copied, and taken as they are: means that are to have length one must have it.
        momentum: m in [0, 1], what a row keeps of itself.
        max_repeats: The most samples of one row in a (joined) batch, where that is known, 16 with
            16 images an identity. On a GPU the number of steps must be known without waiting for
            it, and is this, or else the size of the batch, which gives the same memory by more
            steps. More samples than this are an error, on a GPU by a device-side assertion.

    Attributes:
        prototypes: (P, D) buffer, float32, or float64 of such a source.
        clusters: (P,) int64 buffer.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of range or of another shape.

    Source:
        Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022,
        equation 2.

    Example:
        >>> import torch, mabm
        >>> memory = mabm.MeanMemory(torch.eye(3), momentum=0.0)
        >>> memory.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([1]))
        >>> memory.prototypes[1]
        tensor([0., 0., 1.])
    """

    def __init__(
        self,
        source: Tensor | PrototypeSplit[Any],
        *,
        momentum: float = DEFAULT_MOMENTUM,
        max_repeats: int | None = None,
    ) -> None:
        super().__init__(source, momentum=momentum)
        if max_repeats is not None:
            max_repeats = check_integer("max_repeats", max_repeats, at_least=1)
        self.max_repeats = max_repeats

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        return move_by_each(prototypes, rows, targets, self.momentum, self.max_repeats)


class HardMemory(_Memory):
    """One bank, each row moved once a batch by its sample that is least similar to it.

    Of samples that tie, the first of the batch. Errors are those of :class:`MeanMemory`.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes that are their own clusters.
            Copied, and taken as they are.
        momentum: m in [0, 1], what a row keeps of itself.

    Attributes:
        prototypes: (P, D) buffer, float32, or float64 of such a source.
        clusters: (P,) int64 buffer.

    Source:
        Dai et al., ACCV 2022, as released (``cm_hard``).

    Example:
        >>> import torch, mabm
        >>> memory, batch = mabm.HardMemory(torch.eye(3), momentum=0.0), torch.eye(3)[[0, 2]]
        >>> memory.update(batch, torch.tensor([0, 0]))
        >>> memory.prototypes[0]
        tensor([0., 0., 1.])
    """

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        return move_by_hardest(prototypes, rows, targets, self.momentum)


class HybridMemory(_Memory):
    """Two banks: one moved by the mean of a row's samples, one by the hardest of them.

    Both banks start from the same prototypes. The hardest sample of a row is the one least similar
    to the *mean* bank's row before the update, of those that tie the first of the batch. Errors are
    those of :class:`MeanMemory`.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes that are their own clusters.
            Copied to both banks, and taken as they are.
        momentum: m in [0, 1], what a row keeps of itself.

    Attributes:
        prototypes: (2, P, D) buffer, the mean bank first; float32, or float64 of such a source.
        clusters: (P,) int64 buffer.

    Source:
        Wang et al., AAAI 2026 (BMIL), as released.

    Example:
        >>> import torch, mabm
        >>> memory, batch = mabm.HybridMemory(torch.eye(3), momentum=0.0), torch.eye(3)[[0, 2]]
        >>> memory.update(batch, torch.tensor([0, 0]))
        >>> memory.prototypes[:, 0]
        tensor([[0.7071, 0.0000, 0.7071],
                [0.0000, 0.0000, 1.0000]])
    """

    _num_banks = 2

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        return move_banks(prototypes, rows, targets, self.momentum)


def move_by_each(
    prototypes: Tensor,
    rows: Tensor,
    targets: Tensor,
    momentum: float,
    max_repeats: int | None = None,
) -> Tensor:
    """(P, D) prototypes after a :class:`MeanMemory`'s update with (B, D) rows, used as they are."""
    members = _Members.of(targets, prototypes.shape[0])
    if members is None:
        return prototypes
    moved = prototypes[members.targets]
    in_turn, is_there = members.in_turn(members.count_steps(max_repeats))
    for samples, present in zip(in_turn, is_there, strict=True):
        moved = _mix(moved, rows[samples], momentum).where(present[:, None], moved)
    return prototypes.index_copy(0, members.targets, moved)


def move_by_hardest(prototypes: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """(P, D) prototypes after a :class:`HardMemory`'s update with (B, D) rows, used as they are."""
    members = _Members.of(targets, prototypes.shape[0], _own_similarity(prototypes, rows, targets))
    if members is None:
        return prototypes
    own = prototypes[members.targets]
    moved = _mix(own, rows[members.first()], momentum)
    return prototypes.index_copy(0, members.targets, moved.where(members.sizes[:, None] > 0, own))


def move_banks(banks: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """(2, P, D) banks after a :class:`HybridMemory`'s update with (B, D) rows, used as they are."""
    members = _Members.of(targets, banks.shape[1], _own_similarity(banks[0], rows, targets))
    if members is None:
        return banks
    own = banks[:, members.targets]
    samples = torch.stack([members.means(rows), rows[members.first()]])
    moved = _mix(own, samples, momentum).where(members.sizes[:, None] > 0, own)
    return banks.index_copy(1, members.targets, moved)


class _Members:
    """The rows of a batch by target: which targets there are, and the rows of each in order.

    Where values are at hand there is one entry for every target of the batch. On a GPU, where they
    are not, there are as many as there could be, min(B, P), and those to spare repeat the first
    entry; if the batch is all noise, every entry is of size 0.

    Attributes:
        targets: (S,) the target of each entry.
        sizes: (S,) how many rows it has.
    """

    def __init__(self, order: Tensor, starts: Tensor, targets: Tensor, sizes: Tensor) -> None:
        self._order, self._starts = order, starts
        self.targets, self.sizes = targets, sizes

    @classmethod
    def of(
        cls, targets: Tensor, num_targets: int, ascending: Tensor | None = None
    ) -> _Members | None:
        """Rows of each target in batch order or, given numbers (B,), by these; None of no rows."""
        if not targets.shape[0] or not num_targets:
            return None
        keys = targets.masked_fill(targets == NOISE, num_targets)  # noise comes last
        if ascending is None:
            order = torch.argsort(keys, stable=True)
        else:
            by_number = torch.argsort(ascending, stable=True)
            order = by_number[torch.argsort(keys[by_number], stable=True)]
        keys = keys[order]
        is_first = torch.cat([keys.new_full((1,), NOISE), keys[:-1]]) != keys
        is_first &= keys != num_targets
        if values_are_at_hand(is_first):
            starts = torch.nonzero(is_first)[:, 0]
            if not starts.shape[0]:
                return None
        else:
            starts = torch.argsort((~is_first).to(torch.uint8), stable=True)
            starts = starts[: min(targets.shape[0], num_targets)]
            starts = starts.where(is_first[starts], starts[:1])
        found = keys[starts]
        sizes = torch.searchsorted(keys, found, right=True) - starts
        sizes = sizes.masked_fill(found == num_targets, 0)
        return cls(order, starts, found.clamp(max=num_targets - 1), sizes)

    def first(self) -> Tensor:
        """(S,) the first row of each entry, and any row where it is of size 0."""
        return self._order[self._starts]

    def in_turn(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """(num_steps, S) the rows of each entry in order; whether it has so many, else any row."""
        steps = torch.arange(num_steps, device=self._order.device)[:, None]
        places = (self._starts + steps).clamp(max=self._order.shape[0] - 1)
        return self._order[places], steps < self.sizes

    def count_steps(self, max_repeats: int | None) -> int:
        """The largest size where it is at hand, else the least bound on it that is known."""
        if values_are_at_hand(self.sizes):
            largest = int(self.sizes.max())
            if max_repeats is not None and largest > max_repeats:
                raise ValueError(
                    f"targets must hold no row more often than max_repeats = {max_repeats}, "
                    f"got one {largest} times"
                )
            return largest
        if max_repeats is None:
            return self._order.shape[0]
        torch._assert_async(
            self.sizes.amax() <= max_repeats,
            f"targets must hold no row more often than max_repeats = {max_repeats}",
        )
        return min(max_repeats, self._order.shape[0])

    def means(self, rows: Tensor) -> Tensor:
        """(S, D) mean of the rows of each entry, summed in their order."""
        # Bags end where the next begins: spare entries get empty ones, and noise the last.
        is_own = torch.cat([self._starts.new_full((1,), -1), self._starts[:-1]]) < self._starts
        is_own &= self.sizes > 0
        clustered = (self.sizes * is_own).sum()
        bounds = torch.cat([self._starts.where(is_own, clustered), clustered[None]])
        means = F.embedding_bag(self._order, rows, bounds, mode="mean")[:-1]
        return means.where(is_own[:, None], means[:1])


def _mix(own: Tensor, samples: Tensor, momentum: float) -> Tensor:
    return F.normalize(own.lerp(samples, 1 - momentum), dim=-1)


def _own_similarity(prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """(B,) inner product of each row with its prototype; of noise, any number."""
    if not prototypes.shape[0]:
        return rows.new_zeros(rows.shape[0])
    return (rows * prototypes[targets.clamp(min=0)]).sum(dim=1)


def _join_batches(
    rows: Tensor, targets: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """The batches of all ranks, one after the other; padded to the largest on their way."""
    num_ranks = dist.get_world_size(group)
    if num_ranks == 1:
        return rows, targets
    size = torch.full((1,), rows.shape[0], dtype=torch.int64, device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(num_ranks)]
    dist.all_gather(sizes, size, group=group)
    counts = torch.cat(sizes).tolist()

    def join(part: Tensor) -> Tensor:
        padded = part.new_zeros((max(counts), *part.shape[1:]))
        padded[: part.shape[0]] = part
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    return join(rows), join(targets)


def _read_source(source: object) -> tuple[Tensor, Tensor]:
    """(P, D) prototypes and their (P,) clusters, of a split or of the prototypes alone."""
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(source, PrototypeSplit):
            prototypes = to_tensor(source.prototypes, "source.prototypes")
            check_matrix(prototypes, "source.prototypes")
            check_lengths(prototypes, "source.prototypes")
            count = prototypes.shape[0]
            clusters = check_column(source.clusters, count, "source.clusters", "one a prototype")
            return prototypes, clusters.to(device=prototypes.device, copy=True)
        if not isinstance(source, Tensor):
            hint = ""
            if labels_of(source) is not source:
                hint = "; use mabm.split_prototypes(features, found)"
            raise TypeError(
                "source must be a PrototypeSplit or a torch.Tensor, got "
                f"{type(source).__name__}{hint}"
            )
        prototypes = full_precision(check_rows(source, "source")).detach()
        check_lengths(prototypes, "source")
        return prototypes, torch.arange(prototypes.shape[0], device=prototypes.device)
