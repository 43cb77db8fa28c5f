"""The distance of MMM, PCLHD and RPNR under its old name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDEN
from sklearn.cluster import DBSCAN

import mabm
from mabm import reference
from mabm.compat import clustercontrast, modal_invariant
from mabm.compat.clustercontrast import ClusterMemory
from mabm.compat.modal_invariant import compute_modal_invariant_jaccard_distance

File = tuple[str, int, int]


def files_of(modality: np.ndarray) -> list[File]:
    modes = ("rgb", "ir")
    return [
        (f"../data/sysu/{modes[group]}_modify/bounding_box_train/{row:04d}.jpg", 7, 1)
        for row, group in enumerate(modality)
    ]


def test_it_is_the_preset_modal_invariant() -> None:
    golden = GOLDEN[0]
    order = np.random.default_rng(0).permutation(len(golden.features))
    features, modality = golden.features[order], golden.modality[order]
    distance = compute_modal_invariant_jaccard_distance(
        torch.from_numpy(features), files_of(modality)
    )
    assert isinstance(distance, np.ndarray)
    assert distance.dtype == np.float32
    assert (distance >= 0).all()
    expected = reference.modality_jaccard(features, modality, k1=20, k2=6, preset="modal_invariant")
    np.testing.assert_allclose(distance, expected, rtol=0, atol=1e-6)


def test_without_an_average_it_is_the_released_classic_distance() -> None:
    golden = next(g for g in GOLDEN if g.preset.name == "spcl" and g.k2 == 1)
    distance = compute_modal_invariant_jaccard_distance(
        torch.from_numpy(golden.features), files_of(golden.modality), golden.k1, 1
    )
    np.testing.assert_allclose(distance, golden.distance, rtol=0, atol=1e-5)


@pytest.mark.parametrize("search_option", range(6))
def test_every_search_option_is_the_same(search_option: int) -> None:
    golden = GOLDEN[0]
    features, files = torch.from_numpy(golden.features), files_of(golden.modality)
    found = compute_modal_invariant_jaccard_distance(
        features, files, 30, 6, False, search_option, use_float16=False
    )
    expected = mabm.modality_jaccard(golden.features, golden.modality, preset="modal_invariant")
    np.testing.assert_array_equal(found, expected)


def test_an_epoch_as_those_code_bases_write_it() -> None:
    rng = np.random.default_rng(1)
    pids = {"rgb": np.repeat(np.arange(6), 8), "ir": np.repeat(np.arange(6), 5)}
    centers = rng.normal(size=(6, 32))
    train = {
        mode: sorted((f"{mode}_modify/{n:04d}.jpg", int(pid), 0) for n, pid in enumerate(numbers))
        for mode, numbers in pids.items()
    }
    images = {
        fname: torch.from_numpy(centers[pid] + 0.2 * rng.normal(size=32)).float()
        for mode in train
        for fname, pid, _ in train[mode]
    }
    encoder = torch.nn.Linear(32, 32, bias=False)
    torch.nn.init.eye_(encoder.weight)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3.5e-4, weight_decay=5e-4)
    cluster = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=1)

    # Cluster both modalities together
    file = sorted(train["rgb"]) + sorted(train["ir"])
    inputs = torch.cat([images[f].unsqueeze(0) for f, _, _ in file], 0)
    with torch.no_grad():
        features_all = F.normalize(encoder(inputs), dim=1)
    rerank_dist_all = compute_modal_invariant_jaccard_distance(
        features_all, k1=10, k2=4, file=file, search_option=3
    )
    pseudo_labels_all = cluster.fit_predict(rerank_dist_all)
    num_cluster_all = len(set(pseudo_labels_all)) - (1 if -1 in pseudo_labels_all else 0)
    assert num_cluster_all == 6
    assert pseudo_labels_all.tolist() == [*pids["rgb"], *pids["ir"]]

    # Centers, a memory of them, and training
    centers: dict[int, list[torch.Tensor]] = {}
    for i, label in enumerate(pseudo_labels_all):
        if label != -1:
            centers.setdefault(label.item(), []).append(features_all[i])
    cluster_features = torch.stack([torch.stack(centers[c]).mean(0) for c in sorted(centers)])
    memory = ClusterMemory(32, num_cluster_all, temp=0.05, momentum=0.1, use_hard=True)
    memory.features = F.normalize(cluster_features, dim=1)
    labels, history = torch.from_numpy(pseudo_labels_all), []
    for _ in range(40):
        index = torch.randint(len(labels), (32,))
        loss = memory(encoder(inputs[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-5:]) < np.mean(history[:5])


def test_the_classic_distance_of_the_same_file_is_here_too() -> None:
    assert modal_invariant.compute_jaccard_distance is clustercontrast.compute_jaccard_distance


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"file": [("rgb_modify/1.jpg", 0, 0)]}, ValueError, "file must contain 4 entries, one per row of target_features, got 1"),
        ({"file": [("visible/1.jpg", 0, 0)] * 4}, ValueError, "file must name files with 'rgb_modify' or 'ir_modify' in their paths, got 'visible/1.jpg' in row 0"),
        ({"search_option": -1}, ValueError, r"search_option must be in \[0, 5\], got -1"),
        ({"target_features": torch.ones(4)}, ValueError, r"target_features must be \(N, D\), got shape \(4,\)"),
        ({"k2": 0}, ValueError, "k2 must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "target_features": torch.randn(4, 3),
        "file": [("rgb_modify/1.jpg", 0, 0)] * 4,
        "k1": 3,
        "k2": 2,
    }
    with pytest.raises(error, match=message):
        compute_modal_invariant_jaccard_distance(**{**arguments, **change})
