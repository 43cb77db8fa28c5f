"""The options of a distance as one record, used by public keywords, configurations and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mabm._core.arguments import check_choice
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

Precision = Literal["exact", "fast"]


@dataclass(frozen=True)
class DistanceOptions(Saved):
    """The options of a distance: preset, list lengths, and precision of the neighbor search.

    Attributes:
        k1: Number of neighbors per sample, split evenly between the groups (30: 15 visible and 15
            infrared).
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        preset: The configuration of the pipeline.
        precision: Precision of the ranking: ``"exact"``, or ``"fast"`` as in
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
            precision: ``"exact"`` or ``"fast"``.
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
        ValueError: The value is not a precision.
    """
    check_choice("precision", value, get_args(Precision))
    return "exact" if value == "exact" else "fast"
