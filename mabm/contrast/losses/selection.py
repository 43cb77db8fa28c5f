"""The selection of prototypes in a softmax: options, checks, and the hardest by default."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypedDict

import torch
from torch import Tensor, nn

from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import check_floating
from mabm._core.batch_checks import (
    check_integers,
    check_same_device,
    check_temperature,
    check_tensor,
    values_are_at_hand,
)
from mabm.contrast.losses.similarity import DEFAULT_TEMPERATURE

DEFAULT_NUM_SELECTED = 50

Selector: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""``select(logits, positives, num_selected)`` -> mask of the prototypes in the softmax.

``logits`` (..., B, P) carry no gradient and ``positives`` (B, P) is a mask. The result is a mask
that broadcasts to ``logits``. Positives enter the softmax even if the mask omits them.
"""

# Sums and products of weights in this range neither overflow nor underflow in float32.
_LEAST_WEIGHT = 1e-30
_GREATEST_WEIGHT = 1e30 * (1 + 2**-23)  # includes 1e30 rounded to float32


class SelectionOptions(TypedDict, total=False):
    """Options of :func:`multi_positive_loss`, which explains them."""

    num_selected: int
    temperature: float
    positive_weights: Tensor | None
    select: Selector | None


def select_hardest(logits: Tensor, positives: Tensor, num_selected: int) -> Tensor:
    """Selects the positives and the greatest other logits, ``num_selected`` in total.

    Args:
        logits: (..., B, P) floating point, similarities divided by a temperature.
        positives: (B, P) bool, the prototypes to select first.
        num_selected: Number of prototypes to select; all of them if there are fewer.

    Returns:
        (..., B, P) bool, true for the selected prototypes. ``torch.topk`` breaks ties.

    Example:
        >>> import torch, mabm
        >>> logits = torch.tensor([[0.1, 0.9, 0.5]])
        >>> positives = torch.tensor([[True, False, False]])
        >>> mabm.select_hardest(logits, positives, num_selected=2)
        tensor([[ True,  True, False]])
    """
    ranked = logits.masked_fill(positives, math.inf)
    chosen = ranked.topk(min(num_selected, logits.shape[-1]), dim=-1, sorted=False).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, chosen, True)


class SelectingLoss(nn.Module):
    """Base of losses with a selection: stores their options."""

    def __init__(
        self,
        *,
        num_selected: int = DEFAULT_NUM_SELECTED,
        temperature: float = DEFAULT_TEMPERATURE,
        select: Selector | None = None,
    ) -> None:
        super().__init__()
        self.num_selected = check_integer("num_selected", num_selected, at_least=1)
        self.temperature = check_temperature(temperature)
        check_select(select)
        self.select = select

    def _options(self, positive_weights: Tensor | None) -> SelectionOptions:
        return {
            "num_selected": self.num_selected,
            "temperature": self.temperature,
            "positive_weights": positive_weights,
            "select": self.select,
        }

    def extra_repr(self) -> str:
        """Returns the options for ``repr``."""
        return f"num_selected={self.num_selected}, temperature={self.temperature:g}"


def check_clusters(value: object, prototypes: Tensor) -> Tensor:
    """Returns the clusters of (..., P, D) prototypes as int64 (P,); only equality matters."""
    clusters = check_integers(value, "clusters")
    count = prototypes.shape[-2]
    if clusters.shape != (count,):
        raise ValueError(
            f"clusters must be ({count},), one per prototype, got shape {tuple(clusters.shape)}"
        )
    check_same_device(clusters, prototypes, "clusters", "prototypes")
    return (
        clusters.view(torch.int64) if clusters.dtype == torch.uint64 else clusters.to(torch.int64)
    )


def check_weights(value: object, rows: Tensor, count: int) -> Tensor | None:
    """Returns (P,) or (B, P) weights; their range is checked unless that waits for a GPU."""
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
        nonzero = weights.detach().to(torch.float64)
        least, most = (float(bound) for bound in torch.aminmax(nonzero.where(nonzero != 0, 1.0)))
        if not (least >= _LEAST_WEIGHT and most <= _GREATEST_WEIGHT):
            raise ValueError(
                f"positive_weights must be 0 or in [{_LEAST_WEIGHT:g}, {_GREATEST_WEIGHT:g}], "
                f"got {most if least >= _LEAST_WEIGHT else least:g}"
            )
    return weights


def check_select(value: object) -> None:
    """Raises TypeError unless ``value`` is callable or ``None``."""
    if value is not None and not callable(value):
        raise TypeError(
            f"select must be a function or None, got {type(value).__name__}: {shown(value)}"
        )


def check_mask(value: object, logits: Tensor) -> Tensor:
    """Returns the result of a selector, a bool mask that broadcasts to the logits."""
    mask = check_tensor(value, "the result of select")
    if mask.dtype != torch.bool:
        raise TypeError(f"the result of select must be a bool mask, got dtype {mask.dtype}")
    sizes = zip(reversed(mask.shape), reversed(logits.shape), strict=False)
    if mask.dim() > logits.dim() or any(given not in (1, size) for given, size in sizes):
        raise ValueError(
            f"the result of select must broadcast to {tuple(logits.shape)}, "
            f"got shape {tuple(mask.shape)}"
        )
    check_same_device(mask, logits, "the result of select", "logits")
    return mask
