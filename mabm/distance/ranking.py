"""Ranking: the nearest samples of every sample, exactly, list by list (method step 1).

Samples are ranked by exact scores (``csrc/common/scores.h``: float64 sums in a fixed order), ties
by lower index. Cheap scores only propose candidates: a sample is dropped where a bound on their
error proves that it is not in the list (``screening.py`` on the CPU, ``candidates.py`` on a GPU). A
row for which too many remain is ranked by exact scores only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Tensor

from mabm._core.advice import advise, is_wanted
from mabm._core.arguments import check_instance, check_integer
from mabm._core.array_records import ArrayRecord
from mabm._core.arrays import Array, ArrayT, like, to_tensor
from mabm._core.columns import Column, check_modality, check_samples
from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Advance, Report, Work
from mabm.distance.approximate import RankingRecall, check_recall, rank_by_search
from mabm.distance.candidates import propose_candidates
from mabm.distance.list_layout import ListLayout
from mabm.distance.options import NamedPrecision, Precision, check_precision
from mabm.distance.presets import DEFAULT_K1, MAX_K, Preset, check_k1, resolve_preset
from mabm.distance.screening import Proposal, screen, screen_bytes
from mabm.distance.sides import Sides

logger = logging.getLogger(__name__)

# Training features are means of two unit vectors, of lengths 0.7 to 1; a larger spread is suspect.
_WIDE_LENGTHS = 2.0
_FEW_ROWS = 20  # too few for meaningful percentiles
_LENGTHS = 4096  # more rows are not needed for them

# Rows ranked by exact scores only that are logged: one in so many of all, and, as a warning, a
# number that is about a second of work.
_LOGGED_SHARE = 100
_MANY_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Ranking(ArrayRecord, Generic[ArrayT]):
    """Neighbor lists of N samples, nearest first, with the preset that they were computed for.

    Build one yourself to use your own ranking with the later stages, for example
    ``Ranking(ranks, scores, (k,), PRESETS["spcl"], k1=k)``.

    Attributes:
        ranks: (N, K) int64, the lists side by side, each nearest first; -1 where a list ends
            early. A sample is in its own lists.
        scores: (N, K) float64, largest first: inner products, or minus squared Euclidean
            distances; -inf where ``ranks`` is -1.
        widths: Length of each list; they sum to K.
        preset: The choices of the pipeline.
        k1: The requested number of neighbors, which defines the length of the half list.
        groups: (N,) int64, the group of each sample, or ``None`` if the preset does not use groups.
        recall: How many of the exact neighbors an approximate search has found; ``None`` for every
            other ranking.

    Example:
        >>> import torch, mabm
        >>> ranks = torch.tensor([[0, 1], [1, 0], [2, -1]])
        >>> scores = torch.tensor([[1.0, 0.5], [1.0, 0.5], [1.0, -torch.inf]]).double()
        >>> ranking = mabm.Ranking(ranks, scores, (2,), mabm.PRESETS["spcl"], k1=2)
        >>> mabm.k_reciprocal_neighbors(ranking).row(1).tolist()
        [0, 1]
    """

    ranks: ArrayT
    scores: ArrayT
    widths: tuple[int, ...]
    preset: Preset
    k1: int = DEFAULT_K1
    groups: Array | None = None
    recall: RankingRecall | None = None

    def __post_init__(self) -> None:
        """Rejects ranks out of range, and parts that do not fit together."""
        ranks, scores = to_tensor(self.ranks, "ranks"), to_tensor(self.scores, "scores")
        if ranks.dim() != 2 or ranks.dtype != torch.int64:
            raise ValueError(f"ranks must be (N, K) int64, got {tuple(ranks.shape)} {ranks.dtype}")
        if scores.shape != ranks.shape or scores.dtype != torch.float64:
            raise ValueError(
                f"scores must be {tuple(ranks.shape)} float64, got "
                f"{tuple(scores.shape)} {scores.dtype}"
            )
        if not all(isinstance(width, int | np.integer) for width in self.widths):
            raise TypeError(f"widths must be integers, got {self.widths}")
        if min(self.widths, default=0) < 0 or sum(self.widths) != ranks.shape[1]:
            raise ValueError(
                f"widths must be at least 0 and sum to {ranks.shape[1]}, got {self.widths}"
            )
        if bool(scores.isnan().any()):
            raise ValueError("scores must not be NaN, got NaN")
        if not torch.equal(ranks < 0, scores == -torch.inf):
            raise ValueError("scores must be -inf exactly where ranks are -1, but they differ")
        if not isinstance(self.preset, Preset):
            raise TypeError(f"preset must be a Preset, got {type(self.preset).__name__}")
        if self.preset.lists == "intra_inter" and len(self.widths) != 2:
            raise ValueError(
                f"widths must be those of two lists with preset {self.preset.name!r}, "
                f"got {self.widths}"
            )
        if self.preset.query_expansion == "merged_group_means" and self.groups is None:
            raise ValueError(f"groups must be given with preset {self.preset.name!r}, got None")
        check_integer("k1", self.k1, at_least=1, at_most=MAX_K)
        count = self._num_samples
        if ranks.numel() and not -1 <= int(ranks.min()) <= int(ranks.max()) < count:
            raise ValueError(
                f"ranks must be in [-1, {count}), got {int(ranks.min())} to {int(ranks.max())}"
            )
        if self.recall is not None:
            check_recall(self.recall, len(self.widths))
        if self.groups is not None:
            groups = check_modality(self.groups, len(ranks), ranks.device, "groups")
            object.__setattr__(self, "groups", like(groups, self.ranks))

    @property
    def _num_samples(self) -> int:
        return len(self.ranks)

    def lists(self, count: int | None = None) -> list[ArrayT]:
        """The first ``count`` columns of each list (all of them by default).

        Args:
            count: Number of columns; ``None`` for all.

        Returns:
            One (N, width) array of ranks per list.

        Example:
            >>> import torch, mabm
            >>> ranking = mabm.rank_neighbors(torch.randn(40, 8), torch.arange(40) % 2, k1=10)
            >>> [tuple(ranks.shape) for ranks in ranking.lists(3)]
            [(40, 3), (40, 3)]
        """
        ends = [sum(self.widths[: n + 1]) for n in range(len(self.widths))]
        return [
            self.ranks[:, end - width : end][:, :count]
            for end, width in zip(ends, self.widths, strict=True)
        ]

    def merged(self) -> ArrayT:
        """(N, K) ranks of all lists merged by descending score, ties by lower index, -1 last."""
        if len(self.widths) == 1:
            return self.ranks
        lists: Ranking[Tensor] = self.in_tensors()
        ranks, by_index = lists.ranks.sort(dim=1)
        scores = lists.scores.gather(1, by_index)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        return like(ranks.gather(1, order), self.ranks)


def check_ranking(value: object) -> None:
    """Rejects what is no ranking, and the lists of only some of the samples that they rank.

    Raises:
        TypeError: It is not a :class:`Ranking`.
        ValueError: It has the rows of one process only.
    """
    check_instance("ranking", value, Ranking)
    if isinstance(value, Ranking) and value._num_samples != len(value.ranks):
        raise ValueError(
            f"ranking must have a row for each of its {value._num_samples} samples, got the "
            f"{len(value.ranks)} rows of one process; mabm.distributed runs the later stages on "
            "several processes"
        )


def rank_neighbors(
    features: ArrayT,
    modality: Column | None = None,
    *,
    k1: int = DEFAULT_K1,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    max_memory: int | str | None = None,
    progress: bool | Report = False,
) -> Ranking[ArrayT]:
    """Computes the nearest neighbors of every sample: the lists that the later stages use.

    Args:
        features: (N, D) float16, bfloat16, float32 or float64, compared as float32; not normalized
            here.
        modality: (N,) integers >= 0, bool or words, the group of each sample, in any order;
            ``None`` for a single group.
        k1: Total length of the lists: ``k1 // G`` for each of G groups, or one list of ``k1``.
        preset: Defines the lists and the metric; by default ``"bmil"`` with a modality (one list
            per group, inner product), ``"spcl"`` without (one list, Euclidean distance).
        precision: ``"exact"``: ranked by exact scores, proven row by row, the same on every device
            by design.
            ``"fast"``: the nearest samples by approximate scores that are trusted further than is
            proven, ordered by their exact scores; a nearer sample may be missed, and which one may
            depend on the machine. Rows without a bound on their scores are ranked by exact scores
            in both cases.
            A :class:`mabm.NeighborSearch`, such as :class:`mabm.FaissSearch`: the nearest samples
            that it finds, ordered by their exact scores. Samples may be missed, and results may
            depend on its version and threads. ``Ranking.recall`` and the log say how many were
            found, on a sample of rows. A list ends early (-1) where too few were found.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends.

    Returns:
        The lists as a :class:`Ranking`. A sample is ranked in the list of its own group; a group
        that is smaller than its share contributes all its samples; ties go to the lower index. The
        same on every device by design, and for any number of threads (unless the process flushes
        denormal numbers to zero and the features contain some). No gradient.

    Raises:
        ImportError: A bar is wanted, and tqdm is missing.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the message names it, the range and the value.
            What a search of your own returns is called ``precision.find_candidates(...)``.
        MemoryError: ``max_memory`` is too small; the message names the bytes.

    Source:
        Wang et al., AAAI 2026 (BMIL); with ``preset="spcl"`` Zhong et al., CVPR 2017.

    Example:
        >>> import torch, mabm
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
        >>> mabm.rank_neighbors(features, k1=2).ranks.tolist()
        [[0, 1], [1, 0], [2, 1], [3, 2]]
    """
    work = Work.of(max_memory, progress)
    x, groups, _ = check_samples(features, modality)
    chosen = resolve_preset(preset, has_modality=groups is not None)
    k1 = check_k1(chosen, k1, len(group_sizes(groups, len(x))))
    ranking = rank(x, groups, chosen, k1, check_precision(precision), work)
    ranked: Ranking[ArrayT] = ranking.in_kind_of(features)
    return ranked


def group_sizes(groups: Tensor | None, count: int) -> dict[int, int]:
    """Number of samples by group; without groups or samples, one group 0 has all of them."""
    if groups is None or not count:
        return {0: count}
    names, sizes = torch.unique(groups, return_counts=True)
    return dict(zip(names.tolist(), sizes.tolist(), strict=True))


def rank(
    x: Tensor,
    groups: Tensor | None,
    preset: Preset,
    k1: int,
    precision: Precision = "exact",
    work: Work = QUIET,
) -> Ranking[Tensor]:
    """:func:`rank_neighbors` for checked tensors.

    Raises:
        torch.OutOfMemoryError: The memory of a GPU ran out; the message says what to lower.
    """
    with (
        work.stage("ranking", len(x)) as advance,
        running_ops(
            f"ranking {len(x)} samples of {x.shape[1]} dimensions",
            "lower k1, free memory that other tensors hold, or move the features to the CPU",
        ),
    ):
        layout = ListLayout.of(x, groups, preset, k1)
        may_advise = preset.metric == "inner_product" and is_wanted(logger, "lengths")
        lengths = _extreme_lengths(x) if may_advise and len(x) >= _FEW_ROWS else None
        euclidean, recall = preset.metric == "euclidean", None
        if isinstance(precision, str):
            ranks, scores = rank_lists(x, layout, euclidean, precision, work, advance)
        else:
            ranks, scores, recall = rank_by_search(x, layout, euclidean, precision, advance)
    if lengths is not None:
        _advise_on_lengths(lengths)  # a GPU has been waited for
    return Ranking.unchecked(ranks, scores, tuple(layout.widths), preset, k1, groups, recall)


def _extreme_lengths(x: Tensor) -> Tensor:
    """(2,) the 5th and 95th percentiles of the rows' lengths, of some rows that are spread evenly.

    Does not wait for a device.
    """
    sample = x[:: -(-len(x) // _LENGTHS)]
    ordered, last = torch.linalg.vector_norm(sample, dim=1).sort().values, len(sample) - 1
    return torch.stack([ordered[last // 20], ordered[last - last // 20]])


def _advise_on_lengths(lengths: Tensor) -> None:
    low, high = lengths.tolist()
    if math.isfinite(high) and high > _WIDE_LENGTHS * low:
        advise(
            logger,
            "lengths",
            f"features differ in length, from {low:.3g} (5th percentile) to {high:.3g} (95th), and "
            "they are ranked by inner product, for which long vectors are near everything; try "
            "torch.nn.functional.normalize(features, dim=1)",
        )


def rank_lists(
    x: Tensor,
    layout: ListLayout,
    euclidean: bool,
    precision: NamedPrecision,
    work: Work,
    advance: Advance,
    sides: Sides | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks the rows of x, all among all or two sides among each other.

    Args:
        x: (N, D) float32, contiguous.
        layout: The lists of each row, of widths that sum to K.
        euclidean: Whether rows are compared by Euclidean distance instead of inner product.
        precision: Whether lists are exact.
        work: The memory limit.
        advance: Called with the number of rows done.
        sides: Rows that are compared with each other alone, and what scores are wanted; the lists
            of all other rows stay empty. ``None`` for all with all.

    Returns:
        Ranks (N, K) int64, each list nearest first, ties by lower index, -1 where it ends early;
        and scores (N, K) float64, there -inf.
    """
    shape = (len(x), sum(layout.widths))
    ranks = torch.full(shape, -1, dtype=torch.int64, device=x.device)
    scores = torch.full(shape, -torch.inf, dtype=torch.float64, device=x.device)
    if not ranks.numel() or (sides is not None and not sides.num_pairs):
        return ranks, scores
    unproven = torch.ones(len(x), dtype=torch.bool, device=x.device)
    rungs: list[tuple[str, Tensor]] = []
    if sides is not None:
        unproven.fill_(False)
    for proposed in propose(x, layout, euclidean, precision == "fast", work, advance, sides):
        rows, counts = proposed.rows, proposed.counts
        ranks[rows], scores[rows] = torch.ops.mabm.rank_candidates(
            x,
            rows,
            proposed.candidates,
            counts,
            layout.widths,
            euclidean,
            proposed.bounds,
            proposed.offsets,
            proposed.area,
        )
        overflowed = (counts < 0).any(dim=1)
        unproven[rows] = overflowed
        rungs.append((proposed.rung, overflowed))
    rest = torch.nonzero(unproven).flatten()
    _log_rungs(rungs, len(rest), len(x))
    if len(rest):
        full = layout if sides is None else sides.apart(layout)
        ranks[rest], scores[rest] = torch.ops.mabm.rank_exactly(
            x, rest, full.groups, full.list_of_group, full.widths, euclidean
        )
    if sides is not None:
        sides.drop_unwanted(ranks, scores, layout.widths)
    return ranks, scores


