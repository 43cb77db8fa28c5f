"""The options of a distance as one record, used by public keywords, configurations and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from mabm._core.arguments import shown
from mabm._core.saving import Saved
from mabm.distance.presets import (
    DEFAULT_K1,
    DEFAULT_K2,
    PRESETS,
    Preset,
    check_k1,
    check_k2,
    resolve_preset,
)
from mabm.distance.search.protocol import NeighborSearch, check_recall_rows, is_search

NamedPrecision = Literal["exact", "fast"]
Precision: TypeAlias = NamedPrecision | NeighborSearch
"""How neighbors are found: exactly, by a fast product, or by a search of your own.

One keyword for all, since they exclude each other: a search next to ``precision="exact"`` would
contradict it.
"""


@dataclass(frozen=True)
class DistanceOptions(Saved):
    """The options of a distance: preset, list lengths, and precision of the neighbor search.

    Attributes:
        k1: Number of neighbors per sample, split evenly between the groups (30: 15 visible and 15
            infrared).
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        preset: The configuration of the pipeline.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range; the message names it, the range and the value.

    Example:
        >>> from mabm.distance.options import DistanceOptions
        >>> DistanceOptions.resolve(20, 6, "spcl", "exact", num_groups=None).preset.metric
        'euclidean'
    """

    k1: int = DEFAULT_K1
    k2: int = DEFAULT_K2
    preset: Preset = PRESETS["bmil"]
    precision: Precision = "exact"

    def __post_init__(self) -> None:
        """Rejects options that are invalid for any number of groups."""
        k1 = check_k1(resolve_preset(self.preset, has_modality=True), self.k1, num_groups=1)
        object.__setattr__(self, "k1", k1)
        object.__setattr__(self, "k2", check_k2(self.preset, self.k2, k1))
        check_precision(self.precision)

    @classmethod
    def resolve(
        cls,
        k1: object,
        k2: object,
        preset: str | Preset | None,
        precision: object,
        *,
        num_groups: int | None,
    ) -> DistanceOptions:
        """Resolves the public keywords to options for samples of ``num_groups`` groups.

        Args:
            k1: Number of neighbors per sample; at least one per group if they are split between
                the groups.
            k2: Number of neighbors averaged by local query expansion, in [1, k1].
            preset: Name of a published distance or a :class:`mabm.Preset`; ``None`` is ``"bmil"``
                with a modality and ``"spcl"`` without.
            precision: ``"exact"``, ``"fast"`` or a :class:`mabm.NeighborSearch`.
            num_groups: Number of groups among the samples, or ``None`` without a modality.

        Raises:
            TypeError: An option has the wrong type.
            ValueError: An option is out of range for this number of groups.
        """
        chosen = resolve_preset(preset, has_modality=num_groups is not None)
        k1 = check_k1(chosen, k1, 1 if num_groups is None else num_groups)
        k2 = check_k2(chosen, k2, k1)
        return cls(k1, k2, chosen, check_precision(precision))

    def for_groups(self, num_groups: int | None) -> DistanceOptions:
        """The same options, checked for samples of ``num_groups`` groups.

        Args:
            num_groups: Number of groups among the samples, or ``None`` without a modality.

        Raises:
            ValueError: ``k1`` is too small for this number of groups, or the preset needs a
                modality.
        """
        return self.resolve(self.k1, self.k2, self.preset, self.precision, num_groups=num_groups)


def check_precision(value: object) -> Precision:
    """Returns a valid precision of the ranking.

    Raises:
        TypeError: It is a class instead of an object, or its ``recall_rows`` is not an integer.
        ValueError: The value is not a precision.
    """
    if is_search(value):
        check_recall_rows(value, "precision.recall_rows")
        return cast(NeighborSearch, value)
    if isinstance(value, type):
        raise TypeError(
            f"precision must be an object, got the class {value.__name__}; use "
            f"{value.__name__}(...)"
        )
    names = get_args(NamedPrecision)
    if not (isinstance(value, str) and value in names):
        raise ValueError(
            f"precision must be one of {names} or a NeighborSearch, got {shown(value)}"
        )
    return "exact" if value == "exact" else "fast"
