"""The memory of images that PCLHD's ``model_name="encoder_ema"`` compares inputs with."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cluster_memories import TEMP, after_backward, expected_logits, fill, smoothed_by_loops
from contrast_cases import one_batch
from torch import Tensor

from mabm.compat.clustercontrast import ClusterMemory


def images_step_by_loops(
    inputs: Tensor,
    targets: Tensor,
    images: Tensor,
    num_instances: int,
    generator: np.random.RandomState,
) -> tuple[Tensor, Tensor]:
    """The loss of PCLHD's images, and the images after its backward pass."""
    inputs, num_clusters = F.normalize(inputs), len(images) // num_instances
    losses = []
    for x, y in zip(inputs, targets.tolist(), strict=True):
        logits = []
        for c in range(num_clusters):
            similar = [x @ images[c + num_clusters * i] / TEMP for i in range(num_instances)]
            logits.append(min(similar) if c == y else max(similar))
        losses.append(torch.logsumexp(torch.stack(logits), 0) - logits[y])
    moved, seen = images.clone(), []
    for y in targets.tolist():
        if y in seen:
            continue
        seen.append(y)
        own = inputs[targets == y]
        # With fewer than 16 images in the batch they are drawn with replacement.
        drawn = generator.choice(len(own), num_instances, replace=len(own) < 16)
        for i in range(num_instances):
            moved[y + num_clusters * i] = own[drawn[i]]
    return torch.stack(losses).mean(), moved


@pytest.mark.parametrize(("size", "count"), [(24, 6), (40, 2), (5, 9)])
@pytest.mark.parametrize("num_instances", [1, 3, 16])
def test_images_of_clusters(size: int, count: int, num_instances: int) -> None:
    batch = one_batch(size=size, count=count)
    images = F.normalize(torch.randn(num_instances * count, 8))
    memory = ClusterMemory(8, count, mode="CMhard", num_instances=num_instances)
    fill(memory, batch, banks=2)
    memory.features_ema = images.clone()
    for step in range(2):
        inputs = batch.features.clone().requires_grad_()
        memory.image_generator = np.random.RandomState(step)
        loss = memory(inputs, batch.targets, model_name="encoder_ema")
        before = memory.features_ema.clone()
        loss.backward()
        generator = np.random.RandomState(step)
        other = batch.features.clone().requires_grad_()
        expected, moved = images_step_by_loops(
            other, batch.targets, before, num_instances, generator
        )
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(inputs.grad, other.grad)
        torch.testing.assert_close(memory.features_ema, moved.detach())
        assert torch.equal(memory.features, batch.prototypes.repeat(2, 1))


def test_images_are_drawn_without_the_global_generator() -> None:
    batch, state = one_batch(), np.random.get_state()[1].tolist()  # noqa: NPY002
    images, found = F.normalize(torch.randn(48, 8)), []
    for _ in range(2):
        memory = fill(ClusterMemory(8, 12, mode="CMhard", num_instances=4), batch, banks=2)
        memory.features_ema = images.clone()
        inputs = batch.features.clone().requires_grad_()
        memory(inputs, batch.targets, model_name="encoder_ema").backward()
        found.append(memory.features_ema)
    assert torch.equal(*found)
    assert not torch.equal(found[0], images)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_images_stay_where_nothing_is_learned_from_them() -> None:
    """PCLHD's own loop: the teacher's features carry no gradient."""
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode="CMhard", num_instances=4), batch, banks=2)
    images = F.normalize(torch.randn(48, 8))
    memory.features_ema = images.clone()
    inputs = batch.features.clone().requires_grad_()
    own = memory(inputs, batch.targets)
    teacher = memory(batch.features, batch.targets, model_name="encoder_ema")
    assert not teacher.requires_grad
    (own + teacher).backward()
    assert torch.equal(memory.features_ema, images)
    hybrid = fill(ClusterMemory(8, 12, mode="CMhybrid"), batch, banks=2)
    expected = after_backward(hybrid, batch)
    torch.testing.assert_close(own.detach(), expected[0])
    assert torch.equal(memory.features, expected[2])
    torch.testing.assert_close(inputs.grad, expected[1])


