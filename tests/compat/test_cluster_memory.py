"""The old memory by the calls of each code base, against what that code base computes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cluster_memories import after_backward, expected_logits, fill
from contrast_cases import Batch, batches, one_batch
from hypothesis import given
from torch import Tensor

import mabm
from mabm.compat.clustercontrast import ClusterMemory, cm, cm_hard, cm_hybrid

# Logits, weights and momentum of one call


@pytest.mark.parametrize("options", [{}, {"use_hard": True}, {"smooth": 1}])
def test_return_out_gives_logits_alone_and_moves_by_every_input(options: dict[str, Any]) -> None:
    """N-ULC makes its own loss of them, and reads ``use_hard`` nowhere."""
    batch = one_batch()
    found = after_backward(fill(ClusterMemory(8, 12, **options), batch), batch, return_out=True)
    expected = after_backward(fill(ClusterMemory(8, 12), batch), batch)
    torch.testing.assert_close(found[0], expected_logits(batch))
    assert torch.equal(found[2], expected[2])
    inputs = batch.features.clone().requires_grad_()
    memory = fill(ClusterMemory(8, 12, **options), batch)
    F.cross_entropy(memory(inputs, batch.targets, return_out=True), batch.targets).backward()
    torch.testing.assert_close(inputs.grad, expected[1])


@pytest.mark.parametrize("mode", ["CMhybrid", "CMhcl", "CMhard"])
def test_return_out_of_two_banks(mode: str) -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode=mode), batch, banks=2)
    found = memory(batch.features, batch.targets, return_out=True)
    torch.testing.assert_close(found, expected_logits(batch).repeat(1, 2))


@pytest.mark.parametrize("use_hard", [False, True])
@pytest.mark.parametrize("name", ["momentum", "training_momentum"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_momentum_of_one_call(use_hard: bool, name: str, as_tensor: bool) -> None:
    batch = one_batch()
    value = torch.tensor(0.75) if as_tensor else 0.75
    memory = fill(ClusterMemory(8, 12, momentum=0.25, use_hard=use_hard), batch)
    found = after_backward(memory, batch, **{name: value})
    expected = after_backward(
        fill(ClusterMemory(8, 12, momentum=0.75, use_hard=use_hard), batch), batch
    )
    for found_value, expected_value in zip(found, expected, strict=True):
        assert torch.equal(found_value, expected_value)
    assert memory.momentum == 0.25


def test_momentum_zero_keeps_the_memory_s_in_pgm_and_is_zero_in_sdcl() -> None:
    batch = one_batch()
    own, zero = (fill(ClusterMemory(8, 12, momentum=m), batch) for m in (0.5, 0.0))
    first, second = (after_backward(memory, batch)[2] for memory in (own, zero))
    assert not torch.equal(first, second)
    for nothing in (None, 0, 0.0, torch.tensor(0.0)):
        memory = fill(ClusterMemory(8, 12, momentum=0.5), batch)
        assert torch.equal(after_backward(memory, batch, momentum=nothing)[2], first)
    memory = fill(ClusterMemory(8, 12, momentum=0.5), batch)
    assert torch.equal(after_backward(memory, batch, training_momentum=0)[2], second)


@pytest.mark.parametrize("as_type", [torch.as_tensor, np.asarray, Tensor.double])
@pytest.mark.parametrize("use_hard", [False, True])
def test_weights_of_rows(as_type: Any, use_hard: bool) -> None:
    batch = one_batch()
    weights = torch.rand(24)
    memory = fill(ClusterMemory(8, 12, use_hard=use_hard), batch)
    found = after_backward(memory, batch, ca=as_type(weights))
    rows = [
        w * F.cross_entropy(x[None], y[None])
        for x, y, w in zip(expected_logits(batch), batch.targets, weights, strict=True)
    ]
    torch.testing.assert_close(found[0], torch.stack(rows).mean())
    expected = after_backward(fill(ClusterMemory(8, 12, use_hard=use_hard), batch), batch)
    assert torch.equal(found[2], expected[2])  # weights do not move the memory
    ones = after_backward(
        fill(ClusterMemory(8, 12, use_hard=use_hard), batch), batch, ca=torch.ones(24)
    )
    torch.testing.assert_close(ones[1], expected[1])
    alike = fill(ClusterMemory(8, 12), batch)(batch.features, batch.targets, ca=np.float32(3))
    torch.testing.assert_close(alike, 3 * expected[0])


def test_weights_of_rows_leave_noise_out() -> None:
    batch, weights = one_batch(), torch.rand(24)
    targets = batch.targets.clone()
    targets[:5] = -1
    memory = fill(ClusterMemory(8, 12), batch)
    found = memory(batch.features, targets, ca=weights)
    losses = F.cross_entropy(expected_logits(batch)[5:], targets[5:], reduction="none")
    torch.testing.assert_close(found, (losses * weights[5:]).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca": torch.ones(24, 1)}, r"ca must be \(24,\), one per row .*, got shape \(24, 1\)"),
        ({"ca": torch.ones(24), "return_out": True}, "ca must be None with return_out, .* Tensor"),
        ({"momentum": 2}, r"^momentum must be in \[0, 1\], got 2"),
        ({"training_momentum": 2}, r"^training_momentum must be in \[0, 1\], got 2"),
        ({"momentum": 0.1, "training_momentum": 0.1}, "momentum must be None with training"),
        ({"model_name": "teacher"}, r"model_name must be one of .*, got 'teacher'"),
    ],
)
def test_options_of_a_call_that_are_refused(options: dict[str, Any], message: str) -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12), batch)
    with pytest.raises(ValueError, match=message) as caught:
        memory(batch.features, batch.targets, **options)
    assert "\n" not in str(caught.value)


def test_weights_of_rows_are_refused_with_two_banks() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode="CMhybrid"), batch, banks=2)
    with pytest.raises(ValueError, match=r"ca must be None with .* a memory of two banks"):
        memory(batch.features, batch.targets, ca=torch.ones(24))


@pytest.mark.parametrize("function", [cm, cm_hard, cm_hybrid])
def test_momentum_of_the_functions_may_be_a_tensor(function: Any) -> None:
    batch, found = one_batch(), []
    for momentum in (0.25, torch.tensor(0.25), torch.tensor([0.25])):
        features = batch.prototypes.repeat(2, 1)
        inputs = F.normalize(batch.features).requires_grad_()
        function(inputs, batch.targets, features, momentum).sum().backward()
        found.append(features)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@given(batches())
def test_cm_moves_by_every_input_in_turn(batch: Batch) -> None:
    """Whatever rows repeat, and with noise among them or nothing else."""
    features, expected = batch.prototypes.clone(), batch.prototypes.clone()
    inputs = F.normalize(batch.features).requires_grad_()
    cm(inputs, batch.targets, features, 0.3).sum().backward()
    for x, y in zip(inputs.detach(), batch.targets.tolist(), strict=True):
        if y >= 0:
            moved = 0.3 * expected[y] + 0.7 * x
            expected[y] = moved / moved.norm()
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    untouched = [c for c in range(len(features)) if c not in batch.targets]
    assert torch.equal(features[untouched], batch.prototypes[untouched])


# Attributes


def test_attributes_are_what_was_given() -> None:
    momentum = torch.tensor(0.5)
    memory = ClusterMemory(
        8, 12, temp=0.1, momentum=momentum, mode="CMhcl", smooth=0.1, num_instances=4
    )
    assert memory.momentum is momentum
    given = (memory.num_features, memory.num_samples, memory.temp, memory.smooth)
    assert given == (8, 12, 0.1, 0.1)
    assert (memory.mode, memory.cm_type, memory.num_instances) == ("CMhcl", "CMhcl", 4)
    assert memory.proxy_pseudo_labels is None
    assert not memory.use_hard
    assert ClusterMemory(8, 12, use_hard=True).use_hard
    assert not ClusterMemory(8, 12).use_hard
    assert copy.deepcopy(memory).mode == "CMhcl"


@pytest.mark.parametrize(
    ("name", "value", "banks"),
    [
        ("momentum", 0.9, 1),
        ("momentum", torch.tensor(0.9), 1),
        ("temp", 0.5, 1),
        ("use_hard", True, 1),
        ("mode", "CMhard", 1),
        ("mode", "CMhybrid", 2),
        ("cm_type", "CMhcl", 2),
        ("smooth", 0.1, 1),
    ],
)
def test_attributes_that_are_set_act_in_the_next_step(name: str, value: Any, banks: int) -> None:
    batch = one_batch()
    given = ClusterMemory(8, 12, **{"mode" if name == "cm_type" else name: value})
    expected = after_backward(fill(given, batch, banks), batch)
    memory = fill(ClusterMemory(8, 12), batch, banks)
    setattr(memory, name, value)
    found = after_backward(memory, batch)
    assert getattr(memory, name) == value
    for found_value, expected_value in zip(found, expected, strict=True):
        assert torch.equal(found_value, expected_value)


def test_use_hard_is_switched_off_again() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, use_hard=True), batch)
    memory.use_hard = False
    found, expected = (
        after_backward(memory, batch),
        after_backward(fill(ClusterMemory(8, 12), batch), batch),
    )
    assert torch.equal(found[2], expected[2])
    assert memory.mode == "CM"


def test_hard_weight_and_the_multi_positive_loss_are_set() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode="CMhybrid"), batch, banks=2)
    memory.hard_weight = 1.0
    plain = F.cross_entropy(expected_logits(batch), batch.targets)
    torch.testing.assert_close(memory(batch.features, batch.targets), plain)
    memory.has_multi_pos_loss, memory.proxy_pseudo_labels = True, batch.clusters
    expected = mabm.multi_positive_loss(
        batch.features, batch.prototypes, batch.targets, batch.clusters
    )
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)


def test_attributes_out_of_contract() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12), batch)
    with pytest.raises(ValueError, match=r"mode must be one of \('CM', .* got 'CMmean'"):
        memory.mode = "CMmean"
    assert memory.mode == "CM"
    hybrid = ClusterMemory(8, 12, mode="CMhybrid")
    with pytest.raises(ValueError, match="use_hard must not be set in mode 'CMhybrid'"):
        hybrid.use_hard = True
    for name, value, message in [
        ("temp", 0, "temp must be above 0, got 0"),
        ("momentum", 3, r"momentum must be in \[0, 1\], got 3"),
    ]:
        changed = fill(ClusterMemory(8, 12), batch)
        setattr(changed, name, value)
        with pytest.raises(ValueError, match=message):
            changed(batch.features, batch.targets)


# BMIL


def test_cm_ignores_the_multi_positive_loss() -> None:
    """BMIL's defaults: on SYSU-MM01 no labels are there, and the features are doubled."""
    batch = one_batch()
    for banks in (1, 2):
        memory = fill(ClusterMemory(8, 5, mode="CM", has_multi_pos_loss=True), batch, banks)
        expected = F.cross_entropy(expected_logits(batch).repeat(1, banks), batch.targets)
        torch.testing.assert_close(memory(batch.features, batch.targets), expected)
        memory.proxy_pseudo_labels = batch.clusters
        torch.testing.assert_close(memory(batch.features, batch.targets), expected)


