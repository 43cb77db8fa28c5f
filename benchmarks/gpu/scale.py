"""Several GPUs on paper: tables of bytes on the wire, memory and time, and what was measured.

    python benchmarks/gpu/scale.py            # writes the tables of docs/evidence/scale.md
    python benchmarks/gpu/scale.py --check    # exits with 1 if they are not current

The formulas are in ``processes.py``. Bytes and memory that ``benchmarks/distributed.py`` has
measured on one machine are set beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for regions.py

import regions
from figures import digits
from predictions import likely_size
from processes import (
    MEMORY,
    WIRE,
    Case,
    computing,
    devices,
    fits,
    link,
    memory,
    memory_on_cpu,
    seconds,
    whole_wire,
    wire,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence" / "scale.md"
FIGURES = "scale.json"  # next to the page, by benchmarks/distributed.py

SAMPLES = (4_180_000, 10_000_000, 1_000_000_000)
DIMS = (2048, 256)
PROCESSES = (8, 64, 256)


def cases() -> list[Case]:
    """All of them, ordered by N, D and R."""
    return [
        Case(likely_size(count, dim), processes)
        for count in SAMPLES
        for dim in DIMS
        for processes in PROCESSES
    ]


def tables() -> dict[str, list[str]]:
    """The lines of each region of the page."""
    return {
        "compared": _compared_table(),
        "formulas": _formula_table(),
        "counts": _count_line(),
        "wire": _wire_table(),
        "memory": _memory_table(),
        "time": _time_table(),
    }


def _compared_table() -> list[str]:
    """What was counted and measured on one machine, and the formulas for the same inputs."""
    path = PAGE.with_name(FIGURES)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    rows: dict[str, list[str]] = {name: [] for name in (*WIRE, "**sent in all**", "**memory**")}
    heads = []
    for cell in cells:
        for found in cell["rounds"][0].values():
            if len(found) == 1:
                continue
            case = Case(likely_size(cell["samples"], cell["dim"]), len(found))
            heads.append(f"N = {cell['samples']:,}, R = {len(found)}")
            for name, part in WIRE.items():
                counted = max(record["sent"].get(name, 0) for record in found)
                rows[name].append(_beside(counted, part(case)))
            counted = sum(sum(record["sent"].values()) for record in found)
            rows["**sent in all**"].append(_beside(counted, whole_wire(case)))
            peak = max(record["peak"] for record in found)
            rows["**memory**"].append(_beside(peak, memory_on_cpu(case)))
    if not heads:
        return ["*Not measured yet.*"]
    return [
        f"| measured, by formula | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *(f"| {name} | {' | '.join(row)} |" for name, row in rows.items()),
    ]


def _beside(measured: float, formula: float) -> str:
    return f"{digits(measured / 1e6)}, {digits(formula / 1e6)} MB"


def _formula_table() -> list[str]:
    lines = ["| | bytes of a process |", "|---|---|"]
    for title, parts in (("sent", WIRE), ("memory", MEMORY)):
        for name, part in parts.items():
            lines.append(f"| {title}: {name} | {' '.join((part.__doc__ or '').split())} |")
    return lines


def _count_line() -> list[str]:
    c = cases()[0].counts
    return [
        f"K = {c.width:.0f} in {c.lists:.0f} lists, {c.averaged:.0f} averaged rows. Means per row: "
        f"{c.entries:.1f} entries of V, {c.expanded:.0f} of V', {c.near:.1f} near rows, "
        f"{cases()[0].unlisted:.2f} scores that its lists do not have."
    ]


def _wire_table() -> list[str]:
    lines = [
        f"| N | D | GPUs | {' | '.join(WIRE)} | **a process** | **all** |",
        "|---|---|---|" + "---|" * (len(WIRE) + 2),
    ]
    for case in cases():
        cells = [_bytes(part(case)) for part in WIRE.values()]
        cells += [f"**{_bytes(each)}**" for each in (wire(case), whole_wire(case))]
        lines.append(f"| {_head(case)} | {' | '.join(cells)} |")
    return lines


def _memory_table() -> list[str]:
    lines = [
        f"| N | D | GPUs | {' | '.join(MEMORY)} | **at most** | fits in |",
        "|---|---|---|" + "---|" * (len(MEMORY) + 2),
    ]
    for case in cases():
        cells = [_bytes(part(case)) for part in MEMORY.values()]
        sizes = sorted({round(device.memory / 1e9) for device in devices() if fits(case, device)})
        words = " and ".join(f"{each} GB" for each in sizes) or "none"
        lines.append(
            f"| {_head(case)} | {' | '.join(cells)} | **{_bytes(memory(case))}** | {words} |"
        )
    return lines


def _time_table() -> list[str]:
    names = [device.name for device in devices()]
    h200 = devices()[-1]
    lines = [
        f"| N | D | GPUs | {h200.name}: ranking | after it | wire | "
        + " | ".join(f"**{name}**" for name in names)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(names),
    ]
    for case in cases():
        parts = [*computing(case, h200), wire(case) / link(case, h200)]
        totals = [
            f"**{_duration(seconds(case, device))}**" if fits(case, device) else "does not fit"
            for device in devices()
        ]
        cells = [*map(_duration, parts), *totals]
        lines.append(f"| {_head(case)} | {' | '.join(cells)} |")
    return lines


def _head(case: Case) -> str:
    return f"{case.size.count:,} | {case.size.dim:,} | {case.processes}"


def _bytes(count: float) -> str:
    """In GB, or TB from a thousand."""
    return f"{digits(count / 1e12)} TB" if count >= 1e12 else f"{digits(count / 1e9)} GB"


def _duration(taken: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if taken >= 1.5 * length:
            return f"{digits(taken / length)} {unit}"
    return f"{digits(taken)} s"


def main() -> int:
    """Writes the tables, or checks them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    wanted = regions.fill(text, tables())
    if options.check:
        return int(wanted != text)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
