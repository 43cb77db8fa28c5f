"""What every function on several processes does first: check, agree, and learn of all samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mabm._core.arguments import shown
from mabm._core.columns import Samples, check_samples, in_order
from mabm.distance.options import DistanceOptions, check_precision
from mabm.distance.presets import DEFAULT_K2, Preset, resolve_preset
from mabm.distributed.agreement import meet
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team

_MOST_SAMPLES = 2**31 - 1  # they are numbered in int32


class Call(NamedTuple):
    """What a function works with.

    Attributes:
        team: The processes.
        shard: The rows of this process.
        group_names: Names of group 0, 1, ..., or ``None`` if the groups are integers.
        options: The distance, checked for the groups of all processes.
    """

    team: Team
    shard: Shard
    group_names: tuple[str, ...] | None
    options: DistanceOptions


@contextmanager
def open_call(
    name: str,
    features: object,
    modality: object,
    group: dist.ProcessGroup | None,
    timeout: float | timedelta | None,
    *,
    k1: int,
    k2: int | None,
    preset: str | Preset | None,
    precision: object,
    more: Mapping[str, object],
) -> Iterator[Call]:
    """Within the context, all processes of a group work on one call.

    Args:
        name: Name of the function.
        features: (n, D), the rows of this process.
        modality: (n,) or ``None``.
        group: The processes; ``None`` for the default group, or this process alone without one.
        timeout: Seconds to wait for the others.
        k1: As in :func:`mabm.pseudo_labels`.
        k2: The same; ``None`` where no rows are averaged.
        preset: The same.
        precision: ``"exact"`` or ``"fast"``.
        more: Further arguments that must be the same on every process, by name.

    Raises:
        TypeError: An argument of any process has the wrong type; so on every process.
        ValueError: An argument of any process is out of range, or differs between processes.
        mabm.distributed.ProcessError: A process did not come, or was lost on the way.
    """

    def prepare() -> tuple[tuple[Samples, DistanceOptions], dict[str, str], dict[str, Any]]:
        samples = check_samples(features, modality)
        if not isinstance(check_precision(precision), str):
            raise ValueError(
                'precision must be "exact" or "fast" on several processes, got a search: '
                f"{shown(precision)}"
            )
        num_groups = None if samples.groups is None else 1
        options = _resolve(k1, k2, preset, precision, num_groups)
        x: Any = features
        agreed: dict[str, object] = {
            "dtype of features": str(x.dtype).removeprefix("torch."),
            "number of dimensions D": samples.features.shape[1],
            "device type of features": samples.features.device.type,
            "modality": "none" if modality is None else "given",
            "preset": options.preset,
            "k1": options.k1,
            "k2": options.k2,
            "precision": options.precision,
            **more,
        }
        words = {argument: shown(value) for argument, value in agreed.items()}
        return (samples, options), words, _facts(samples)

    with meet(name, group, timeout, prepare) as (team, (samples, options), facts):
        groups, names, sizes = _join_groups(samples, facts)
        counts = tuple(each["count"] for each in facts)
        if sum(counts) > _MOST_SAMPLES:
            raise ValueError(
                f"features must have at most {_MOST_SAMPLES} rows on all processes together, got "
                f"{sum(counts)}"
            )
        shard = Shard(samples.features, groups, team.rank, counts, sizes)
        num_groups = None if groups is None else max(len(sizes), 1)
        yield Call(team, shard, names, options.for_groups(num_groups))


def _resolve(
    k1: int, k2: int | None, preset: str | Preset | None, precision: object, num_groups: int | None
) -> DistanceOptions:
    """:meth:`DistanceOptions.resolve`, where ``k2`` may be ``None``: any that is valid."""
    chosen = resolve_preset(preset, has_modality=num_groups is not None)
    if k2 is None:
        k2 = DEFAULT_K2 if chosen.query_expansion == "pooled" else 1
    return DistanceOptions.resolve(k1, k2, chosen, precision, num_groups=num_groups)


def _facts(samples: Samples) -> dict[str, Any]:
    """What the others must know: the number of rows, and the groups with their numbers of rows.

    Groups are words or integers; ``None`` if there is no row to tell.
    """
    count, groups = len(samples.features), None
    if samples.groups is not None and count:
        values, sizes = torch.unique(samples.groups, return_counts=True)
        found = dict(zip(values.tolist(), sizes.tolist(), strict=True))
        if samples.group_names is not None:
            found = {name: found.get(number, 0) for number, name in enumerate(samples.group_names)}
        groups = list(found.items())
    return {"count": count, "groups": groups}


def _join_groups(
    samples: Samples, facts: list[dict[str, Any]]
) -> tuple[Tensor | None, tuple[str, ...] | None, dict[int, int]]:
    """The groups of these rows by common numbers, their names, and the sizes of all groups.

    Raises:
        TypeError: Some processes have words, and others integers.
    """
    if samples.groups is None:
        return None, None, {0: sum(each["count"] for each in facts)}
    sizes: Counter[Any] = Counter()
    kinds: dict[type, int] = {}
    for rank, each in enumerate(facts):
        for value, size in each["groups"] or ():
            sizes[value] += size
            kinds.setdefault(type(value), rank)
    if len(kinds) > 1:
        raise TypeError(
            "modality must contain words on every process or integers on every process, got words "
            f"on process {kinds[str]} and integers on process {kinds[int]}"
        )
    if str not in kinds:
        return samples.groups, None, {value: sizes[value] for value in sorted(sizes)}
    names = tuple(sorted(sizes, key=in_order))
    numbers = {name: number for number, name in enumerate(names)}
    table = torch.tensor(
        [numbers[name] for name in samples.group_names or ()],
        dtype=torch.int64,
        device=samples.groups.device,
    )
    groups = table[samples.groups] if len(samples.groups) else samples.groups
    return groups, names, {number: sizes[name] for name, number in numbers.items() if sizes[name]}
