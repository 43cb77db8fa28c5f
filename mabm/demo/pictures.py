"""The two pictures of the demo: what the clusters hold, and how the distance is spread.

matplotlib is imported where it is used and only through its object interface, so that no backend,
style or figure of the caller is touched.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mabm.data import INFRARED, VISIBLE, Frames, load_drawings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IntArray = npt.NDArray[np.int64]

# Right and wrong must differ to colour-blind eyes too: blue and vermilion of Okabe and Ito (2008).
_RIGHT: Final = "#0072B2"
_WRONG: Final = "#D55E00"
_INK: Final = "#22262B"
_QUIET: Final = "#7A828C"
_HAIRLINE: Final = "#E3E6EA"
_STYLE: Final = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _HAIRLINE,
    "axes.labelcolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
}
_NUM_BINS: Final = 50
_HISTOGRAM_ROWS: Final = 256  # rows of the distance taken at once: bounds the extra memory
_MODALITY_NAMES: Final = {VISIBLE: "visible", INFRARED: "infrared"}
_ROWS_IN_SHEET: Final = 10
_TILES_A_SIDE: Final = 8
_TILE_INCHES: Final = 0.66
_ROW_TILES: Final = 1.18
_SIDE_TILES: Final = _TILES_A_SIDE + 0.75
_TEXT_TILES: Final = 4.2
_HEAD_INCHES: Final = 1.0


@dataclass(frozen=True)
class PairHistogram:
    """How a distance in [0, 1] is spread over all unordered pairs of samples, by kind of pair.

    Kinds are indexed ``[across, same]``: whether the two samples differ in modality, and whether
    they share their identity.

    Attributes:
        edges: (B + 1,) float64 bin edges from 0 to 1; the last bin holds its right edge.
        counts: (2, 2, B) int64.
        eps: The distance at which ``num_near`` is counted.
        num_near: (2, 2) int64 pairs at a distance of at most ``eps``.
    """

    edges: npt.NDArray[np.float64]
    counts: IntArray
    eps: float
    num_near: IntArray


def pair_histogram(
    distance: npt.NDArray[np.float32], identity: IntArray, modality: IntArray, *, eps: float
) -> PairHistogram:
    """Counts the N(N-1)/2 pairs of a symmetric (N, N) distance by kind and size.

    Args:
        distance: (N, N) float32 in [0, 1]; only the part above the diagonal is read.
        identity: (N,) int64.
        modality: (N,) int64.
        eps: Distance at which near pairs are counted.

    Raises:
        ValueError: If the shapes disagree.
    """
    count = len(identity)
    if distance.shape != (count, count) or modality.shape != (count,):
        raise ValueError(
            f"distance and modality must have shapes ({count}, {count}) and ({count},), "
            f"got {distance.shape} and {modality.shape}"
        )
    counts = np.zeros(4 * _NUM_BINS, dtype=np.int64)
    near = np.zeros(4, dtype=np.int64)
    for start in range(0, count, _HISTOGRAM_ROWS):
        rows = np.arange(start, min(start + _HISTOGRAM_ROWS, count))
        across = modality[rows, None] != modality[None, start:]
        kind = 2 * across + (identity[rows, None] == identity[None, start:])
        above = np.arange(start, count)[None, :] > rows[:, None]
        values, kinds = distance[rows, start:][above], kind[above]
        bins = np.minimum((values * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
        counts += np.bincount(kinds * _NUM_BINS + bins, minlength=len(counts))
        near += np.bincount(kinds[values <= np.float32(eps)], minlength=4)
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    return PairHistogram(edges, counts.reshape(2, 2, _NUM_BINS), eps, near.reshape(2, 2))


def draw_distances(histograms: Mapping[str, PairHistogram]) -> Figure:
    """Spread of each method's distance: one column a method, within and across modalities."""
    with _styled():
        figure = _new_figure(5.4 * len(histograms) + 0.6, 7.6)
        axes = figure.subplots(2, len(histograms), sharex=True, sharey=True, squeeze=False)
        for column, (name, histogram) in enumerate(histograms.items()):
            for across in (0, 1):
                _draw_spread(axes[across, column], histogram, across)
            axes[0, column].set_title(name, fontsize=14, fontweight="bold", pad=30, loc="left")
            axes[1, column].set_xlabel("Jaccard distance J")
        for across in (0, 1):
            axes[across, 0].set_ylabel("pairs of images", labelpad=8)
        figure.subplots_adjust(
            left=0.09, right=0.98, top=0.80, bottom=0.1, hspace=0.32, wspace=0.08
        )
        figure.text(0.09, 0.955, "How far apart are two images of one identity?", fontsize=17)
        _legend(
            figure,
            0.925,
            {_RIGHT: "same identity", _WRONG: "different identities"},
            "   Emoji-XM: drawings, not photographs. Logarithmic counts.",
        )
    return figure


