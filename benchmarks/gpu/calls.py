"""Calls of PyTorch in each stage on a GPU, counted on the CPU: how many, and how many wait.

    python benchmarks/gpu/calls.py [--samples 34167]

A call is one operator of PyTorch or of the library that does work on a device; an operator of the
library launches one kernel or a few. The number depends on N and not on D, so that few dimensions
are enough, and fewer samples in smaller blocks. A call waits for the device where the host needs a
number from it. Views and allocations are free.
"""

from __future__ import annotations

import argparse
import math
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for features.py

from features import make_features
from stages import AFTER_RANKING, RANKING, STAGES, WHOLE, Prepared

from mabm._core import arrays
from mabm.cluster import pseudo_labels
from mabm.distance import candidates, products, ranking

ROOT = Path(__file__).resolve().parents[2]
_DIM = 64

# Operators that run nothing on the device: views, allocations, and what only asks for properties.
_FREE = {
    *("view", "_unsafe_view", "slice", "select", "split", "split_with_sizes", "expand", "permute"),
    *("t", "transpose", "unsqueeze", "squeeze", "as_strided", "alias", "detach", "unbind"),
    *("diagonal", "empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "unfold"),
    *("_to_copy_view", "view_as", "reshape", "narrow", "is_same_size", "resize_"),
}
# Those after which the host knows a number from the device.
_WAITING = {
    *("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "equal", "masked_select"),
    *("repeat_interleave", "is_nonzero", "bincount"),
}


@dataclass
class Calls:
    """What was called.

    Attributes:
        number: Of calls that do work.
        moved: Bytes of the tensors that they read and write.
        waits: Calls that wait for the device, by the line of the library that asks.
        ops: Calls of the operators of the library, by name.
        lines: Calls by line.
    """

    number: int = 0
    moved: float = 0.0
    waits: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


class CountCalls(TorchDispatchMode):
    """Within the context, counts the calls of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Calls()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts one call."""
        result = func(*args, **(kwargs or {}))
        namespace, name = func._schema.name.split("::")
        if name in _FREE:
            return result
        line, calls = _line(), self.calls
        calls.number += 1
        calls.lines[line] += 1
        inputs = [given for key, given in (kwargs or {}).items() if key != "out"]  # the result
        read = (result, args[1]) if name == "index" else (args, inputs)  # of the rest of it nothing
        calls.moved += sum(map(_size, _tensors([*read, result])))
        if namespace == "mabm":
            calls.ops[name] += 1
        if name in _WAITING or _masks(name, args):
            calls.waits[line] += 1
        return result


def _masks(name: str, args: Any) -> bool:
    """Whether an index is a mask, whose number of entries the host must know."""
    if name not in {"index", "index_put_", "index_put"}:
        return False
    return any(part is not None and part.dtype == torch.bool for part in args[1])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _size(tensor: Tensor) -> float:
    """Bytes, of which those that are there many times over count once."""
    sizes = (size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return float(math.prod(sizes) * tensor.element_size())


def _line() -> str:
    """The line of the library that called, file and number."""
    for frame in reversed(traceback.extract_stack()):
        if "/mabm/" in frame.filename:
            return f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
    return "elsewhere"


@contextmanager
def as_on_a_gpu(shrink: int = 1) -> Iterator[None]:
    """Within the context, the CPU takes the route of a GPU, with its blocks and tiles.

    Args:
        shrink: Divides the sides of blocks and tiles: N / shrink samples then take about as many
            calls as N do on a GPU.
    """
    with (
        patch.object(ranking, "propose", ranking.propose_by_tiles),
        patch.object(candidates, "wants_integers", lambda x: True),
        patch.object(candidates, "product_of", products.HalfProduct),
        patch.object(arrays, "_ROWS_AT_ONCE", arrays._ROWS_AT_ONCE_ON_DEVICE // shrink),
        patch.object(candidates, "_TILE", candidates._GPU_TILE // shrink),
        patch.object(candidates, "_CANDIDATE_BYTES", candidates._GPU_CANDIDATE_BYTES),
        patch.object(pseudo_labels, "watch_sizes", lambda found, clusterer: None),  # not on GPUs
    ):
        yield


def count_calls(count: int, dim: int, shrink: int) -> dict[str, Calls]:
    """Calls of each stage for N / shrink samples in blocks that are as much smaller."""
    given = Prepared.of(*make_features(count // shrink, dim))
    found = {}
    for stage in STAGES:
        if stage.name in (WHOLE, RANKING, *AFTER_RANKING):
            with as_on_a_gpu(shrink), CountCalls() as counted:
                stage.run(given)
            found[stage.name] = counted.calls
    return found


def main() -> int:
    """Prints the calls of each stage, and the lines of most calls and of all waits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=34_167, help="N")
    parser.add_argument("--shrink", type=int, default=16, help="count on so many times fewer")
    parser.add_argument("--lines", type=int, default=30, help="lines of most calls")
    options = parser.parse_args()
    found = count_calls(options.samples, _DIM, options.shrink)
    for name, calls in found.items():
        ops = sum(calls.ops.values())
        print(
            f"{name}: {calls.number} calls, {ops} of the library; {sum(calls.waits.values())} wait"
        )
    whole = found[WHOLE]
    print("\nwaits:")
    for line, times in whole.waits.most_common():
        print(f"{times:6d}  {line}")
    print("\nmost calls:")
    for line, times in whole.lines.most_common(options.lines):
        print(f"{times:6d}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
