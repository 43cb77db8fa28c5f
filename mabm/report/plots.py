"""Pictures of the report and the demo: their style, and histograms of a distance over pairs.

matplotlib is imported inside functions and used through its object interface, so that no backend,
style or figure of the caller is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Right and wrong must differ to color-blind eyes too: blue and vermilion of Okabe and Ito (2008).
RIGHT: Final = "#0072B2"
WRONG: Final = "#D55E00"
INK: Final = "#22262B"
QUIET: Final = "#7A828C"
HAIRLINE: Final = "#E3E6EA"
# Colors of lines: these two, and the others of the palette that are visible on white.
SERIES: Final = (RIGHT, WRONG, "#009E73", "#CC79A7", "#8C6D1F", "#56B4E9", INK)
_STYLE: Final = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": HAIRLINE,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
_NUM_BINS: Final = 50
_HISTOGRAM_ROWS: Final = 256  # rows of the distance counted at once: bounds the extra memory


def require_matplotlib(extra: str = "demo") -> Any:
    """Returns matplotlib, or raises an ``ImportError`` that names the extra to install."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f'pictures need matplotlib: pip install "mabm[{extra}]"') from error
    return matplotlib


def styled() -> Any:
    """A context with the style of the library; afterwards the caller's style is restored."""
    return require_matplotlib().rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """A new figure of a size in inches, which pyplot does not register."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def clear_frame(axes: Axes) -> None:
    """Removes the frame of ``axes`` except its lower edge, and draws horizontal grid lines."""
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


@dataclass(frozen=True)
class PairHistogram:
    """Histogram of a distance in [0, 1] over all unordered pairs of samples, by kind of pair.

    Kinds are indexed ``[across, same]``: whether the two samples differ in modality, and whether
    they share their identity. Without identities every pair counts as of different ones.

    Attributes:
        edges: (B + 1,) float64 bin edges from 0 to 1; the last bin includes its right edge.
        counts: (2, 2, B) int64.
        eps: The distance at which ``num_near`` is counted.
        num_near: (2, 2) int64 pairs at a distance of at most ``eps``.
        has_identity: Whether identities were known.
    """

    edges: npt.NDArray[np.float64]
    counts: IntArray
    eps: float
    num_near: IntArray
    has_identity: bool = True


def pair_histogram(
    distance: npt.NDArray[np.float32],
    identity: IntArray | None,
    modality: IntArray,
    *,
    eps: float,
) -> PairHistogram:
    """Counts the N (N - 1) / 2 pairs of a symmetric (N, N) distance by kind and distance.

    Args:
        distance: (N, N) float32 in [0, 1]; only the part above the diagonal is read.
        identity: (N,) int64, or ``None`` where identities are not known.
        modality: (N,) int64.
        eps: Distance at which near pairs are counted.

    Raises:
        ValueError: If the shapes disagree.
    """
    count = len(modality)
    names = np.arange(count) if identity is None else identity
    if distance.shape != (count, count) or names.shape != (count,):
        raise ValueError(
            f"distance and identity must have shapes ({count}, {count}) and ({count},), "
            f"got {distance.shape} and {names.shape}"
        )
    counts = np.zeros(4 * _NUM_BINS, dtype=np.int64)
    near = np.zeros(4, dtype=np.int64)
    for start in range(0, count, _HISTOGRAM_ROWS):
        rows = np.arange(start, min(start + _HISTOGRAM_ROWS, count))
        across = modality[rows, None] != modality[None, start:]
        kind = 2 * across + (names[rows, None] == names[None, start:])
        above = np.arange(start, count)[None, :] > rows[:, None]
        values, kinds = distance[rows, start:][above], kind[above]
        bins = np.minimum((values * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
        counts += np.bincount(kinds * _NUM_BINS + bins, minlength=len(counts))
        near += np.bincount(kinds[values <= np.float32(eps)], minlength=4)
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    return PairHistogram(
        edges, counts.reshape(2, 2, _NUM_BINS), eps, near.reshape(2, 2), identity is not None
    )


def draw_spread(axes: Axes, histogram: PairHistogram, across: bool) -> None:
    """Draws the histogram of the pairs within or across modalities, with logarithmic counts.

    A dashed line marks ``eps``; next to it is the number of pairs up to ``eps``.
    """
    counts = histogram.counts[int(across)]
    near = histogram.num_near[int(across)]
    if histogram.has_identity:
        kinds = [(0, WRONG, "#F7D9C6"), (1, RIGHT, RIGHT + "30")]
        of_pairs, total = "same-identity pairs", int(counts[1].sum())
        told, share = f"{near[1]:,} right\n{near[0]:,} wrong", near[1] / max(total, 1)
    else:
        kinds = [(0, QUIET, QUIET + "30")]
        of_pairs, total = "pairs", int(counts[0].sum())
        told, share = f"{near[0]:,} pairs", near[0] / max(total, 1)
    lowest = 0.7  # a logarithmic axis has no zero: an empty bin stays below the first pair
    for kind, color, pale in kinds:
        heights = np.maximum(counts[kind], lowest / 2)
        axes.stairs(heights, histogram.edges, fill=True, color=pale, baseline=lowest / 2)
        axes.stairs(heights, histogram.edges, color=color, linewidth=1.5, baseline=lowest / 2)
    axes.axvline(histogram.eps, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=lowest)
    clear_frame(axes)
    axes.text(
        0,
        1.04,
        f"{'across modalities' if across else 'within a modality'}: J \N{LESS-THAN OR EQUAL TO} "
        f"{histogram.eps:g} for {share:.1%} of {of_pairs}",
        transform=axes.transAxes,
        fontsize=11,
    )
    axes.text(
        histogram.eps - 0.012,
        0.97,
        told,
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
        color=QUIET,
    )
