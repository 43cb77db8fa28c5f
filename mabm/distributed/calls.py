"""What every function on several processes does first: check, agree, and learn of all samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import MOST_SAMPLES
from mabm._core.columns import Samples, check_samples, in_order
from mabm.distance.options import DistanceOptions, check_precision
from mabm.distance.presets import DEFAULT_K2, Preset, check_k1, resolve_preset
from mabm.distributed.agreement import Ready
from mabm.distributed.meeting import meet
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """What a function works with.

    Attributes:
        own: What its own checks returned.
        team: The processes.
        shard: The rows of this process.
        group_names: Names of group 0, 1, ..., or ``None`` if the groups are integers.
        options: The distance, checked for the groups of all processes.
    """

    own: T
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
    check_more: Callable[[], tuple[T, Mapping[str, object]]],
) -> Iterator[Call[T]]:
    """Within the context, all processes of a group work on one call.

    Args:
        name: Name of the function.
        features: (n, D), the rows of this process.
        modality: (n,) or ``None``.
        group: The processes; ``None`` for the default group, or this process alone without one.
        timeout: Seconds to wait for the others.
        k1: Number of neighbors per sample.
        k2: Number of neighbors to average; ``None`` where no rows are averaged.
        preset: Name of a published distance or a :class:`mabm.Preset`; ``None`` for the one that
            fits the modality.
        precision: ``"exact"`` or ``"fast"``.
        check_more: Checks all other arguments; returns them, and by name those that must be the
            same on every process.

    Raises:
        TypeError: An argument of any process has the wrong type; so on every process.
        ValueError: An argument of any process is out of range, or differs between processes.
        mabm.distributed.ProcessError: A process did not come, or was lost on the way.
    """

    def prepare() -> Ready[tuple[Samples, T]]:
        own, more = check_more()
        samples = check_samples(features, modality)
        if not isinstance(check_precision(precision), str):
            raise ValueError(
                'precision must be "exact" or "fast" on several processes, got a search: '
                f"{shown(precision)}"
            )
        chosen = resolve_preset(preset, has_modality=modality is not None)
        x: Any = features
        agreed = {
            "dtype of features": str(x.dtype).removeprefix("torch."),
            "number of dimensions D": samples.features.shape[1],
            "modality": "None" if modality is None else "one",
            "preset": chosen,
            "k1": check_k1(chosen, k1, num_groups=1),
            "k2": k2 if k2 is None else check_integer("k2", k2, at_least=1),
            "precision": precision,
            **more,
        }
        return Ready(agreed, _facts(samples), samples.features.device, (samples, own))

    def resolve(facts: list[dict[str, Any]]) -> DistanceOptions:
        sizes = _learn(facts, modality is not None)[2]
        num_groups = None if modality is None else max(len(sizes), 1)
        return _resolve(k1, k2, preset, precision, num_groups)

    with meet(name, group, timeout, prepare, resolve) as meeting:
        samples, own = meeting.own
        counts, names, sizes = _learn(meeting.facts, modality is not None)
        groups = samples.groups
        if not sum(counts):  # no row of any process to tell
            names = samples.group_names
        elif groups is not None and names is not None and samples.group_names is not None:
            number_of = {word: number for number, word in enumerate(names)}
            numbers = [number_of[word] for word in samples.group_names]
            groups = torch.tensor(numbers, dtype=torch.int64, device=groups.device)[groups]
        shard = Shard(samples.features, groups, meeting.team.rank, counts, sizes)
        yield Call(own, meeting.team, shard, names, resolve(meeting.facts))


def _resolve(
    k1: int, k2: int | None, preset: str | Preset | None, precision: object, num_groups: int | None
) -> DistanceOptions:
    """:meth:`DistanceOptions.resolve`, where ``k2`` may be ``None``: any that is valid."""
    chosen = resolve_preset(preset, has_modality=num_groups is not None)
    if k2 is None:
        k2 = DEFAULT_K2 if chosen.query_expansion == "pooled" else 1
    return DistanceOptions.resolve(k1, k2, chosen, precision, num_groups=num_groups)


def _facts(samples: Samples) -> dict[str, Any]:
    """The number of rows, and the groups among them with their sizes: integers, or words."""
    groups: list[tuple[Any, int]] = []
    if samples.groups is not None and len(samples.groups):
        values, sizes = torch.unique(samples.groups, return_counts=True)
        found = dict(zip(values.tolist(), sizes.tolist(), strict=True))
        groups = list(found.items())
        if samples.group_names is not None:
            groups = [(name, found.get(n, 0)) for n, name in enumerate(samples.group_names)]
    return {"count": len(samples.features), "groups": groups}


def _learn(
    facts: list[dict[str, Any]], has_groups: bool
) -> tuple[tuple[int, ...], tuple[str, ...] | None, dict[int, int]]:
    """The numbers of rows of all processes, the names of all groups and their sizes.

    Raises:
        TypeError: Some processes have words, and others integers.
        ValueError: There are too many samples.
    """
    counts = tuple(each["count"] for each in facts)
    total = sum(counts)
    if total > MOST_SAMPLES:
        raise ValueError(
            f"features must have at most {MOST_SAMPLES} rows on all processes together, got {total}"
        )
    if not has_groups:
        return counts, None, {0: total}
    sizes: Counter[Any] = Counter()
    kinds: dict[type, int] = {}
    for rank, each in enumerate(facts):
        for value, size in each["groups"]:
            sizes[value] += size
            kinds.setdefault(type(value), rank)
    if len(kinds) > 1:
        raise TypeError(
            "modality must contain words on every process or integers on every process, got words "
            f"on process {kinds[str]} and integers on process {kinds[int]}"
        )
    if str not in kinds:
        return counts, None, {value: sizes[value] for value in sorted(sizes)}
    names = tuple(sorted(sizes, key=in_order))
    return counts, names, {n: sizes[name] for n, name in enumerate(names) if sizes[name]}
