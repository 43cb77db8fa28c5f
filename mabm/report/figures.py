"""The figures of the report: curves and distances as SVG, images as tiles, all inline."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray, to_tensor
from mabm.report.plots import (
    HAIRLINE,
    INK,
    QUIET,
    RIGHT,
    SERIES,
    WRONG,
    PairHistogram,
    clear_frame,
    draw_spread,
    new_figure,
    styled,
)
from mabm.report.snapshots import ReadImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH: Final = 5.6  # inches; the page scales a figure to its column, about as wide
_HEIGHT: Final = 2.85
_MARKED_EPOCHS: Final = 24  # with more epochs only some points of a line carry its mark
# Colors become CSS variables, so that the page can set them for dark and light screens.
_VARIABLES: Final = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    HAIRLINE: "var(--hairline)",
    RIGHT: "var(--right)",
    WRONG: "var(--wrong)",
    "#F7D9C6": "var(--wrong-pale)",
}
_DASHES: Final = {"solid": (None, ""), "dashed": ((4.0, 2.0), "5 3"), "dotted": ((1, 1.6), "1 3")}
# matplotlib's marker, and the same one in the legend, around (15, 5).
_MARKS: Final = (
    ("o", '<circle cx="15" cy="5" r="2.6"/>'),
    ("s", '<rect x="12.6" y="2.6" width="4.8" height="4.8"/>'),
    ("^", '<path d="M15 2 L18 7.4 H12 Z"/>'),
    ("D", '<path d="M15 1.6 L18.4 5 L15 8.4 L11.6 5 Z"/>'),
    ("v", '<path d="M15 8 L18 2.6 H12 Z"/>'),
    ("P", '<path d="M14 2h2v2h2v2h-2v2h-2v-2h-2v-2h2z"/>'),
)
_ROOM_ABOVE: Final = 1.08  # upper end of an axis, in the highest value
_LEAST_GAP: Final = 0.09  # of an axis, between two ticks: about the height of their text
_LONGEST_SIDE: Final = 160  # pixels of a tile; screens show it at about half of that
_JPEG_QUALITY: Final = 88


@dataclass(frozen=True)
class Line:
    """One curve: a value for each epoch, NaN without one; the line spans such gaps."""

    name: str
    values: npt.NDArray[np.float64]
    color: str
    style: str = "solid"
    mark: int = 0

    @property
    def swatch(self) -> str:
        """The line in the legend, as SVG."""
        dashes = _DASHES[self.style][1]
        color = _VARIABLES.get(self.color, self.color)
        return (
            f'<svg class="swatch" viewBox="0 0 30 10" style="color:{color}" aria-hidden="true">'
            f'<path d="M1 5 H29" stroke="currentColor" stroke-width="1.8" fill="none" '
            f'stroke-dasharray="{dashes}"/><g fill="currentColor">{_MARKS[self.mark][1]}</g></svg>'
        )


def make_lines(
    columns: Mapping[str, Sequence[float | None]],
    styles: Mapping[str, str] | None = None,
    families: Mapping[str, str] | None = None,
) -> list[Line]:
    """Makes a curve of each column that has a number, in the colors of the library.

    Args:
        columns: Name of a curve -> a value for each epoch, ``None`` without one.
        styles: Name of a curve -> its style, by default ``"solid"``.
        families: Name of a curve -> its family: curves of one family have one color and mark. By
            default each is a family of its own.
    """
    lines: list[Line] = []
    places: dict[str, int] = {}
    for name, column in columns.items():
        values = np.array([np.nan if value is None else value for value in column], dtype=float)
        if np.isfinite(values).any():
            place = places.setdefault((families or {}).get(name, name), len(places))
            lines.append(
                Line(
                    name,
                    values,
                    SERIES[place % len(SERIES)],
                    (styles or {}).get(name, "solid"),
                    place % len(_MARKS),
                )
            )
    return lines


def line_of_run(place: int, name: str, values: npt.NDArray[np.float64] | None = None) -> Line:
    """A curve of one of several runs: in the color and with the mark of its place among them."""
    return Line(
        name,
        np.empty(0) if values is None else values,
        SERIES[place % len(SERIES)],
        mark=place % len(_MARKS),
    )


def draw_curves(
    lines: Sequence[Line],
    epochs: Sequence[int],
    boundaries: Mapping[float, str],
    *,
    label: str,
    percent: bool = False,
    steps: bool = False,
) -> str:
    """Curves over the epochs of a run, as SVG.

    Args:
        lines: The curves; without any, the axes are empty.
        epochs: Positions of the points on the horizontal axis.
        boundaries: Position where a stage begins -> the text written there.
        label: Text that describes the figure to screen readers.
        percent: Whether values are shares, to be written in percent.
        steps: Whether values stay from one epoch to the next, as learning rates do: drawn as steps
            on a logarithmic axis that names each value.
    """
    with styled():
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_axes((0.085, 0.165, 0.885, 0.73))
        for line in lines:
            known = np.isfinite(line.values)
            axes.plot(
                np.array(epochs)[known],
                line.values[known],
                color=line.color,
                linewidth=1.6,
                linestyle=(0, _DASHES[line.style][0]) if _DASHES[line.style][0] else "solid",
                marker=_MARKS[line.mark][0],
                markersize=4,
                markeredgewidth=0,
                markevery=max(1, -(-int(known.sum()) // _MARKED_EPOCHS)),
                drawstyle="steps-mid" if steps else "default",
            )
        first, last = min(epochs, default=0), max(epochs, default=1)
        margin = max(0.02 * (last - first), 0.3)
        axes.set_xlim(first - margin, last + margin)
        whole = MaxNLocator(integer=True, min_n_ticks=1, nbins=12, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(whole)
        if steps:
            _scale_steps(axes, lines)
        else:
            _scale_from_zero(axes, lines, percent)
        clear_frame(axes)
        axes.set_xlabel("epochs trained", fontsize=9, labelpad=3)
        _mark_stages(axes, boundaries, first)
        return _to_svg(figure, label, _describe(lines, percent))


def _describe(lines: Sequence[Line], percent: bool) -> str:
    """The curves in words, for those who do not see them: first and last value of each."""
    texts = []
    for line in lines:
        known = line.values[np.isfinite(line.values)]
        ends = [f"{value:.1%}" if percent else f"{value:.4g}" for value in known[[0, -1]].tolist()]
        texts.append(f"{line.name}: {ends[0]} at first, {ends[1]} at last.")
    return " ".join(texts)


def _scale_from_zero(axes: Axes, lines: Sequence[Line], percent: bool) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0] if _any_negative(lines) else 0.0))
    highest = max((np.nanmax(line.values) for line in lines), default=0)
    if highest > 0:
        axes.set_ylim(top=_ROOM_ABOVE * highest)  # a mark at the edge would be cut
    if percent:
        digits = 0 if axes.get_ylim()[1] > 0.05 else 1
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=digits))


def _scale_steps(axes: Axes, lines: Sequence[Line]) -> None:
    """A logarithmic axis that names the values themselves, as far as they lie apart."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    known = np.unique(np.concatenate([line.values for line in lines]))
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):  # zero alone, which a logarithmic axis does not have
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = known[0] / 1.6, known[-1] * 1.6
    shown: list[float] = []
    for value in known[::-1].tolist():
        if not shown or shown[-1] >= value * (high / low) ** _LEAST_GAP:
            shown.append(value)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_rate(value)))


