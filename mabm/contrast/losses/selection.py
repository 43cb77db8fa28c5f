"""Which prototypes enter the softmax of a loss: the options, their checks and the default."""

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
"""``select(logits, positives, num_selected)`` -> mask of the prototypes that enter the softmax.

``logits`` (..., B, P) carry no gradient, ``positives`` (B, P) is a mask; the answer is a mask that
broadcasts to ``logits``. Positives enter whatever it says.
"""

# Sums and products of weights within these neither overflow nor vanish in float32.
_LEAST_WEIGHT = 1e-30
_GREATEST_WEIGHT = 1e30 * (1 + 2**-23)  # what float32 makes of 1e30 among them


class SelectionOptions(TypedDict, total=False):
    """The options of :func:`multi_positive_loss`, which says what they are."""

    num_selected: int
    temperature: float
    positive_weights: Tensor | None
    select: Selector | None


def select_hardest(logits: Tensor, positives: Tensor, num_selected: int) -> Tensor:
    """Selects the positives and the greatest of the other logits, ``num_selected`` in all.

    Args:
        logits: (..., B, P).
        positives: (B, P) bool, counted first.
        num_selected: How many in all; every prototype where there are fewer.

    Returns:
        (..., B, P) bool.

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
    """The options that the losses with a selection share."""

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
        """Options, as ``repr`` prints them."""
        return f"num_selected={self.num_selected}, temperature={self.temperature:g}"


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
