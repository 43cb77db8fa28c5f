"""HHCL's memory: its formulas by loops, and the names that it shares with others."""

import copy
import doctest
import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contrast_cases import Batch, one_batch
from torch import Tensor

from mabm.compat import clustercontrast, hhcl
from mabm.compat.hhcl import ClusterMemory, cm_hybrid_v2

TEMP, MOMENTUM = 0.05, 0.3
BANKS = {"CM": 1, "CMhard": 1, "CMhybrid": 2, "CMhybrid_v2": 6}


def made(batch: Batch, mode: str, **options: Any) -> ClusterMemory:
    count = len(batch.prototypes)
    memory = ClusterMemory(
        8, count, temp=TEMP, momentum=MOMENTUM, mode=mode, num_instances=5, **options
    )
    generator = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn((BANKS[mode] - 1) * count, 8, generator=generator))
    memory.features = torch.cat([batch.prototypes, images])
    return memory


def mixed(own: Tensor, sample: Tensor) -> Tensor:
    moved = MOMENTUM * own + (1 - MOMENTUM) * sample
    return moved / moved.norm()


def step_by_loops(
    inputs: Tensor, targets: Tensor, features: Tensor, mode: str, weight: float
) -> tuple[Tensor, Tensor]:
    """The loss of a batch and the features after its backward pass."""
    logits = (inputs @ features.T / TEMP).chunk(BANKS[mode], dim=1)
    first = F.cross_entropy(logits[0], targets)
    if mode == "CMhybrid":
        loss = weight * (first + (1 - weight) * F.cross_entropy(logits[1], targets))
    elif mode == "CMhybrid_v2":
        rows = []
        for b, target in enumerate(targets.tolist()):
            of_cluster = [[bank[b, c] for bank in logits[1:]] for c in range(logits[0].shape[1])]
            row = [min(x) if c == target else max(x) for c, x in enumerate(of_cluster)]
            rows.append(torch.stack(row))
        images = F.cross_entropy(torch.stack(rows), targets)
        loss = weight * first + (1 - weight) * images
    else:
        loss = first
    rows, count = inputs.detach(), len(features) // BANKS[mode]
    moved = features.clone()
    for target in set(targets.tolist()):
        own = [x for x, y in zip(rows, targets.tolist(), strict=True) if y == target]
        hardest = min(own, key=lambda x: float(x @ features[target]))
        mean = torch.stack(own).mean(0)
        if mode == "CM":
            for x in own:
                moved[target] = mixed(moved[target], x)
        elif mode == "CMhard":
            moved[target] = mixed(features[target], hardest)
        elif mode == "CMhybrid":
            moved[target] = mixed(features[target], hardest)
            moved[target + count] = mixed(features[target + count], mean)
        else:
            moved[target] = mixed(features[target], mean)
            for i, x in enumerate(own, start=1):
                moved[target + i * count] = x
    return loss, moved


