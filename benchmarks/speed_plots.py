"""The pictures of docs/evidence/speed.md, in the style of the library's reports."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import STAGES, Found, exponent
from plan import PRODUCTS, Plan
from speed_tables import stage_series

from mabm.report.plots import (
    HAIRLINE,
    INK,
    QUIET,
    RIGHT,
    SERIES,
    clear_frame,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _DPI = 9.0, 150
_OURS = {"mabm": RIGHT, "ranking": "#7FB7D8"}
_RANKING, _FOLLOWS = "#B7C4CE", QUIET  # of the routes that are not the library's

Figures = dict[str, Any]


def draw(plan: Plan, figures: Figures, folder: Path) -> list[str]:
    """Draws the pictures whose figures are there into a folder, and returns their names."""
    drawn = []
    with styled():
        for name, picture in PICTURES.items():
            figure = picture(plan, figures)
            if figure is not None:
                figure.savefig(folder / f"speed_{name}.png", dpi=_DPI, bbox_inches="tight")
                drawn.append(name)
    return drawn


def _draw_routes(plan: Plan, figures: Figures) -> "Figure | None":
    found = Found.of(plan.part("main")[0], figures)
    if found is None:
        return None
    rankings = [name for name in PRODUCTS if found.has(name)]
    bars: list[tuple[str, tuple[str, ...]]] = [("mabm.pseudo_labels", ("mabm",))]
    for follows, words in (("sparse", "SciPy-sparse route"), ("dense", "dense route")):
        routes = [(name, follows) for name in rankings[::-1] if found.has(name, follows)]
        bars += [(f"{words}, {pair[0]}", pair) for pair in routes]
    bars += [("only the ranking, mabm", ("ranking",))]
    bars += [(f"only the ranking, {name}", (name,)) for name in rankings[::-1]]
    figure = new_figure(_WIDTH, 0.38 * len(bars) + 0.8)
    axes = figure.add_subplot()
    for place, (_, routes) in enumerate(bars):
        start, spread = 0.0, found.seconds(*routes)
        for route in routes:
            color = _OURS.get(route, _RANKING if route in rankings else _FOLLOWS)
            # Its share of the route's median, as medians of parts need not sum to it.
            share = spread.median * found.ratio((route,), routes).median
            axes.barh(place, share, left=start, height=0.62, color=color)
            start += share
        axes.plot([spread.least, spread.most], [place, place], color=INK, linewidth=1)
        axes.text(spread.most, place, f"  {spread.text()}", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [words for words, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(found.seconds(*routes).most for _, routes in bars))
    axes.set_xlabel("seconds: ranking (light) and what follows it (dark), median, least to most")
    _grid(axes, "x")
    return figure


def _draw_kinds(plan: Plan, figures: Figures) -> "Figure | None":
    cells = [Found.of(cell, figures) for cell in (*plan.part("main"), *plan.part("kinds"))]
    measured = [found for found in cells if found]
    if not measured:
        return None
    figure = new_figure(_WIDTH, 0.5 * len(measured) + 1.1)
    axes = figure.add_subplot()
    for number, name in enumerate(PRODUCTS):
        for place, found in enumerate(measured):
            if not found.has("mabm", name):
                continue
            ratio = found.ratio(("mabm",), (name,))
            y, color = place + 0.2 * (number - 1), SERIES[number]
            axes.plot([ratio.least, ratio.most], [y, y], color=color, linewidth=1.5)
            label = f"relative to {name}" if place == 0 else None
            axes.plot(ratio.median, y, "o", color=color, label=label, clip_on=False)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(measured)), [found.cell.kind for found in measured])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("time of pseudo_labels; at 1 it takes as long as the plain product with top-k")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(PRODUCTS))
    _grid(axes, "x")
    return figure


def _draw_scaling(plan: Plan, figures: Figures) -> "Figure | None":
    measured = [found for cell in plan.part("scaling") if (found := Found.of(cell, figures))]
    if len(measured) < 2:
        return None
    sizes = [found.cell.samples for found in measured]
    figure = new_figure(_WIDTH, 3.8)
    times, memory = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.6, 1], "wspace": 0.25})
    series = stage_series(measured)
    for color, stage in zip(SERIES, STAGES, strict=False):
        label = f"{stage}: N^{exponent(sizes, series[stage]):.2f}"
        times.loglog(sizes, series[stage], "o-", color=color, label=label, markersize=4)
    times.set_ylabel("seconds")
    times.legend(frameon=False, fontsize=8)
    peaks = [max(found.gigabytes("stages").median, 1e-3) for found in measured]
    label = f"mabm: N^{exponent(sizes, peaks):.2f}"
    memory.loglog(sizes, peaks, "o-", color=RIGHT, label=label, markersize=4)
    dense = [8 * size**2 / 1e9 for size in sizes]
    memory.loglog(sizes, dense, "--", color=QUIET, label="two N x N matrices (computed)")
    memory.set_ylabel("peak memory in GB, beyond the features")
    memory.legend(frameon=False, fontsize=8)
    for axes in (times, memory):
        axes.set_xlabel("N")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30, ha="right")
        axes.minorticks_off()
        _grid(axes, "both")
    return figure


def _grid(axes: "Axes", along: str) -> None:
    clear_frame(axes)
    axes.grid(False)
    axes.grid(axis=along, color=HAIRLINE, linewidth=0.7)


PICTURES = {"routes": _draw_routes, "kinds": _draw_kinds, "scaling": _draw_scaling}
"""Functions that draw a picture from the plan and the figures, or return nothing without them."""
