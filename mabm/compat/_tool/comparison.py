"""Runs old and new functions on the same random inputs, in a separate process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mabm.compat._imports.families import names_of
from mabm.compat._tool.code_base import CodeBase, Definition, Source, parameters
from mabm.compat._tool.rewriting import misfit
from mabm.compat._tool.runs import NUM_DIMENSIONS, NUM_PEOPLE, RUNS, Run, run_memory

__all__ = ["TOLERANCE", "Comparison", "compare"]

TOLERANCE: Final = 1e-5
"""The largest difference of results that counts as equal."""

_HERE: Final = "mabm.compat"
_TIME_LIMIT: Final = 600  # time limit of a process

_MODES: Final = ("CM", "CMhard", "CMhybrid", "CMhybrid_v2", "CMhcl")  # of ClusterMemory classes

_Task: TypeAlias = tuple[str, str, list[str], str | None]  # name, module here, arguments, mode


@dataclass(frozen=True)
class Comparison:
    """The comparison of one old function or class with ours.

    Attributes:
        old: Import path of the old one.
        new: Import path of ours.
        difference: Largest absolute difference of the results, or ``None`` without results.
        seconds: Run times of the old one and of ours.
        reason: Why they were not compared, or empty.
        failed: Whether ours did not run, or the results differ in shape.
    """

    old: str
    new: str
    difference: float | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    reason: str = ""
    failed: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the results are equal within 1e-5, or were not compared."""
        return not self.failed and (self.difference is None or self.difference <= TOLERANCE)


def compare(code_base: CodeBase) -> list[Comparison]:
    """Compares all functions and classes of a code base that this library can replace.

    Each module is imported in a new process, which runs in its folder. The inputs are unit vectors
    of 30 people with 10 images each, drawn with a fixed seed. Without a GPU, ``.cuda()`` does
    nothing in that process, so that code for GPUs runs.

    Args:
        code_base: The files to compare, as ``read_code_base`` returns them.
    """
    found: list[Comparison] = []
    for source in code_base.sources:
        table = names_of(source.stem, source.definitions)
        pairs = [
            (name, table[name], node)
            for name, node in source.definitions.items()
            if name in table and misfit(node, table[name]) is None
        ]
        if pairs:
            found += _in_a_process(code_base, source, list(_tasks(source, pairs)))
    return found


def _tasks(source: Source, pairs: list[tuple[str, str, Definition]]) -> Iterator[_Task]:
    """Yields what to run: each function, and each class in each of its modes."""
    for name, here, node in pairs:
        names = parameters(node)
        shape = names.get("", names.get("__init__", []))
        named = [mode for mode in _MODES if re.search(rf"""['"]{mode}['"]""", source.text)]
        for mode in named if "mode" in shape and named else [None]:
            yield name, here, shape, mode


def _in_a_process(code_base: CodeBase, source: Source, tasks: list[_Task]) -> list[Comparison]:
    root, module = _place(code_base, source)
    pairs = [
        (f"{module}.{name}{'' if mode is None else f', mode {mode}'}", f"{_HERE}.{here}.{name}")
        for name, here, _, mode in tasks
    ]
    ours = str(Path(__file__).parents[3])
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), ours]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        words = json.dumps([str(root), module, tasks, str(results)])
        try:
            child = subprocess.run(
                [sys.executable, "-m", f"{_HERE}._tool.comparison", words],
                cwd=folder,  # so that no file of the code base shadows a standard module
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIME_LIMIT,
                check=False,
            )
            last = (child.stderr.strip().splitlines() or [""])[-1]
            reason = f"the process ended with status {child.returncode}: {last}"
        except subprocess.TimeoutExpired:
            reason = f"it ran for more than {_TIME_LIMIT} seconds"
        lines = results.read_text().splitlines() if results.exists() else []
    found = [Comparison(*pairs[n], **json.loads(line)) for n, line in enumerate(lines)]
    return found + [Comparison(*pair, reason=reason) for pair in pairs[len(found) :]]


def _place(code_base: CodeBase, source: Source) -> tuple[Path, str]:
    """The folder to run in, and the module's path from there."""
    folder, parts = source.path.parent, [source.stem]
    if folder != code_base.root and not (folder / "__init__.py").exists():
        parts.insert(0, folder.name)  # a package without __init__
        folder = folder.parent
    while folder != code_base.root and (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _main(words: str) -> None:
    """Main function of the separate process: writes a line of results for each function."""
    root, module, tasks, results = json.loads(words)
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # no GPU
        torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # no GPU
    os.chdir(root)
    sys.path.insert(0, root)
    sys.argv = [module]
    with Path(results).open("w") as stream, contextlib.redirect_stdout(io.StringIO()):
        try:
            old_module: object = _import_old(module, Path(root))
            reason = ""
        except BaseException as error:
            reason = f"it cannot be imported: {_in_words(error)}"
        for task in tasks:
            result = {"reason": reason} if reason else _compare(old_module, *task)
            stream.write(json.dumps(result) + "\n")
            stream.flush()


def _import_old(module: str, root: Path) -> ModuleType:
    """Imports the old module; if its packages fail to import, without running their code."""
    try:
        return importlib.import_module(module)
    except ImportError:
        top, *parts = module.split(".")[:-1] or [""]
        if not top:
            raise
    for name in [n for n in sys.modules if n.partition(".")[0] == top]:
        del sys.modules[name]
    for depth in range(len(parts) + 1):
        package = ModuleType(".".join([top, *parts[:depth]]))
        package.__path__ = [str(root.joinpath(top, *parts[:depth]))]
        sys.modules[package.__name__] = package
    return importlib.import_module(module)


def _compare(
    old_module: object, name: str, here: str, names: list[str], mode: str | None
) -> dict[str, Any]:
    run = RUNS[here, name]
    try:
        theirs = getattr(old_module, name)
        if mode is not None:
            options = {"mode": mode, **({"num_instances": 4} if mode[-3:] == "_v2" else {})}
            theirs = partial(theirs, **options)
            rows = len(theirs(NUM_DIMENSIONS, NUM_PEOPLE).features)  # one bank or two
            run = partial(run_memory, rows=rows)
        old, old_seconds = _timed(run, theirs, names)
    except BaseException as error:
        return {"reason": f"it does not run here: {_in_words(error)}"}
    try:
        ours = getattr(importlib.import_module(f"{_HERE}.{here}"), name)
        ours = ours if mode is None else partial(ours, **options)
        new, new_seconds = _timed(run, ours, names)
        difference = max(_difference(one, other) for one, other in zip(old, new, strict=True))
    except Exception as error:
        return {"reason": f"ours does not run: {_in_words(error)}", "failed": True}
    return {"difference": difference, "seconds": (old_seconds, new_seconds)}


def _timed(run: Run, function: Callable[..., Any], names: list[str]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = run(function, names)
    return found, time.perf_counter() - started


def _difference(one: object, other: object) -> float:
    first, second = _numbers(one), _numbers(other)
    if first.shape != second.shape:
        raise ValueError(f"the results have shapes {first.shape} and {second.shape}")
    return float(np.abs(first - second).max(initial=0.0))


def _numbers(value: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


if __name__ == "__main__":
    _main(sys.argv[1])
