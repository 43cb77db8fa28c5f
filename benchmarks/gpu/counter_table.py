"""A table of the counters of each kernel, from the CSV of ncu on standard input.

    ncu --csv --page details ... | python benchmarks/gpu/counter_table.py

One line per kernel, for its longest launch. Other lines of the input are ignored.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable

# Name of the metric, heading, width.
_COLUMNS = (
    ("Duration", "us", 10),
    ("Compute (SM) Throughput", "SM %", 7),
    ("Memory Throughput", "mem %", 7),
    ("DRAM Throughput", "DRAM %", 8),
    ("L2 Hit Rate", "L2 hit", 8),
    ("Theoretical Occupancy", "occ. %", 8),
    ("Achieved Occupancy", "got %", 7),
    ("Registers Per Thread", "regs", 6),
    ("Block Size", "block", 7),
    ("Grid Size", "grid", 9),
)
_MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}
_MICROSECONDS |= {"s": 1e6, "second": 1e6}
_NAME_WIDTH = 60


def read_launches(lines: Iterable[str]) -> list[dict[str, str]]:
    """The launches, each with its kernel and the value of each metric by name."""
    kept = [line for line in lines if line.startswith('"')]
    header = next((n for n, line in enumerate(kept) if line.startswith('"ID"')), len(kept))
    launches: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(kept[header:]):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        name, value = row.get("Metric Name"), (row.get("Metric Value") or "").replace(",", "")
        if not name or not value:
            continue
        if name == "Duration":
            value = f"{float(value) * _MICROSECONDS.get(row['Metric Unit'], 1.0):.1f}"
        # Two sections have a "Memory Throughput", one in percent and one in bytes.
        if name != "Memory Throughput" or row["Metric Unit"] == "%":
            launch.setdefault(name, value)
    return list(launches.values())


def tabulate(launches: list[dict[str, str]]) -> list[str]:
    """The longest launch of each kernel, the longest of all first."""
    longest: dict[str, dict[str, str]] = {}
    counts: dict[str, int] = {}
    for launch in launches:
        name = launch["kernel"]
        counts[name] = counts.get(name, 0) + 1
        if name not in longest or _duration(launch) > _duration(longest[name]):
            longest[name] = launch
    head = "".join(f"{heading:>{width}}" for _, heading, width in _COLUMNS)
    lines = [f"    {head}{'seen':>6}  kernel"]
    for name, launch in sorted(longest.items(), key=lambda pair: -_duration(pair[1])):
        cells = "".join(f"{launch.get(metric, '-'):>{width}}" for metric, _, width in _COLUMNS)
        short = re.sub(r"^void |mabm::|\(anonymous namespace\)::", "", name)
        lines.append(f"    {cells}{counts[name]:>6}  {short[:_NAME_WIDTH]}")
    return lines


def _duration(launch: dict[str, str]) -> float:
    return float(launch.get("Duration", "0"))


if __name__ == "__main__":
    found = read_launches(sys.stdin)
    print("\n".join(tabulate(found)) if found else "    ncu counted nothing of any kernel")
    sys.exit(0 if found else 1)
