"""Runs an old function and ours on the same random inputs, in a process of its own."""

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
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import mabm
from mabm.compat._code_base import CodeBase, Definition, Source, parameters
from mabm.compat._families import names_of
from mabm.compat.rewriting import misfit

__all__ = ["TOLERANCE", "Comparison", "compare"]

TOLERANCE: Final = 1e-5
"""The largest difference that counts as none."""

_HERE: Final = "mabm.compat"
_SECONDS: Final = 600  # that both together may take
_PEOPLE, _IMAGES, _DIMENSIONS = 30, 10, 64
_CPU_ROUTE: Final = 3  # search_option of a faiss without a GPU

_MODES: Final = ("CM", "CMhard", "CMhybrid", "CMhybrid_v2", "CMhcl")  # of memories that have a mode

_Run: TypeAlias = Callable[[Callable[..., Any], list[str]], tuple[Any, ...]]
_Task: TypeAlias = tuple[str, str, list[str], str | None]  # name, module here, arguments, mode


@dataclass(frozen=True)
class Comparison:
    """One old function or class beside ours.

    Attributes:
        old: Its path.
        new: Ours.
        difference: Largest absolute difference of the results, ``None`` where the old one does not
            run here.
        seconds: What the old one took, and ours.
        reason: Why the two were not compared.
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
        """Whether the results are equal to 1e-5, or were not compared."""
        return not self.failed and (self.difference is None or self.difference <= TOLERANCE)


def compare(code_base: CodeBase) -> list[Comparison]:
    """Compares every function and class of a code base that this library stands in for.

    Each module is imported in a new process, which runs in its folder. The inputs are drawn with a
    fixed seed: unit vectors of 30 people, 10 images each. Without a GPU ``.cuda()`` does nothing
    there, so that code written for one runs.

    Args:
        code_base: As :func:`mabm.compat.rewriting.plan_changes` has read it.
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
    """What to run: each function, and each class in each of the modes that it has."""
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
    ours = str(Path(mabm.__file__).parents[1])
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), ours]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        words = json.dumps([str(root), module, tasks, str(results)])
        try:
            child = subprocess.run(
                [sys.executable, "-m", f"{_HERE}.comparison", words],
                cwd=folder,  # no file of the code base hides one of Python's from this library
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
            last = (child.stderr.strip().splitlines() or [""])[-1]
            reason = f"the process ended with status {child.returncode}: {last}"
        except subprocess.TimeoutExpired:
            reason = f"it ran for more than {_SECONDS} seconds"
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
    """What the other process does: a line of results for each function, in order."""
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
    """The old module; where its packages do not import, without what they themselves run."""
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
    run = _RUNS[here, name]
    try:
        theirs = getattr(old_module, name)
        if mode is not None:
            options = {"mode": mode, **({"num_instances": 4} if mode[-3:] == "_v2" else {})}
            theirs = partial(theirs, **options)
            rows = len(theirs(_DIMENSIONS, _PEOPLE).features)  # one bank or two
            run = partial(_memory, rows=rows)
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


def _timed(run: _Run, function: Callable[..., Any], names: list[str]) -> tuple[Any, float]:
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


def _features(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors in no order, and whose they are."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.arange(_PEOPLE).repeat(_IMAGES)
    centers = torch.randn(_PEOPLE, _DIMENSIONS, generator=generator)
    noise = torch.randn(len(people), _DIMENSIONS, generator=generator)
    return F.normalize(centers[people] + noise, dim=1), people


def _accepted(names: list[str], **options: object) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _jaccard(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    options = _accepted(names, search_option=_CPU_ROUTE, print_flag=False)
    return (function(_features()[0], k1=20, k2=6, **options),)


def _modal_invariant(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    options = _accepted(names, search_option=_CPU_ROUTE, print_flag=False)
    return (function(features, _files(len(features)), k1=20, k2=6, **options),)


def _xmodal(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    count = len(features) // 2
    files = [file for file, _, _ in _files(len(features))]
    files = sorted(files, key=lambda file: "ir_modify" in file)  # the visible rows come first
    options = _accepted(names, print_flag=False, all_file_name=files, rgbNum=count)
    return (function(features, k1=30, k2=6, search_option=4, **options),)


def _files(count: int) -> list[tuple[str, int, int]]:
    return [(f"{('rgb', 'ir')[n % 2]}_modify/{n}.jpg", 0, n % 2) for n in range(count)]


def _cameras(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    options = {"k1": 30, "k2": 6, "k1_intra": 5, "k1_inter": 20, "k2_intra": 2, "k2_inter": 4}
    args = Namespace(**options, ckrnns=True, clqe=True)
    return (function(features, torch.arange(len(features)) % 3, epoch=1, args=args),)


def _ranked(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    pair = (features, _features(seed=1)[0]) if len(names) > 1 and names[1] != "k" else (features,)
    options = _accepted(names, search_option=_CPU_ROUTE, verbose=False)
    return (function(*pair, k=20, **options),)


def _re_ranking(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    query, gallery = features[:60], features[60:]
    if any("fea" in name.lower() for name in names[:2]):
        return (function(query, gallery, 20, 6, 0.3),)
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return (function(*(torch.cdist(*pair).numpy() for pair in pairs), 20, 6, 0.3),)


def _build_dist(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    pair = (features[:60], features[60:])
    if names[:1] == ["cfg"]:
        cfg = Namespace(dist_metric="jaccard", k1=20, k2=6, search_type=_CPU_ROUTE)
        return (function(cfg, *pair),)
    return (function(*pair, metric="jaccard", k1=20, k2=6, search_option=_CPU_ROUTE),)


def _two_sets(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    return (function(features[:60], features[60:], *([False] if "cuda" in names else [])),)


def _scores(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, people = _features()
    distance = torch.cdist(features[:60], features[60:]).numpy()
    ids = people.numpy()
    cameras = 3 * np.ones(60, dtype=np.int64), np.arange(len(ids) - 60) % 2 + 1
    columns = cameras if "q_camids" in names else ()
    found = function(distance, ids[:60], ids[60:], *columns)
    return tuple(found)


def _product(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, targets = _features()
    inputs, targets = features[:64].clone().requires_grad_(), targets[:64]
    name = function.__name__
    options = {"num_instances": 4} if name == "cm_hybrid_v2" else {}  # 1 + 4 banks
    banks = {"cm_hybrid": 2, "cm_hybrid_v2": 5}.get(name, 1)
    memory = _features(seed=1)[0][: banks * _PEOPLE].clone()
    outputs = function(inputs, targets, memory, 0.2, **options)
    outputs.square().sum().backward()
    return outputs, inputs.grad, memory


def _memory(function: Callable[..., Any], names: list[str], rows: int = _PEOPLE) -> tuple[Any, ...]:
    features, targets = _features()
    inputs, targets = features[:64].clone().requires_grad_(), targets[:64]
    memory = function(_DIMENSIONS, _PEOPLE, temp=0.05, momentum=0.2)
    memory.features = _features(seed=1)[0][:rows].clone()
    loss = memory(F.normalize(inputs, dim=1), targets)  # as a model gives them
    loss.backward()
    return loss, inputs.grad, memory.features


def _hybrid_memory(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, people = _features()
    inputs = _features(seed=1)[0][:64].clone().requires_grad_()
    memory = function(_DIMENSIONS, len(features), temp=0.05, momentum=0.2)
    memory.features, memory.labels = features.clone(), people.clone()
    loss = memory(inputs, torch.arange(64))
    loss.backward()
    return loss, inputs.grad, memory.features


def _nearest(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    return tuple(function(_features()[0].numpy(), k=20, knn_method="faiss-cpu"))


def _infomap(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    similarity = _features()[0] @ _features()[0].T
    values, neighbors = similarity.topk(20, dim=1)
    return (function(neighbors.numpy(), (1 - values).numpy(), min_sim=0.5, cluster_num=4),)


_RUNS: Final[dict[tuple[str, str], _Run]] = {
    ("clustercontrast", "compute_jaccard_distance"): _jaccard,
    ("cap", "faiss_compute_jaccard_dist"): _jaccard,
    ("reranking", "compute_jaccard_dist"): _jaccard,
    ("fastreid", "compute_jaccard_distance"): _jaccard,
    ("modal_invariant", "compute_modal_invariant_jaccard_distance"): _modal_invariant,
    ("bmil", "compute_jaccard_distance_xmodal"): _xmodal,
    ("ca_jaccard", "compute_jaccard_distance"): _cameras,
    ("ranked_lists", "compute_ranked_list"): _ranked,
    ("ranked_lists", "compute_ranked_list_cm"): _ranked,
    ("reranking", "re_ranking"): _re_ranking,
    ("fastreid", "build_dist"): _build_dist,
    ("fastreid", "compute_euclidean_distance"): _two_sets,
    ("fastreid", "compute_cosine_distance"): _two_sets,
    ("evaluation", "eval_sysu"): _scores,
    ("evaluation", "eval_regdb"): _scores,
    ("evaluation", "eval_llcm"): _scores,
    ("clustercontrast", "ClusterMemory"): _memory,
    ("clustercontrast", "cm"): _product,
    ("clustercontrast", "cm_hard"): _product,
    ("clustercontrast", "cm_hybrid"): _product,
    ("hhcl", "ClusterMemory"): _memory,
    ("hhcl", "cm"): _product,
    ("hhcl", "cm_hard"): _product,
    ("hhcl", "cm_hybrid"): _product,
    ("hhcl", "cm_hybrid_v2"): _product,
    ("spcl", "HybridMemory"): _hybrid_memory,
    ("spcl", "hm"): _product,
    ("infomap", "get_dist_nbr"): _nearest,
    ("infomap", "cluster_by_infomap"): _infomap,
}

if __name__ == "__main__":
    _main(sys.argv[1])
