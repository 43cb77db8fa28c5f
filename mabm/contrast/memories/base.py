"""The base of all memories: prototypes and clusters, rebuilding, updates and states."""

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
from mabm._core.processes import join_rows
from mabm.contrast.module_state import WholeState
from mabm.contrast.prototypes import PrototypeSplit

DEFAULT_MOMENTUM = 0.1


class Memory(WholeState):
    """Prototypes and their clusters, updated with the joined batch of all ranks.

    A subclass implements :meth:`_moved`, the update of one batch, and sets ``_num_banks`` if its
    prototypes have more than one bank.
    """

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
        """Replaces all prototypes, for instance after a new clustering; P may change.

        Args:
            source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes, each its own cluster.
                Copied to the memory's device and dtype; not normalized.

        Raises:
            TypeError: ``source`` has the wrong type.
            ValueError: ``source`` has the wrong shape, or a row that is not finite.

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
        """Moves the prototypes of the batch's targets toward its features.

        If ``torch.distributed`` is initialized this is a collective call: each rank updates with
        the batches of all ranks, joined in rank order, so all ranks get the memory that a single
        process would have after the joined batch. Batches may differ in size or be empty; reading
        their sizes synchronizes with the device. A single process does not synchronize.

        Features that are not finite are ignored: those with NaN or Inf, as in float16 steps that a
        gradient scaler skips, and those of infinite length in float32 (numbers of 1.8e19 or more),
        or in float64 for float64 features.

        Args:
            features: (B, D) floating point on the memory's device; normalized by the memory, no
                gradient.
            targets: (B,) integers in [-1, P), the prototype of each feature; -1 is noise.
            gather: Whether to join the batches of all ranks.
            group: Process group to join; ``None`` is the default group.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A shape, a device or a target violates the contract.

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
        # In inference mode too, later backward passes must be able to use the memory.
        with torch.inference_mode(False), torch.no_grad(), without_autocast(rows.device):
            rows = unit_rows(rows)
            # A unit row is all NaN or all finite.
            targets = leave_out_not_finite(rows[:, :1], targets)
            if gather and dist.is_available() and dist.is_initialized():
                rows, targets = join_rows(rows, targets, group=group)
            prototypes = full_precision(self.prototypes)
            rows = rows.to(prototypes.dtype)
            self.prototypes = self._moved(prototypes, rows, targets).to(self.prototypes.dtype)

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Returns the prototypes after an update with (B, D) unit rows; -1 in targets is noise."""
        raise NotImplementedError  # each kind of memory has its own

    def _fill(self, prototypes: Tensor) -> Tensor:
        """Copies prototypes to each bank; usable in autograd even if made in inference mode."""
        with torch.inference_mode(False):
            if self._num_banks is None:
                return prototypes.clone()
            return prototypes.expand(self._num_banks, -1, -1).clone()

    def extra_repr(self) -> str:
        """Returns sizes and options for ``repr``."""
        count, num_columns = self.prototypes.shape[-2:]
        return f"{count} prototypes of {num_columns} dimensions, momentum={self.momentum:g}"

    def _prepare_for(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """Resizes the buffers for a state with another number of prototypes; returns its errors."""
        names = ("prototypes", "clusters")
        found = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        if not found:
            return []
        if missing := set(names) - set(found):
            (other,) = found
            return [f"{prefix}{missing.pop()} must be given with {prefix}{other}, got none"]
        try:
            prototypes = to_tensor(found["prototypes"], f"{prefix}prototypes")
            rows = prototypes.flatten(0, -2) if prototypes.dim() > 1 else prototypes
            check_matrix(rows, f"{prefix}prototypes")
            check_lengths(rows, f"{prefix}prototypes")
            count = prototypes.shape[-2]
            clusters = to_tensor(found["clusters"], f"{prefix}clusters")
            check_column(clusters, count, f"{prefix}clusters", "one per prototype")
        except (TypeError, ValueError) as error:
            return [str(error)]
        shape = (*self.prototypes.shape[:-2], count, self.prototypes.shape[-1])
        if (
            prototypes.shape == shape != self.prototypes.shape
        ):  # PyTorch rejects a state of another shape
            self.prototypes = self.prototypes.new_empty(shape)
            self.clusters = self.clusters.new_empty(count)
        return []


def _read_source(source: object) -> tuple[Tensor, Tensor]:
    """Returns (P, D) prototypes and their (P,) clusters, from a split or from prototypes."""
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(source, PrototypeSplit):
            prototypes = to_tensor(source.prototypes, "source.prototypes")
            check_matrix(prototypes, "source.prototypes")
            check_lengths(prototypes, "source.prototypes")
            count = prototypes.shape[0]
            clusters = check_column(source.clusters, count, "source.clusters", "one per prototype")
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
