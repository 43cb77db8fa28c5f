"""BMIL's modality-aware distance under its old name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDEN, Golden
from sklearn.cluster import DBSCAN

import mabm
from mabm.compat.bmil import compute_jaccard_distance_xmodal
from mabm.compat.clustercontrast import ClusterMemory

BMIL = [golden for golden in GOLDEN if golden.preset.name == "bmil"]


def names_of(modality: np.ndarray) -> list[str]:
    parts = ("data/sysu/rgb_modify/bounding_box_train", "data/sysu/ir_modify/bounding_box_train")
    return [f"{parts[group]}/{row:05d}_c1.jpg" for row, group in enumerate(modality)]


@pytest.mark.parametrize("golden", BMIL, ids=str)
@pytest.mark.parametrize("search_option", [4, 5])
def test_released_distances(golden: Golden, search_option: int) -> None:
    assert (np.diff(golden.modality) >= 0).all()  # visible rows first
    distance = compute_jaccard_distance_xmodal(
        torch.from_numpy(golden.features),
        k1=golden.k1,
        k2=golden.k2,
        search_option=search_option,
        rgbNum=int((golden.modality == 0).sum()),
    )
    assert isinstance(distance, np.ndarray)
    assert distance.dtype == np.float32
    assert (distance >= 0).all()
    np.testing.assert_allclose(distance, golden.distance, rtol=0, atol=1e-5)


def test_file_names_tell_the_modality_in_any_order() -> None:
    golden = BMIL[0]
    order = np.random.default_rng(0).permutation(len(golden.features))
    features, modality = golden.features[order], golden.modality[order]
    found = compute_jaccard_distance_xmodal(
        torch.from_numpy(features), 30, 6, False, 4, False, names_of(modality)
    )
    np.testing.assert_array_equal(found, mabm.modality_jaccard(features, modality))


@pytest.mark.parametrize("search_option", [0, 1, 2, 3])
def test_options_that_chose_a_faiss_route(search_option: int) -> None:
    golden = BMIL[0]
    features = torch.from_numpy(golden.features)
    classic = compute_jaccard_distance_xmodal(features, search_option=search_option)
    np.testing.assert_array_equal(classic, mabm.modality_jaccard(golden.features, k1=20, k2=6))
    averaged = compute_jaccard_distance_xmodal(
        features, search_option=search_option, all_file_name=names_of(golden.modality)
    )
    np.testing.assert_array_equal(
        averaged,
        mabm.modality_jaccard(
            golden.features, golden.modality, k1=20, k2=6, preset="modal_invariant"
        ),
    )


def test_a_stage_two_epoch_as_that_code_base_writes_it() -> None:
    rng = np.random.default_rng(0)
    person = {"rgb": np.repeat(np.arange(8), 10), "ir": np.repeat(np.arange(8), 6)}
    centers, gap = rng.normal(size=(8, 64)), rng.normal(size=(2, 64))
    dataset = {
        mode: [(f"{mode}_modify/{n:04d}.jpg", pid, n % 3) for n, pid in enumerate(person[mode])]
        for mode in ("rgb", "ir")
    }
    images = {
        mode: torch.from_numpy(
            centers[person[mode]]
            + 0.5 * gap[number]
            + 0.2 * rng.normal(size=(len(person[mode]), 64))
        ).float()
        for number, mode in enumerate(("rgb", "ir"))
    }
    encoder = torch.nn.Linear(64, 64, bias=False)
    torch.nn.init.eye_(encoder.weight)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3.5e-4, weight_decay=5e-4)
    cluster = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=1)

    # Cluster all samples together
    with torch.no_grad():
        features_rgb = F.normalize(encoder(images["rgb"]), dim=1)
        features_ir = F.normalize(encoder(images["ir"]), dim=1)
    features_all = torch.cat([features_rgb, features_ir], dim=0)
    all_file_name = [fname for mode in ("rgb", "ir") for fname, _, _ in dataset[mode]]
    rerank_dist = compute_jaccard_distance_xmodal(
        features_all, k1=12, k2=3, print_flag=True, search_option=4,
        use_float16=False, all_file_name=all_file_name, rgbNum=features_rgb.size(0),
    )  # fmt: skip
    pseudo_labels = cluster.fit_predict(rerank_dist)
    num_cluster = len(set(pseudo_labels)) - (1 if -1 in pseudo_labels else 0)
    del rerank_dist
    assert num_cluster == 8
    assert pseudo_labels.tolist() == [*person["rgb"], *person["ir"]]

    # A prototype of every cluster in each modality
    proxy_centers, proxy_pseudo_labels = [], []
    proxy_labels = -np.ones(len(features_all), dtype=np.int64)
    is_ir = np.arange(len(features_all)) >= features_rgb.size(0)
    for label in sorted(set(pseudo_labels) - {-1}):
        for mode in (False, True):
            inds = np.where((pseudo_labels == label) & (is_ir == mode))[0]
            if len(inds) > 0:
                proxy_labels[inds] = len(proxy_centers)
                proxy_centers.append(features_all[inds].mean(0))
                proxy_pseudo_labels.append(label.item())
    memory = ClusterMemory(
        64, num_cluster, temp=0.05, momentum=0.1, mode="CMhybrid", has_multi_pos_loss=True
    )
    memory.features = F.normalize(torch.stack(proxy_centers), dim=1).repeat(2, 1)
    memory.proxy_pseudo_labels = torch.tensor(proxy_pseudo_labels)

    labels = dict(zip(("rgb", "ir"), torch.from_numpy(proxy_labels).split([80, 48]), strict=True))
    history = []
    for _ in range(40):
        losses = []
        for mode in ("ir", "rgb"):
            index = torch.randint(len(labels[mode]), (32,))
            losses.append(memory(encoder(images[mode][index]), labels[mode][index]))
        loss = 0.5 * sum(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-5:]) < np.mean(history[:5])


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rgbNum": 0}, ValueError, r"rgbNum must be in \[1, 11\], the visible rows, which come first, with search_option=4, got 0"),
        ({"rgbNum": 12}, ValueError, r"rgbNum must be in \[1, 11\], .* got 12"),
        ({"rgbNum": 6.0}, TypeError, "rgbNum must be an integer, got float"),
        ({"search_option": 6}, ValueError, r"search_option must be in \[0, 5\], got 6"),
        ({"target_features": [[1.0]]}, TypeError, "target_features must be a torch.Tensor .* got list"),
        ({"target_features": X * torch.nan}, ValueError, "target_features must be finite in float32"),
        ({"rgbNum": 0, "all_file_name": ["a.jpg"]}, ValueError, "all_file_name must contain 12 entries, one per row of target_features, got 1"),
        ({"rgbNum": 0, "all_file_name": ["ir_modify/a.jpg"] * 11 + ["b.jpg"]}, ValueError, "all_file_name must name files with 'rgb_modify' or 'ir_modify' in their paths, got 'b.jpg' in row 11"),
        ({"k1": 1}, ValueError, r"k1 must be in \[2, 1024\]"),
        ({"k2": 0}, ValueError, "k2 must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"target_features": X, "k1": 8, "k2": 2, "search_option": 4, "rgbNum": 6}
    with pytest.raises(error, match=message):
        compute_jaccard_distance_xmodal(**{**arguments, **change})
