"""What the losses that select prototypes take: clusters, weights, selectors, their answers."""

from __future__ import annotations

import torch
from torch import Tensor

from mabm._core.arguments import shown
from mabm._core.arrays import check_floating
from mabm._core.batch import check_integers, check_same_device, check_tensor, values_are_at_hand

# Sums and products of weights within these neither overflow nor vanish in float32.
_LEAST_WEIGHT = 1e-30
_GREATEST_WEIGHT = 1e30 * (1 + 2**-23)  # what float32 makes of 1e30 among them


def check_clusters(value: object, prototypes: Tensor) -> Tensor:
    """Returns the (P,) int64 clusters of (..., P, D) prototypes; they are compared and no more."""
    clusters = check_integers(value, "clusters")
    count = prototypes.shape[-2]
    if clusters.shape != (count,):
        raise ValueError(
            f"clusters must be ({count},), one a prototype, got shape {tuple(clusters.shape)}"
        )
    check_same_device(clusters, prototypes, "clusters", "prototypes")
    return (
        clusters.view(torch.int64) if clusters.dtype == torch.uint64 else clusters.to(torch.int64)
    )


def check_weights(value: object, rows: Tensor, count: int) -> Tensor | None:
    """Returns (P,) or (B, P) weights, held against their range where they are at hand."""
    if value is None:
        return None
    weights = check_tensor(value, "positive_weights")
    check_floating(weights, "positive_weights")
    if weights.shape not in ((count,), (rows.shape[0], count)):
        raise ValueError(
            f"positive_weights must be ({count},) or ({rows.shape[0]}, {count}), "
            f"got shape {tuple(weights.shape)}"
        )
    check_same_device(weights, rows, "positive_weights", "features")
    if values_are_at_hand(weights) and weights.numel():
        above = weights.detach().to(torch.float64)
        least, most = (float(bound) for bound in torch.aminmax(above.where(above != 0, 1.0)))
        if not (least >= _LEAST_WEIGHT and most <= _GREATEST_WEIGHT):
            raise ValueError(
                f"positive_weights must be 0 or in [{_LEAST_WEIGHT:g}, {_GREATEST_WEIGHT:g}], "
                f"got {most if least >= _LEAST_WEIGHT else least:g}"
            )
    return weights


def check_select(value: object) -> None:
    """Raises TypeError unless it can be called, or is ``None``."""
    if value is not None and not callable(value):
        raise TypeError(
            f"select must be a function or None, got {type(value).__name__}: {shown(value)}"
        )


def check_mask(value: object, logits: Tensor) -> Tensor:
    """What a selector answers: a mask that broadcasts to the logits."""
    mask = check_tensor(value, "the answer of select")
    if mask.dtype != torch.bool:
        raise TypeError(f"the answer of select must be a mask of bool, got dtype {mask.dtype}")
    sizes = zip(reversed(mask.shape), reversed(logits.shape), strict=False)
    if mask.dim() > logits.dim() or any(own not in (1, size) for own, size in sizes):
        raise ValueError(
            f"the answer of select must broadcast to {tuple(logits.shape)}, "
            f"got shape {tuple(mask.shape)}"
        )
    check_same_device(mask, logits, "the answer of select", "logits")
    return mask
