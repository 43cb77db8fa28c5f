"""Every stage on a GPU, beside its floor and its peers: equality first, then time.

    python benchmarks/gpu/microbenchmarks.py [--sizes all] [--seconds 240] [--output FOLDER]

For each size, in order of importance until the time is up: three inputs; what must hold (the same
ranks, distances and labels as on the CPU, again, and by other means); then median, least and most
of each stage and of the whole, between CUDA events, inputs in rotation, beside the floor
(operations over the measured rate of the product, or bytes over the measured rate of a copy,
whichever is longer); then the peers that are installed. Where something does not hold, nothing is
timed.

Writes results.json, table.txt and profile.txt, after every step. Exits with 1 if something did not
hold or an error came up; what there was no time for is named, and is no failure. With ``--device
cpu --sizes small`` all of it runs without a GPU, by the host's clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # features.py lies there

import checks
from features import make_features
from measure import ROOT, Budget, OutOfTimeError, Timer, ceilings, clocks, machine
from peers import Peer, peers
from profiling import profile_stages, profile_table
from report import DETAILS, details, summary, targets_met
from stages import DENSE_LIMIT, STAGES, WHOLE, Prepared, Stage
from torch import Tensor

import mabm

# RegDB; the infrared part, the largest subset and all of SYSU-MM01; and beyond.
_COUNTS = (34_167, 4_120, 11_909, 23_038, 100_000, 400_000)
SIZES = {
    "all": [(count, dim) for dim in (2048, 768) for count in _COUNTS],
    "small": [(1_000, 64), (200, 32), (6_000, 48)],
}
_SEEDS = (0, 1, 2)
# What the first call at a size takes besides its work: inputs, and the libraries' own start.
_SETUP_SECONDS = 2.0
# Runs of the pipeline until something is timed: preparation, checks, warm-up.
_SETUP_RUNS = 6
_LONGEST_MESSAGE = 600


class Benchmark:
    """A run over sizes, with what it found so far.

    Attributes:
        results: What results.json holds.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.output: Path = options.output
        self.time_anyway: bool = options.time_anyway
        self.timer = Timer(self.device, Budget(options.seconds))
        self.results: dict[str, Any] = {
            "machine": machine(self.device),
            "notes": dict(note.split("=", 1) for note in options.note),
            "ceilings": {},
            "sizes": [],
            "targets": targets_met([]),
        }

    @property
    def failed(self) -> bool:
        """Whether something did not hold, or an error came up."""
        return any(
            size["errors"] or not all(size["checks"].values()) for size in self.results["sizes"]
        )

    def run(self, sizes: list[tuple[int, int]]) -> None:
        """Measures the ceilings, then size after size."""
        self.results["ceilings"] = ceilings(self.timer)
        self.results["machine"]["clocks_after_products"] = clocks()
        for position, (count, dim) in enumerate(sizes):
            size: dict[str, Any] = {"samples": count, "dim": dim}
            size |= {part: {} for part in ("checks", "facts", "stages", "peers")}
            size |= {"not_run": {}, "errors": {}}
            self.results["sizes"].append(size)
            start = time.perf_counter()
            self._guard(size, "everything", partial(self._size, size, profiled=position == 0))
            size["seconds"] = time.perf_counter() - start
            say(f"N = {count}, D = {dim}: {size['seconds']:.1f} s")

    def _guard(
        self, size: dict[str, Any], name: str, action: Callable[[], None], *, ours: bool = True
    ) -> None:
        """Runs a part; what stops it is written down, and the other parts go on.

        An error is a failure of the run if the part is ``ours``; a peer may fail as it likes.
        """
        try:
            action()
        except OutOfTimeError as late:
            size["not_run"][name] = f"no time left ({late})"
        except Exception as error:  # whatever it is, what was measured so far is worth keeping
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_MESSAGE]
            size["errors" if ours else "not_run"][name] = said
        else:
            self.write()
            return
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # after some errors the device does nothing any more
                torch.cuda.empty_cache()
        say(f"{name}: {size['not_run'].get(name) or size['errors'].get(name)}")
        self.write()

    def _size(self, size: dict[str, Any], *, profiled: bool) -> None:
        count, dim = size["samples"], size["dim"]
        work = float(count) * count * dim
        self._require_setup(work)
        inputs = self._inputs(count, dim, work)
        size["input_bytes"] = sum(part.element_size() * part.numel() for part in inputs[0])
        with checks.UnprovenRows() as unproven:
            prepared = [Prepared.of(*inputs[0])]
        size["unproven_rows"] = unproven.rows
        self._check(size, prepared[0], work)
        if not (all(size["checks"].values()) and not size["errors"]) and not self.time_anyway:
            size["not_run"][WHOLE] = "a check is broken"
            return
        with checks.UnprovenRows():  # a warning a call would drown the rest
            prepared += [Prepared.of(*given) for given in inputs[1:]]
            self._guard(size, "memory", lambda: self._peak_memory(size, prepared[0]))
            for stage in STAGES:
                self._guard(size, stage.name, partial(self._stage, size, stage, prepared, work))
            if profiled:
                action = partial(self._profile, size, prepared[0])
                self._guard(size, "profile", action, ours=False)
        for peer in peers(self.device):
            action = partial(self._peer, size, peer, prepared, work)
            self._guard(size, peer.name, action, ours=False)

    def _require_setup(self, work: float) -> None:
        """Raises OutOfTimeError where inputs, checks and a first measurement do not fit."""
        budget = self.timer.budget
        needed = _SETUP_SECONDS + budget.expect("setup", work)
        needed += _SETUP_RUNS * budget.expect(WHOLE, work)
        if budget.left() < needed:
            raise OutOfTimeError(f"{needed:.1f} s needed, {max(budget.left(), 0):.1f} s left")

    def _inputs(self, count: int, dim: int, work: float) -> list[tuple[Tensor, Tensor]]:
        start = time.perf_counter()
        inputs = [make_features(count, dim, seed, device=self.device) for seed in _SEEDS]
        self.timer.wait()
        self.timer.budget.note("setup", work, time.perf_counter() - start)
        return inputs

    def _check(self, size: dict[str, Any], given: Prepared, work: float) -> None:
        """Everything that must hold, each as far as it can be afforded."""
        count, budget = size["samples"], self.timer.budget

        def against_cpu() -> None:
            budget.require("CPU", work)
            start = time.perf_counter()
            verdicts, facts = checks.check_cpu(given)
            budget.note("CPU", work, time.perf_counter() - start)
            size["checks"] |= verdicts
            size["facts"] |= facts

        self._guard(
            size, "check of ranks", lambda: size["checks"].update(checks.check_ranks(given))
        )
        self._guard(size, "check again", lambda: size["checks"].update(checks.check_again(given)))
        if count <= checks.SKLEARN_LIMIT:
            self._guard(
                size, "check of labels", lambda: size["checks"].update(checks.check_dbscan(given))
            )
        if count <= checks.REFERENCE_LIMIT:
            self._guard(size, "check against the CPU", against_cpu)
        self._guard(size, "facts", lambda: size["facts"].update(checks.describe(given)))

    def _peak_memory(self, size: dict[str, Any], given: Prepared) -> None:
        if self.device.type != "cuda":
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        mabm.pseudo_labels(given.features, given.modality)
        self.timer.wait()
        peak = torch.cuda.max_memory_allocated(self.device)
        size["peak_bytes_beyond_inputs"] = peak - before
        size["peak_bytes_with_one_input"] = peak - before + size["input_bytes"]

    def _stage(
        self, size: dict[str, Any], stage: Stage, prepared: list[Prepared], work: float
    ) -> None:
        if stage.dense and size["samples"] > DENSE_LIMIT:
            return
        figures = self.timer.time(stage.name, stage.run, prepared, work).figures()
        floor, of = stage.floor(prepared[0]).milliseconds(self.results["ceilings"])
        times = figures["median_ms"] / floor
        size["stages"][stage.name] = figures | {
            "floor_ms": floor,
            "floor_of": of,
            "times_floor": times,
        }

    def _peer(
        self, size: dict[str, Any], peer: Peer, prepared: list[Prepared], work: float
    ) -> None:
        if size["samples"] > peer.limit:
            return
        if peer.cubic:
            work *= size["samples"]
        self.timer.budget.require(peer.name, work, calls=3)
        agrees = peer.agrees(prepared[0])
        if agrees < peer.least:
            size["not_run"][peer.name] = f"only {agrees:.6f} of its results are right"
            return
        timing = self.timer.time(peer.name, peer.run, prepared, work)
        size["peers"][peer.name] = timing.figures() | {"agrees": agrees}

    def _profile(self, size: dict[str, Any], given: Prepared) -> None:
        size["profile"] = profile_stages(given, self.device)
        text = profile_table(size)
        (self.output / "profile.txt").write_text(text)

    def write(self) -> None:
        """Writes what there is so far."""
        self.results["targets"] = targets_met(self.results["sizes"])
        self.results["seconds"] = self.timer.budget.used()
        text = json.dumps(self.results, indent=1)
        (self.output / "results.json").write_text(text + "\n")
        lines = [*summary(self.results), "", *details(self.results)]
        (self.output / "table.txt").write_text("\n".join(lines) + "\n")


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """``all``, ``small``, or sizes like ``34167x2048,4120x768``."""
    if text in SIZES:
        return SIZES[text]
    try:
        sizes = [tuple(map(int, size.split("x"))) for size in text.split(",")]
        return [(count, dim) for count, dim in sizes]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be one of {tuple(SIZES)} or like 34167x2048,4120x768, got {text!r}"
        ) from None


def main() -> int:
    """Runs the benchmark and prints its summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=parse_sizes, default="all", help=parse_sizes.__doc__)
    parser.add_argument("--seconds", type=float, default=240, help="for everything together")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "gpu" / "output")
    parser.add_argument("--time-anyway", action="store_true", help="also where a check is broken")
    parser.add_argument(
        "--note", action="append", default=[], metavar="NAME=TEXT", help="to stand in the results"
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        say("microbenchmarks: not run: PyTorch sees no GPU")
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(options)
    benchmark.run(options.sizes)
    benchmark.write()
    print("\n".join(summary(benchmark.results)))
    say(f"everything else: {options.output / 'table.txt'}, after '{DETAILS}'")
    return int(benchmark.failed)


if __name__ == "__main__":
    sys.exit(main())
