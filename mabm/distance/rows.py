"""Ragged rows in CSR form: neighbor sets, encodings, graphs.

All three are CSR over N samples: the entries of row ``i`` are ``indptr[i]:indptr[i + 1]`` of
``indices``, ascending. ``indptr`` is int64, ``indices`` int32 (as in SciPy; N < 2**31). They
contain tensors or NumPy arrays, like the features that they were computed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import torch
from torch import Tensor

from mabm._core.array_records import ArrayRecord
from mabm._core.arrays import Array, ArrayT, like, to_tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_FINE = 2**32  # resolution of a weight before its row is normalized
_ONE = 2**30  # the weights of an encoding are in units of its inverse; csrc/common/fixed_point.h


@dataclass(frozen=True, eq=False)
class NeighborSets(ArrayRecord, Generic[ArrayT]):
    """A set of samples for each sample.

    Attributes:
        indptr: (N + 1,) int64.
        indices: (entries,) int32, ascending within a row.

    Example:
        >>> import torch, mabm
        >>> indices = torch.tensor([0, 1, 1], dtype=torch.int32)
        >>> sets = mabm.NeighborSets(torch.tensor([0, 2, 3]), indices)
        >>> len(sets), sets.row(0).tolist()
        (2, [0, 1])
    """

    indptr: ArrayT
    indices: ArrayT

    def __post_init__(self) -> None:
        """Rejects parts that are not CSR rows over N samples."""
        indptr, indices = to_tensor(self.indptr, "indptr"), to_tensor(self.indices, "indices")
        if indptr.dtype != torch.int64 or indptr.dim() != 1 or not len(indptr):
            raise ValueError(
                f"indptr must be (N + 1,) int64, got {tuple(indptr.shape)} {indptr.dtype}"
            )
        if indices.dtype != torch.int32 or indices.dim() != 1:
            raise ValueError(
                f"indices must be (entries,) int32, got {tuple(indices.shape)} {indices.dtype}"
            )
        span = f"indptr must ascend from 0 to {len(indices)}, the number of indices, got"
        if indptr[0] != 0 or indptr[-1] != len(indices):
            raise ValueError(f"{span} {int(indptr[0])} to {int(indptr[-1])}")
        descends = indptr[1:] < indptr[:-1]  # their differences may wrap
        if bool(descends.any()):
            row = int(torch.nonzero(descends)[0])
            raise ValueError(f"{span} {int(indptr[row])} and then {int(indptr[row + 1])}")
        count = self._num_columns
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise ValueError(
                f"indices must be in [0, {count}), got {int(indices.min())} to {int(indices.max())}"
            )
        if len(indices) > 1:
            ascends = indices.diff() > 0
            ascends[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < len(indices))] - 1] = True
            if not bool(ascends.all()):
                raise ValueError("indices must ascend within each row, without repeats")

    def tensors(self) -> tuple[Tensor, ...]:
        """The array attributes as contiguous tensors, in their order."""
        values = self.in_tensors()._values_by_name()
        return tuple(value for _, value in values if isinstance(value, Tensor))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def _num_columns(self) -> int:
        return len(self)

    def row(self, sample: int) -> ArrayT:
        """Members of one sample's set, ascending.

        Args:
            sample: Index of the sample, in [0, N).

        Raises:
            IndexError: ``sample`` is outside [0, N).

        Example:
            >>> import torch, mabm
            >>> graph = mabm.jaccard_graph(torch.eye(3).repeat_interleave(4, dim=0), k1=4, k2=1)
            >>> graph.row(5).tolist()
            [4, 5, 6, 7]
        """
        if not 0 <= sample < len(self):
            raise IndexError(f"sample must be in [0, {len(self)}), got {sample}")
        return self.indices[int(self.indptr[sample]) : int(self.indptr[sample + 1])]

    def _values(self) -> Tensor:
        return torch.ones_like(self.tensors()[1], dtype=torch.float32)

    def to_scipy(self) -> csr_array:
        """The rows as a SciPy CSR array (N, N) of float32; zeros are stored explicitly."""
        from scipy.sparse import csr_array  # SciPy loads slowly

        indptr, indices = (part.cpu().numpy() for part in self.tensors()[:2])
        shape = (len(self), self._num_columns)
        return csr_array((self._values().cpu().numpy(), indices, indptr), shape=shape)

    def to_torch(self) -> Tensor:
        """The rows as a sparse CSR tensor (N, N) of float32; zeros are stored explicitly."""
        indptr, indices = self.tensors()[:2]
        shape = (len(self), self._num_columns)
        values = self._values()
        checked = torch.sparse.check_sparse_tensor_invariants
        in_force = checked.is_enabled()  # type: ignore[no-untyped-call]  # of PyTorch
        # Keeps the current setting: PyTorch warns if a sparse tensor is built without choosing
        # whether to check it. Releases 2.11 and 2.12 accept only this context as the choice, not
        # the argument check_invariants.
        with checked(in_force):  # type: ignore[no-untyped-call]  # as above
            return torch.sparse_csr_tensor(indptr, indices.to(torch.int64), values, shape)


@dataclass(frozen=True, eq=False)
class Encoding(NeighborSets[ArrayT]):
    """A distribution over samples for each sample: the sparse rows V of the method.

    Attributes:
        indptr: (N + 1,) int64.
        indices: (entries,) int32, ascending within a row.
        weights: (entries,) int32 > 0 in units of 2**-30; every row sums to 2**30 up to the rounding
            of its weights; weights that round to 0 are omitted. Integer overlaps do not depend on
            the order of summation, so distances are bit-for-bit the same for any number of threads.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        >>> encoding = mabm.encode_samples(features, k1=10, k2=3)
        >>> len(encoding), encoding.values.dtype
        (60, torch.float32)
    """

    weights: ArrayT

    def __post_init__(self) -> None:
        """Rejects weights that are not one positive int32 per index, or rows not summing to one."""
        super().__post_init__()
        indptr, indices, weights = self.tensors()
        if weights.dtype != torch.int32 or weights.shape != indices.shape:
            raise ValueError(
                f"weights must be ({len(indices)},) int32, got "
                f"{tuple(weights.shape)} {weights.dtype}"
            )
        if len(weights) and int(weights.min()) <= 0:
            raise ValueError(f"weights must be positive, got {int(weights.min())}")
        sums = torch.cat([weights.new_zeros(1), weights.cumsum(0)])[indptr].diff()
        strays = (sums - _ONE).abs() > len(self)
        if bool(strays.any()):
            wrong = int(torch.nonzero(strays)[0])
            raise ValueError(
                f"weights of each row must sum to {_ONE} within {len(self)}, got "
                f"{int(sums[wrong])} in row {wrong}; Encoding.from_values scales rows"
            )

    @property
    def values(self) -> ArrayT:
        """(entries,) float32: the weights as fractions of one."""
        return like(self._values(), self.indices)

    def _values(self) -> Tensor:
        return (self.tensors()[2].to(torch.float64) / _ONE).to(torch.float32)

    @classmethod
    def from_values(cls, indptr: ArrayT, indices: ArrayT, values: Array) -> Encoding[ArrayT]:
        """Builds an encoding from your own non-negative values; each row is scaled to sum to one.

        Args:
            indptr: (N + 1,) int64.
            indices: (entries,) int32, ascending within a row.
            values: (entries,) floating point, finite and not negative; each row needs a positive
                one.

        Raises:
            TypeError: ``values`` are complex.
            ValueError: A value is negative or not finite, or a row sums to zero.

        Example:
            >>> import torch, mabm
            >>> indptr, indices = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]).int()
            >>> values = torch.tensor([3.0, 1.0, 5.0])
            >>> encoding = mabm.Encoding.from_values(indptr, indices, values)
            >>> encoding.values
            tensor([0.7500, 0.2500, 1.0000])
        """
        sets = NeighborSets(indptr, indices)
        fractions = to_tensor(values, "values")
        if fractions.is_complex():
            raise TypeError(f"values must contain real numbers, got dtype {fractions.dtype}")
        fractions = fractions.to(torch.float64)
        if fractions.shape != sets.indices.shape:
            raise ValueError(f"values must be ({len(sets.indices)},), got {tuple(fractions.shape)}")
        if not bool((torch.isfinite(fractions) & (fractions >= 0)).all()):
            raise ValueError("values must be finite and not negative")
        starts, columns = sets.tensors()
        row_of = torch.repeat_interleave(starts.diff())
        greatest = fractions.new_zeros(len(sets))
        greatest.scatter_reduce_(0, row_of, fractions, "amax")
        if not bool((greatest > 0).all()):
            empty = int(torch.nonzero(greatest <= 0)[0])
            raise ValueError(f"values of each row must sum to more than 0, got 0 in row {empty}")
        # Integers, whose sums do not depend on the order; scaled, so that none overflows.
        parts = (fractions / greatest[row_of] * _FINE).round().to(torch.int64)
        totals = starts.new_zeros(len(sets)).scatter_add_(0, row_of, parts)
        shares = parts.to(torch.float64) / totals[row_of].to(torch.float64)
        weights = (shares * _ONE).round().to(torch.int32)
        kept = weights > 0
        sizes = torch.bincount(row_of[kept], minlength=len(sets))
        ends = torch.cat([starts[:1], sizes.cumsum(0)])
        scaled: Encoding[ArrayT] = cls.unchecked(ends, columns[kept], weights[kept]).in_kind_of(
            indices
        )
        return scaled
