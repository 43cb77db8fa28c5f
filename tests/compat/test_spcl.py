"""SpCL's memory of every image: its formula by loops, the old contract, and a loop of that family."""

import copy
import doctest
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contrast_cases import unit
from torch import Tensor

from mabm.compat import spcl
from mabm.compat.spcl import HybridMemory, hm

N, D, B = 30, 8, 12


def case(seed: int = 0, num_labels: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit inputs, their rows (some twice), a memory and its labels, of which one has no image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_labels, (N,), generator=generator)
    labels[labels == 3] = num_labels + 1
    indexes = torch.randint(N, (B,), generator=generator)
    indexes[-2:] = indexes[0]
    inputs = unit(B, D, generator=generator)
    return inputs, indexes, unit(N, D, generator=generator), labels


def made(features: Tensor, labels: Tensor, **options: Any) -> HybridMemory:
    memory = HybridMemory(features.shape[1], len(features), **options)
    memory.features, memory.labels = features.clone(), labels.clone()
    return memory


def loss_by_loops(
    inputs: Tensor, indexes: Tensor, features: Tensor, labels: Tensor, temp: float
) -> Tensor:
    losses = []
    for x, row in zip(inputs, indexes.tolist(), strict=True):
        exponentials = {}
        for label in sorted(set(labels.tolist())):
            members = [k for k in range(len(labels)) if labels[k] == label]
            mean = sum(x @ features[k] / temp for k in members) / len(members)
            exponentials[label] = torch.exp(torch.as_tensor(mean))
        total = sum(exponentials.values()) + 1e-6
        losses.append(-torch.log(exponentials[int(labels[row])] / total + 1e-6))
    return torch.stack(losses).mean()


def moved_by_loops(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float) -> Tensor:
    features = features.clone()
    for x, row in zip(inputs, indexes.tolist(), strict=True):
        features[row] = momentum * features[row] + (1 - momentum) * x
        features[row] /= features[row].norm()
    return features


