"""Loss, gradient and memory of one training step on the CPU: equality first, then time.

    python benchmarks/losses.py [--batch 256] [--dim 2048] [--clusters 400] [--threads 2]

For each kind of memory: forward, backward and update by mabm, and in three ways without it. None of
them updates the memory before the last backward:

- loop over instances: forward and backward of ``loss_i / B`` for one instance after the other,
  accumulated into one gradient, then one update after the other. This is the direct implementation,
  and the figure to compare with. (The hybrid loss has its margin on the mean over the batch, so it
  has no such loop.)
- loop, one backward: the forward in a loop, and one backward of the summed loss;
- loop for the update: batched loss, a loop for the update alone, as released code does it.

The lower bound is the two matrix products that every way needs (similarities and their gradient).
Ratios are taken within rounds, because rounds on a shared machine differ.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import mabm

TEMPERATURE, MOMENTUM, MARGIN = 0.05, 0.1, 0.2
KINDS = {"mean": mabm.MeanMemory, "hard": mabm.HardMemory, "hybrid": mabm.HybridMemory}
Step = Callable[[str, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(kind, features, targets, banks (M, C, D)) -> loss, gradient, banks after the update."""


def by_mabm(
    kind: str, features: Tensor, targets: Tensor, banks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step with the library."""
    memory = KINDS[kind](banks[0], momentum=MOMENTUM)
    features = features.detach().requires_grad_()
    loss_of = mabm.hybrid_contrast_loss if kind == "hybrid" else mabm.cluster_contrast_loss
    loss = loss_of(features, memory.prototypes, targets)
    loss.backward()
    memory.update(features, targets)
    return loss.detach(), features.grad, memory.prototypes.reshape(banks.shape)


def by_instance(
    kind: str, features: Tensor, targets: Tensor, banks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward and backward of one instance at a time, then the updates, one at a time."""
    features, banks = features.detach().requires_grad_(), banks.clone()
    total = torch.zeros(())
    for i in range(len(features)):
        logits = banks[0] @ F.normalize(features[i], dim=0) / TEMPERATURE
        loss = F.cross_entropy(logits, targets[i]) / len(features)
        loss.backward()
        total += loss.detach()
    with torch.no_grad():
        update_by_instance(kind, features, targets, banks)
    return total, features.grad, banks


def by_instance_summed(
    kind: str, features: Tensor, targets: Tensor, banks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward of one instance at a time, one backward, then the updates, one at a time."""
    features, banks = features.detach().requires_grad_(), banks.clone()
    losses = []
    for row, target in zip(features.unbind(), targets, strict=True):
        x = F.normalize(row, dim=0)
        losses.append([F.cross_entropy(bank @ x / TEMPERATURE, target) for bank in banks])
    mean, *hard = (sum(parts) / len(features) for parts in zip(*losses, strict=True))
    loss = 0.5 * (hard[0] + F.relu(mean - MARGIN)) if hard else mean
    loss.backward()
    with torch.no_grad():
        update_by_instance(kind, features, targets, banks)
    return loss.detach(), features.grad, banks


def by_batch(
    kind: str, features: Tensor, targets: Tensor, banks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Batched loss, update one instance at a time."""
    features, banks = features.detach().requires_grad_(), banks.clone()
    x = F.normalize(features, dim=1)
    mean, *hard = (F.cross_entropy(x @ bank.T / TEMPERATURE, targets) for bank in banks.unbind())
    loss = 0.5 * (hard[0] + F.relu(mean - MARGIN)) if hard else mean
    loss.backward()
    with torch.no_grad():
        update_by_instance(kind, features, targets, banks)
    return loss.detach(), features.grad, banks


def update_by_instance(kind: str, features: Tensor, targets: Tensor, banks: Tensor) -> None:
    """Updates the banks in place: a loop over instances, or over classes and their instances."""
    x = F.normalize(features, dim=1)

    def move(bank: Tensor, row: int, sample: Tensor) -> None:
        bank[row] = MOMENTUM * bank[row] + (1 - MOMENTUM) * sample
        bank[row] /= bank[row].norm()

    if kind == "mean":
        for sample, row in zip(x, targets, strict=True):
            move(banks[0], row, sample)
        return
    members: dict[int, list[Tensor]] = {}
    for sample, row in zip(x, targets.tolist(), strict=True):
        members.setdefault(row, []).append(sample)
    for row, samples in members.items():
        hardest = min(samples, key=lambda sample, row=row: (sample @ banks[0][row]).item())
        if kind == "hybrid":
            move(banks[0], row, torch.stack(samples).mean(dim=0))
        move(banks[-1], row, hardest)


def floor(features: Tensor, banks: Tensor) -> None:
    """The two matrix products that every way needs."""
    columns = banks.flatten(0, 1)
    similarities = features @ columns.T
    similarities @ columns


def seconds(function: Callable[..., object], *args: object) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def check_equality(
    kind: str, ways: dict[str, Step], features: Tensor, targets: Tensor, banks: Tensor
) -> None:
    """Compares all ways with the first: loss and gradient to 1e-5, memory to 1e-6."""
    first, *others = (way(kind, features, targets, banks) for way in ways.values())
    for other in others:
        for found, expected, bound in zip(first, other, (1e-5, 1e-5, 1e-6), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def measure(
    *,
    batch: int = 256,
    instances: int = 16,
    dim: int = 2048,
    clusters: int = 400,
    threads: int = 2,
    rounds: int = 15,
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each way in each round, for each kind of memory; equality is checked first."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    bank = F.normalize(torch.randn(clusters, dim), dim=1)
    present = torch.randperm(clusters)[: batch // instances]
    targets = present.repeat_interleave(instances)
    features = bank[targets] + 0.02 * torch.randn(len(targets), dim)

    every_way: dict[str, Step] = {
        "mabm": by_mabm,
        "loop over instances": by_instance,
        "loop, one backward": by_instance_summed,
        "loop for the update": by_batch,
    }
    taken: dict[str, dict[str, list[float]]] = {}
    for kind, memory_of in KINDS.items():
        banks = bank.repeat(2 if kind == "hybrid" else 1, 1, 1)
        ways = {n: w for n, w in every_way.items() if len(banks) == 1 or w is not by_instance}
        check_equality(kind, ways, features, targets, banks)
        taken[kind] = {name: [] for name in (*ways, "update alone", "two products")}
        memory = memory_of(bank, momentum=MOMENTUM)
        for _ in tqdm(range(rounds), desc=kind, leave=False):
            for name, way in ways.items():
                taken[kind][name].append(seconds(way, kind, features, targets, banks))
            taken[kind]["update alone"].append(seconds(memory.update, features, targets))
            taken[kind]["two products"].append(seconds(floor, features, banks))
    return taken


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--instances", type=int, default=16, help="samples of each cluster")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--clusters", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args()
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    taken = measure(**settings)

    print(f"batch {options.batch} ({options.instances} each), D = {options.dim}, ", end="")
    print(f"{options.clusters} clusters, {options.threads} threads")
    print(f"mabm {mabm.__version__}, torch {torch.__version__}, {platform.machine()}")
    print(f"{'milliseconds':<28}{'median':>9}{'least':>9}{'most':>9}   times mabm's")
    for kind, parts in taken.items():
        for name, values in parts.items():
            ratio = statistics.median(a / b for a, b in zip(values, parts["mabm"], strict=True))
            milliseconds = [1e3 * f(values) for f in (statistics.median, min, max)]
            print(f"{kind + ', ' + name:<28}", end="")
            print("".join(f"{value:9.2f}" for value in milliseconds), f"{ratio:13.2f}")
    if options.json:
        options.json.write_text(json.dumps({"options": settings, "seconds": taken}, indent=2))


if __name__ == "__main__":
    main()
