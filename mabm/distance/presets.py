"""Published variants of the distance: which lists, which expansion, which average.

All published variants of the k-reciprocal Jaccard distance run the same pipeline and differ in four
choices only. A :class:`Preset` names the choices; :data:`PRESETS` contains the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from mabm._core.arguments import as_index, check_choice, check_integer, shown
from mabm._core.saving import Saved

Lists = Literal["per_group", "single", "intra_inter"]
Metric = Literal["inner_product", "euclidean"]
HalfList = Literal["merged", "balanced"]
QueryExpansion = Literal["list_means", "merged", "merged_group_means", "pooled"]

DEFAULT_K1 = 30
DEFAULT_K2 = 6

# Memory grows with N * k1. No identity has a thousand images in these data sets; a larger k is
# probably a mistake.
MAX_K = 1024


@dataclass(frozen=True)
class Preset(Saved):
    """The choices that define one variant of the distance.

    Change one with :func:`dataclasses.replace`, for example
    ``replace(PRESETS["bmil"], half_list="balanced")``, and pass the result as ``preset=``.

    Attributes:
        name: Name of the preset in messages.
        lists: Neighbor lists of a sample. ``"per_group"``: one list of ``k1 // G`` samples for each
            of the G groups. ``"single"``: one list of ``k1`` over all samples. ``"intra_inter"``:
            one list of ``k1_intra + 1`` from the sample's own group (including itself) and one of
            ``k1_inter + 1`` from all other groups.
        metric: ``"inner_product"`` ranks by largest inner product, ``"euclidean"`` by smallest
            Euclidean distance. The two agree on unit vectors.
        half_list: The shorter list used to expand neighbor sets. ``"merged"``: the first
            ``round_half_even(k1 / 2) + 1`` of the merged list. ``"balanced"``: that number split
            evenly over the lists (8 + 8 instead of 16 at k1 = 30 and two groups). ``None``: no
            expansion.
        query_expansion: The neighbors averaged by local query expansion. ``"list_means"``: the
            first ``k2`` of each list, averaged within each list and then across lists.
            ``"merged"``: the first ``k2`` of the merged list. ``"merged_group_means"``: the same
            samples, averaged within each group present and then across groups. ``"pooled"``: the
            first ``k2_intra`` of the intra list and the first ``k2_inter`` of the inter list, with
            equal weights.
        k1_intra: Length of the intra list beyond its first entry (``"intra_inter"`` only).
        k1_inter: Length of the inter list beyond its first entry (``"intra_inter"`` only).
        k2_intra: Number of samples averaged from the intra list (``"pooled"`` only, instead of
            ``k2``).
        k2_inter: Number of samples averaged from the inter list (``"pooled"`` only).

    Example:
        >>> from dataclasses import replace
        >>> import mabm
        >>> replace(mabm.PRESETS["bmil"], half_list="balanced").half_list
        'balanced'
    """

    name: str
    lists: Lists
    metric: Metric
    half_list: HalfList | None
    query_expansion: QueryExpansion
    k1_intra: int = 5
    k1_inter: int = 20
    k2_intra: int = 2
    k2_inter: int = 4

    def __post_init__(self) -> None:
        """Rejects unknown choices and combinations that the pipeline cannot run."""
        choices = {
            "lists": get_args(Lists),
            "metric": get_args(Metric),
            "half_list": (*get_args(HalfList), None),
            "query_expansion": get_args(QueryExpansion),
        }
        for field, allowed in choices.items():
            check_choice(field, getattr(self, field), allowed)
        for field in ("k1_intra", "k1_inter", "k2_intra", "k2_inter"):
            check_integer(field, getattr(self, field), at_least=1, at_most=MAX_K)
        if (self.query_expansion == "pooled") != (self.lists == "intra_inter"):
            raise ValueError(
                'query_expansion="pooled" and lists="intra_inter" must be used together, got '
                f"query_expansion={self.query_expansion!r} with lists={self.lists!r}"
            )
        if self.lists == "intra_inter" and self.half_list is not None:
            raise ValueError(
                f'half_list must be None with lists="intra_inter", got {self.half_list!r}'
            )

    @property
    def k2_in_words(self) -> str:
        """What ``k2`` counts with this preset: neighbors per modality, or in total."""
        if self.query_expansion == "pooled":
            return f"{self.k2_intra} of the intra list and {self.k2_inter} of the inter list"
        if self.query_expansion == "list_means" and self.lists == "per_group":
            return "k2 neighbors per modality"
        if self.query_expansion == "merged_group_means":
            return "k2 neighbors in total, with equal weight for each modality"
        return "k2 neighbors in total"

    @property
    def group_is_camera(self) -> bool:
        """Whether its groups are cameras rather than modalities."""
        return self.lists == "intra_inter"

    @property
    def needs_modality(self) -> bool:
        """Whether the pipeline uses the group of each sample."""
        return self.lists != "single" or self.query_expansion == "merged_group_means"


def _published(*presets: Preset) -> Mapping[str, Preset]:
    return MappingProxyType({preset.name: preset for preset in presets})


PRESETS: Mapping[str, Preset] = _published(
    # Wang et al., AAAI 2026 (BMIL).
    Preset("bmil", "per_group", "inner_product", "merged", "list_means"),
    # Ge et al., NeurIPS 2020 (SpCL), after Zhong et al., CVPR 2017.
    Preset("spcl", "single", "euclidean", "merged", "merged"),
    # Shi et al. (MMM, PCLHD) and Yin et al. (RPNR): SpCL's lists, a modality-balanced average.
    Preset("modal_invariant", "single", "euclidean", "merged", "merged_group_means"),
    # Chen et al., CVPR 2024 (CA-Jaccard): the group is the camera.
    Preset("ca_jaccard", "intra_inter", "inner_product", None, "pooled"),
)
"""The published presets by name; read-only."""


def resolve_preset(preset: str | Preset | None, *, has_modality: bool) -> Preset:
    """Returns the preset for ``preset``; ``None`` is ``bmil`` with a modality, else ``spcl``.

    Raises:
        TypeError: ``preset`` is neither a name, a :class:`Preset` nor ``None``.
        ValueError: The name is unknown, or the preset needs a modality and there is none.
    """
    if preset is None:
        preset = "bmil" if has_modality else "spcl"
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {shown(preset)}")
        preset = PRESETS[preset]
    if not isinstance(preset, Preset):
        raise TypeError(
            f"preset must be a name, a Preset or None, got {type(preset).__name__}: {shown(preset)}"
        )
    if preset.needs_modality and not has_modality:
        raise ValueError(f"preset {preset.name!r} needs modality, one per sample; got None")
    return preset


def check_k1(preset: Preset, k1: object, num_groups: int) -> int:
    """Returns the checked ``k1`` for this preset and number of groups.

    Raises:
        TypeError: ``k1`` is not an integer.
        ValueError: There are more than 1024 groups; ``k1`` is below 1, below the number of groups
            if it is split between them, or above 1024; or it is set although the preset has its
            own.
    """
    if preset.lists != "single" and num_groups > MAX_K:
        raise ValueError(f"modality must contain at most {MAX_K} groups, got {num_groups}")
    if preset.lists == "intra_inter":
        return _refuse_override(preset, "k1", k1, DEFAULT_K1)
    if preset.lists == "single":
        return check_integer("k1", k1, at_least=1, at_most=MAX_K)
    reason = f", at least one for each of the {num_groups} groups in modality"
    return check_integer(
        "k1", k1, at_least=num_groups, at_most=MAX_K, reason=reason if num_groups > 1 else ""
    )


def check_k2(preset: Preset, k2: object, k1: int) -> int:
    """Returns the checked ``k2`` for this preset.

    Raises:
        TypeError: ``k2`` is not an integer.
        ValueError: It is below 1 or above ``k1``; or it is set although the preset has its own.
    """
    if preset.query_expansion == "pooled":
        return _refuse_override(preset, "k2", k2, DEFAULT_K2)
    try:
        return check_integer("k2", k2, at_least=1, at_most=k1, reason=", which ends at k1")
    except ValueError as error:
        counted = f"preset {preset.name!r} averages {preset.k2_in_words}"
        raise ValueError(f"{error}; {counted}") from None


def _refuse_override(preset: Preset, name: str, value: object, default: int) -> int:
    if as_index(value) != default:
        raise ValueError(
            f"preset {preset.name!r} has its own {name}_intra and {name}_inter (change them with "
            f"dataclasses.replace); {name} must stay {default}, got {shown(value)}"
        )
    return default
