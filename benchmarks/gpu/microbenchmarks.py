"""Times every stage on a GPU next to its floor and its peers, after checks of equality.

    python benchmarks/gpu/microbenchmarks.py [--sizes all] [--seconds 240] [--output FOLDER]

For each size, in order of importance until the time is up: the first call; the checks (the same
ranks, distances and labels as on the CPU, in a second run, and by other implementations); then the
median, least and most time of each stage and of the whole, between CUDA events, three inputs in
rotation, beside the floor (operations over the measured rate of the product, or bytes over the
measured rate of a copy, whichever is longer); then the peers that are installed. If a check fails,
nothing is timed.

A million samples and more are only measured on request (``--sizes million``, ``--sizes largest``),
if they fit in memory: one input, one call, a few rows of the ranking checked.

Writes NAME.json and NAME-table.txt after every step (``--name``). Exits with 1 after a failed check
or an error; a step that there was no time for is listed and is not a failure. With ``--device cpu
--sizes small-first`` it runs without a GPU, by the host's clock.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for features.py

import checks
from cards import device_of
from counts import count_work
from features import KINDS, make_features
from measure import ROOT, Budget, OutOfTimeError, Timer, Timing, ceilings, clocks, machine
from peers import Peer, peers
from predictions import likely_size, predict
from profiling import profile_stages, profile_table
from report import DETAILS, details, summary, targets_met
from stages import DENSE_LIMIT, PRODUCT, RANKING, STAGES, WHOLE, Floor, Prepared, Stage
from torch import Tensor

import mabm
from mabm._core.device_memory import available_bytes


class Size(NamedTuple):
    """The size and kind of an input: samples, dimensions, kind."""

    samples: int
    dim: int
    kind: str = "usual"

    def __str__(self) -> str:
        return f"N = {self.samples:,}, D = {self.dim}, {self.kind}"


# RegDB; the infrared part, the largest subset and all of SYSU-MM01; and beyond.
_COUNTS = (34_167, 4_120, 11_909, 23_038, 100_000, 400_000)
SIZES = {
    "all": [Size(count, dim) for dim in (2048, 768) for count in _COUNTS],
    "first": [
        *(Size(34_167, 2048, kind) for kind in ("usual", "sorted", "dense")),
        *(Size(count, 2048) for count in (4_120, 11_909, 23_038)),
        Size(34_167, 768),
        *(Size(34_167, 2048, kind) for kind in KINDS if kind not in {"usual", "sorted", "dense"}),
    ],
    "second": [Size(100_000, 2048), Size(400_000, 2048), Size(100_000, 768), Size(400_000, 768)],
    "small-first": [Size(300, 32, kind) for kind in KINDS],  # without a GPU
    "small-second": [Size(1_000, 16)],
    "million": [Size(1_000_000, 2048)],
    "largest": [Size(4_180_000, 2048)],
}
# The least number of samples for which there is only one input and one call.
_LARGE = 1_000_000
# About the bytes of sparse results per row, beyond the features, until measured.
_ROW_BYTES = 12_000.0
_FIXED_BYTES = 1 << 30  # tiles and candidates
_SEEDS = (0, 1, 2)
# Seconds of the first call at a size beyond its work: inputs, and the start of libraries.
_SETUP_SECONDS = 2.0
# Runs of the pipeline before something is timed: preparation, checks, warm-up.
_SETUP_RUNS = 6
_LONGEST_MESSAGE = 600
# Milliseconds of the product while the clocks are read, and the most calls of it.
_LOAD_MS, _MOST_QUEUED = 600.0, 200


class DoesNotFitError(Exception):
    """An input does not fit in memory."""


class Benchmark:
    """A run over sizes, with its results so far.

    Attributes:
        results: The content of the JSON file.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.table: Path = options.output / f"{options.name}-table.txt"
        self.json: Path = options.output / f"{options.name}.json"
        self.time_anyway: bool = options.time_anyway
        # Without a GPU a run only tries out this harness.
        round_seconds = 1.0 if self.device.type == "cuda" else 0.1
        self.timer = Timer(self.device, Budget(options.seconds), round_seconds)
        self.results: dict[str, Any] = {
            "machine": machine(self.device),
            "notes": dict(note.split("=", 1) for note in options.note),
            "ceilings": {},
            "sizes": [],
            "targets": targets_met([]),
        }

    @property
    def failed(self) -> bool:
        """Whether a check failed or an error occurred."""
        return any(
            size["errors"] or not all(size["checks"].values()) for size in self.results["sizes"]
        )

    def run(self, sizes: list[Size]) -> None:
        """Measures the ceilings, then size after size."""
        self.results["ceilings"] = ceilings(self.timer)
        self.results["machine"]["clocks_after_products"] = clocks()
        for position, wanted in enumerate(sizes):
            size: dict[str, Any] = wanted._asdict()
            size |= {part: {} for part in ("checks", "facts", "stages", "peers")}
            size |= {"not_run": {}, "errors": {}}
            self.results["sizes"].append(size)
            start = time.perf_counter()
            measure = self._large if wanted.samples >= _LARGE else self._size
            action = partial(measure, size, wanted, profiled=position == 0)
            self._guard(size, "everything", action)
            size["seconds"] = time.perf_counter() - start
            self.write()
            say(f"{wanted}: {size['seconds']:.1f} s")

    def _guard(
        self, size: dict[str, Any], name: str, action: Callable[[], None], *, ours: bool = True
    ) -> None:
        """Runs a part and records what stopped it, so that the other parts can continue.

        An error is a failure of the run only if the part is ``ours``, not a peer.
        """
        try:
            action()
        except OutOfTimeError as late:
            size["not_run"][name] = f"no time left ({late})"
        except DoesNotFitError as much:
            size["not_run"][name] = str(much)
        except Exception as error:  # what was measured so far is worth keeping
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_MESSAGE]
            size["errors" if ours else "not_run"][name] = said
        else:
            self.write()
            return
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # after some errors the device accepts no more work
                torch.cuda.empty_cache()
        say(f"{name}: {size['not_run'].get(name) or size['errors'].get(name)}")
        self.write()

    def _size(self, size: dict[str, Any], wanted: Size, *, profiled: bool) -> None:
        work = float(wanted.samples) ** 2 * wanted.dim
        self._require_setup(work)
        self._require_memory(wanted, len(_SEEDS))
        inputs = self._inputs(size, wanted, _SEEDS)
        with checks.UnprovenRows():
            size["first_call_ms"] = self.timer.once(_cluster, inputs[0])[1]
        with checks.UnprovenRows() as unproven:
            prepared = [Prepared.of(*inputs[0])]
        size["unproven_rows"] = unproven.rows
        self._check(size, prepared[0], work)
        if not (all(size["checks"].values()) and not size["errors"]) and not self.time_anyway:
            size["not_run"][WHOLE] = "a check is broken"
            return
        with checks.UnprovenRows():  # one warning per call would drown the rest
            prepared += [Prepared.of(*given) for given in inputs[1:]]
            self._guard(size, "memory", lambda: self._peak_memory(size, prepared[0]))
            self._guard(size, "prediction", partial(self._predict, size, prepared[0]), ours=False)
            for stage in STAGES:
                self._guard(size, stage.name, partial(self._stage, size, stage, prepared, work))
            self._guard(size, "clocks", lambda: self._clocks(size, prepared[0]), ours=False)
            if profiled:
                action = partial(self._profile, size, prepared[0])
                self._guard(size, "profile", action, ours=False)
        for peer in peers(self.device):
            action = partial(self._peer, size, peer, prepared, work)
            self._guard(size, peer.name, action, ours=False)

    def _large(self, size: dict[str, Any], wanted: Size, *, profiled: bool) -> None:
        """Measures a size whose calls take seconds to minutes: each call once, on one input."""
        work = float(wanted.samples) ** 2 * wanted.dim
        self.timer.budget.require(WHOLE, work, calls=2)
        self._require_memory(wanted, 1)
        self._guard(size, "prediction", partial(self._predict, size), ours=False)
        features, modality = self._inputs(size, wanted, _SEEDS[:1])[0]
        moved = size["input_bytes"]
        floor = Floor(moved, {"float16": 2.0 * wanted.samples**2 * wanted.dim})
        with checks.UnprovenRows() as unproven:
            ranked: list[mabm.Ranking[Tensor]] = []
            taken = self.timer.once(
                lambda given: ranked.append(mabm.rank_neighbors(*given)), (features, modality)
            )
        size["unproven_rows"] = unproven.rows
        size["stages"][RANKING] = self._beside(floor, Timing([taken[0]], [taken[1]]))
        size["checks"].update(checks.check_ranks(features, modality, ranked.pop()))
        self.write()
        self._reset_peak()
        taken = self.timer.once(_cluster, (features, modality))
        size["stages"][WHOLE] = self._beside(floor, Timing([taken[0]], [taken[1]]))
        self._note_peak(size)
        size["clocks"] = clocks()

    def _require_memory(self, wanted: Size, num_inputs: int) -> None:
        """Raises DoesNotFitError if inputs and a call are estimated not to fit in memory."""
        per_row = max(2.0 * wanted.dim, _ROW_BYTES)  # the halves are gone when the rows are there
        for size in self.results["sizes"]:
            if (peak := size.get("peak_bytes_beyond_inputs")) is not None:
                per_row = max(2.0 * wanted.dim, (peak - _FIXED_BYTES) / size["samples"])
        needed = wanted.samples * (4.0 * wanted.dim * num_inputs + per_row) + _FIXED_BYTES
        if num_inputs > 1:  # all of them are kept, with the results of every stage
            needed += wanted.samples * num_inputs * (2.0 * wanted.dim + _ROW_BYTES / 2)
        free = available_bytes(self.device)
        if free is not None and needed > free:
            raise DoesNotFitError(
                f"takes about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"
            )

    def _require_setup(self, work: float) -> None:
        """Raises OutOfTimeError if there is no time for inputs, checks and a first measurement."""
        budget = self.timer.budget
        needed = _SETUP_SECONDS + budget.expect("setup", work)
        needed += _SETUP_RUNS * budget.expect(WHOLE, work)
        if budget.left() < needed:
            raise OutOfTimeError(f"{needed:.1f} s needed, {max(budget.left(), 0):.1f} s left")

    def _inputs(
        self, size: dict[str, Any], wanted: Size, seeds: Sequence[int]
    ) -> list[tuple[Tensor, Tensor]]:
        start = time.perf_counter()
        count, dim, kind = wanted
        inputs = [make_features(count, dim, seed, self.device, kind) for seed in seeds]
        self.timer.wait()
        self.timer.budget.note("setup", float(count) ** 2 * dim, time.perf_counter() - start)
        size["input_bytes"] = sum(part.element_size() * part.numel() for part in inputs[0])
        return inputs

    def _check(self, size: dict[str, Any], given: Prepared, work: float) -> None:
        """Runs all checks, each as far as time and size allow."""
        count, budget = size["samples"], self.timer.budget

        def against_cpu() -> None:
            budget.require("CPU", work)
            start = time.perf_counter()
            verdicts, facts = checks.check_cpu(given)
            budget.note("CPU", work, time.perf_counter() - start)
            size["checks"] |= verdicts
            size["facts"] |= facts

        def of_product() -> None:
            verdicts, facts = checks.check_product(given)
            size["checks"] |= verdicts
            size["facts"] |= facts

        def of_ranks() -> None:
            found = checks.check_ranks(given.features, given.modality, given.ranking)
            size["checks"] |= found

        self._guard(size, "check of ranks", of_ranks)
        self._guard(size, "check of the product", of_product)
        self._guard(size, "check again", lambda: size["checks"].update(checks.check_again(given)))
        if count <= checks.SKLEARN_LIMIT:
            self._guard(
                size, "check of labels", lambda: size["checks"].update(checks.check_dbscan(given))
            )
        if count <= checks.REFERENCE_LIMIT:
            self._guard(size, "check against the CPU", against_cpu)
        self._guard(size, "facts", lambda: size["facts"].update(checks.describe(given)))

    def _predict(self, size: dict[str, Any], given: Prepared | None = None) -> None:
        """Predicts each stage by the ceilings of this device and the counts of the input.

        Without results of its stages, by those of a smaller input.
        """
        likely = likely_size(size["samples"], size["dim"])
        counts = likely.counts if given is None else count_work(given)
        size["counts"] = asdict(counts)
        device = device_of(self.results["machine"]["device"])
        if device is not None:
            size |= predict(replace(likely, counts=counts), device, self.results["ceilings"])

    def _peak_memory(self, size: dict[str, Any], given: Prepared) -> None:
        self._reset_peak()
        mabm.pseudo_labels(given.features, given.modality)
        self._note_peak(size)

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._held = torch.cuda.memory_allocated(self.device)

    def _note_peak(self, size: dict[str, Any]) -> None:
        if self.device.type == "cuda":
            self.timer.wait()
            beyond = torch.cuda.max_memory_allocated(self.device) - self._held
            size["peak_bytes_beyond_inputs"] = beyond
            size["peak_bytes_with_one_input"] = beyond + size["input_bytes"]

    def _clocks(self, size: dict[str, Any], given: Prepared) -> None:
        """Reads the clocks and the power while the product runs."""
        if PRODUCT in size["stages"] and self.device.type == "cuda":
            stage = next(stage for stage in STAGES if stage.name == PRODUCT)
            median = max(size["stages"][PRODUCT]["median_ms"], 0.1)
            for _ in range(min(int(_LOAD_MS / median) + 1, _MOST_QUEUED)):
                stage.run(given)  # does not wait for the device
            size["clocks"] = clocks()
            self.timer.wait()

    def _beside(self, floor: Floor, timing: Timing) -> dict[str, Any]:
        """The figures of a measurement, with its floor."""
        figures = timing.figures()
        least, of = floor.milliseconds(self.results["ceilings"])
        return figures | {
            "floor_ms": least,
            "floor_of": of,
            "times_floor": figures["median_ms"] / least,
            "bytes_per_second": floor.moved / (figures["median_ms"] / 1e3),
        }

    def _stage(
        self, size: dict[str, Any], stage: Stage, prepared: list[Prepared], work: float
    ) -> None:
        if stage.dense and size["samples"] > DENSE_LIMIT:
            return
        timing = self.timer.time(stage.name, stage.run, prepared, work)
        size["stages"][stage.name] = self._beside(stage.floor(prepared[0]), timing)

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

    def write(self) -> None:
        """Writes the results so far."""
        self.results["targets"] = targets_met(self.results["sizes"])
        self.results["seconds"] = self.timer.budget.used()
        self.json.write_text(json.dumps(self.results, indent=1) + "\n")
        lines = [*summary(self.results), "", *details(self.results)]
        for size in self.results["sizes"]:
            if "profile" in size:
                lines += ["", *profile_table(size)]
        self.table.write_text("\n".join(lines) + "\n")


