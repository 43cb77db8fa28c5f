"""Re-ranking a retrieval: query x gallery distances with the Jaccard distance mixed in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabm._core.arguments import check_real
from mabm._core.arrays import Array, ArrayT, check_features, like
from mabm._core.columns import Column, check_modality, read_categories
from mabm._core.device_memory import check_fits
from mabm._core.modalities import MODALITIES
from mabm._core.saving import Saved
from mabm.distance.jaccard import dense_distance, encode_features, resolve_options
from mabm.distance.options import DistanceOptions, Precision
from mabm.distance.presets import DEFAULT_K2, Preset

# The field re-ranks with shorter lists than it clusters with.
_RERANK_K1 = 20
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class RerankOptions(Saved):
    """How to re-rank a search between two modalities: the options of :func:`rerank` as one value.

    Attributes:
        k1: Neighbors of a sample: half of them from each modality with the default preset.
        k2: Rows averaged around a sample, in [1, k1]: per group with ``"bmil"``, else in total.
        lambda_value: Weight of the original distance, in [0, 1].
        preset: Name of the preset; ``"bmil"`` is modality-aware, ``"spcl"`` the classic.
        precision: Of the ranking: ``"exact"``, or ``"fast"`` as in :func:`mabm.rank_neighbors`.

    Example:
        >>> import mabm
        >>> mabm.RerankOptions(k1=20, k2=6, preset="spcl").lambda_value
        0.3
    """

    k1: int = _RERANK_K1
    k2: int = DEFAULT_K2
    lambda_value: float = 0.3
    preset: str = "bmil"
    precision: Precision = "exact"

    def __post_init__(self) -> None:
        """Refuses what :func:`rerank` would refuse, before any feature is computed."""
        self.distance  # noqa: B018  # making it checks k1, k2 and preset
        check_real("lambda_value", self.lambda_value, 0.0, 1.0)

    @property
    def distance(self) -> DistanceOptions:
        """The distance that is mixed in."""
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
) -> ArrayT:
    """Computes re-ranked distances from every query to every gallery sample.

    ``(1 - lambda) * J + lambda * d``: J is the Jaccard distance among query and gallery together,
    d the squared Euclidean distance, divided for each query by its greatest to any sample of
    either. Of the distance only the (Q, G) part is computed; neighbors are searched among all.

    Args:
        query: (Q, D) floating point.
        gallery: (G, D) floating point, on the same device.
        query_modality: (Q,) integers >= 0, bool or words, or ``None``; both or neither are given.
        gallery_modality: (G,) of the same kind, or ``None``.
        k1: Neighbors of a sample, itself among them, shared evenly by the groups; at most 1024.
        k2: Rows averaged around a sample, in [1, k1]: per group with ``"bmil"``, else in total.
        lambda_value: Weight of the original distance, in [0, 1].
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: Of the ranking: ``"exact"``, or ``"fast"`` as in :func:`mabm.rank_neighbors`.

    Returns:
        (Q, G) float32 in [0, 1] of the same kind as ``query``; smaller is nearer. J is the same
        bits on every device and for any number of threads, d but for the rounding of a float64
        product.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range, or only one modality given.
        MemoryError: (Q, G) does not fit.

    Source:
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017,
        equation 12; lists and averages by preset.

    Example:
        >>> import torch, mabm
        >>> query, gallery = torch.randn(5, 16), torch.randn(40, 16)
        >>> mabm.rerank(query, gallery).shape
        torch.Size([5, 40])
    """
    q, g = check_features(query, "query"), check_features(gallery, "gallery")
    if q.shape[1] != g.shape[1]:
        raise ValueError(f"gallery must have {q.shape[1]} columns as query has, got {g.shape[1]}")
    if q.device != g.device:
        raise ValueError(f"gallery must be on {q.device} as query is, got {g.device}")
    mix = check_real("lambda_value", lambda_value, 0.0, 1.0)
    groups = _joined_modality(q, g, query_modality, gallery_modality)
    options = resolve_options(groups, k1, k2, preset, precision)
    return like(rerank_samples(q, g, groups, options, mix), query)


def rerank_samples(
    q: Tensor, g: Tensor, groups: Tensor | None, options: DistanceOptions, mix: float
) -> Tensor:
    """:func:`rerank` for tensors that are checked already.

    Args:
        q: (Q, D) float32 queries.
        g: (G, D) float32 gallery on the same device.
        groups: (Q + G,) int64, the groups of queries and gallery, or ``None``.
        options: Which distance is mixed in.
        mix: Weight of the original distance.
    """
    total = len(q) + len(g)
    check_fits(
        4 * len(q) * len(g) + 8 * total * (q.shape[1] + _ROWS_AT_ONCE),
        f"the ({len(q)}, {len(g)}) distance, with the features in float64,",
        "re-rank fewer queries at a time",
        q.device,
    )
    together = torch.cat([q, g])
    encoding = encode_features(together, groups, options, whole_groups=False)
    split = len(q)
    distance = dense_distance(encoding, slice(0, split), slice(split, None))
    _mix_in_euclidean(distance, together, mix)
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


def _mix_in_euclidean(distance: Tensor, together: Tensor, mix: float) -> None:
    """Turns J into (1 - mix) * J + mix * d in place, a block of queries at a time, in float64."""
    split = len(distance)
    others = together.to(torch.float64)
    squares = others.square().sum(dim=1)
    for start in range(0, split, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, split))
        squared = torch.addmm(squares, others[rows], others.T, alpha=-2).add_(squares[rows, None])
        squared.clamp_(min=0)
        furthest = squared.amax(dim=1, keepdim=True)
        original = squared[:, split:] / furthest.where(furthest > 0, 1.0)
        mixed = distance[rows].to(torch.float64).mul_(1 - mix).add_(original, alpha=mix)
        distance[rows] = mixed.to(torch.float32)
