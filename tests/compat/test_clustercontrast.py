"""Cluster-Contrast's names: released outputs, the old contract, and a loop as that family writes it."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contrast_cases import one_batch, unit
from golden_files import GOLDEN
from sklearn.cluster import DBSCAN
from torch import Tensor, nn

import mabm
from mabm.compat import clustercontrast
from mabm.compat.clustercontrast import (
    ClusterMemory,
    cm,
    cm_hard,
    cm_hybrid,
    compute_jaccard_distance,
)

FOLDER = Path(__file__).parents[1] / "golden"
MODES: list[tuple[str, dict[str, Any]]] = [
    ("mean", {}),
    ("mean", {"mode": "CM", "has_multi_pos_loss": True}),  # BMIL ignores it
    ("mean", {"use_hard": True, "sample_type": "mean"}),  # ISE ignores use_hard
    ("hard", {"use_hard": True}),
    ("hard", {"sample_type": "hard"}),
    ("hard", {"mode": "CMhard"}),
    ("hybrid", {"mode": "CMhybrid"}),
    ("hybrid", {"mode": "CMhcl", "smooth": 0, "num_instances": 16}),  # RPNR
    ("hybrid", {"mode": "CMhard", "num_instances": 16}),  # PCLHD: told by its features
]


def read(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / name) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def assert_near(found: Tensor, expected: Tensor, bound: float) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("name", "options"), MODES, ids=str)
def test_released_memories(name: str, options: dict[str, Any]) -> None:
    golden = read("memory.npz")
    temperature, momentum = golden["temperature"].item(), golden["momentum"].item()
    memory = ClusterMemory(32, 12, temp=temperature, momentum=momentum, **options)
    initial = golden["initial"]
    memory.features = torch.cat([initial, initial]) if name == "hybrid" else initial.clone()
    for step in range(3):
        inputs = golden["inputs"][step].requires_grad_()
        loss = memory(inputs, golden["targets"][step])
        loss.backward()
        assert_near(loss, golden[f"{name}_loss"][step], 1e-5)
        assert_near(inputs.grad, golden[f"{name}_grad"][step], 1e-5)
        assert_near(memory.features, golden[f"{name}_memory"][step], 1e-6)


@pytest.mark.parametrize("labels_as", [torch.as_tensor, np.asarray])
def test_released_multi_positive_loss(labels_as: Any) -> None:
    golden = read("multi_positive.npz")
    memory = ClusterMemory(
        32,
        48,  # clusters; prototypes are 75
        temp=golden["temperature"].item(),
        momentum=golden["momentum"].item(),
        mode="CMhybrid",
        has_multi_pos_loss=True,
    )
    memory.features = golden["initial"].repeat(2, 1)
    memory.proxy_pseudo_labels = labels_as(golden["prototype_cluster"])
    for step in range(3):
        inputs = golden["inputs"][step].requires_grad_()
        loss = memory(inputs, golden["targets"][step])
        loss.backward()
        assert_near(loss, golden["loss"][step], 1e-5)
        assert_near(inputs.grad, golden["grad"][step], 1e-5)
        assert_near(memory.features, golden["memory"][step], 1e-6)


@pytest.mark.parametrize("golden", [g for g in GOLDEN if g.preset.name == "spcl"], ids=str)
def test_released_distances(golden: Any) -> None:
    features = torch.from_numpy(golden.features)
    found = compute_jaccard_distance(features, k1=golden.k1, k2=golden.k2, print_flag=False)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found, golden.distance, rtol=0, atol=1e-5)
    for eps, expected in golden.labels.items():
        cluster = DBSCAN(eps=eps, min_samples=4, metric="precomputed", n_jobs=-1)
        np.testing.assert_array_equal(cluster.fit_predict(found), expected)


def test_options_of_the_distance_choose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    features = 3 * torch.randn(60, 8)
    expected = mabm.modality_jaccard(features, k1=20, k2=6, preset="spcl").numpy()
    for option in range(6):
        found = compute_jaccard_distance(features, search_option=option)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(compute_jaccard_distance(features.numpy()), expected)
    assert capsys.readouterr().out == ""


def parameters(function: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_signatures_are_the_old_ones() -> None:
    nothing = inspect.Parameter.empty
    assert list(parameters(compute_jaccard_distance).items()) == [
        ("target_features", nothing),
        ("k1", 20),
        ("k2", 6),
        ("print_flag", True),
        ("search_option", 0),
        ("use_float16", False),
    ]
    for function in (cm, cm_hard, cm_hybrid):
        names = ("inputs", "indexes", "features", "momentum")
        defaults = (nothing, nothing, nothing, 0.5)
        assert list(parameters(function).items()) == list(zip(names, defaults, strict=True))
    first = list(parameters(ClusterMemory).items())[:4]
    assert first == [
        ("num_features", nothing),
        ("num_samples", nothing),
        ("temp", 0.05),
        ("momentum", 0.2),
    ]
    later = {"use_hard", "mode", "smooth", "num_instances", "hard_weight", "has_multi_pos_loss"}
    signature = inspect.signature(ClusterMemory).parameters
    assert {n for n, p in signature.items() if p.kind is p.KEYWORD_ONLY} == later | {"sample_type"}
    assert list(parameters(ClusterMemory.forward).items()) == [
        ("self", nothing),
        ("inputs", nothing),
        ("targets", nothing),
        ("return_out", False),
        ("model_name", "encoder"),
        ("momentum", None),
        ("ca", None),
        ("training_momentum", None),
    ]


def test_names_point_at_examples_that_run() -> None:
    for part in ("distance", "memory", "products"):
        found = doctest.testmod(import_module(f"mabm.compat.clustercontrast.{part}"))
        assert found.attempted > 0
        assert found.failed == 0
    assert all(hasattr(clustercontrast, name) for name in clustercontrast.__all__)


@pytest.mark.parametrize("function", [cm, cm_hard, cm_hybrid])
def test_the_assigned_memory_itself_moves_in_backward_and_only_there(function: Any) -> None:
    batch = one_batch()
    banks = 2 if function is cm_hybrid else 1
    features = batch.prototypes.repeat(banks, 1)
    kept = features.clone()
    inputs = F.normalize(batch.features).requires_grad_()
    with torch.no_grad():
        function(inputs, batch.targets, features, 0.1)
    outputs = function(inputs, batch.targets, features, 0.1)
    torch.testing.assert_close(outputs, inputs @ kept.T)
    assert torch.equal(features, kept)
    weights = torch.randn_like(outputs)
    (outputs * weights).sum().backward()
    torch.testing.assert_close(inputs.grad, weights @ kept)
    kinds = {cm: mabm.MeanMemory, cm_hard: mabm.HardMemory, cm_hybrid: mabm.HybridMemory}
    memory = kinds[function](batch.prototypes, momentum=0.1)
    memory.update(inputs, batch.targets)
    torch.testing.assert_close(features, memory.prototypes.flatten(0, -2), rtol=0, atol=1e-6)


def test_inputs_of_cm_are_used_as_they_are() -> None:
    features = torch.eye(2)
    inputs = torch.tensor([[0.0, 3.0]], requires_grad=True)
    cm(inputs, torch.tensor([0]), features, 0.5).sum().backward()
    assert torch.equal(features[0], F.normalize(torch.tensor([0.5, 1.5]), dim=0))


def test_a_later_gradient_sees_what_an_earlier_backward_did() -> None:
    batch = one_batch()
    memory = ClusterMemory(8, 12, momentum=0.1)
    memory.features = batch.prototypes.clone()
    inputs = batch.features.clone().requires_grad_()
    both = [memory(inputs, batch.targets) for _ in range(2)]
    both[0].backward()
    once = memory.features.clone()
    inputs.grad = None
    both[1].backward()
    # Probabilities are those of the forward pass, products those with the memory as it is now.
    x = F.normalize(batch.features).requires_grad_()
    logits = x @ batch.prototypes.T / 0.05
    outer = torch.autograd.grad(F.cross_entropy(logits, batch.targets), logits)[0] / 0.05
    y = batch.features.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.normalize(y), y, outer @ once)
    torch.testing.assert_close(inputs.grad, expected)
    twice = mabm.MeanMemory(once, momentum=0.1)
    twice.update(batch.features, batch.targets)
    torch.testing.assert_close(memory.features, twice.prototypes, rtol=0, atol=1e-6)


def test_features_are_a_buffer_of_any_size() -> None:
    memory = ClusterMemory(8, 5, mode="CMhybrid")
    assert memory.features.shape == (10, 8)
    assert ClusterMemory(8, 5).features.shape == (5, 8)
    memory.features = torch.ones(6, 8)
    assert list(memory.state_dict()) == ["features"]
    assert memory.double().features.dtype == torch.float64


def test_hybrid_weighs_its_banks_and_forgives_the_mean_one() -> None:
    batch = one_batch()
    features = torch.cat([batch.prototypes, batch.prototypes.flip(1)])
    mean, hard = (
        mabm.cluster_contrast_loss(batch.features, bank, batch.targets)
        for bank in features.chunk(2)
    )
    for weight in (0.0, 0.3, 0.5, 1.0):
        memory = ClusterMemory(8, 12, mode="CMhybrid", hard_weight=weight)
        memory.features = features.clone()
        expected = weight * hard + (1 - weight) * F.relu(mean - 0.2)
        torch.testing.assert_close(memory(batch.features, batch.targets), expected)
    memory = ClusterMemory(4, 4, temp=1.0, mode="CMhybrid")
    memory.features = torch.cat([20 * torch.eye(4), torch.eye(4)])
    hard = mabm.cluster_contrast_loss(torch.eye(4), torch.eye(4), torch.arange(4), temperature=1.0)
    torch.testing.assert_close(memory(torch.eye(4), torch.arange(4)), 0.5 * hard)


@pytest.mark.parametrize("mode", ["CM", "CMhard", "CMhybrid"])
@pytest.mark.parametrize("has_multi_pos_loss", [False, True])
def test_targets_of_any_integer_type_and_noise(mode: str, has_multi_pos_loss: bool) -> None:
    batch, found = one_batch(), []
    for dtype in (torch.int64, torch.int32):
        memory = ClusterMemory(8, 12, mode=mode, has_multi_pos_loss=has_multi_pos_loss)
        memory.features = batch.prototypes.repeat(2 if mode == "CMhybrid" else 1, 1)
        memory.proxy_pseudo_labels = batch.clusters
        inputs = batch.features.clone().requires_grad_()
        loss = memory(inputs, batch.targets.to(dtype))
        loss.backward()
        found.append((loss.detach(), inputs.grad, memory.features.clone()))
        noise = memory(inputs, torch.full((24,), -1, dtype=dtype))
        noise.backward()
        assert noise.item() == 0
        assert torch.equal(memory.features, found[-1][2])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["CMhard", "CMhybrid"])
def test_multi_positive_loss_in_other_modes_than_cm(mode: str) -> None:
    batch = one_batch()
    memory = ClusterMemory(8, 3, mode=mode, has_multi_pos_loss=True)
    memory.features = batch.prototypes.repeat(2 if mode == "CMhybrid" else 1, 1)
    memory.proxy_pseudo_labels = batch.clusters
    expected = mabm.multi_positive_loss(
        batch.features, batch.prototypes, batch.targets, batch.clusters
    )
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)
    assert ClusterMemory(8, 3, has_multi_pos_loss=True).mode == "CMhybrid"


@pytest.mark.parametrize("mode", ["CM", "CMhard", "CMhybrid"])
def test_half_precision_loses_nothing_in_the_memory(mode: str) -> None:
    batch = one_batch()
    found = []
    for autocast in (False, True):
        memory = ClusterMemory(8, 12, mode=mode)
        memory.features = batch.prototypes.repeat(2 if mode == "CMhybrid" else 1, 1)
        features = batch.features.bfloat16().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = memory(features, batch.targets)
        assert loss.dtype == memory.features.dtype == torch.float32
        loss.backward()
        assert features.grad.dtype == torch.bfloat16
        found.append((loss, memory.features))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "CMmean"}, ValueError, r"mode must be one of \('CM', .* or None, got 'CMmean'"),
        ({"mode": "CM", "use_hard": True}, ValueError, "mode must be 'CMhard' .* got 'CM'"),
        ({"temp": 0.0}, ValueError, "temp must be above 0, got 0.0"),
        ({"momentum": 2}, ValueError, r"momentum must be in \[0, 1\], got 2"),
        ({"smooth": -1}, ValueError, r"smooth must be in \[0, inf\], got -1"),
        ({"momentum": torch.tensor(2.0)}, ValueError, r"momentum must be in \[0, 1\], got 2.0"),
        ({"momentum": torch.ones(2)}, TypeError, "momentum must be a number, got Tensor"),
        ({"num_instances": -1}, ValueError, "num_instances must be at least 0, got -1"),
        (
            {"mode": "CM", "sample_type": "hard"},
            ValueError,
            "mode must be None with sample_type, got 'CM'",
        ),
        ({"hard_weight": 1.5}, ValueError, r"hard_weight must be in \[0, 1\], got 1.5"),
        ({"num_samples": 2.5}, TypeError, "num_samples must be an integer, got float"),
        ({"num_features": 0}, ValueError, "num_features must be at least 1, got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ClusterMemory(**{"num_features": 8, "num_samples": 4, **options})


def test_bad_batches() -> None:
    batch = one_batch()
    memory = ClusterMemory(8, 12, mode="CMhybrid", has_multi_pos_loss=True)
    memory.features = torch.ones(7, 8)
    with pytest.raises(ValueError, match=r"features must have an even number of rows, .* got 7"):
        memory(batch.features, batch.targets)
    memory.features = torch.ones(24, 8)
    with pytest.raises(ValueError, match=r"proxy_pseudo_labels must be assigned .* got None"):
        memory(batch.features, batch.targets)
    memory.proxy_pseudo_labels = batch.clusters[:5]
    with pytest.raises(ValueError, match=r"proxy_pseudo_labels must be \(12,\), .* got .*\(5,\)"):
        memory(batch.features, batch.targets)
    with pytest.raises(ValueError, match=r"indexes must be in \[-1, 12\), rows of features .* 12"):
        memory(batch.features, torch.full((24,), 12))
    with pytest.raises(TypeError, match=r"inputs must be a torch.Tensor, got list"):
        memory([1.0], batch.targets)
    with pytest.raises(ValueError, match=r"inputs must have 8 columns as features have, got 3"):
        memory(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"search_option must be in \[0, 5\], got 6"):
        compute_jaccard_distance(torch.ones(3, 2), search_option=6)


def train(images: Tensor, epochs: int = 3) -> tuple[list[float], np.ndarray]:
    """A training loop as the family writes it; all it imports of ours is the drop-in."""
    encoder = nn.Linear(images.shape[1], 16, bias=False)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3.5e-3, weight_decay=5e-4)
    history = []
    for _ in range(epochs):
        # Cluster the features of all images
        with torch.no_grad():
            features = F.normalize(encoder(images), dim=1).cpu()
        rerank_dist = compute_jaccard_distance(features, k1=15, k2=4, search_option=3)
        cluster = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=-1)
        pseudo_labels = cluster.fit_predict(rerank_dist)
        num_cluster = len(set(pseudo_labels)) - (1 if -1 in pseudo_labels else 0)

        # Centers of the clusters, noise left out
        centers: dict[int, list[Tensor]] = {}
        for feature, label in zip(features, pseudo_labels, strict=True):
            if label != -1:
                centers.setdefault(label.item(), []).append(feature)
        cluster_features = torch.stack(
            [torch.stack(centers[label]).mean(0) for label in sorted(centers)]
        )

        # A new memory for the epoch
        memory = ClusterMemory(16, num_cluster, temp=0.05, momentum=0.1, use_hard=False)
        memory.features = F.normalize(cluster_features, dim=1)

        # Identity-balanced batches: 8 clusters of 8 images
        labels = torch.from_numpy(pseudo_labels)
        for _ in range(20):
            chosen = torch.randperm(num_cluster)[:8]
            members = [torch.nonzero(labels == c).flatten() for c in chosen]
            index = torch.cat([m[torch.randint(len(m), (8,))] for m in members])
            loss = memory(encoder(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    return history, pseudo_labels


def test_a_loop_of_the_family_trains() -> None:
    generator = torch.Generator().manual_seed(0)
    identity = torch.arange(12).repeat_interleave(20)
    noise = 0.25 * unit(240, 32, generator=generator)
    history, pseudo_labels = train(unit(12, 32, generator=generator)[identity] + noise)
    assert np.mean(history[-5:]) < np.mean(history[:5])
    # In the end clusters are identities.
    pairs = set(zip(pseudo_labels.tolist(), identity.tolist(), strict=True))
    assert len({pair for pair in pairs if pair[0] >= 0}) == 12 == pseudo_labels.max() + 1
