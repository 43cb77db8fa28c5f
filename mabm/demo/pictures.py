"""The two pictures of the demo: emoji before and after, and precision against recall.

Their style is that of :mod:`mabm.report.plots`.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray
from mabm._core.files import moved_into
from mabm.data import load_drawings
from mabm.data.records import ByteArray
from mabm.demo.boxes import Box, boxes_of, place_boxes
from mabm.demo.comparison import Curve, MethodResult
from mabm.demo.examples import Gains
from mabm.demo.features import Images
from mabm.report.plots import (
    HAIRLINE,
    INK,
    QUIET,
    RIGHT,
    WRONG,
    clear_frame,
    new_figure,
    styled,
)
from mabm.report.sheets import evenly_spaced

FloatArray = npt.NDArray[np.float64]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_GAINS: Final = 3
NUM_LOSSES: Final = 1

_WIDTH: Final = 9.0  # inches: at 100 dpi the 900 pixels of a column of text
_DPI: Final = 150
_NUM_COLORS: Final = 128  # of a picture with photographs of drawings: a quarter of the bytes

_POINTS: Final = 200  # of a curve

# The before/after picture, in units of one tile.
_TEXT_TILES: Final = 2.5
_PANEL_TILES: Final = 8.0
_GAP_TILES: Final = 0.5
_ROW_TILES: Final = 2.95
_HEAD_TILES: Final = 2.3
_FOOT_TILES: Final = 1.05


def draw_examples(images: Images, before: IntArray, after: IntArray, gains: Gains) -> Figure:
    """Emoji in the boxes of two clusterings: the greatest gains, then the greatest loss.

    Args:
        images: The N images.
        before: (N,) int64 clusters of the naive method, -1 for noise.
        after: (N,) int64 clusters of the modality-aware method.
        gains: What each emoji gains from one to the other; chooses the rows.
    """
    shown = [*gains.greatest(NUM_GAINS), *gains.least(NUM_LOSSES)]
    panels = [
        [boxes_of(labels, int(each), images.identity, images.camera) for labels in (before, after)]
        for each in shown
    ]
    used = sorted({i for row in panels for boxes in row for box in boxes for i in box.images})
    pixels = dict(zip(used, images.render(np.array(used)).transpose(0, 2, 3, 1), strict=True))
    columns = _TEXT_TILES + 2 * _PANEL_TILES + _GAP_TILES
    lines = _HEAD_TILES + _ROW_TILES * len(shown) + _FOOT_TILES
    with styled():
        figure = new_figure(_WIDTH, _WIDTH * lines / columns)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, columns)
        axes.set_ylim(lines, 0)
        axes.set_axis_off()
        lefts = (_TEXT_TILES, _TEXT_TILES + _PANEL_TILES + _GAP_TILES)
        for left, name in zip(
            lefts, ("Naive clustering", "Modality-aware clustering"), strict=True
        ):
            axes.text(left, _HEAD_TILES - 0.55, name, fontsize=13, fontweight="bold")
        for row, identity in enumerate(shown):
            top = _HEAD_TILES + _ROW_TILES * row
            _name_row(axes, top, int(identity), loses=row >= NUM_GAINS)
            for left, boxes in zip(lefts, panels[row], strict=True):
                _draw_boxes(axes, left, top, boxes, images.modality, pixels)
        axes.text(0.25, 0.75, "Each box is one cluster", fontsize=15)
        axes.text(
            6.4,
            0.73,
            "Color drawings play the visible camera, monochrome ones the infrared camera.",
            fontsize=10,
            color=QUIET,
        )
        axes.text(
            0.25,
            lines - 0.2,
            "Drawings, not photographs. Orange frames: another emoji (+11: that many more). "
            "Faded: in no cluster.\n"
            f"Rows: the {NUM_GAINS} greatest gains and the greatest loss in F1 of color-monochrome "
            f"pairs, of {len(gains.identity)} emoji ({gains.num_higher} gain, {gains.num_lower} "
            "lose).",
            fontsize=9,
            color=QUIET,
            linespacing=1.5,
        )
    return figure


def _name_row(axes: Axes, top: float, identity: int, *, loses: bool) -> None:
    name = str(load_drawings().identity_name[identity]).replace("-", " ")
    lines = textwrap.wrap(name, 13, max_lines=3, placeholder=" \N{HORIZONTAL ELLIPSIS}")
    axes.text(0.25, top + 0.1, "\n".join(lines), fontsize=10.5, va="top", linespacing=1.3)
    if loses:
        axes.text(0.25, top + 2.0, "greatest loss", fontsize=8.5, color=WRONG, va="center")
    axes.plot([0.25, axes.get_xlim()[1] - 0.25], [top - 0.3] * 2, color=HAIRLINE, linewidth=0.8)


def _draw_boxes(
    axes: Axes,
    left: float,
    top: float,
    boxes: Sequence[Box],
    modality: IntArray,
    pixels: Mapping[int, ByteArray],
) -> None:
    from matplotlib.patches import FancyBboxPatch

    for box, place in place_boxes(boxes, modality):
        x, y = left + place.column, top + place.line
        if box.is_cluster:
            both = len(np.unique(modality[list(box.own)])) > 1
            axes.add_patch(
                FancyBboxPatch(
                    (x, y),
                    place.width,
                    place.height,
                    boxstyle="round,pad=0,rounding_size=0.16",
                    facecolor="#EAF3FA" if both else "#F4F5F7",
                    edgecolor=RIGHT if both else QUIET,
                    linewidth=1.4 if both else 1.0,
                )
            )
        for index, (column, line) in place.tiles.items():
            _draw_tile(axes, left + column, top + line, pixels[index], index, box)
        if box.num_more:
            axes.text(
                x + place.width - 0.1,
                y + place.height - 0.2,
                f"+{box.num_more}",
                fontsize=9,
                color=WRONG,
                ha="right",
                va="bottom",
            )


def _draw_tile(
    axes: Axes, left: float, top: float, pixels: ByteArray, index: int, box: Box
) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(
        pixels,
        extent=(left + 0.06, left + 0.94, top + 0.94, top + 0.06),
        interpolation="bilinear",
        aspect="auto",
        zorder=2,
        alpha=1.0 if box.is_cluster else 0.45,
    )
    if index in box.others:
        axes.add_patch(
            Rectangle(
                (left + 0.06, top + 0.06),
                0.88,
                0.88,
                fill=False,
                edgecolor=WRONG,
                linewidth=1.8,
                zorder=3,
            )
        )


def draw_pairs(methods: Sequence[MethodResult]) -> Figure:
    """Precision against recall of cross-modality pairs: of the distance, and of clusters.

    A dot marks a method at the ``eps`` of each half that was chosen on the other half.
    """
    with styled():
        figure = new_figure(_WIDTH, 5.0)
        distances, clusters = figure.subplots(1, 2, sharey=True)
        for result in methods:
            color, line = _line_of(result)
            for axes, curve in ((distances, result.distances), (clusters, result.clusters)):
                recall, precision = _drawable(curve)
                axes.plot(recall, precision, color=color, linestyle=line, linewidth=2.0)
            clusters.plot(
                result.across.recall,
                result.across.precision,
                "o",
                color=color,
                markersize=9,
                markeredgecolor="white",
                markeredgewidth=1.5,
                zorder=4,
            )
        _dress(distances, "Pairs within a distance", "before any clustering")
        _dress(
            clusters, "Pairs joined by clusters", "over all eps; dots: the chosen eps, with its F1"
        )
        distances.set_ylabel("precision", color=INK)
        figure.subplots_adjust(left=0.075, right=0.98, top=0.7, bottom=0.15, wspace=0.08)
        figure.text(0.075, 0.925, "Finding the same emoji across modalities", fontsize=15)
        _legend(figure, methods)
    return figure


def _drawable(curve: Curve) -> tuple[FloatArray, FloatArray]:
    # The first few pairs make a line of noise; from a hundredth of all pairs on it is a curve.
    kept = np.flatnonzero((curve.recall >= 0.01) & np.isfinite(curve.precision))
    shown = kept[evenly_spaced(len(kept), _POINTS)] if len(kept) else kept
    return curve.recall[shown], curve.precision[shown]


def _line_of(result: MethodResult) -> tuple[str, Any]:
    color = RIGHT if result.method.preset == "bmil" else WRONG
    return color, (0, (1.5, 1.2)) if result.method.centered else "-"


def _dress(axes: Axes, title: str, note: str) -> None:
    clear_frame(axes)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1)
    axes.set_xlabel("recall", color=INK)
    axes.set_title(title, fontsize=12.5, fontweight="bold", loc="left", pad=22)
    axes.text(0, 1.035, note, transform=axes.transAxes, color=QUIET)


def _legend(figure: Figure, methods: Sequence[MethodResult]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for result in methods:
        color, line = _line_of(result)
        label = f"{result.method.name}: {result.across.f1:.2f}"
        handles.append(Line2D([], [], color=color, linestyle=line, linewidth=2.5, label=label))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.065, 0.905),
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        columnspacing=1.3,
        handlelength=1.8,
    )
    figure.text(
        0.075,
        0.025,
        "Emoji-XM: drawings, not photographs. Pairs of a color and a monochrome image; eps chosen "
        "on the other half of the emoji.",
        color=QUIET,
        fontsize=9,
    )


def save_picture(figure: Figure, path: Path) -> None:
    """Writes ``figure`` as a PNG, whole or not at all; the error of a full disk names the file.

    The picture has a palette of 128 colors, which no one sees and which saves most of the bytes.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn = io.BytesIO()
    with styled():
        figure.savefig(drawn, format="png", dpi=_DPI, facecolor="white")
    with Image.open(drawn) as picture, moved_into(path) as stream:
        maker = PngInfo()
        maker.add_text("Software", str(picture.info["Software"]))
        flat = picture.convert("RGB").quantize(_NUM_COLORS, dither=Image.Dither.NONE)
        flat.save(stream, format="PNG", optimize=True, pnginfo=maker)
