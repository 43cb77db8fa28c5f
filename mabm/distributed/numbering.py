"""Compact numbers for those samples that a process works with."""

from __future__ import annotations

import torch
from torch import Tensor


class Numbering:
    """Numbers some of N samples from 0, in ascending order, so that ties keep their order.

    Memory is linear in N: 4 bytes for each sample, 5 while it is made.

    Attributes:
        samples: (M,) int64, ascending, the samples that have a number.
    """

    def __init__(self, total: int, *columns: Tensor) -> None:
        """Numbers all samples in ``columns``, integers of any shape; -1 is none.

        Args:
            total: Number of all samples, N.
            columns: At least one, on one device.
        """
        is_used = torch.zeros(total + 1, dtype=torch.bool, device=columns[0].device)
        for column in columns:
            is_used[column.flatten().long()] = True  # -1 marks the last place, which is no sample
        is_used[total] = False
        self.samples = is_used.nonzero().flatten()
        places = is_used.cumsum(0, dtype=torch.int32)
        places -= 1
        self._places = places.masked_fill_(~is_used, -1)

    def __len__(self) -> int:
        return len(self.samples)

    def places(self, samples: Tensor) -> Tensor:
        """Returns the int32 number of each sample, -1 for none and for samples without a number."""
        return self._places[samples.long()]
