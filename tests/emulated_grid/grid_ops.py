"""The ops for GPUs in place of those of the CPU, for all of the library."""

from collections.abc import Iterator
from contextlib import contextmanager

import grid_build
import pytest
import torch

from mabm.distance import candidates, products, ranking


@contextmanager
def on_the_grid() -> Iterator[None]:
    """Within the context, the library uses the ops and the products of the GPU."""
    emulated = grid_build.load_ops()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops, "mabm", emulated)
        patch.setattr(ranking, "propose", ranking.propose_by_tiles)
        patch.setattr(candidates, "wants_integers", lambda x: x.shape[1] > 0)
        patch.setattr(candidates, "product_of", products.HalfProduct)
        yield