def _draw_spread(axes: Axes, histogram: PairHistogram, across: int) -> None:
    counts = histogram.counts[across]
    lowest = 0.7  # a logarithmic axis has no zero: an empty bin stays below the first pair
    for same, colour, pale in ((0, _WRONG, "#F7D9C6"), (1, _RIGHT, "#0072B230")):
        heights = np.maximum(counts[same], lowest / 2)
        axes.stairs(heights, histogram.edges, fill=True, color=pale, baseline=lowest / 2)
        axes.stairs(heights, histogram.edges, color=colour, linewidth=1.5, baseline=lowest / 2)
    axes.axvline(histogram.eps, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=lowest)
    axes.grid(axis="y", color=_HAIRLINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    wrong, right = histogram.num_near[across]
    total = max(int(counts[1].sum()), 1)
    axes.text(
        0,
        1.04,
        f"{('within a modality', 'across modalities')[across]}: J \N{LESS-THAN OR EQUAL TO} "
        f"{histogram.eps:g} for {right / total:.1%} of same-identity pairs",
        transform=axes.transAxes,
        fontsize=11,
    )
    axes.text(
        histogram.eps - 0.012,
        0.97,
        f"{right:,} right\n{wrong:,} wrong",
        transform=axes.get_xaxis_transform(),
        ha="right",
        va="top",
        linespacing=1.4,
    )
    axes.text(
        histogram.eps + 0.012,
        0.97,
        f"eps = {histogram.eps:g}",
        transform=axes.get_xaxis_transform(),
        va="top",
        color=_QUIET,
    )


def chosen_clusters(labels: IntArray, identity: IntArray, modality: IntArray) -> IntArray:
    """Which clusters the contact sheet shows: evenly spaced from the purest to the least pure.

    Of the clusters with members of both modalities, ordered by the share of members that belong to
    the commonest identity (ties: the larger first, then the lower number), the sheet takes the
    first, the last and evenly spaced ones between. Nothing is picked by hand.

    Returns:
        (R,) int64 cluster numbers, R at most 10, purest first.
    """
    spanning = []
    for cluster in range(int(labels.max(initial=-1)) + 1):
        members = labels == cluster
        if len(np.unique(modality[members])) > 1:
            size = int(members.sum())
            purity = np.bincount(identity[members]).max() / size
            spanning.append((-purity, -size, cluster))
    spanning.sort()
    rows = min(_ROWS_IN_SHEET, len(spanning))
    places = np.round(np.linspace(0, len(spanning) - 1, rows)).astype(np.int64)
    return np.array([spanning[place][2] for place in places], dtype=np.int64)


def draw_clusters(frames: Frames, labels: IntArray, other_labels: IntArray) -> Figure:
    """Contact sheet: a cluster a row, visible members left, infrared members right.

    Args:
        frames: The N frames.
        labels: (N,) int64 clusters to show, chosen by ``chosen_clusters``.
        other_labels: (N,) int64 clusters of the method compared with, told in words.
    """
    clusters = chosen_clusters(labels, frames.identity, frames.modality)
    rows = max(len(clusters), 1)
    # One unit of the axes is one tile, and the figure is sized so that tiles come out square.
    columns, lines = _TEXT_TILES + 2 * _SIDE_TILES, _ROW_TILES * rows + 0.4
    width, height = _TILE_INCHES * columns, _TILE_INCHES * lines + _HEAD_INCHES
    with _styled():
        figure = _new_figure(width, height)
        axes = figure.add_axes((0, 0, 1, 1 - _HEAD_INCHES / height))
        axes.set_xlim(-_TEXT_TILES, 2 * _SIDE_TILES)
        axes.set_ylim(_ROW_TILES * rows, -0.4)
        axes.set_axis_off()
        for row, cluster in enumerate(clusters):
            _draw_cluster(axes, _ROW_TILES * row, frames, labels == cluster, other_labels)
        for modality, name in _MODALITY_NAMES.items():
            axes.text(modality * _SIDE_TILES, -0.15, name, fontsize=12, fontweight="bold")
        left = 0.3 / columns
        figure.text(left, 1 - 0.42 / height, "Clusters of the modality-aware distance", fontsize=17)
        _legend(
            figure,
            1 - 0.78 / height,
            {_RIGHT: "the cluster's commonest identity", _WRONG: "another identity"},
            "   Rows: evenly spaced from the purest cluster to the least pure, of those with both "
            "modalities. Drawings, not photographs.",
            left=left,
        )
    return figure


def _draw_cluster(
    axes: Axes, top: float, frames: Frames, members: npt.NDArray[np.bool_], other: IntArray
) -> None:
    identity = np.bincount(frames.identity[members]).argmax()
    purity = (frames.identity[members] == identity).mean()
    name = str(load_drawings().identity_name[identity]).replace("-", " ")
    margin = 0.3 - _TEXT_TILES
    axes.text(
        margin, top + 0.34, textwrap.shorten(name, 26, placeholder=" \N{HORIZONTAL ELLIPSIS}")
    )
    quiet: dict[str, Any] = {"fontsize": 8.5, "color": _QUIET}
    facts = f"{members.sum()} images, {purity:.0%} one identity"
    axes.text(margin, top + 0.6, facts, **quiet)
    told = _joined_elsewhere(other[members], frames.modality[members])
    axes.text(margin, top + 0.84, told, **quiet)
    for modality in _MODALITY_NAMES:
        group = np.flatnonzero(members & (frames.modality == modality))
        left = modality * _SIDE_TILES
        # Evenly spaced members show every camera; the first ones would show only the first.
        shown = np.unique(np.linspace(0, len(group) - 1, _TILES_A_SIDE).round().astype(np.int64))
        for place, index in enumerate(group[shown]):
            _draw_tile(
                axes, left + place, top, frames.images[index], frames.identity[index] == identity
            )
        if len(group) > len(shown):
            axes.text(
                left + _TILES_A_SIDE + 0.3,
                top + 0.5,
                f"+{len(group) - len(shown)}",
                fontsize=8.5,
                color=_QUIET,
                ha="center",
                va="center",
            )


def _joined_elsewhere(labels: IntArray, modality: IntArray) -> str:
    """In words, how many of one cluster's pairs across modalities another method joins too."""
    across = np.triu(modality[:, None] != modality[None, :])
    joined = across & (labels[:, None] == labels[None, :]) & (labels[:, None] >= 0)
    return f"naive joins {joined.sum():,} of {across.sum():,} cross pairs"


def _draw_tile(
    axes: Axes, left: float, top: float, image: npt.NDArray[np.uint8], right: bool
) -> None:
    from matplotlib.patches import Rectangle

    colour = _RIGHT if right else _WRONG
    axes.add_patch(Rectangle((left + 0.02, top + 0.02), 0.96, 0.96, color=colour, linewidth=0))
    axes.imshow(
        image.transpose(1, 2, 0),
        extent=(left + 0.065, left + 0.935, top + 0.935, top + 0.065),
        interpolation="bilinear",
        aspect="auto",
        zorder=2,
    )


def _legend(
    figure: Figure, height: float, entries: Mapping[str, str], note: str, left: float = 0.09
) -> None:
    """One line of text: a coloured square and its meaning for each entry, then a note."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    children: list[Any] = []
    for colour, meaning in entries.items():
        children.append(TextArea("\N{BLACK SQUARE}", textprops={"color": colour, "fontsize": 12}))
        children.append(TextArea(meaning, textprops={"fontsize": 10}))
    children.append(TextArea(note, textprops={"fontsize": 10, "color": _QUIET}))
    figure.add_artist(
        AnchoredOffsetbox(
            loc="center left",
            child=HPacker(children=children, align="center", pad=0, sep=6),
            bbox_to_anchor=(left, height),
            bbox_transform=figure.transFigure,
            frameon=False,
            pad=0,
            borderpad=0,
        )
    )


def save_picture(figure: Figure, path: Path) -> None:
    """Writes ``figure`` as a PNG."""
    with _styled():
        figure.savefig(path, dpi=150, facecolor="white")


def _styled() -> Any:
    """The demo's style for the time of a ``with``: the caller's is put back."""
    return require_matplotlib().rc_context(_STYLE)


def _new_figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def require_matplotlib() -> Any:
    """Returns matplotlib, or raises the ImportError that names its extra."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "mabm[demo]"') from error
    return matplotlib