def _short_rate(value: float) -> str:
    """A learning rate as people write it: 0.00035 as 3.5e-4."""
    number, _, power = f"{value:.2e}".partition("e")
    number = number.rstrip("0").rstrip(".")
    return f"{number}e{int(power)}" if abs(int(power)) > 1 else f"{value:.3g}"


def _any_negative(lines: Sequence[Line]) -> bool:
    return any(bool((line.values < 0).any()) for line in lines)


def _mark_stages(axes: Axes, boundaries: Mapping[float, str], first: int) -> None:
    for place, name in boundaries.items():
        is_inside = place > first  # no line before the first epoch
        if is_inside:
            axes.axvline(place, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            place if is_inside else axes.get_xlim()[0],
            1.03,
            name,
            transform=axes.get_xaxis_transform(),
            color=QUIET,
            fontsize=9,
        )


def draw_distance_spread(histogram: PairHistogram, across: bool) -> str:
    """Draws the histogram of the pairs within or across modalities, as SVG."""
    with styled():
        from matplotlib.ticker import FuncFormatter, NullFormatter

        figure = new_figure(_WIDTH, _HEIGHT + 0.4)
        axes = figure.add_axes((0.125, 0.15, 0.845, 0.73))
        draw_spread(axes, histogram, across)
        axes.set_ylim(top=2 * max(int(histogram.counts.max()), 1))  # the same for both sides
        axes.yaxis.set_major_formatter(FuncFormatter(_short_count))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Jaccard distance J (no unit)")
        axes.set_ylabel("number of pairs")
        side = "across modalities" if across else "within a modality"
        words = [text.get_text().replace("\n", ", ") for text in axes.texts]
        label = f"Number of pairs {side} by their Jaccard distance"
        return _to_svg(figure, label, "; ".join(words))


def _short_count(value: float, _: object = None) -> str:
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{word}"
    return f"{value:g}"


def _to_svg(figure: Figure, label: str, description: str = "") -> str:
    """The figure as SVG for a page: text as text, colors as CSS variables, unique ids."""
    buffer = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"(?i)font-family:[^;\"]*;?", "", text)
    text = re.sub(r"font: ([\d.]+)px[^;\"]*", r"font-size: \1px", text)
    for color, variable in _VARIABLES.items():
        text = re.sub(color + r"\b", variable, text, flags=re.IGNORECASE)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)
    prefix = re.sub(r"\W+", "-", label.lower())
    text = re.sub(r"( id=\"|url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    opening = (
        f'<svg role="img" aria-label="{html.escape(label)}" '
        f'aria-description="{html.escape(description)}" '
        f'viewBox="0 0 {figure.get_figwidth() * 72:g} {figure.get_figheight() * 72:g}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)


def read_tiles(read: ReadImages, rows: IntArray) -> Callable[[int], str]:
    """Reads images, encodes each as JPEG, and returns a function from row to data URI.

    Args:
        read: Reads images by row.
        rows: Rows of images, in any order and with repeats; negative ones are ignored.

    Raises:
        ValueError: If ``read`` does not return (B, 3, H, W) uint8 images.
    """
    wanted = np.unique(rows[rows >= 0]).tolist()
    tiles: dict[int, str] = {}
    if wanted:
        images = to_tensor(read(wanted), "images").cpu().numpy()
        if images.ndim != 4 or images.shape[:2] != (len(wanted), 3) or images.dtype != np.uint8:
            raise ValueError(
                f"read must return ({len(wanted)}, 3, H, W) uint8 images, got "
                f"{images.shape} {images.dtype}"
            )
        tiles = {row: _data_uri(image) for row, image in zip(wanted, images, strict=True)}
    return tiles.__getitem__


def _data_uri(image: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    picture: Any = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