def propose(
    x: Tensor,
    layout: ListLayout,
    euclidean: bool,
    fast: bool,
    work: Work,
    advance: Advance,
    sides: Sides | None = None,
) -> Iterator[Proposal]:
    """Proposes candidates for all rows, by the route of the device.

    Args:
        x: (N, D) float32, contiguous, N > 0.
        layout: The lists of each row.
        euclidean: Whether rows are compared by Euclidean distance instead of inner product.
        fast: Whether to trust approximate scores more than is proven.
        work: The memory limit.
        advance: Called with the number of rows done.
        sides: Rows that are compared with each other; ``None`` for all with all.

    Raises:
        MemoryError: The limit does not allow the smallest parts.
    """
    if x.is_cpu:
        what = f"ranking {len(x)} samples of {x.shape[1]} dimensions"
        least = screen_bytes(x, layout.widths, work.max_memory)
        beside = work.less(least, what, "raise max_memory or lower k1")
        return screen(x, layout, euclidean, fast, beside.max_memory, advance, sides)
    return propose_by_tiles(x, layout, euclidean, fast, work, advance, sides)


def propose_by_tiles(
    x: Tensor,
    layout: ListLayout,
    euclidean: bool,
    fast: bool,
    work: Work,
    advance: Advance,
    sides: Sides | None = None,
) -> Iterator[Proposal]:
    """:func:`propose` on a GPU; on the CPU for tests."""
    for rows, found in propose_candidates(x, layout, euclidean, fast, work, sides):
        yield Proposal(
            found.rung,
            rows,
            found.indices,
            found.counts,
            found.scores,
            found.offsets,
            found.area,
        )
        advance(len(rows))


def _log_rungs(rungs: list[tuple[str, Tensor]], num_rest: int, count: int) -> None:
    """Logs how many rows each rung proved, and warns if many are left to exact scores.

    Each rung has the marks of the rows that it left open.
    """
    if logger.isEnabledFor(logging.DEBUG):
        proven: dict[str, int] = {}
        for rung, is_open in rungs:
            proven[rung] = proven.get(rung, 0) + int((~is_open).sum())
        shares = ", ".join(f"{number} by {rung}" for rung, number in proven.items())
        logger.debug("ranking %d samples: %s, %d by exact scores", count, shares, num_rest)
    if num_rest > count // _LOGGED_SHARE:
        level = logging.WARNING if num_rest > _MANY_ROWS else logging.INFO
        logger.log(level, "ranking %d of %d samples by exact scores only", num_rest, count)