@pytest.mark.parametrize("temp", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_loss_gradient_and_memory_are_the_formula_s(temp: float, seed: int) -> None:
    inputs, indexes, features, labels = case(seed)
    memory = made(features, labels, temp=temp, momentum=0.3)
    for step in range(3):
        given = inputs.roll(step, 0).requires_grad_()
        before = memory.features.clone()
        loss = memory(given, indexes)
        assert torch.equal(memory.features, before)
        loss.backward()
        other = inputs.roll(step, 0).double().requires_grad_()
        expected = loss_by_loops(other, indexes, before.double(), labels, temp)
        expected.backward()
        torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(given.grad, other.grad.float(), rtol=1e-4, atol=1e-5)
        moved = moved_by_loops(given.detach(), indexes, before, 0.3)
        torch.testing.assert_close(memory.features, moved, rtol=0, atol=1e-6)


def test_probabilities_near_zero_count_as_the_released_1e_6() -> None:
    features = F.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    memory = made(features, torch.tensor([0, 1]), temp=0.01)
    loss = memory(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    torch.testing.assert_close(loss, torch.tensor(-math.log(1e-6)))
    far = made(features[1:], torch.tensor([0]), temp=0.01)  # exp(-100) is far below 1e-6
    loss = far(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(loss, torch.tensor(-math.log(1e-6)))


def test_great_similarities_do_not_overflow() -> None:
    inputs, indexes, features, labels = case()
    loss = made(features, labels, temp=0.01)(10 * inputs, indexes)
    assert loss.isfinite()


def test_two_losses_of_one_backward_see_each_other() -> None:
    """The domain adaptation of SpCL adds the losses of source and target."""
    inputs, indexes, features, labels = case()
    memory = made(features, labels, momentum=0.2)
    (memory(inputs.requires_grad_(), indexes) + memory(inputs.flip(0), indexes)).backward()
    first, second = inputs.detach(), inputs.detach().flip(0)
    found = []
    for one, two in ((first, second), (second, first)):  # autograd chooses the order
        once = moved_by_loops(one, indexes, features, 0.2)
        found.append(moved_by_loops(two, indexes, once, 0.2))
    assert any(torch.allclose(memory.features, moved, rtol=0, atol=1e-6) for moved in found)


def test_inputs_with_index_minus_one_have_no_loss_and_no_update() -> None:
    inputs, indexes, features, labels = case()
    memory, other = made(features, labels), made(features, labels)
    with_none = indexes.clone()
    with_none[4:] = -1
    loss = memory(inputs.clone().requires_grad_(), with_none)
    expected = other(inputs[:4].clone().requires_grad_(), indexes[:4])
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(memory.features, other.features)
    nothing = memory(inputs, torch.full((B,), -1))
    assert nothing == 0


def test_signatures_and_state_are_the_old_ones() -> None:
    def names(function: Any) -> list[tuple[str, Any]]:
        return [(n, p.default) for n, p in inspect.signature(function).parameters.items()]

    nothing = inspect.Parameter.empty
    assert names(HybridMemory) == [
        ("num_features", nothing),
        ("num_samples", nothing),
        ("temp", 0.05),
        ("momentum", 0.2),
    ]
    assert names(HybridMemory.forward)[1:] == [("inputs", nothing), ("indexes", nothing)]
    assert names(hm)[2:] == [("features", nothing), ("momentum", 0.5)]
    memory = HybridMemory(D, N)
    shapes = {name: tuple(value.shape) for name, value in memory.state_dict().items()}
    assert shapes == {"features": (N, D), "labels": (N,)}
    assert memory.labels.dtype == torch.int64
    assert (memory.num_features, memory.num_samples, memory.temp) == (D, N, 0.05)
    assert copy.deepcopy(memory).double().features.dtype == torch.float64
    found = doctest.testmod(spcl)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_labels_and_indexes_of_any_integer_type(dtype: torch.dtype) -> None:
    inputs, indexes, features, labels = case()
    expected = made(features, labels)(inputs, indexes)
    found = made(features, labels.to(dtype))(inputs, indexes.to(dtype))
    assert torch.equal(found, expected)


def test_attributes_that_are_set_act_in_the_next_step() -> None:
    inputs, indexes, features, labels = case()
    for name, value in (("temp", 0.2), ("momentum", 0.9), ("momentum", torch.tensor(0.9))):
        found = []
        for memory in (made(features, labels, **{name: value}), made(features, labels)):
            setattr(memory, name, value)
            loss = memory(inputs.clone().requires_grad_(), indexes)
            loss.backward()
            found.append((loss.detach(), memory.features))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        assert not torch.equal(found[0][1], moved_by_loops(inputs, indexes, features, 0.2)) or (
            name == "temp"
        )


def test_half_precision_loses_nothing_in_the_memory() -> None:
    inputs, indexes, features, labels = case()
    found = []
    for autocast in (False, True):
        memory = made(features, labels)
        given = inputs.bfloat16().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = memory(given, indexes)
        loss.backward()
        assert loss.dtype == memory.features.dtype == torch.float32
        found.append((loss.detach(), memory.features))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_inputs_that_are_not_finite_move_nothing() -> None:
    inputs, indexes, features, labels = case()
    memory = made(features, labels)
    inputs[0] = math.nan
    loss = memory(inputs.requires_grad_(), indexes)
    assert loss.isnan()
    loss.backward()
    assert memory.features.isfinite().all()


def test_a_memory_made_in_inference_mode_moves() -> None:
    inputs, indexes, features, labels = case()
    with torch.inference_mode():
        memory = made(features, labels)
    memory(inputs.requires_grad_(), indexes).backward()
    expected = moved_by_loops(inputs.detach(), indexes, features, 0.2)
    torch.testing.assert_close(memory.features, expected, rtol=0, atol=1e-6)


def test_no_images_and_no_inputs() -> None:
    empty = HybridMemory(D, 0)
    assert empty(torch.ones(2, D), torch.full((2,), -1)) == 0
    _, _, features, labels = case()
    assert made(features, labels)(torch.ones(0, D), torch.ones(0, dtype=torch.int64)) == 0


def test_arguments_out_of_contract_are_refused() -> None:
    inputs, indexes, features, labels = case()
    memory = made(features, labels)
    memory.labels = labels[:5]
    with pytest.raises(
        ValueError, match=r"labels must be \(30,\), one per row .*, got shape \(5,\)"
    ):
        memory(inputs, indexes)
    memory.labels = labels - 1
    with pytest.raises(ValueError, match=r"labels must not be negative: .*, got -1") as caught:
        memory(inputs, indexes)
    assert "\n" not in str(caught.value)
    memory.labels = labels.float()
    with pytest.raises(TypeError, match="labels must be integers, one per row of features, got"):
        memory(inputs, indexes)
    memory.labels = labels
    with pytest.raises(ValueError, match=r"indexes must be in \[-1, 30\), .* got 30"):
        memory(inputs, torch.full((B,), 30))
    with pytest.raises(ValueError, match="inputs must have 8 columns as features have, got 3"):
        memory(inputs[:, :3], indexes)
    with pytest.raises(ValueError, match="temp must be above 0, got 0"):
        HybridMemory(D, N, temp=0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\], got 2"):
        HybridMemory(D, N, momentum=2)
    with pytest.raises(TypeError, match="num_samples must be an integer, got float"):
        HybridMemory(D, 2.5)


def test_a_loop_of_the_family_trains() -> None:
    """Labels anew every epoch, the memory kept: as that family's script has it."""
    generator = torch.Generator().manual_seed(0)
    identity = torch.arange(8).repeat_interleave(10)
    images = unit(8, 16, generator=generator)[identity]
    images = images + 0.3 * unit(80, 16, generator=generator)
    encoder = torch.nn.Linear(16, D, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.randn(D, 16, generator=generator))
        initial = encoder(images)
    memory = HybridMemory(D, 80, temp=0.05, momentum=0.2)
    memory.features = F.normalize(initial, dim=1)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    history = []
    for _ in range(3):
        memory.labels = torch.from_numpy(np.asarray(identity))
        for _ in range(20):
            indexes = torch.randint(80, (16,), generator=generator)
            loss = memory(F.normalize(encoder(images[indexes]), dim=1), indexes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    assert np.mean(history[-5:]) < 0.7 * np.mean(history[:5])
