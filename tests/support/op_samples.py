"""One call of each op, from one small problem."""

from typing import Any

import torch
from devices import Device

OPS = torch.ops.mabm


def make_samples(device: Device, *, reverse: bool = False) -> dict[str, tuple[Any, ...]]:
    """The arguments of each op, by name, on a device; in reverse others of the same sizes."""
    features = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    features = device.put(features.flip(0) if reverse else features)
    groups = device.put(torch.arange(24, dtype=torch.int32) % 2)
    list_of_group = device.put(torch.tensor([[0, 1], [0, 1]], dtype=torch.int32))
    rows = device.put(torch.arange(24))
    state = tuple(
        device.put(part)
        for part in (
            torch.zeros(24, 2, 8),
            torch.zeros(24, 2, 8, dtype=torch.int32),
            torch.zeros(24, 2, dtype=torch.int32),
            torch.full((24, 2), -torch.inf),
        )
    )
    collected = tuple(part.clone() for part in state)
    biases = device.put(torch.ones(24))
    widths = [3, 3]
    gaps = device.put(torch.full((24,), 1e-4))
    lists = (groups, groups, list_of_group, 0, gaps, widths, True, False, None, None)
    tile = (features @ features.T, biases, *lists)
    OPS.collect_candidates_(*tile, *collected)
    ranks, products = OPS.rank_exactly(features, rows, groups, list_of_group, widths, False)
    mask = OPS.reciprocal_mask(ranks)
    sets = OPS.expand_neighbors(ranks, mask, ranks, mask)
    encoding = OPS.encode_neighbors(features, *sets, None, None)
    graph = OPS.jaccard_graph(*encoding, 0.9)
    pair_products = sets[1].to(torch.float64) / 24
    pairs = ((7 * rows[:12] + reverse) % 24).to(torch.int32)
    weights = device.put(torch.full((24, 6), 1 / 6, dtype=torch.float64))
    center = features.mean(dim=0)
    integers = device.put(torch.zeros(24, 16, dtype=torch.int8))
    samples = {
        "measure_columns": (features,),
        "measure_rows": (features, center),
        "halve_rows": (features, center, device.put(torch.tensor(2.0**9))),
        "round_rows_": (features, center, integers),
        "collect_candidates_": (*tile, *state),
        "rank_candidates": (features, rows, *collected[1:3], widths, False),
        "rank_exactly": (features, rows, groups, list_of_group, widths, True),
        "reciprocal_mask": (ranks,),
        "expand_neighbors": (ranks, mask, ranks, mask),
        "encode_neighbors": (features, *sets, ranks, products),
        "weigh_products": (*sets, pair_products, 7),
        "average_encodings": (*encoding, ranks, weights),
        "jaccard_distance": (*encoding, *encoding, 24),
        "jaccard_graph": (*encoding, 0.9),
        "near_rows": (*encoding, *encoding, 24, 0.9),
        "dbscan": (*graph, 0.6, 3),
        "join_samples_": (rows.to(torch.int32), pairs, pairs.flip(0)),
    }
    if device.torch.type == "cpu":
        samples |= make_cpu_samples(features, list_of_group, groups, widths)
    return samples


def make_cpu_samples(
    features: torch.Tensor, list_of_group: torch.Tensor, groups: torch.Tensor, widths: list[int]
) -> dict[str, tuple[Any, ...]]:
    """The arguments of the ops that only the CPU has."""
    count = len(features)
    numbers = torch.arange(count, dtype=torch.int32)
    small = torch.full((count,), 1e-4)
    terms = (torch.zeros(count), small, small, small, None, None, None)
    state = (
        torch.zeros(count, 2, 12),
        torch.zeros(count, 2, 12, dtype=torch.int32),
        torch.zeros(count, 2, dtype=torch.int32),
        torch.full((count, 2, 3), -torch.inf),
        torch.full((count, 2), -torch.inf),
    )
    pairs = (groups, list_of_group, widths, numbers, numbers, numbers, True, True, True)
    center = features.mean(dim=0)
    screened = (features, center, 1.0, *terms, *pairs)
    found = tuple(part.clone() for part in state)
    OPS.screen_pairs_(*screened, *found)
    return {
        "screen_pairs_": (*screened, *state),
        "cut_candidates_": (*found[:3], found[4]),
    }