# States and dtypes


@pytest.mark.parametrize(
    ("options", "rows", "images"),
    [
        ({}, 7, None),
        ({"mode": "CMhybrid"}, 9 * 2, None),
        ({"mode": "CMhard", "num_instances": 2}, 2 * 3, 6),
    ],
)
def test_a_state_with_other_rows_than_the_new_memory_loads(
    options: dict[str, Any], rows: int, images: int | None
) -> None:
    saved, memory = (ClusterMemory(8, 3, **options) for _ in range(2))
    saved.features = torch.randn(rows, 8)
    saved.features_ema = None if images is None else torch.randn(images, 8)
    memory.load_state_dict(saved.state_dict())
    assert torch.equal(memory.features, saved.features)
    if saved.features_ema is not None:
        assert torch.equal(memory.features_ema, saved.features_ema)


@pytest.mark.parametrize("name", ["features", "features_ema", "another"])
def test_a_state_that_is_refused_leaves_the_memory_as_it_was(name: str) -> None:
    memory = ClusterMemory(8, 3, mode="CMhard", num_instances=2)
    memory.features = torch.ones(6, 8)
    state = {"features": torch.zeros(4, 8), "features_ema": torch.zeros(6, 8)}
    state[name] = torch.zeros(6, 9)
    with pytest.raises(RuntimeError, match=name):
        memory.load_state_dict(state)
    assert torch.equal(memory.features, torch.ones(6, 8))
    assert memory.features_ema is None


@pytest.mark.parametrize("mode", ["CM", "CMhard", "CMhybrid"])
def test_inputs_and_features_of_two_dtypes(mode: str) -> None:
    batch = one_batch()
    found = []
    for dtypes in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        memory = fill(ClusterMemory(8, 12, mode=mode), batch, banks=2 if mode == "CMhybrid" else 1)
        memory.features = memory.features.to(dtypes[0])
        inputs = batch.features.detach().to(dtypes[1]).requires_grad_()
        memory(inputs, batch.targets).backward()
        assert memory.features.dtype == dtypes[0]
        assert inputs.grad is not None
        assert inputs.grad.dtype == dtypes[1]
        found.append((inputs.grad.double(), memory.features.double()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
