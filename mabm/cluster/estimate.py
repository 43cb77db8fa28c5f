"""What ``pseudo_labels`` will take on this machine's CPU, before it is run.

Memory is a formula of the sizes. Seconds are those of small synthetic features, measured here, and
scaled: pairs by N^2, what is done for each sample by N, and the stages after the ranking by N^1.2.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mabm._core.arguments import check_integer
from mabm._core.arrays import MOST_SAMPLES
from mabm._core.saving import Saved
from mabm._core.work import Progress, Work, in_words
from mabm.cluster.dbscan import DBSCAN
from mabm.distance.encoding import encode, expand
from mabm.distance.jaccard import prune
from mabm.distance.list_layout import list_widths
from mabm.distance.memory import (
    encoding_bytes,
    expansion_bytes,
    graph_bytes,
    list_bytes,
    list_width,
    neighbor_bytes,
)
from mabm.distance.neighbors import find_neighbors
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, PRESETS, Preset
from mabm.distance.ranking import rank
from mabm.distance.rung_choice import samples_with_choice
from mabm.distance.screening import screen_peak

_RANKING: Final = "ranking"
_CLUSTERING: Final = "clustering"
# How the seconds of the stages after the ranking grow with N.
_EXPONENT: Final = 1.2
# Directions that are compared first in features of few directions.
_FEW_DIRECTIONS: Final = 96
# Samples of the trial of all stages, and how many neighbors they may have together: large sets of
# neighbors take long.
_LEAST_TRIAL, _MOST_TRIAL = 1000, 6000
_TRIAL_NEIGHBORS: Final = 200_000
# Multiplications of a trial of pairs, a fraction of a second, and its samples.
_PAIR_PRODUCTS: Final = 1 << 31
_LEAST_PAIRS, _MOST_PAIRS = 400, 1500
_MOST_DIMENSIONS: Final = 8192  # of any trial
# The features of the trial: samples of each person, and directions in which people differ.
_PER_PERSON: Final = 40
_LATENT: Final = 48
# Pairs of a sample in a graph, relative to its neighbors.
_PAIRS: Final = 2


@dataclass(frozen=True)
class Estimate(Saved):
    """What a call of :func:`mabm.pseudo_labels` will take on this machine's CPU.

    Seconds depend on the features, which an estimate does not see, and on what else the machine
    does. So there are two: features whose differences lie in few directions, as those of trained
    encoders do, and noise, for which all dimensions of all pairs are compared.

    Attributes:
        num_samples: Number of samples, N.
        dim: Number of dimensions, D.
        seconds: Seconds for features of few directions.
        most_seconds: Seconds for noise, in float32; where the processor has fast instructions for
            8-bit integers, noise may take fewer.
        peak_bytes: Most bytes that are allocated at a time beyond the features in float32, if the
            sets of neighbors are of common sizes: hundreds of copies of one image need more.
        stage_seconds: ``seconds`` by stage, under the names of :class:`mabm.Progress`.
        stage_bytes: Most bytes of each stage, with what it needs from earlier ones; the greatest
            is ``peak_bytes``.

    Example:
        >>> import mabm
        >>> estimate = mabm.estimate(2000, 64)
        >>> list(estimate.stage_seconds)
        ['ranking', 'neighbors', 'encoding', 'query expansion', 'graph', 'clustering']
        >>> estimate.seconds <= estimate.most_seconds, estimate.peak_bytes < 100_000_000
        (True, True)
    """

    num_samples: int
    dim: int
    seconds: float
    most_seconds: float
    peak_bytes: int
    stage_seconds: dict[str, float]
    stage_bytes: dict[str, int]

    def __str__(self) -> str:
        rows = [(f"{self.num_samples} x {self.dim}", "time", "memory")]
        for stage, seconds in self.stage_seconds.items():
            rows.append((stage, _duration(seconds), in_words(self.stage_bytes[stage])))
        rows.append(("in all", _duration(self.seconds), f"{in_words(self.peak_bytes)} at most"))
        table = "\n".join(f"{first:<18}{second:<20}{third}" for first, second, third in rows)
        return f"{table}\nfeatures without structure (noise): {_duration(self.most_seconds)}"


def estimate(
    num_samples: int,
    dim: int,
    num_groups: int | None = 2,
    *,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
) -> Estimate:
    """Estimates what :func:`mabm.pseudo_labels` will take on the CPU, in about a second.

    Small synthetic features of the same D are clustered, on as many threads as PyTorch uses now,
    and their seconds scaled to N. Expect them to be right within a factor of two on a machine that
    does nothing else; memory is what is allocated at most, often twice what is needed. A GPU, an
    approximate search, a limit (``max_memory``) and another clusterer are not estimated.

    Args:
        num_samples: Number of samples, N, at least 1.
        dim: Number of dimensions of the features, D, at least 1.
        num_groups: Number of modalities, in [1, ``num_samples``]; ``None`` without modality.
        k1: Number of neighbors per sample, in [1, 1024] and at least one for each modality.
        k2: Number of neighbors averaged by local query expansion, in [1, ``k1``].
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.

    Returns:
        Seconds and bytes, in total and by stage; ``print`` shows a table.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the message names it, the range and the value.

    Example:
        >>> import mabm
        >>> estimate = mabm.estimate(3000, 256, k1=20)
        >>> print(estimate)  # doctest: +ELLIPSIS
        3000 x 256        time                memory
        ranking           ...
        in all            ... at most
        features without structure (noise): ...
    """
    count = check_integer("num_samples", num_samples, at_least=1, at_most=MOST_SAMPLES)
    dim = check_integer("dim", dim, at_least=1, at_most=MOST_SAMPLES)
    if num_groups is not None:
        num_groups = check_integer("num_groups", num_groups, at_least=1, at_most=count)
    options = DistanceOptions.resolve(k1, k2, preset, "exact", num_groups=num_groups)
    stage_bytes = _bytes(count, dim, num_groups or 1, options)
    stage_seconds, more = _seconds(count, dim, num_groups, options)
    seconds = sum(stage_seconds.values())
    return Estimate(
        count,
        dim,
        seconds,
        seconds + more,
        max(stage_bytes.values()),
        stage_seconds,
        {stage: stage_bytes[stage] for stage in stage_seconds},
    )


def _bytes(count: int, dim: int, num_groups: int, options: DistanceOptions) -> dict[str, int]:
    """Most bytes of each stage beyond the features, sets of neighbors being of common sizes."""
    preset, k1, k2 = options.preset, options.k1, options.k2
    widths = list_widths(preset, k1, _sizes(count, num_groups))
    width = list_width(preset, k1)
    averaged = k2 * (num_groups if preset.query_expansion == "list_means" else 1)
    if preset.query_expansion == "pooled":
        averaged = preset.k2_intra + preset.k2_inter
    averaged = min(averaged, width)
    entries = count * min(width, count)
    expanded = count * min(width * averaged, count)
    pairs = count * min(_PAIRS * width, count)
    beside = list_bytes(count, width)
    graph = graph_bytes(count, expanded, pairs)
    parts = {
        _RANKING: screen_peak(count, dim, widths),
        "neighbors": neighbor_bytes(count, width, entries),
        "encoding": encoding_bytes(count, entries),
        "query expansion": expansion_bytes(count, averaged, entries, expanded),
        "graph": graph,
        _CLUSTERING: graph,
    }
    return {stage: beside + num_bytes for stage, num_bytes in parts.items()}


def _sizes(count: int, num_groups: int) -> list[int]:
    """Sizes of groups as equal as they can be."""
    return [(count + number) // num_groups for number in range(num_groups)]


def _seconds(
    count: int, dim: int, num_groups: int | None, options: DistanceOptions
) -> tuple[dict[str, float], float]:
    """Seconds by stage for features of few directions, and how many more noise takes."""
    trial_dim = min(dim, _MOST_DIMENSIONS)
    width = list_width(options.preset, options.k1)
    size = min(_MOST_TRIAL, max(_LEAST_TRIAL, samples_with_choice(trial_dim)))
    size = min(count, max(min(size, _TRIAL_NEIGHBORS // width), num_groups or 1))
    _time_stages(*_trial(min(size, 200), min(trial_dim, 32), num_groups), options)  # starts threads
    found = _time_stages(*_trial(size, trial_dim, num_groups), options)
    few = _seconds_of_pair(min(_FEW_DIRECTIONS, trial_dim))
    widest = few
    if trial_dim > _FEW_DIRECTIONS:
        widest = max(few, _seconds_of_pair(trial_dim))
    wider, larger = dim / trial_dim, count / size
    # What the trial took beside its pairs is done for each sample.
    of_samples = max(found[_RANKING] - few * size * size, 0.0)
    of_pairs = few * count * count if size < count else found[_RANKING] - of_samples
    scaled = {stage: seconds * larger**_EXPONENT for stage, seconds in found.items()}
    scaled[_RANKING] = of_samples * larger * wider + of_pairs
    more = max(widest * wider - few, 0.0) * count * count
    return scaled, more


def _normal_numbers() -> Callable[..., Tensor]:
    """Draws float32 numbers of a given shape on the CPU, the same ones each time."""
    generator = torch.Generator("cpu").manual_seed(0)
    return functools.partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")


def _trial(size: int, dim: int, num_groups: int | None) -> tuple[Tensor, Tensor | None]:
    """Features (N, D) of people in a few directions, and their groups."""
    draw = _normal_numbers()
    order = torch.arange(size, device="cpu")
    people = order % max(size // _PER_PERSON, 1)
    groups = None if num_groups is None else order.flip(0) % num_groups
    hidden = draw(size, _LATENT)
    hidden = hidden + draw(size, _LATENT)[people]
    features = hidden @ draw(_LATENT, dim) / _LATENT**0.5
    features += 0.2 * draw(size, dim)
    return torch.nn.functional.normalize(features, dim=1), groups


def _time_stages(x: Tensor, groups: Tensor | None, options: DistanceOptions) -> dict[str, float]:
    """Seconds of every stage, by name."""
    seconds: dict[str, float] = {}

    def note(progress: Progress) -> None:
        seconds[progress.stage] = progress.seconds

    work, clusterer = Work.of(progress=note), DBSCAN()
    ranking = rank(x, groups, options.preset, options.k1, work=work)
    encoding = encode(x, find_neighbors(ranking, work), ranking, work)
    encoding = expand(encoding, ranking, options.k2, work)
    graph = prune(encoding, clusterer.max_distance, work)
    with work.stage(_CLUSTERING, len(x)):
        clusterer(graph)
    return seconds


def _seconds_of_pair(dim: int) -> float:
    """Seconds of an ordered pair of samples in a ranking by all dimensions, from trials of noise.

    A ranking takes ``a N + b N^2`` seconds; this is b.
    """
    size = max(_LEAST_PAIRS, min(_MOST_PAIRS, math.isqrt(_PAIR_PRODUCTS // dim)))
    x = torch.nn.functional.normalize(_normal_numbers()(2 * size, dim), dim=1)

    def seconds(samples: Tensor) -> float:
        tries = []
        for _ in range(2):
            began = time.perf_counter()
            rank(samples, None, PRESETS["spcl"], DEFAULT_K1)
            tries.append(time.perf_counter() - began)
        return min(tries)

    whole = seconds(x)
    # Timings are inexact: at least half of the time is that of pairs at this size.
    return max(whole - 2 * seconds(x[:size]), whole / 4) / (2 * size * size)


def _duration(seconds: float) -> str:
    """Seconds in words, such as ``about 3 minutes``."""
    if seconds < 1:
        return "less than a second"
    for unit, length, most in (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 36)):
        if (number := round(seconds / length)) < most:
            return f"about {number} {unit}{'s' * (number != 1)}"
    return f"about {round(seconds / 86400)} days"