def test_images_are_smoothed_and_leave_noise_out() -> None:
    batch = one_batch(count=110)
    memory = ClusterMemory(8, 110, mode="CMhard", smooth=1, num_instances=2)
    memory.features_ema = torch.cat([batch.prototypes, batch.prototypes])
    fill(memory, batch, banks=2)
    targets = batch.targets.clone()
    targets[:4] = -1
    inputs = batch.features.clone().requires_grad_()
    loss = memory(inputs, targets, model_name="encoder_ema")
    expected = smoothed_by_loops(expected_logits(batch)[4:], targets[4:], 110)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    untouched = [c for c in range(110) if c not in targets]
    kept = torch.cat([batch.prototypes, batch.prototypes])
    for c in untouched:
        assert torch.equal(memory.features_ema[c], kept[c])
        assert torch.equal(memory.features_ema[c + 110], kept[c + 110])


def test_images_that_are_not_finite_are_never_put_in() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode="CMhard", num_instances=4), batch, banks=2)
    memory.features_ema = F.normalize(torch.randn(48, 8))
    inputs = batch.features.clone()
    inputs[::2] = math.nan
    memory(inputs.requires_grad_(), batch.targets, model_name="encoder_ema").backward()
    assert memory.features_ema.isfinite().all()


@pytest.mark.parametrize("mode", ["CM", "CMhybrid", "CMhcl"])
def test_other_modes_ignore_the_model_s_name(mode: str) -> None:
    batch = one_batch()
    found = []
    for options in ({}, {"model_name": "encoder_ema"}):
        memory = fill(ClusterMemory(8, 12, mode=mode), batch, banks=1 if mode == "CM" else 2)
        found.append(after_backward(memory, batch, **options))
    for found_value, expected_value in zip(*found, strict=True):
        assert torch.equal(found_value, expected_value)


def test_use_hard_keeps_one_bank_however_many_rows_it_has() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 6, use_hard=True), batch)  # 12 rows are twice 6
    expected = after_backward(fill(ClusterMemory(8, 12, use_hard=True), batch), batch)
    for found_value, expected_value in zip(after_backward(memory, batch), expected, strict=True):
        assert torch.equal(found_value, expected_value)


def test_images_made_in_inference_mode_move_too() -> None:
    batch = one_batch()
    memory = ClusterMemory(8, 12, mode="CMhard", num_instances=4)
    with torch.inference_mode():
        fill(memory, batch, banks=2)
        memory.features_ema = torch.zeros(48, 8)
    inputs = batch.features.clone().requires_grad_()
    memory(inputs, batch.targets, model_name="encoder_ema").backward()
    lengths = torch.linalg.vector_norm(memory.features_ema, dim=1)
    is_there = torch.isin(torch.arange(48) % 12, batch.targets)
    torch.testing.assert_close(lengths, is_there.float())


def test_images_go_where_the_memory_goes() -> None:
    memory = ClusterMemory(8, 3, mode="CMhard", num_instances=2)
    assert list(memory.state_dict()) == ["features"]
    memory.features_ema = torch.ones(6, 8)
    assert memory.double().features_ema.dtype == torch.float64
    assert list(memory.state_dict()) == ["features", "features_ema"]
    other = ClusterMemory(8, 3, mode="CMhard", num_instances=2)
    other.features_ema = torch.zeros(6, 8)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.features_ema, torch.ones(6, 8))


def test_images_out_of_contract() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode="CMhard", num_instances=5), batch, banks=2)
    with pytest.raises(ValueError, match=r"features_ema must be assigned before .* got None"):
        memory(batch.features, batch.targets, model_name="encoder_ema")
    memory.features_ema = torch.ones(61, 8)
    with pytest.raises(ValueError, match=r"features_ema must have num_instances = 5 rows .* 61"):
        memory(batch.features, batch.targets, model_name="encoder_ema")
    memory.num_instances = 0
    with pytest.raises(ValueError, match="num_instances must be at least 1, got 0"):
        memory(batch.features, batch.targets, model_name="encoder_ema")
