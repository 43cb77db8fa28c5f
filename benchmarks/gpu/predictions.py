"""Predicted bytes, operations and times of each stage on GPUs, none of it measured on one.

    python benchmarks/gpu/predictions.py            # writes the tables of RESULTS.md
    python benchmarks/gpu/predictions.py --check    # exits with 1 if they are not current
    python benchmarks/gpu/predictions.py --count    # counts first, on the CPU (minutes)

``work.py`` says what each stage does, ``counts.py`` what that depends on beside N and D, and
``cards.py`` how fast devices are. The time of a part is the longest of its bytes over their rate
and each kind of operations over theirs, and the time of its launches on top, as if nothing
overlapped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for features.py

from cards import DEVICES, KINDS, Device
from counts import Counts, count_work
from features import make_features
from stages import BY_HALVES, RANKING, RERANKING, WHOLE, Prepared
from work import PARTS, Part, Size, Work, peak_bytes

HERE = Path(__file__).resolve().parent
RESULTS, COUNTED = HERE / "RESULTS.md", HERE / "counts.json"
BEGIN, END = "<!-- predictions: begin -->", "<!-- predictions: end -->"

# Sizes that work is counted on, ascending, and those that it is predicted for.
_COUNTED_SIZES = ((34_167, 2048), (100_000, 2048))
_SIZES = (34_167, 100_000, 400_000, 4_180_000)
_DIM = 2048


def predicted_ms(
    work: Work, device: Device, ceilings: Mapping[str, float] | None = None
) -> tuple[float, str]:
    """Milliseconds that a part should take, and what takes the longest.

    Args:
        work: What is done.
        device: Where, by data sheet.
        ceilings: Measured rates of ``measure.ceilings``, which come before those of data sheets.
    """
    rates = device.rates(ceilings or {})
    seconds = {kind: count / rates[kind] for kind, count in work.operations.items()}
    moved = work.moved / rates["bytes"]
    for again, held in work.reused:
        cached = min(device.cache / held, 1.0)  # in any order
        moved += again * (cached / rates["cached bytes"] + (1 - cached) / rates["bytes"])
    seconds["bytes"] = moved
    longest = max(seconds, key=lambda kind: seconds[kind])
    return (seconds[longest] + device.launch_seconds(work)) * 1e3, longest


def predicted_stages(
    size: Size, device: Device, ceilings: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Milliseconds of each stage of ``stages.py`` that is predicted, by name."""
    found: dict[str, float] = {}
    for part in _parts_on(device):
        taken, _ = predicted_ms(part.work(size), device, ceilings)
        for stage in part.stages:
            found[stage] = found.get(stage, 0.0) + taken
    if size.tries_integers:
        without = predicted_stages(replace(size, tries_integers=False), device, ceilings)
        found[BY_HALVES] = without[RANKING]
    return found


