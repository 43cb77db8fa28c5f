"""Which emoji the before/after picture shows: chosen by a rule, not by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray


@dataclass(frozen=True)
class Gains:
    """How much better one clustering joins each identity across modalities than another.

    Attributes:
        identity: (P,) int64, ascending.
        before: (P,) float64, F1 of the pairs across modalities with a member of the identity.
        after: (P,) float64, the same of the other clustering.
    """

    identity: IntArray
    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]

    @property
    def num_higher(self) -> int:
        """Identities with a higher F1 after than before."""
        return int((self.after > self.before).sum())

    @property
    def num_lower(self) -> int:
        """Identities with a lower F1 after than before."""
        return int((self.after < self.before).sum())

    @property
    def num_same(self) -> int:
        """Identities with the same F1."""
        return len(self.identity) - self.num_higher - self.num_lower

    def greatest(self, count: int) -> IntArray:
        """The identities that gain most, in descending order; ties go to the lower identity."""
        order = np.argsort(self.before - self.after, kind="stable")
        return self.identity[order[:count]]

    def least(self, count: int) -> IntArray:
        """The identities that lose most, in descending order; ties go to the lower identity."""
        order = np.argsort(self.after - self.before, kind="stable")
        return self.identity[order[:count]]


def gains_of(before: IntArray, after: IntArray, identity: IntArray, modality: IntArray) -> Gains:
    """Compares two clusterings (N,) of the same samples, identity by identity."""
    return Gains(
        np.unique(identity),
        _f1_by_identity(before, identity, modality),
        _f1_by_identity(after, identity, modality),
    )


def _f1_by_identity(
    labels: IntArray, identity: IntArray, modality: IntArray
) -> npt.NDArray[np.float64]:
    names, number = np.unique(identity, return_inverse=True)
    clustered = labels >= 0
    shape = (2, len(names), int(labels.max(initial=-1)) + 1)
    own = np.zeros(shape, dtype=np.int64)  # members by modality, identity and cluster
    np.add.at(own, (modality[clustered], number[clustered], labels[clustered]), 1)
    every = own.sum(axis=1, keepdims=True)
    right = (own[0] * own[1]).sum(axis=1)
    found = (own[0] * every[1] + every[0] * own[1]).sum(axis=1) - right
    counts = np.stack([np.bincount(number[modality == m], minlength=len(names)) for m in (0, 1)])
    f1: npt.NDArray[np.float64] = 2 * right / np.maximum(counts.prod(axis=0) + found, 1)
    return f1
