"""CA-Jaccard under its old name: released outputs, and every combination of its switches."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDEN, Golden
from sklearn.cluster import DBSCAN

import mabm
from mabm import reference
from mabm.compat.ca_jaccard import compute_jaccard_distance
from mabm.compat.clustercontrast import ClusterMemory

CAMERA_AWARE = [golden for golden in GOLDEN if golden.preset.name == "ca_jaccard"]
LENGTHS = ("k1_intra", "k1_inter", "k2_intra", "k2_inter")


def options_of(golden: Golden, **changes: object) -> argparse.Namespace:
    lengths = {name: getattr(golden.preset, name) for name in LENGTHS}
    return argparse.Namespace(
        **{"k1": 30, "k2": 6, "ckrnns": True, "clqe": True, **lengths, **changes}
    )


@pytest.mark.parametrize("golden", CAMERA_AWARE, ids=str)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_released_distances(golden: Golden, kind: type) -> None:
    distance = compute_jaccard_distance(
        features=kind(golden.features),
        cam_labels=kind(golden.modality),
        epoch=1,
        args=options_of(golden),
    )
    assert isinstance(distance, np.ndarray)
    assert distance.dtype == np.float32
    assert (distance >= 0).all()
    np.testing.assert_allclose(distance, golden.distance, rtol=0, atol=1e-5)


def slow_distance(
    golden: Golden, *, ckrnns: bool, clqe: bool, k1: int, k2: int, preset: mabm.Preset
) -> np.ndarray:
    """The definition by the stages of the reference."""
    features, cameras = golden.features, golden.modality
    classic = replace(mabm.PRESETS["spcl"], metric="inner_product")
    presets = {True: preset, False: classic}
    # A sample lies beside its k1 neighbors.
    lists = reference.rank(features, cameras, presets[ckrnns], k1 + 1)
    sets = reference.k_reciprocal_sets(features, lists, presets[ckrnns], k1)
    encoding = reference.encode(features, sets)
    if k2 > 1:
        whole = replace(preset, k1_intra=len(features), k1_inter=len(features))
        ranks = reference.rank(features, cameras, whole if clqe else classic, len(features))
        encoding = reference.expand_queries(features, encoding, ranks, cameras, presets[clqe], k2)
    return reference.jaccard(encoding)


@pytest.mark.parametrize("ckrnns", [True, False])
@pytest.mark.parametrize("clqe", [True, False])
@pytest.mark.parametrize(("k2", "epoch"), [(6, 1), (6, None), (6, 0), (1, 1)])
def test_every_combination_of_switches(
    ckrnns: bool, clqe: bool, k2: int, epoch: int | None
) -> None:
    golden = CAMERA_AWARE[0]
    args = options_of(golden, ckrnns=ckrnns, clqe=clqe, k1=15, k2=k2)
    found = compute_jaccard_distance(golden.features, golden.modality, epoch, args)
    warm_up = {"k2_intra": 3, "k2_inter": 3} if epoch == 0 else {}
    expected = slow_distance(
        golden, ckrnns=ckrnns, clqe=clqe, k1=15, k2=k2, preset=replace(golden.preset, **warm_up)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("k2", "k2_intra", "k2_inter"), [(16, 2, 4), (25, 9, 4), (6, 7, 30)])
@pytest.mark.parametrize("clqe", [True, False])
def test_averages_may_reach_beyond_the_lists(
    k2: int, k2_intra: int, k2_inter: int, clqe: bool
) -> None:
    golden = CAMERA_AWARE[0]
    lengths = {"k2_intra": k2_intra, "k2_inter": k2_inter}
    args = options_of(golden, clqe=clqe, k1=15, k2=k2, **lengths)
    found = compute_jaccard_distance(golden.features, golden.modality, 1, args)
    preset = replace(golden.preset, **lengths)
    expected = slow_distance(golden, ckrnns=True, clqe=clqe, k1=15, k2=k2, preset=preset)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_epochs_as_that_code_base_writes_them() -> None:
    rng = np.random.default_rng(0)
    pids, cams = np.repeat(np.arange(7), 12), np.tile(np.arange(3), 28)
    centers, places = rng.normal(size=(7, 48)), rng.normal(size=(3, 48))
    images = centers[pids] + 0.6 * places[cams] + 0.2 * rng.normal(size=(84, 48))
    images = torch.from_numpy(images).float()
    dataset = [
        (f"{n:04d}.jpg", pid, cam) for n, (pid, cam) in enumerate(zip(pids, cams, strict=True))
    ]
    encoder = torch.nn.Linear(48, 48, bias=False)
    torch.nn.init.eye_(encoder.weight)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3.5e-4, weight_decay=5e-4)
    parser = argparse.ArgumentParser()
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--ckrnns", action="store_true")
    parser.add_argument("--k1-intra", type=int, default=5)
    parser.add_argument("--k1-inter", type=int, default=20)
    parser.add_argument("--clqe", action="store_true")
    parser.add_argument("--k2-intra", type=int, default=2)
    parser.add_argument("--k2-inter", type=int, default=4)
    args = parser.parse_args(["--ckrnns", "--clqe", "--k1-inter", "8"])

    history = []
    for epoch in range(2):
        with torch.no_grad():
            features = F.normalize(encoder(images), dim=1)
        cam_labels = np.array([cam for _, _, cam in dataset])
        rerank_dist = compute_jaccard_distance(
            features=features, cam_labels=cam_labels, epoch=epoch, args=args
        )
        if epoch == 0:
            cluster = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=1)
        pseudo_labels = cluster.fit_predict(rerank_dist)
        num_cluster = len(set(pseudo_labels)) - (1 if -1 in pseudo_labels else 0)
        assert num_cluster == 7
        assert pseudo_labels.tolist() == pids.tolist()

        labels = torch.from_numpy(pseudo_labels)
        centers = torch.stack([features[labels == c].mean(0) for c in range(num_cluster)])
        memory = ClusterMemory(48, num_cluster, temp=0.05, momentum=0.1)
        memory.features = F.normalize(centers, dim=1)
        for _ in range(30):
            index = torch.randint(len(labels), (32,))
            loss = memory(encoder(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    assert np.mean(history[-5:]) < np.mean(history[:5])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": None}, TypeError, "features must be a torch.Tensor .* got NoneType"),
        ({"cam_labels": None}, TypeError, "cam_labels must be a tensor, .* got NoneType"),
        ({"cam_labels": np.zeros(3, int)}, ValueError, r"cam_labels must be \(\d+,\)"),
        ({"args": argparse.Namespace(k1=3)}, TypeError, "args must have the attribute 'k2', got Namespace"),
        ({"args": None}, TypeError, "args must have the attribute 'k1', got None"),
        ({"args": options_of(CAMERA_AWARE[0], k1=0)}, ValueError, r"args.k1 must be in \[1, 1023\], got 0"),
        ({"args": options_of(CAMERA_AWARE[0], k2=1024)}, ValueError, r"args.k2 must be in \[1, 1023\], got 1024"),
        ({"args": options_of(CAMERA_AWARE[0], k1_intra=0)}, ValueError, r"k1_intra must be in \[1, 1024\], got 0"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    golden = CAMERA_AWARE[0]
    arguments = {
        "features": golden.features,
        "cam_labels": golden.modality,
        "epoch": 1,
        "args": options_of(golden),
    }
    with pytest.raises(error, match=message):
        compute_jaccard_distance(**{**arguments, **change})
