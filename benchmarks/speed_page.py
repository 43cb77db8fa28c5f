"""Measures everything on docs/evidence/speed.md, and writes its tables and pictures.

    python benchmarks/speed_page.py             # about a quarter of an hour; resumes if stopped
    python benchmarks/speed_page.py --quick     # a dry run on little, into build/speed
    python benchmarks/speed_page.py --parts     # measures nothing, writes the page anew

mabm is measured side by side with what one would use instead: the routes of ``routes.py``, on the
features of ``features.py``. Equality comes first. Every route runs in a process of its own, with
the same features and threads, one after the other; in the next round all of them run again. Compare
ratios, which are taken within rounds, because rounds on a shared machine differ.

``docs/evidence/speed.json`` keeps every figure of the page. A round that it has is not measured
again, unless ``--again`` says so, or the machine, a library or the number of threads is another
one. The page's text is left as it stands: only its regions (``regions.py``) are replaced.
faiss is measured if it is installed (``pip install faiss-cpu``);
pictures need matplotlib. Memory and the use of the processor are read from ``/proc``, so it runs
on Linux alone.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import losses
import machine
import numpy as np
import speed_plots
import speed_tables
from features import KINDS
from plan import PARTS, Cell, Plan
from rankings import missing
from routes import (
    FOLLOWS,
    OURS,
    PRESETS,
    check_equality,
    labels_of,
    prepare,
    run_apart,
    run_here,
    summary_of,
)
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]

Figures = dict[str, Any]


def unchecked(plan: Plan, figures: Figures) -> list[str]:
    """The kinds of features and presets that routes are not compared on yet."""
    checks = [f"{kind} {preset}" for kind in plan.compared for preset in PRESETS]
    return [check for check in checks if check not in figures["equality"]]


def unmeasured(plan: Plan, parts: list[str], figures: Figures) -> list[Cell]:
    """The cells of these parts that have rounds to come."""
    cells = [cell for cell in plan.cells if cell.part in parts]
    before = {name: len(found["rounds"]) for name, found in figures["cells"].items()}
    return [cell for cell in cells if before.get(cell.name, 0) < cell.rounds]


def is_complete(plan: Plan, parts: list[str], figures: Figures) -> bool:
    """Whether nothing in these parts is left to measure."""
    return not (
        ("equality" in parts and unchecked(plan, figures))
        or unmeasured(plan, parts, figures)
        or ("step" in parts and not figures["step"])
    )


def measure_equality(plan: Plan, figures: Figures) -> None:
    """Compares all routes on a small input, for each kind of features and each preset."""
    for check in tqdm(unchecked(plan, figures), desc="equality", leave=False):
        run_apart(check_equality, *check.split(), plan.threads)
        figures["equality"].append(check)


def measure_round(cell: Cell, folder: Path, number: int, threads: int) -> dict[str, Any]:
    """One round of a cell: every route that can run here, one after the other.

    If one that is not the library's fails, as for lack of memory, the others are measured.
    """
    routes = [*cell.every_round, *(cell.first_round if number == 0 else ())]
    found = {}
    for route in tqdm(routes, desc=f"{cell.name}, round {number + 1}", leave=False):
        if missing(route) is not None:
            continue
        try:
            found[route] = run_apart(run_here, route, folder, cell.preset, threads)
        except (RuntimeError, MemoryError) as error:
            if route in OURS:
                raise
            found[route] = {"failed": f"{type(error).__name__}: {error}"}
    return found


def compare_labels(folder: Path, first: dict[str, Any]) -> dict[str, Any]:
    """The clusters of a cell, and how many labels of each other route differ from mabm's."""
    ours = labels_of(folder, next(route for route in ("mabm", "stages") if route in first))
    others = [route for route in first if route in FOLLOWS and "failed" not in first[route]]
    differ = {route: int((labels_of(folder, route) != ours).sum()) for route in others}
    modality = np.load(folder / "modality.npy")
    return {"summary": summary_of(ours, modality), "differ": differ}


