"""The table of a run: one line per size first, then every measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from stages import AFTER_RANKING, FAST, PRODUCT, RANKING, WHOLE

DETAILS = "## Stages and peers"

# N, D, and the targets of pseudo_labels at that size: the most times the floor of its float16
# product, and the most milliseconds, of which infinitely many mean that it completes.
TARGETS: tuple[tuple[int, int, float | None, float], ...] = (
    (34_167, 2048, 2.5, 15.0),
    (400_000, 2048, None, 1600.0),
    (4_180_000, 2048, None, inf),
)


def targets_met(sizes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each target with its measurement, ``None`` if there is none."""
    found = []
    for count, dim, most_times, most in TARGETS:
        whole = _measured(sizes, count, dim)
        text = f"under {most:g} ms" if most < inf else "completes"
        if most_times is not None:
            text = f"at most {most_times:g} x its floor and {text}"
        found.append(
            {
                "target": f"pseudo_labels, N = {count:,}, D = {dim}: {text}",
                "measured_ms": whole and whole["median_ms"],
                "times_floor": whole and whole["times_floor"],
                "met": whole
                and whole["median_ms"] < most
                and (most_times is None or whole["times_floor"] <= most_times),
            }
        )
    return found


def _measured(sizes: Sequence[Mapping[str, Any]], count: int, dim: int) -> dict[str, Any] | None:
    for size in sizes:
        wanted = (size["samples"], size["dim"], size["kind"]) == (count, dim, "usual")
        if wanted and WHOLE in size["stages"]:
            return size["stages"][WHOLE]
    return None


def summary(results: Mapping[str, Any]) -> list[str]:
    """Lines of text: the device, its ceilings, one line per size, the targets."""
    machine, rates = results["machine"], results["ceilings"]
    lines = [
        f"{machine['device']}, torch {machine['torch']}, CUDA {machine.get('cuda', 'none')}, "
        f"driver {machine.get('driver', 'none')}, commit {machine['commit'][:12]}, "
        f"{machine['date']}",
    ]
    lines += [f"{name}: {said}" for name, said in results["notes"].items()]
    if rates:
        products = ", ".join(
            f"{name} {rate / 1e12:.4g}" for name, rate in rates.items() if name != "copy"
        )
        lines.append(f"ceilings: products {products} TFLOP/s; copy {rates['copy'] / 1e12:.3g} TB/s")
    lines += [
        "",
        f"{'N':>8}{'D':>6} {'kind':<7}{'checks':<8}{'whole ms':>10}{'least':>9}{'most':>9}"
        f"{'floor':>9}{'x floor':>9}{'first':>9}{'fast':>10}{'ranking':>10}{'product':>9}"
        f"{'after':>9}{'peak GB':>9}{'unproven':>9}  clocks",
    ]
    lines += [_line(size) for size in results["sizes"]]
    lines.append("")
    for target in results["targets"]:
        said = {None: "not measured", True: "met", False: "MISSED"}[target["met"]]
        lines.append(f"target, {target['target']}: {said}")
    return lines


def _line(size: Mapping[str, Any]) -> str:
    start = f"{size['samples']:>8}{size['dim']:>6} {size['kind']:<7}"
    stages = size["stages"]
    if WHOLE not in stages:
        why = size["not_run"].get("everything") or size["not_run"].get(WHOLE) or "failed"
        return f"{start}{_verdict(size):<8}{why}"
    whole = stages[WHOLE]

    def median(name: str) -> str:
        return f"{stages[name]['median_ms']:.2f}" if name in stages else "-"

    after = [stages[name]["median_ms"] for name in AFTER_RANKING if name in stages]
    after_all = f"{sum(after):.2f}" if len(after) == len(AFTER_RANKING) else "-"
    peak = size.get("peak_bytes_beyond_inputs")
    peak_text = "-" if peak is None else f"{peak / 1e9:.2f}"
    first = f"{size['first_call_ms']:.1f}" if "first_call_ms" in size else "-"
    said = size.get("clocks", {})
    names = ("clocks.sm", "power.draw", "temperature.gpu")
    clocks = ", ".join(said[name] for name in names if name in said)
    return (
        f"{start}{_verdict(size):<8}{whole['median_ms']:10.2f}{whole['least_ms']:9.2f}"
        f"{whole['most_ms']:9.2f}{whole['floor_ms']:9.2f}{whole['times_floor']:9.2f}"
        f"{first:>9}{median(FAST):>10}{median(RANKING):>10}{median(PRODUCT):>9}{after_all:>9}"
        f"{peak_text:>9}{size.get('unproven_rows', '-'):>9}  {clocks}"
    )


def _verdict(size: Mapping[str, Any]) -> str:
    if size["errors"]:
        return "ERROR"
    if not size["checks"]:
        return "none"
    return "hold" if all(size["checks"].values()) else "BROKEN"


def details(results: Mapping[str, Any]) -> list[str]:
    """Lines of text: every measurement of every size, what failed and what was not run."""
    lines = [DETAILS]
    for size in results["sizes"]:
        lines += ["", f"N = {size['samples']:,}, D = {size['dim']}, {size['kind']}"]
        lines += [f"  BROKEN: {name}" for name, holds in size["checks"].items() if not holds]
        lines += [f"  ERROR in {name}: {said}" for name, said in size["errors"].items()]
        lines += [f"  {name}: {value}" for name, value in size["facts"].items()]
        if size["stages"] or size["peers"]:
            lines.append(
                f"  {'':<44}{'median ms':>12}{'predicted':>11}{'least':>11}{'most':>11}"
                f"{'rounds':>8}{'floor ms':>11}{'x floor':>9}{'GB/s':>9}"
            )
        for name, figures in size["stages"].items():
            times = f"{figures['floor_ms']:11.3f}{figures['times_floor']:9.2f}"
            times += f"{figures['bytes_per_second'] / 1e9:9.1f} {figures['floor_of']}"
            expected = size.get("predicted_ms", {}).get(name)
            lines.append(f"  {name:<44}{_figures(figures, expected)}{times}")
        for name, figures in size["peers"].items():
            agrees = f"  agrees {figures['agrees']:.6f}"
            lines.append(f"  {name:<44}{_figures(figures)}{agrees}")
        if parts := size.get("predicted_parts_ms"):
            said = ", ".join(f"{name} {taken:.3g}" for name, taken in parts.items())
            peak = size["predicted_peak_bytes"] / 1e9
            lines.append(f"  predicted for {size['predicted_for']}, ms: {said}; peak {peak:.2f} GB")
        lines += [f"  {name:<44}not run: {why}" for name, why in size["not_run"].items()]
    return lines


def _figures(figures: Mapping[str, Any], predicted_ms: float | None = None) -> str:
    expected = "-" if predicted_ms is None else f"{predicted_ms:.3f}"
    return (
        f"{figures['median_ms']:12.3f}{expected:>11}{figures['least_ms']:11.3f}"
        f"{figures['most_ms']:11.3f}{figures['rounds']:8d}"
    )
