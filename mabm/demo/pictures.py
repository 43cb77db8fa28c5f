"""The two pictures of the demo: members of clusters, and histograms of the distance.

Their style is that of :mod:`mabm.report.plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray
from mabm._core.files import moved_into
from mabm._core.modalities import MODALITY_NAMES
from mabm.cluster.quality import evenly_chosen_clusters
from mabm.data import Frames, load_drawings
from mabm.report.plots import QUIET, RIGHT, WRONG, PairHistogram, draw_spread, new_figure, styled
from mabm.report.sheets import evenly_spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_TILES_A_SIDE: Final = 8
_TILE_INCHES: Final = 0.66
_ROW_TILES: Final = 1.18
_SIDE_TILES: Final = _TILES_A_SIDE + 0.75
_TEXT_TILES: Final = 4.2
_HEAD_INCHES: Final = 1.0


def draw_distances(histograms: Mapping[str, PairHistogram]) -> Figure:
    """Histograms of the distance, one column per method: within and across modalities."""
    with styled():
        figure = new_figure(5.4 * len(histograms) + 0.6, 7.6)
        axes = figure.subplots(2, len(histograms), sharex=True, sharey=True, squeeze=False)
        for column, (name, histogram) in enumerate(histograms.items()):
            for across in (0, 1):
                draw_spread(axes[across, column], histogram, bool(across))
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
            {RIGHT: "same identity", WRONG: "different identities"},
            "   Emoji-XM: drawings, not photographs. Logarithmic counts.",
        )
    return figure


def draw_clusters(frames: Frames, labels: IntArray, other_labels: IntArray) -> Figure:
    """Contact sheet: one cluster per row, visible members on the left, infrared on the right.

    Args:
        frames: The N frames.
        labels: (N,) int64 clusters to show, chosen by ``evenly_chosen_clusters``.
        other_labels: (N,) int64 clusters of the naive method; the text of a row compares with them.
    """
    clusters = evenly_chosen_clusters(labels, frames.modality, frames.identity)
    rows = max(len(clusters), 1)
    # One unit of the axes is one tile, and the figure is sized so that tiles come out square.
    columns, lines = _TEXT_TILES + 2 * _SIDE_TILES, _ROW_TILES * rows + 0.4
    width, height = _TILE_INCHES * columns, _TILE_INCHES * lines + _HEAD_INCHES
    with styled():
        figure = new_figure(width, height)
        axes = figure.add_axes((0, 0, 1, 1 - _HEAD_INCHES / height))
        axes.set_xlim(-_TEXT_TILES, 2 * _SIDE_TILES)
        axes.set_ylim(_ROW_TILES * rows, -0.4)
        axes.set_axis_off()
        for row, cluster in enumerate(clusters):
            _draw_cluster(axes, _ROW_TILES * row, frames, labels == cluster, other_labels)
        for modality, name in MODALITY_NAMES.items():
            axes.text(modality * _SIDE_TILES, -0.15, name, fontsize=12, fontweight="bold")
        left = 0.3 / columns
        figure.text(left, 1 - 0.42 / height, "Clusters of the modality-aware distance", fontsize=17)
        _legend(
            figure,
            1 - 0.78 / height,
            {RIGHT: "the cluster's commonest identity", WRONG: "another identity"},
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
    quiet: dict[str, Any] = {"fontsize": 8.5, "color": QUIET}
    facts = f"{members.sum()} images, {purity:.0%} one identity"
    axes.text(margin, top + 0.6, facts, **quiet)
    told = _joined_elsewhere(other[members], frames.modality[members])
    axes.text(margin, top + 0.84, told, **quiet)
    for modality in MODALITY_NAMES:
        group = np.flatnonzero(members & (frames.modality == modality))
        left = modality * _SIDE_TILES
        # Evenly spaced members show every camera; the first ones would show only the first.
        shown = evenly_spaced(len(group), _TILES_A_SIDE)
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
                color=QUIET,
                ha="center",
                va="center",
            )


def _joined_elsewhere(labels: IntArray, modality: IntArray) -> str:
    """Says how many cross-modality pairs of one cluster the naive method joins as well."""
    across = np.triu(modality[:, None] != modality[None, :])
    joined = across & (labels[:, None] == labels[None, :]) & (labels[:, None] >= 0)
    return f"naive joins {joined.sum():,} of {across.sum():,} cross pairs"


def _draw_tile(
    axes: Axes, left: float, top: float, image: npt.NDArray[np.uint8], right: bool
) -> None:
    from matplotlib.patches import Rectangle

    color = RIGHT if right else WRONG
    axes.add_patch(Rectangle((left + 0.02, top + 0.02), 0.96, 0.96, color=color, linewidth=0))
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
    """Draws one line of text: a colored square and its meaning for each entry, then a note."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    children: list[Any] = []
    for color, meaning in entries.items():
        children.append(TextArea("\N{BLACK SQUARE}", textprops={"color": color, "fontsize": 12}))
        children.append(TextArea(meaning, textprops={"fontsize": 10}))
    children.append(TextArea(note, textprops={"fontsize": 10, "color": QUIET}))
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
    """Writes ``figure`` as a PNG, whole or not at all; the error of a full disk names the file."""
    with styled(), moved_into(path) as stream:
        figure.savefig(stream, format="png", dpi=150, facecolor="white")