def measure_cell(cell: Cell, plan: Plan, figures: Figures, save: Callable[[], None]) -> None:
    """The rounds of a cell that are not measured yet."""
    found = figures["cells"].setdefault(cell.name, {"rounds": [], "labels": {}})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_apart(prepare, folder, cell.kind, cell.samples, cell.dim)
        for number in range(len(found["rounds"]), cell.rounds):
            found["rounds"].append(measure_round(cell, folder, number, plan.threads))
            if number == 0:
                found["labels"] = compare_labels(folder, found["rounds"][0])
            save()


def measure(plan: Plan, parts: list[str], figures: Figures, save: Callable[[], None]) -> None:
    """Everything in these parts that is not measured yet."""
    if "equality" in parts:
        measure_equality(plan, figures)
        save()
    for cell in unmeasured(plan, parts, figures):
        measure_cell(cell, plan, figures, save)
    if "step" in parts and not figures["step"]:
        figures["step"] = run_apart(measure_step, plan.step)
        save()


def measure_step(options: dict[str, int]) -> dict[str, Any]:
    """Times of one training step (``losses.py``), with the settings they were taken with."""
    return {"options": options, "seconds": losses.measure(**options)}


def forget(plan: Plan, parts: list[str], figures: Figures) -> None:
    """Drops the figures of these parts."""
    for cell in plan.cells:
        if cell.part in parts:
            figures["cells"].pop(cell.name, None)
    for part, empty in (("equality", []), ("step", {})):
        if part in parts:
            figures[part] = empty


def load(path: Path, conditions: dict[str, Any]) -> Figures:
    """Figures measured before under the same conditions, or none."""
    empty: Figures = {"conditions": conditions, "use_by_others": 0.0}
    empty |= {"equality": [], "cells": {}, "step": {}}
    if not path.exists():
        return empty
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    before = figures.get("conditions", {})
    names = [name for name in {**before, **conditions} if before.get(name) != conditions.get(name)]
    if not names:
        return figures
    print(f"figures in {path} were measured under other conditions ({', '.join(names)})")
    return empty


def parse_options() -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=23_200)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3, help="of the kind of features 'usual'")
    parser.add_argument("--kind-rounds", type=int, default=1, help="of each other kind")
    kinds = [kind for kind in KINDS if kind != "usual"]
    chosen = ["decaying", "heavy-tailed", "noise"]
    parser.add_argument("--kinds", nargs="*", choices=kinds, default=chosen)
    sizes = [12_500, 25_000, 50_000, 100_000, 200_000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes, help="of the part 'scaling'")
    parser.add_argument("--sizes-dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure these parts anew")
    parser.add_argument("--quick", action="store_true", help="a dry run on little")
    parser.add_argument("--docs", type=Path, help="folder to write to, by default docs")
    return parser.parse_args()


def main() -> None:
    """Measures what is missing, and writes the page."""
    options = parse_options()
    plan = Plan.quick(options.threads) if options.quick else Plan.of(options)
    docs = options.docs or (ROOT / "build" / "speed" if options.quick else ROOT / "docs")
    evidence, pictures = docs / "evidence", docs / "pictures"
    for folder in (evidence, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    path = evidence / "speed.json"

    machine.pin(options.threads)
    if options.parts:
        figures = load(path, run_apart(machine.describe, options.threads))
        if options.again:
            forget(plan, options.parts, figures)
        wanted = {cell.name for cell in plan.cells}
        figures["cells"] = {n: cell for n, cell in figures["cells"].items() if n in wanted}
        if not is_complete(plan, options.parts, figures):
            use = machine.use_by_others()
            before = figures["use_by_others"] if figures["cells"] else 0.0
            figures["use_by_others"] = max(before, use)
            if use > machine.BUSY:
                print(f"others use {use:.0%} of the processor: times will be too high")
    else:
        figures = json.loads(path.read_text(encoding="utf-8"))

    def save() -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    measure(plan, options.parts, figures, save)
    drawn = speed_plots.draw(plan, figures, pictures)
    text = (ROOT / "docs" / "evidence" / "speed.md").read_text(encoding="utf-8")
    page = evidence / "speed.md"
    page.write_text(speed_tables.fill(text, plan, figures, drawn), encoding="utf-8")
    print(f"wrote {page}, {path} and {len(drawn)} pictures in {pictures}")


if __name__ == "__main__":
    main()
