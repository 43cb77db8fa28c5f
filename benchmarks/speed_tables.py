"""The tables of docs/evidence/speed.md, in Markdown that a forge shows too.

``fill`` replaces the page's regions (``regions.py``).
"""

from collections.abc import Callable
from typing import Any

import machine
import regions
from features import KINDS
from figures import STAGES, Found, Spread, digits, exponent
from plan import PRODUCTS, Plan
from rankings import missing
from routes import SMALL

_NOT_YET = "*Not measured yet.*"
_FOLLOWS = {"dense": "dense route", "sparse": "SciPy-sparse route"}
_NAMES = {
    "torch": "PyTorch",
    "NumPy": "NumPy",
    "faiss": "faiss",
    "Panorama": "faiss's Panorama index",
}
_PICTURES = {
    "routes": "Seconds of each route, what ranks and what follows apart",
    "kinds": "Time of pseudo_labels relative to plain products, for each kind of features",
    "scaling": "Seconds of each stage and peak memory against N, on logarithmic axes",
}

Figures = dict[str, Any]


def fill(text: str, plan: Plan, figures: Figures, drawn: list[str]) -> str:
    """The page with the figures of a plan in its regions; ``drawn`` names the pictures there are.

    Raises:
        KeyError: The page has a region that nothing writes.
    """
    written = {name: REGIONS[name](plan, figures) for name in regions.names(text)}
    for name in drawn:
        written[name] += ["", f"![{_PICTURES[name]}](../pictures/speed_{name}.png)"]
    return regions.fill(text, written)


def _machine(plan: Plan, figures: Figures) -> list[str]:
    conditions = dict(figures["conditions"])
    has = ", ".join(conditions.pop("features")) or "none that matters here"
    cores, threads = conditions.pop("cores"), conditions.pop("threads")
    lines = [
        f"- **Processor.** {conditions.pop('processor')} ({conditions.pop('architecture')}), "
        f"{cores} cores, {threads} threads in every route. It has: {has}.",
        "- **Versions.** "
        + ", ".join(f"{name} {value}" for name, value in conditions.items())
        + ".",
    ]
    use = figures["use_by_others"]
    other = f"- **Other work.** Before the measurements, it used {use:.0%} of the processor."
    if use > machine.BUSY:
        other += " **So times below are too high, and ratios are rough.**"
    lines.append(other)
    gone = {reason for name in _NAMES if (reason := missing(name))}
    return lines + [f"- **Left out.** {reason}." for reason in sorted(gone)]


def _equality(plan: Plan, figures: Figures) -> list[str]:
    kinds = list(dict.fromkeys(check.split()[0] for check in figures["equality"]))
    small = [
        f"On {SMALL} samples of each of these kinds of features, for both presets: "
        f"{', '.join(kinds)}. Distances of mabm agree with the definition in float64 to 1e-6, "
        "those of the dense and the SciPy-sparse route to 1e-5; labels are equal; a ranking finds "
        "the greatest inner products, to 1e-5.",
        "",
    ]
    lines = small if kinds else [_NOT_YET, ""]
    for cell in plan.cells:
        found = Found.of(cell, figures)
        if found and found.labels["differ"]:
            lines.append(f"- N = {cell.samples:,}, {cell.kind}, `{cell.preset}`: {_labels(found)}.")
    return lines


def _labels(found: Found) -> str:
    differ = found.labels["differ"]
    same = [_FOLLOWS[route] for route, count in differ.items() if not count]
    parts = [f"all labels equal ({', '.join(same)})"] if same else []
    parts += [
        f"labels of the {_FOLLOWS[route]} differ for {count:,} of {found.cell.samples:,} samples"
        for route, count in differ.items()
        if count
    ]
    return ", ".join(parts)


def _routes(part: str) -> Callable[[Plan, Figures], list[str]]:
    def lines(plan: Plan, figures: Figures) -> list[str]:
        found = Found.of(plan.part(part)[0], figures)
        return _route_lines(found) if found else [_NOT_YET]

    return lines


def _route_lines(found: Found) -> list[str]:
    cell = found.cell
    rows = {"**`mabm.pseudo_labels`**": ("mabm",)}
    for follows, name in _FOLLOWS.items():
        for ranking in PRODUCTS[::-1]:
            rows[f"{name}, ranking by {_NAMES[ranking]}"] = (ranking, follows)
    rows["only the ranking: mabm"] = ("ranking",)
    for ranking in (*PRODUCTS[::-1], "Panorama"):
        rows[f"only the ranking: {_NAMES[ranking]}"] = (ranking,)
    lines = [
        f"N = {cell.samples:,}, D = {cell.dim:,}:",
        "",
        "| | seconds | time relative to mabm | peak memory |",
        "|---|---|---|---|",
    ]
    for name, routes in rows.items():
        if found.has(*routes):
            ratio = "1" if routes == ("mabm",) else found.ratio(routes, ("mabm",)).text()
            memory = f"{found.gigabytes(*routes).text()} GB"
            lines.append(f"| {name} | {found.seconds(*routes).text()} | {ratio} | {memory} |")
    return [*lines, "", _details(found)]


