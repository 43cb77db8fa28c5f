"""The label smoothing of RPNR, PCLHD and BMIL, against its definition in loops."""

import pytest
import torch
import torch.nn.functional as F
from cluster_memories import TEMP, after_backward, expected_logits, fill, smoothed_by_loops
from contrast_cases import one_batch

from mabm.compat.clustercontrast import ClusterMemory


@pytest.mark.parametrize("count", [2, 12, 99, 100, 149, 150, 260])
@pytest.mark.parametrize("smooth", [1e-3, 0.1, 1, 5, True])
def test_smoothing_is_a_switch(count: int, smooth: float) -> None:
    batch = one_batch(count=count)
    memory = fill(ClusterMemory(8, count, smooth=smooth), batch)
    expected = smoothed_by_loops(expected_logits(batch), batch.targets, count)
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)
    memory.smooth = 0
    plain = F.cross_entropy(expected_logits(batch), batch.targets)
    torch.testing.assert_close(memory(batch.features, batch.targets), plain)
    memory.smooth = smooth
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)


@pytest.mark.parametrize("count", [12, 150])
def test_smoothing_counts_the_classes_of_num_samples(count: int) -> None:
    """BMIL's memory of all is made for its clusters and holds its prototypes."""
    batch = one_batch(count=30)
    memory = fill(ClusterMemory(8, count, smooth=0.1), batch)
    expected = smoothed_by_loops(expected_logits(batch), batch.targets, count)
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)
    memory.num_samples = 30
    expected = smoothed_by_loops(expected_logits(batch), batch.targets, 30)
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)


@pytest.mark.parametrize("mode", ["CMhybrid", "CMhcl", "CMhard"])
def test_smoothing_of_two_banks(mode: str) -> None:
    batch = one_batch(count=120)
    memory = ClusterMemory(8, 120, mode=mode, smooth=0.1)
    memory.features = torch.cat([batch.prototypes, batch.prototypes.flip(1)])
    mean, hard = (
        smoothed_by_loops(expected_logits(batch, bank), batch.targets, 120)
        for bank in memory.features.chunk(2)
    )
    expected = 0.5 * (hard + F.relu(mean - 0.2))
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)


@pytest.mark.parametrize("count", [12, 120])
def test_smoothing_leaves_noise_out(count: int) -> None:
    batch = one_batch(count=count)
    memory = fill(ClusterMemory(8, count, smooth=0.1), batch)
    targets = batch.targets.clone()
    targets[::3] = -1
    kept = targets >= 0
    expected = smoothed_by_loops(expected_logits(batch)[kept], targets[kept], count)
    torch.testing.assert_close(memory(batch.features, targets), expected)
    assert memory(batch.features, torch.full_like(targets, -1)) == 0


@pytest.mark.parametrize("count", [12, 120])
def test_smoothing_has_the_gradient_of_its_formula(count: int) -> None:
    batch = one_batch(count=count)
    _, gradient, _ = after_backward(fill(ClusterMemory(8, count, smooth=1), batch), batch)
    inputs = batch.features.clone().requires_grad_()
    log_p = (F.normalize(inputs) @ batch.prototypes.T / TEMP).log_softmax(1)
    labels = 0.9 * F.one_hot(batch.targets, count)
    if count < 100:
        labels = labels + 0.1 / count
    else:
        labels = labels + 0.05 * F.one_hot(log_p.topk(2).indices, count).sum(1)
    (expected,) = torch.autograd.grad(-(labels * log_p).sum(1).mean(), inputs)
    torch.testing.assert_close(gradient, expected)


def test_smoothing_needs_a_number_of_classes() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 0, smooth=0.1), batch)
    with pytest.raises(ValueError, match="num_samples must be at least 1 with smooth, got 0"):
        memory(batch.features, batch.targets)