def predict(size: Size, device: Device, ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Predictions for a report: of each stage and of each part, in milliseconds."""
    return {
        "predicted_for": device.name,
        "predicted_peak_bytes": peak_bytes(size),
        "predicted_ms": predicted_stages(size, device, ceilings),
        "predicted_parts_ms": {
            part.name: predicted_ms(part.work(size), device, ceilings)[0]
            for part in _parts_on(device)
        },
    }


def _parts_on(device: Device) -> list[Part]:
    """The parts that a device takes."""
    return [part for part in PARTS if part.runs_on(device.slow_float64)]


def likely_size(count: int, dim: int) -> Size:
    """A size with the counts of the greatest one that was counted and has no more samples."""
    known = json.loads(COUNTED.read_text())
    smaller = [each for each in known if each["count"] <= count] or known[:1]
    return Size(count, dim, Counts(**smaller[-1]["counts"]))


def tables() -> list[str]:
    """Lines of Markdown: the devices, the work of each part, the time of each, totals."""
    sizes = [likely_size(count, _DIM) for count in _SIZES]
    return [
        *_device_table(),
        "",
        *_count_table(),
        "",
        *_work_table(sizes[0]),
        "",
        *_time_table(sizes[0]),
        "",
        *_whole_table(sizes),
    ]


def _device_table() -> list[str]:
    lines = [
        "Rates that are assumed, from data sheets unless stated in `cards.py`:",
        "",
        "| | " + " | ".join(device.name for device in DEVICES) + " |",
        "|---|" + "---|" * len(DEVICES),
    ]
    rates = [device.rates({}) for device in DEVICES]
    for kind, unit in KINDS.items():
        values = " | ".join(f"{each[kind] / 1e12:.3g}" for each in rates)
        lines.append(f"| {unit} | {values} |")
    memory = " | ".join(f"{device.memory / 1e9:.0f}" for device in DEVICES)
    return [*lines, f"| memory, GB | {memory} |"]


def _count_table() -> list[str]:
    known = json.loads(COUNTED.read_text())
    lines = [
        "What was counted on the CPU, on the usual features, means per row (`counts.py`):",
        "",
        "| | " + " | ".join(f"N = {each['count']:,}" for each in known) + " |",
        "|---|" + "---|" * len(known),
    ]
    return lines + [
        f"| {name.replace('_', ' ')} | "
        + " | ".join(f"{each['counts'][name]:,.3g}" for each in known)
        + " |"
        for name in asdict(Counts(**known[0]["counts"]))
    ]


def _work_table(size: Size) -> list[str]:
    lines = [
        f"**Predicted** work at N = {size.count:,}, D = {size.dim}; launches are kernels of the",
        "library, calls of PyTorch and waits for the device:",
        "",
        "| part | GB | operations, 10⁹ | launches | because |",
        "|---|---|---|---|---|",
    ]
    for part in PARTS:
        work = part.work(size)
        moved = work.moved + sum(again for again, _ in work.reused)
        kinds = ", ".join(f"{count / 1e9:,.3g} {kind}" for kind, count in work.operations.items())
        launches = f"{work.launches:.0f} + {work.calls:.0f} + {work.waits:.0f}"
        why = " ".join((part.work.__doc__ or "").split())
        lines.append(f"| {part.name} | {moved / 1e9:.2f} | {kinds or '-'} | {launches} | {why} |")
    return lines


def _time_table(size: Size) -> list[str]:
    lines = [
        f"**Predicted** milliseconds at N = {size.count:,}, D = {size.dim}, and what takes them:",
        "",
        "| | " + " | ".join(device.name for device in DEVICES) + " |",
        "|---|" + "---|" * len(DEVICES),
    ]
    for part in PARTS:
        cells = []
        for device in DEVICES:
            taken, longest = predicted_ms(part.work(size), device)
            cells.append(f"{taken:.2f} {longest}" if part.runs_on(device.slow_float64) else "-")
        lines.append(f"| {part.name} | {' | '.join(cells)} |")
    for stage in (WHOLE, RANKING, BY_HALVES, RERANKING):
        taken = (predicted_stages(size, device)[stage] for device in DEVICES)
        lines.append(f"| **`{stage}`** | {' | '.join(f'**{each:.1f}**' for each in taken)} |")
    return lines


def _whole_table(sizes: list[Size]) -> list[str]:
    lines = [
        "**Predicted** milliseconds of `pseudo_labels`, and its peak memory with the features:",
        "",
        "| N | peak GB | " + " | ".join(device.name for device in DEVICES) + " |",
        "|---|---|" + "---|" * len(DEVICES),
    ]
    for size in sizes:
        peak = peak_bytes(size)
        times = [
            f"{predicted_stages(size, device)[WHOLE]:,.0f}"
            if peak < device.memory
            else "does not fit"
            for device in DEVICES
        ]
        lines.append(f"| {size.count:,} | {peak / 1e9:.1f} | {' | '.join(times)} |")
    return lines


def count_all() -> list[dict[str, Any]]:
    """Counts on the CPU, size after size."""
    found = []
    for count, dim in _COUNTED_SIZES:
        print(f"counting at N = {count:,}, D = {dim}", file=sys.stderr, flush=True)
        given = Prepared.of(*make_features(count, dim))
        found.append({"count": count, "dim": dim, "counts": asdict(count_work(given))})
    return found


def main() -> int:
    """Writes the tables, or checks them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--count", action="store_true", help="count first, on the CPU")
    options = parser.parse_args()
    if options.count:
        COUNTED.write_text(json.dumps(count_all(), indent=1) + "\n")
    text = RESULTS.read_text()
    before, rest = text.split(BEGIN)
    wanted = "\n".join([before + BEGIN, "", *tables(), "", END + rest.split(END)[1]])
    if options.check:
        return int(wanted != text)
    RESULTS.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