def _details(found: Found) -> str:
    summary, count = found.labels["summary"], len(found.rounds)
    words = [f"{count} round{'s' if count > 1 else ''}"]
    if found.cell.first_round and count > 1:
        words[0] += f" ({' and '.join(found.cell.first_round)} in the first one alone)"
    steps = {"dense": ("loop over rows", "dense DBSCAN"), "sparse": ("sparse distances",)}
    for route, names in steps.items():
        if found.has(route):
            parts = [f"{found.step(route, name).text()} s in its {name}" for name in names]
            words.append(f"the {_FOLLOWS[route]} spends {' and '.join(parts)}")
    clusters = f"{summary['clusters']:,} clusters ({summary['spanning']:,} spanning)"
    words.append(f"{clusters}, {summary['noise']:,} samples in none")
    words += [f"{route} failed: {reason}" for route, reason in found.failed().items()]
    return "; ".join(words) + "."


def _kinds(plan: Plan, figures: Figures) -> list[str]:
    cells = [Found.of(cell, figures) for cell in (*plan.part("main"), *plan.part("kinds"))]
    measured = [found for found in cells if found]
    if not measured:
        return [_NOT_YET]
    products = [name for name in PRODUCTS if any(found.has("mabm", name) for found in measured)]
    cell = measured[0].cell
    heads = " | ".join(f"relative to {_NAMES[name]}" for name in products)
    lines = [
        f"N = {cell.samples:,}, D = {cell.dim:,}, time of the whole of `pseudo_labels`:",
        "",
        f"| features | seconds | {heads} | clusters | in none |",
        "|---|---|" + "---|" * len(products) + "---|---|",
    ]
    for found in measured:
        kind, summary = found.cell.kind, found.labels["summary"]
        ratios = [found.ratio(("mabm",), (name,)).text() for name in products]
        row = [kind, found.seconds("mabm").text(), *ratios]
        row += [f"{summary['clusters']:,}", f"{summary['noise']:,}"]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", *(f"- *{f.cell.kind}*: {KINDS[f.cell.kind]}." for f in measured)]
    lines += ["", "What the ranking logged at debug level:", "", "```text"]
    for found in measured:
        lines += [f"{found.cell.kind}: {line}" for line in found.log("mabm") or ["nothing"]]
    return [*lines, "```"]


def _scaling(plan: Plan, figures: Figures) -> list[str]:
    measured = [found for cell in plan.part("scaling") if (found := Found.of(cell, figures))]
    if not measured:
        return [_NOT_YET]
    series = stage_series(measured)
    sizes = [found.cell.samples for found in measured]
    head = " | ".join(series)
    lines = [
        f"D = {measured[0].cell.dim}, seconds:",
        "",
        f"| N | {head} | peak memory |",
        "|---|" + "---|" * (len(series) + 1),
    ]
    memory = [found.gigabytes("stages").median for found in measured]
    for i, size in enumerate(sizes):
        row = [digits(values[i]) for values in series.values()]
        lines.append(f"| {size:,} | {' | '.join(row)} | {digits(memory[i])} GB |")
    if len(sizes) > 1:
        fits = [f"{exponent(sizes, values):.2f}" for values in (*series.values(), memory)]
        lines.append(f"| *exponent* | {' | '.join(fits)} |")
    return lines


def stage_series(measured: list[Found]) -> dict[str, list[float]]:
    """Seconds of each stage at each size, of all that follow the ranking, and of all of them."""
    series = {s: [found.step("stages", s).median for found in measured] for s in STAGES}
    follows = [sum(times) for times in zip(*(series[s] for s in STAGES[1:]), strict=True)]
    total = [found.seconds("stages").median for found in measured]
    return {**series, "after the ranking": follows, "whole": total}


def _step(plan: Plan, figures: Figures) -> list[str]:
    if not figures["step"]:
        return [_NOT_YET]
    taken = figures["step"]["seconds"]["mean"]
    names = {
        "two products": "two matrix products, the floor",
        "mabm": "mabm",
        "loop for the update": "batched loss, a loop for the update",
        "loop, one backward": "a loop over instances, one backward",
        "loop over instances": "a loop over instances, a backward each",
    }
    lines = ["| | milliseconds | time relative to mabm |", "|---|---|---|"]
    for name, words in names.items():
        ratio = Spread.of(a / b for a, b in zip(taken[name], taken["mabm"], strict=True))
        shown = "1" if name == "mabm" else ratio.text()
        lines.append(f"| {words} | {Spread.of(taken[name]).text(1e3)} | {shown} |")
    return lines


REGIONS: dict[str, Callable[[Plan, Figures], list[str]]] = {
    "machine": _machine,
    "equality": _equality,
    "routes": _routes("main"),
    "classic": _routes("classic"),
    "small": _routes("small"),
    "kinds": _kinds,
    "scaling": _scaling,
    "step": _step,
}
"""What is written into each region of the page: Markdown lines, from the plan and the figures."""
