"""What all memories share: prototypes and clusters, rebuilding, updates, states."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from mabm._core.arguments import check_real
from mabm._core.arrays import check_matrix, to_tensor
from mabm._core.batch_checks import check_batch, check_lengths, check_rows
from mabm._core.columns import check_column, labels_of
from mabm._core.precision import full_precision, leave_out_not_finite, unit_rows, without_autocast
from mabm.contrast.module_state import WholeState
from mabm.contrast.prototypes import PrototypeSplit

DEFAULT_MOMENTUM = 0.1


class Memory(WholeState):
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
