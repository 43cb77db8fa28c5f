"""How each old function is called on random features, for the comparison with ours."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NUM_PEOPLE, NUM_IMAGES, NUM_DIMENSIONS = 30, 10, 64
_CPU_ROUTE: Final = 3  # search_option of a faiss without a GPU

Run: TypeAlias = Callable[[Callable[..., Any], list[str]], tuple[Any, ...]]
"""Calls a function whose parameters have these names, and returns its results."""


def _features(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns (300, 64) unit vectors and the (300,) person of each."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.arange(NUM_PEOPLE).repeat(NUM_IMAGES)
    centers = torch.randn(NUM_PEOPLE, NUM_DIMENSIONS, generator=generator)
    noise = torch.randn(len(people), NUM_DIMENSIONS, generator=generator)
    return F.normalize(centers[people] + noise, dim=1), people


def _accepted(names: list[str], **options: object) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def run_jaccard(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    options = _accepted(names, search_option=_CPU_ROUTE, print_flag=False)
    return (function(_features()[0], k1=20, k2=6, **options),)


def run_modal_invariant(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    options = _accepted(names, search_option=_CPU_ROUTE, print_flag=False)
    return (function(features, _files(len(features)), k1=20, k2=6, **options),)


def run_xmodal(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    count = len(features) // 2
    files = [file for file, _, _ in _files(len(features))]
    files = sorted(files, key=lambda file: "ir_modify" in file)  # the visible rows come first
    options = _accepted(names, print_flag=False, all_file_name=files, rgbNum=count)
    return (function(features, k1=30, k2=6, search_option=4, **options),)


def _files(count: int) -> list[tuple[str, int, int]]:
    return [(f"{('rgb', 'ir')[n % 2]}_modify/{n}.jpg", 0, n % 2) for n in range(count)]


def run_cameras(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    options = {"k1": 30, "k2": 6, "k1_intra": 5, "k1_inter": 20, "k2_intra": 2, "k2_inter": 4}
    args = Namespace(**options, ckrnns=True, clqe=True)
    return (function(features, torch.arange(len(features)) % 3, epoch=1, args=args),)


def run_ranked(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    pair = (features, _features(seed=1)[0]) if len(names) > 1 and names[1] != "k" else (features,)
    options = _accepted(names, search_option=_CPU_ROUTE, verbose=False)
    return (function(*pair, k=20, **options),)


def run_re_ranking(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    query, gallery = features[:60], features[60:]
    if any("fea" in name.lower() for name in names[:2]):
        return (function(query, gallery, 20, 6, 0.3),)
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return (function(*(torch.cdist(*pair).numpy() for pair in pairs), 20, 6, 0.3),)


def run_build_dist(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    pair = (features[:60], features[60:])
    if names[:1] == ["cfg"]:
        cfg = Namespace(dist_metric="jaccard", k1=20, k2=6, search_type=_CPU_ROUTE)
        return (function(cfg, *pair),)
    return (function(*pair, metric="jaccard", k1=20, k2=6, search_option=_CPU_ROUTE),)


def run_two_sets(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, _ = _features()
    return (function(features[:60], features[60:], *([False] if "cuda" in names else [])),)


def run_scores(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, people = _features()
    distance = torch.cdist(features[:60], features[60:]).numpy()
    ids = people.numpy()
    cameras = 3 * np.ones(60, dtype=np.int64), np.arange(len(ids) - 60) % 2 + 1
    columns = cameras if "q_camids" in names else ()
    found = function(distance, ids[:60], ids[60:], *columns)
    return tuple(found)


def run_product(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, targets = _features()
    inputs, targets = features[:64].clone().requires_grad_(), targets[:64]
    name = function.__name__
    options = {"num_instances": 4} if name == "cm_hybrid_v2" else {}  # 1 + 4 banks
    banks = {"cm_hybrid": 2, "cm_hybrid_v2": 5}.get(name, 1)
    memory = _features(seed=1)[0][: banks * NUM_PEOPLE].clone()
    outputs = function(inputs, targets, memory, 0.2, **options)
    outputs.square().sum().backward()
    return outputs, inputs.grad, memory


def run_memory(
    function: Callable[..., Any], names: list[str], rows: int = NUM_PEOPLE
) -> tuple[Any, ...]:
    features, targets = _features()
    inputs, targets = features[:64].clone().requires_grad_(), targets[:64]
    options = _accepted(names, sample_type="hard")  # ISE's default, which ours does not have
    memory = function(NUM_DIMENSIONS, NUM_PEOPLE, temp=0.05, momentum=0.2, **options)
    memory.features = _features(seed=1)[0][:rows].clone()
    loss = memory(F.normalize(inputs, dim=1), targets)  # as models do
    loss.backward()
    return loss, inputs.grad, memory.features


def run_hybrid_memory(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    features, people = _features()
    inputs = _features(seed=1)[0][:64].clone().requires_grad_()
    memory = function(NUM_DIMENSIONS, len(features), temp=0.05, momentum=0.2)
    memory.features, memory.labels = features.clone(), people.clone()
    loss = memory(inputs, torch.arange(64))
    loss.backward()
    return loss, inputs.grad, memory.features


def run_nearest(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    return tuple(function(_features()[0].numpy(), k=20, knn_method="faiss-cpu"))


def run_infomap(function: Callable[..., Any], names: list[str]) -> tuple[Any, ...]:
    similarity = _features()[0] @ _features()[0].T
    values, neighbors = similarity.topk(20, dim=1)
    return (function(neighbors.numpy(), (1 - values).numpy(), min_sim=0.5, cluster_num=4),)


RUNS: Final[dict[tuple[str, str], Run]] = {
    ("clustercontrast", "compute_jaccard_distance"): run_jaccard,
    ("cap", "faiss_compute_jaccard_dist"): run_jaccard,
    ("reranking", "compute_jaccard_dist"): run_jaccard,
    ("fastreid", "compute_jaccard_distance"): run_jaccard,
    ("modal_invariant", "compute_modal_invariant_jaccard_distance"): run_modal_invariant,
    ("bmil", "compute_jaccard_distance_xmodal"): run_xmodal,
    ("ca_jaccard", "compute_jaccard_distance"): run_cameras,
    ("ranked_lists", "compute_ranked_list"): run_ranked,
    ("ranked_lists", "compute_ranked_list_cm"): run_ranked,
    ("reranking", "re_ranking"): run_re_ranking,
    ("fastreid", "build_dist"): run_build_dist,
    ("fastreid", "compute_euclidean_distance"): run_two_sets,
    ("fastreid", "compute_cosine_distance"): run_two_sets,
    ("evaluation", "eval_sysu"): run_scores,
    ("evaluation", "eval_regdb"): run_scores,
    ("evaluation", "eval_llcm"): run_scores,
    ("clustercontrast", "ClusterMemory"): run_memory,
    ("clustercontrast", "cm"): run_product,
    ("clustercontrast", "cm_hard"): run_product,
    ("clustercontrast", "cm_hybrid"): run_product,
    ("hhcl", "ClusterMemory"): run_memory,
    ("hhcl", "cm"): run_product,
    ("hhcl", "cm_hard"): run_product,
    ("hhcl", "cm_hybrid"): run_product,
    ("hhcl", "cm_hybrid_v2"): run_product,
    ("spcl", "HybridMemory"): run_hybrid_memory,
    ("spcl", "hm"): run_product,
    ("infomap", "get_dist_nbr"): run_nearest,
    ("infomap", "cluster_by_infomap"): run_infomap,
}
