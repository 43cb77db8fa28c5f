"""A first check within seconds: one call, every op, then the golden files.

    python benchmarks/gpu/smoke.py [--device cuda]

Results must equal the CPU's to the bit; for golden files the labels must equal the released ones,
too. Prints one line for each difference or error and continues. Exits with 1 if there was any.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from measure import ROOT

sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from devices import CPU, Device
from features import make_features
from golden_files import GOLDEN, Golden
from op_samples import OPS, make_samples
from pipeline import results

import mabm

_START = time.perf_counter()
_LONGEST_MESSAGE = 300


def say(text: str) -> None:
    """Prints a line with the seconds since the start."""
    print(f"{text}  [{time.perf_counter() - _START:.1f} s]", flush=True)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], device: Device) -> list[str]:
    """A line for each array that differs: its name and the number of differences."""
    told = []
    for name, value in expected.items():
        wanted, actual = CPU.get(value), device.get(found[name])
        if wanted.shape != actual.shape:
            told.append(f"{name}: shape {actual.shape} instead of {wanted.shape}")
        elif not np.array_equal(wanted, actual):
            told.append(f"{name}: {np.count_nonzero(wanted != actual)} of {wanted.size}")
    return told


def first_call(device: Device) -> list[str]:
    """Checks the labels of a small input; prints how long the first call of a process takes."""
    features, modality = make_features(600, 64)
    inputs = device.put(features), device.put(modality)
    start = time.perf_counter()
    labels = device.get(mabm.pseudo_labels(*inputs).labels)
    say(f"first call: {time.perf_counter() - start:.2f} s")
    expected = mabm.pseudo_labels(features, modality).labels
    return differences({"labels": torch.from_numpy(labels)}, {"labels": expected}, CPU)


def one_op(name: str, device: Device) -> list[str]:
    """Checks the results of an op and the tensors that it writes to."""

    def call(where: Device) -> dict[str, Any]:
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in make_samples(where)[name]]
        made = getattr(OPS, name)(*args)
        parts = [*made] if isinstance(made, tuple) else [] if made is None else [made]
        parts += [a for a in args if isinstance(a, torch.Tensor)]
        return {f"part {n}": part.cpu() for n, part in enumerate(parts)}

    return differences(call(device), call(CPU), CPU)


def golden_file(golden: Golden, device: Device) -> list[str]:
    """Checks every stage of the pipeline on a golden file, and the released labels."""
    inputs = device.inputs(golden)
    expected = results(golden.features, golden.modality, golden.options)
    told = differences(results(*inputs, golden.options), expected, device)
    for eps, labels in golden.labels.items():
        found = mabm.pseudo_labels(*inputs, eps=eps, **golden.options).labels
        told += differences(
            {f"released labels at {eps}": found}, {f"released labels at {eps}": labels}, device
        )
    return told


def main() -> int:
    """Runs every check and prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = Device(torch.device(parser.parse_args().device))
    say(str(mabm.build_info()))
    tasks: dict[str, Callable[[], list[str]]] = {"first call": lambda: first_call(device)}
    tasks |= {name: lambda name=name: one_op(name, device) for name in make_samples(CPU)}
    tasks |= {str(golden): lambda golden=golden: golden_file(golden, device) for golden in GOLDEN}
    failed = 0
    for name, task in tasks.items():
        try:
            told = task()
        except Exception as error:  # the next task may tell more
            said = " ".join(str(error).split())[:_LONGEST_MESSAGE]
            say(f"ERROR in {name}: {type(error).__name__}: {said}")
            failed += 1
            continue
        for line in told:
            say(f"DIFFERS in {name}: {line}")
        failed += bool(told)
        if not told:
            say(f"{name}: the same")
    say(f"{len(tasks) - failed} of {len(tasks)} the same as on the CPU")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