def say(text: str) -> None:
    """Prints progress to the standard error."""
    print(text, file=sys.stderr, flush=True)


def _cluster(given: tuple[Tensor, Tensor]) -> object:
    return mabm.pseudo_labels(*given)


def parse_sizes(text: str) -> list[Size]:
    """A name, or sizes with an optional kind: 34167x2048,4120x768:sorted."""
    if text in SIZES:
        return SIZES[text]
    found = []
    for part in text.split(","):
        numbers = re.fullmatch(r"(\d+)x(\d+)(?::(\w+))?", part)
        if numbers is None or (numbers[3] or "usual") not in KINDS:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(SIZES)}, or like 34167x2048,4120x768:sorted (kinds: "
                f"{', '.join(KINDS)}), got {text!r}"
            )
        found.append(Size(int(numbers[1]), int(numbers[2]), numbers[3] or "usual"))
    return found


def main() -> int:
    """Runs the benchmark and prints its summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=parse_sizes, default="all", help=parse_sizes.__doc__)
    parser.add_argument("--seconds", type=float, default=240, help="for everything together")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "gpu" / "output")
    parser.add_argument("--name", default="results", help="of the files, without an ending")
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
    say(f"everything else: {benchmark.table}, after '{DETAILS}'")
    return int(benchmark.failed)


if __name__ == "__main__":
    sys.exit(main())
