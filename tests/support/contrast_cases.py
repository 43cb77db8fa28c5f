"""Inputs of losses and memories that the tests draw, and watches over what waits for a device."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mabm._core import batch_checks
from mabm.contrast.losses import selection
from mabm.contrast.memories import members

BATCH_MODULES = (batch_checks, selection, members)
"""Modules that ask whether values can be read without waiting for a GPU."""


@dataclass(frozen=True)
class Batch:
    """One batch beside prototypes: (B, D), (P, D), (B,) in [-1, P) and (P,) clusters."""

    features: Tensor
    prototypes: Tensor
    targets: Tensor
    clusters: Tensor


def unit(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1).to(dtype)


@st.composite
def batches(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Batch:
    """Draws batches of 0 to 40 rows, noise among them or nothing else, and 1 to 90 prototypes.

    Targets repeat often or hardly; some prototypes have no row. Clusters have any size and number.
    """
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    count, size = draw(st.integers(1, 90)), draw(st.integers(0, 40))
    dim = draw(st.integers(2, 24))
    used = draw(st.integers(1, count))
    targets = torch.randint(used, (size,), generator=generator)
    noise = draw(st.sampled_from((0.0, 0.2, 1.0)))
    targets[torch.rand(size, generator=generator) < noise] = -1
    num_clusters = draw(st.integers(1, count))
    return Batch(
        3 * torch.randn(size, dim, generator=generator, dtype=dtype),
        unit(count, dim, generator=generator, dtype=dtype),
        targets,
        torch.randint(num_clusters, (count,), generator=generator) * 7 - 3,
    )


def one_batch(
    size: int = 24, dim: int = 8, count: int = 12, dtype: torch.dtype = torch.float32
) -> Batch:
    """A batch without noise, two prototypes a cluster."""
    generator = torch.Generator().manual_seed(size + dim + count)
    return Batch(
        torch.randn(size, dim, generator=generator, dtype=dtype),
        unit(count, dim, generator=generator, dtype=dtype),
        torch.randint(count, (size,), generator=generator),
        torch.arange(count) // 2,
    )


class _Watch(TorchDispatchMode):
    """Refuses the ops that make the host wait for a GPU: reads of values, sizes out of values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        waits = {"_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "equal"}
        assert name not in waits, f"{name} waits for the device"
        if name.startswith("index"):
            masks = [a for part in args if isinstance(part, list | tuple) for a in part]
            by_mask = any(isinstance(a, Tensor) and a.dtype == torch.bool for a in masks)
            assert not by_mask, f"{name} by a mask waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Takes the way taken where values are not at hand, and refuses to wait for any."""
    with pytest.MonkeyPatch.context() as patch:
        for module in BATCH_MODULES:
            patch.setattr(module, "values_are_at_hand", lambda tensor: False)
        with _Watch():
            yield


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Refuses whatever makes the host wait for the GPU that is there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
