"""The memory of the stages after the ranking, in bytes beyond the features.

Each function describes the allocations of one stage, until the graph beside the lists of the
ranking: change them together. Where the size of a result depends on the features, its number of
entries is an argument; before it is known, ``TYPICAL`` has what features that cluster give.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

from mabm.distance.presets import Preset

# Ranks are int64 and scores float64.
_LIST_ENTRY: Final = 16
# The lists merged by score: a sorted copy of the ranks with its order, the scores in that order,
# and a sorted copy of these with its order.
_MERGED_ENTRY: Final = 48
# Ragged rows grow by doubling in blocks, which are then moved into one tensor.
_GROWTH: Final = 3


class Entries(NamedTuple):
    """Entries of the sparse rows of all samples, per neighbor of a sample.

    Attributes:
        neighbors: Of the neighbor sets, and of the encoding.
        expanded: Of the encoding after query expansion.
        pairs: Of the graph.
    """

    neighbors: float
    expanded: float
    pairs: float


TYPICAL: Final = Entries(neighbors=1.3, expanded=3.0, pairs=1.5)


def list_width(preset: Preset, k1: int) -> int:
    """Largest number of neighbors in all lists of a sample."""
    if preset.lists == "intra_inter":
        return preset.k1_intra + preset.k1_inter + 2
    return k1


def list_bytes(count: int, width: int) -> int:
    """Memory of the lists themselves, ranks and scores."""
    return count * width * _LIST_ENTRY


def neighbor_bytes(count: int, width: int, num_entries: int) -> int:
    """Peak of finding the reciprocal neighbors: masks, merged lists, and the sets as they grow."""
    merged = count * width * (_MERGED_ENTRY + 8 + 2)
    stamps = 8 * count * torch.get_num_threads()
    return merged + stamps + 8 * count + _GROWTH * 4 * num_entries


def encoding_bytes(count: int, num_entries: int) -> int:
    """Peak of the encoding, the neighbor sets included."""
    sets = 8 * count + 4 * num_entries
    return sets + 8 * count + _GROWTH * 8 * num_entries


def expansion_bytes(count: int, num_averaged: int, num_entries: int, num_expanded: int) -> int:
    """Peak of the query expansion, the encoding included."""
    rows = count * num_averaged * 5 * 8  # to average, their weights, and how these are computed
    scratch = 16 * count * torch.get_num_threads()
    encoding = 8 * count + 8 * num_entries
    expanded = 8 * count + _GROWTH * 8 * num_expanded
    return rows + scratch + encoding + expanded


def graph_bytes(count: int, num_expanded: int, num_pairs: int) -> int:
    """Peak of the graph: the encoding, the same by columns, and the pairs as they grow."""
    encoding = 8 * count + 8 * num_expanded
    by_column = 16 * count + 16 * num_expanded
    scratch = 16 * count * torch.get_num_threads()
    return encoding + by_column + scratch + 24 * count + _GROWTH * 8 * num_pairs