@pytest.mark.parametrize("mode", BANKS)
@pytest.mark.parametrize("weight", [0.5, 0.2])
def test_loss_gradient_and_memory_are_the_formula_s(mode: str, weight: float) -> None:
    batch = one_batch()
    memory = made(batch, mode, hard_weight=weight)
    for step in range(3):
        given = F.normalize(batch.features).roll(step, 0)
        given[0] *= 2  # inputs are used as they are
        inputs, other = given.clone().requires_grad_(), given.clone().requires_grad_()
        before = memory.features.clone()
        loss = memory(inputs, batch.targets)
        assert torch.equal(memory.features, before)
        loss.backward()
        expected, moved = step_by_loops(other, batch.targets, before, mode, weight)
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(inputs.grad, other.grad)
        torch.testing.assert_close(memory.features, moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", BANKS)
def test_noise_has_no_loss_and_moves_nothing(mode: str) -> None:
    batch = one_batch()
    targets = batch.targets.clone()
    targets[::3] = -1
    kept = targets >= 0
    memory, other = made(batch, mode), made(batch, mode)
    loss = memory(batch.features.clone().requires_grad_(), targets)
    expected = other(batch.features[kept].requires_grad_(), targets[kept])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(memory.features, other.features)
    assert memory(batch.features, torch.full_like(targets, -1)) == 0


@pytest.mark.parametrize("mode", BANKS)
def test_labels_are_smoothed_where_the_switch_is_on(mode: str) -> None:
    batch = one_batch(count=120)
    plain, smooth = made(batch, mode), made(batch, mode, smooth=3.0)
    first, second = (m(batch.features, batch.targets) for m in (plain, smooth))
    assert not torch.isclose(first, second)
    smooth.smooth = 0
    assert torch.equal(smooth(batch.features, batch.targets), first)
    if BANKS[mode] == 1:
        log_p = (batch.features @ batch.prototypes.T / TEMP).log_softmax(1)
        labels = 0.9 * F.one_hot(batch.targets, 120)
        labels = labels + 0.05 * F.one_hot(log_p.topk(2).indices, 120).sum(1)
        torch.testing.assert_close(second, -(labels * log_p).sum(1).mean())


@pytest.mark.parametrize("mode", BANKS)
def test_inputs_that_are_not_finite_move_nothing(mode: str) -> None:
    batch = one_batch()
    memory = made(batch, mode)
    inputs = batch.features.clone()
    inputs[::2] = math.nan
    memory(inputs.requires_grad_(), batch.targets).backward()
    assert memory.features.isfinite().all()


def test_it_differs_from_the_hybrid_memory_of_other_code_bases() -> None:
    batch = one_batch()
    rows = F.normalize(batch.features)
    others = clustercontrast.ClusterMemory(8, 12, mode="CMhybrid", momentum=MOMENTUM)
    memory = made(batch, "CMhybrid")
    others.features = memory.features.clone()
    assert not torch.isclose(memory(rows, batch.targets), others(rows, batch.targets))


def test_signature_and_state_are_the_old_ones() -> None:
    nothing = inspect.Parameter.empty
    given = inspect.signature(ClusterMemory).parameters
    assert [(n, p.default) for n, p in given.items()] == [
        ("num_features", nothing),
        ("num_samples", nothing),
        ("temp", 0.05),
        ("momentum", 0.2),
        ("mode", "CM"),
        ("hard_weight", 0.5),
        ("smooth", 0.0),
        ("num_instances", 1),
    ]
    for mode, rows in {"CM": 12, "CMhard": 12, "CMhybrid": 24, "CMhybrid_v2": 72}.items():
        memory = copy.deepcopy(ClusterMemory(8, 12, mode=mode, num_instances=5))
        assert {n: tuple(t.shape) for n, t in memory.state_dict().items()} == {
            "features": (rows, 8)
        }
    found = doctest.testmod(hhcl)
    assert found.attempted > 0
    assert found.failed == 0
    assert all(hasattr(hhcl, name) for name in hhcl.__all__)


def test_arguments_out_of_contract_are_refused() -> None:
    batch = one_batch()
    with pytest.raises(ValueError, match=r"mode must be one of \('CM', .*, got 'CMhcl'"):
        ClusterMemory(8, 12, mode="CMhcl")
    for name, value in (("hard_weight", 2), ("smooth", -1), ("momentum", 3), ("temp", 0)):
        with pytest.raises(ValueError, match=f"^{name} must be .*, got {value}"):
            ClusterMemory(8, 12, **{name: value})
    memory = made(batch, "CMhybrid_v2")
    with pytest.raises(
        ValueError, match=r"indexes must contain no row more often than .* 24 times"
    ):
        memory(batch.features, torch.zeros(24, dtype=torch.int64))
    memory.features = torch.ones(71, 8)
    with pytest.raises(ValueError, match=r"must have 1 \+ num_instances = 6 rows .* got 71"):
        memory(batch.features, batch.targets)
    with pytest.raises(ValueError, match="num_instances must be at least 1, got 0"):
        cm_hybrid_v2(batch.features, batch.targets, torch.ones(12, 8), num_instances=0)
