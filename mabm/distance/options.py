"""The options of a distance as one record, behind public keywords, configurations and files."""

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
    """Which distance: a preset, the lengths of its lists, and how neighbors are searched.

    Attributes:
        k1: Neighbors of a sample, shared evenly by the groups (30: 15 visible and 15 infrared).
        k2: Rows averaged around a sample, in [1, k1]: per group with ``"bmil"``, else in total.
        preset: The choices of the pipeline.
        precision: Of the ranking: ``"exact"``, or ``"fast"`` as in :func:`mabm.rank_neighbors`.

    Raises:
        TypeError: An option of the wrong kind.
        ValueError: An option out of its range; the message names it, the range and the value.

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
        """Refuses what no number of groups allows."""
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
        """The options that the public keywords mean for samples of so many groups.

        Args:
            k1: Neighbors of a sample; at least one per group where the groups share them.
            k2: Rows averaged around a sample, in [1, k1].
            preset: Name of a published distance or a :class:`mabm.Preset`; ``None`` is ``"bmil"``
                with a modality and ``"spcl"`` without.
            precision: ``"exact"`` or ``"fast"``.
            num_groups: Different groups among the samples, or ``None`` where they have no modality.

        Raises:
            TypeError: An option of the wrong kind.
            ValueError: An option out of its range for so many groups.
        """
        chosen = resolve_preset(preset, has_modality=num_groups is not None)
        k1 = check_k1(chosen, k1, 1 if num_groups is None else num_groups)
        k2 = check_k2(chosen, k2, k1)
        return cls(k1, k2, chosen, check_precision(precision))

    def for_groups(self, num_groups: int | None) -> DistanceOptions:
        """The same options, checked for samples of so many groups.

        Args:
            num_groups: Different groups among the samples, or ``None`` where they have no modality.

        Raises:
            ValueError: The lists are too short to share them, or the preset needs a modality.
        """
        return self.resolve(self.k1, self.k2, self.preset, self.precision, num_groups=num_groups)


def check_precision(value: object) -> Precision:
    """Returns a known precision of the ranking.

    Raises:
        ValueError: It is none.
    """
    check_choice("precision", value, get_args(Precision))
    return "exact" if value == "exact" else "fast"
