"""Re-ranking: query x gallery distances combined with the Jaccard distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from mabm._core.arguments import check_choice, check_real
from mabm._core.arrays import Array, ArrayT, check_features, like
from mabm._core.columns import Column, check_modality, read_categories
from mabm._core.device_memory import check_fits
from mabm._core.modalities import MODALITIES
from mabm._core.saving import Saved
from mabm._core.work import QUIET, Advance, Report, Work
from mabm.distance.jaccard import dense_distance, encode_features, resolve_options
from mabm.distance.options import DistanceOptions, NamedPrecision, Precision
from mabm.distance.presets import DEFAULT_K2, Preset
from mabm.distance.whole_products import WholeRows, whole_rows_bytes

# Re-ranking commonly uses shorter lists than clustering.
_RERANK_K1 = 20
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class RerankOptions(Saved):
    """Options for re-ranking a search between two modalities, as for :func:`rerank`.

    Attributes:
        k1: Number of neighbors per sample: half from each modality with the default preset.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        lambda_value: Weight of the original distance, in [0, 1].
        preset: Name of the preset; ``"bmil"`` is modality-aware, ``"spcl"`` is the classic one.
        precision: Precision of the ranking: ``"exact"``, or ``"fast"`` as in
            :func:`mabm.rank_neighbors`.

    Example:
        >>> import mabm
        >>> mabm.RerankOptions(k1=20, k2=6, preset="spcl").lambda_value
        0.3
    """

    k1: int = _RERANK_K1
    k2: int = DEFAULT_K2
    lambda_value: float = 0.3
    preset: str = "bmil"
    precision: NamedPrecision = "exact"

    def __post_init__(self) -> None:
        """Rejects what :func:`rerank` would reject, before any feature is computed."""
        check_choice("precision", self.precision, get_args(NamedPrecision))
        self.distance  # noqa: B018  # making it checks k1, k2 and preset
        check_real("lambda_value", self.lambda_value, 0.0, 1.0)

    @property
    def distance(self) -> DistanceOptions:
        """The Jaccard distance to combine with."""
        return DistanceOptions.resolve(
            self.k1, self.k2, self.preset, self.precision, num_groups=len(MODALITIES)
        )


def rerank(
    query: ArrayT,
    gallery: Array,
    query_modality: Column | None = None,
    gallery_modality: Column | None = None,
    *,
    k1: int = _RERANK_K1,
    k2: int = DEFAULT_K2,
    lambda_value: float = 0.3,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    max_memory: int | str | None = None,
    progress: bool | Report = False,
) -> ArrayT:
    """Computes re-ranked distances from every query to every gallery sample.

    The result is ``(1 - lambda) * J + lambda * d``: J is the Jaccard distance, with neighbors
    searched among queries and gallery together; d is the squared Euclidean distance, divided for
    each query by its largest value to any query or gallery sample. Only the (Q, G) part is
    computed.

    Args:
        query: (Q, D) floating point.
        gallery: (G, D) floating point, on the same device.
        query_modality: (Q,) integers >= 0, bool or words, or ``None``; give both or neither.
        gallery_modality: (G,) of the same kind, or ``None``.
        k1: Number of neighbors per sample, including itself, split evenly between the groups; at
            most 1024.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        lambda_value: Weight of the original distance, in [0, 1].
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends.

    Returns:
        (Q, G) float32 in [0, 1] of the same kind as ``query``; smaller is nearer. Bit-for-bit the
        same on every device by design, and for any number of threads: for d, samples are rounded to
        multiples of about 2^-26 of their length, whose squared distances are exact.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or only one modality is given.
        MemoryError: (Q, G) does not fit, or ``max_memory`` is too small.

    Source:
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017,
        equation 12; lists and averages by preset.

    Example:
        >>> import torch, mabm
        >>> query, gallery = torch.randn(5, 16), torch.randn(40, 16)
        >>> mabm.rerank(query, gallery).shape
        torch.Size([5, 40])
    """
    work = Work.of(max_memory, progress)
    q, g = check_features(query, "query"), check_features(gallery, "gallery")
    if q.shape[1] != g.shape[1]:
        raise ValueError(f"gallery must have {q.shape[1]} columns as query has, got {g.shape[1]}")
    if q.device != g.device:
        raise ValueError(f"gallery must be on {q.device} as query is, got {g.device}")
    mix = check_real("lambda_value", lambda_value, 0.0, 1.0)
    groups = _joined_modality(q, g, query_modality, gallery_modality)
    options = resolve_options(groups, k1, k2, preset, precision)
    return like(rerank_samples(q, g, groups, options, mix, work), query)


def rerank_samples(
    q: Tensor,
    g: Tensor,
    groups: Tensor | None,
    options: DistanceOptions,
    mix: float,
    work: Work = QUIET,
) -> Tensor:
    """:func:`rerank` for checked tensors.

    Args:
        q: (Q, D) float32 queries.
        g: (G, D) float32 gallery on the same device.
        groups: (Q + G,) int64, the groups of queries and gallery, or ``None``.
        options: Options of the Jaccard distance.
        mix: Weight of the original distance.
        work: Memory limit and progress.
    """
    total = len(q) + len(g)
    at_once = min(len(q), _ROWS_AT_ONCE)
    copies = 4 * total * q.shape[1]
    wide = whole_rows_bytes(q, total, at_once) + 8 * at_once * (total + len(g))
    what, instead = f"re-ranking {len(q)} x {len(g)} samples", "re-rank fewer queries at a time"
    beside = work.less(copies, what, instead)
    beside.less(wide, what, instead)
    check_fits(
        4 * len(q) * len(g) + wide,
        f"the ({len(q)}, {len(g)}) distance, with the rounded features,",
        instead,
        q.device,
    )
    together = torch.cat([q, g])
    encoding = encode_features(together, groups, options, whole_groups=False, work=beside)
    split = len(q)
    distance = dense_distance(encoding, slice(0, split), slice(split, None), work)
    with work.stage("original distance", split) as advance:
        _mix_in_euclidean(distance, together, mix, advance)
    return distance


def _joined_modality(
    q: Tensor, g: Tensor, query_modality: Column | None, gallery_modality: Column | None
) -> Tensor | None:
    if query_modality is None and gallery_modality is None:
        return None
    for name, value in (("query_modality", query_modality), ("gallery_modality", gallery_modality)):
        if value is None:
            raise ValueError(
                f"query_modality and gallery_modality must be given together, got no {name}"
            )
    names = ("query_modality", "gallery_modality")
    (of_query, of_gallery), _ = read_categories(
        (query_modality, gallery_modality), names, "one group per row"
    )
    return torch.cat(
        [
            check_modality(of_query, len(q), q.device, names[0]),
            check_modality(of_gallery, len(g), g.device, names[1]),
        ]
    )


def _mix_in_euclidean(distance: Tensor, together: Tensor, mix: float, advance: Advance) -> None:
    """Replaces J by (1 - mix) * J + mix * d in place, a block of queries at a time, in float64."""
    split, total = len(distance), len(together)
    whole = WholeRows(together)
    block = whole.squares.new_empty((min(split, _ROWS_AT_ONCE), total))
    for start in range(0, split, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, split))
        squared = whole.squared_distances(whole, rows, block[: rows.stop - start])
        furthest = squared.amax(dim=1, keepdim=True)
        original = squared[:, split:].mul_(mix / furthest.where(furthest > 0, 1.0))
        # In two operations: one that multiplies and adds rounds once on some devices.
        distance[rows] = distance[rows].to(torch.float64).mul_(1 - mix).add_(original)
        advance(len(squared))
