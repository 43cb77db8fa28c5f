"""Rows that are not finite move no memory, inference mode spoils none, a bad state changes none."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contrast_cases import as_on_a_gpu, no_synchronization, one_batch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mabm
from mabm._core.precision import unit_rows
from mabm.compat.clustercontrast import ClusterMemory, cm, cm_hard, cm_hybrid

KINDS = (mabm.MeanMemory, mabm.HardMemory, mabm.HybridMemory)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
OLD_KINDS = (cm, cm_hard, cm_hybrid)
each_old_kind = pytest.mark.parametrize("function", OLD_KINDS, ids=lambda kind: kind.__name__)
both_ways = pytest.mark.parametrize("way", [nullcontext, as_on_a_gpu], ids=["at hand", "on a GPU"])
Kind = Callable[..., Any]
Way = Callable[[], AbstractContextManager[Any]]

BAD = (torch.nan, torch.inf, -torch.inf)


def updated(kind: Kind, features: Tensor, targets: Tensor, way: Way = nullcontext) -> Tensor:
    memory = kind(one_batch().prototypes)
    with way():
        memory.update(features, targets)
    return memory.prototypes


@each_kind
@both_ways
@given(
    rows=st.sets(st.integers(0, 23), min_size=1),
    values=st.lists(st.sampled_from((*BAD, 1e30)), min_size=24, max_size=24),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.float16, torch.bfloat16)),
)
def test_rows_that_are_not_finite_are_ignored(
    kind: Kind, way: Way, rows: set[int], values: list[float], dtype: torch.dtype
) -> None:
    batch = one_batch()
    features = batch.features.to(dtype)
    for row in rows:
        value = values[row]
        # Of finite length in float64; the square of the greatest float64 is not.
        too_great = 1e200 if dtype == torch.float64 and value == 1e30 else value
        features[row, row % 8] = too_great
    kept = torch.tensor([row not in rows for row in range(24)])
    expected = updated(kind, features[kept], batch.targets[kept])
    found = updated(kind, features, batch.targets, way)
    assert found.isfinite().all()
    assert torch.equal(found, expected)


@each_kind
@both_ways
def test_a_batch_of_nothing_finite_changes_nothing(kind: Kind, way: Way) -> None:
    batch = one_batch()
    found = updated(kind, torch.full((24, 8), torch.nan), batch.targets, way)
    for bank in found.reshape(-1, 12, 8):
        assert torch.equal(bank, batch.prototypes)


def test_rows_left_out_do_not_count_as_repeats() -> None:
    features = torch.eye(3)[[0, 0, 0]]
    features[1] = torch.nan
    memory = mabm.MeanMemory(torch.eye(3), max_repeats=2)
    memory.update(features, torch.tensor([1, 1, 1]))
    assert memory.prototypes.isfinite().all()


@each_kind
def test_a_row_of_zeros_moves_its_prototype_as_before(kind: Kind) -> None:
    memory = kind(torch.eye(3), momentum=0.0)
    memory.update(torch.zeros(1, 3), torch.tensor([2]))
    for bank in memory.prototypes.reshape(-1, 3, 3):
        assert torch.equal(bank, torch.diag(torch.tensor([1.0, 1.0, 0.0])))


def test_a_loop_whose_scaler_skips_a_step_keeps_its_memory() -> None:
    batch = one_batch()
    memory = mabm.HybridMemory(batch.prototypes)
    encoder = torch.nn.Linear(8, 8)
    features = batch.features.clone()
    features[7] *= 1e5  # overflows in float16
    before = encoder.weight.detach().clone()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", dtype=torch.float16):
        output = encoder(features)
        loss = mabm.split_contrast_loss(output, batch.targets, memory)
    assert output.dtype == torch.float16
    assert loss.isnan()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    memory.update(output, batch.targets)
    assert torch.equal(encoder.weight, before)
    kept = torch.arange(24) != 7
    assert torch.equal(
        memory.prototypes,
        updated(mabm.HybridMemory, output.detach()[kept], batch.targets[kept]),
    )


@pytest.mark.parametrize("bad", [*BAD, 1e30])
def test_a_loss_of_a_row_that_is_not_finite_is_nan(bad: float) -> None:
    batch = one_batch()
    batch.features[3, 2] = bad
    rows = (batch.features, batch.prototypes, batch.targets)
    assert mabm.cluster_contrast_loss(*rows).isnan()
    assert mabm.multi_positive_loss(*rows, batch.clusters).isnan()


@each_old_kind
def test_backward_leaves_the_same_rows_out(function: Any) -> None:
    batch, found = one_batch(), []
    batch.features[5, 1], batch.features[9] = torch.inf, torch.nan
    whole, kept = torch.arange(24), torch.tensor([row not in (5, 9) for row in range(24)])
    for rows in (whole, kept):
        features = batch.prototypes.repeat(2 if function is cm_hybrid else 1, 1)
        inputs = batch.features[rows].clone().requires_grad_()
        function(inputs, batch.targets[rows], features, 0.1).sum().backward()
        found.append(features)
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])


@each_old_kind
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_backward_of_finite_inputs_is_what_it_was(
    function: Any, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, found = one_batch(), []
    for leave_out in (True, False):
        if not leave_out:
            monkeypatch.setattr(
                "mabm.compat._adapters.memories.leave_out_not_finite", lambda rows, targets: targets
            )
        features = batch.prototypes.repeat(2 if function is cm_hybrid else 1, 1)
        inputs = (scale * batch.features).requires_grad_()
        function(inputs, batch.targets, features, 0.1).sum().backward()
        found.append((features, inputs.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_unit_rows_are_those_of_normalize_to_the_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(40, 300, dtype=dtype)
        x[3], x[4], x[5] = 0, x[4] * 1e-30, x[5] * 1e15
        found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn_like(x)
        one, other = unit_rows(found), F.normalize(expected, dim=1)
        assert torch.equal(one, other)
        (one * weights).sum().backward()
        (other * weights).sum().backward()
        assert torch.equal(found.grad, expected.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_kind
def test_leaving_out_waits_for_no_gpu(kind: Kind) -> None:
    batch = one_batch()
    batch.features[5, 1], batch.features[9] = torch.inf, torch.nan
    memory = kind(batch.prototypes).cuda()
    features, targets = batch.features.cuda(), batch.targets.cuda()
    kind(batch.prototypes).cuda().update(features, targets)  # libraries loaded
    with no_synchronization():
        memory.update(features, targets)
    expected = updated(kind, batch.features, batch.targets)
    torch.testing.assert_close(memory.prototypes.cpu(), expected)


@each_kind
@pytest.mark.parametrize("row", [torch.nan, torch.inf, 1e30])
def test_a_memory_starts_from_finite_prototypes_alone(kind: Kind, row: float) -> None:
    bad = torch.eye(4)
    bad[2, 1] = bad[3, 1] = row
    message = r"source.* must be finite .* in row 2 and 1 more$"
    with pytest.raises(ValueError, match=message):
        kind(bad)
    zeros = torch.zeros(4, dtype=torch.int64)
    memory = kind(torch.eye(4))
    for source in (bad, mabm.PrototypeSplit(bad, zeros, zeros, zeros)):
        with pytest.raises(ValueError, match=message):
            memory.rebuild(source)
    for bank in memory.prototypes.reshape(-1, 4, 4):
        assert torch.equal(bank, torch.eye(4))
    assert memory.clusters.tolist() == [0, 1, 2, 3]


@each_kind
def test_a_split_that_does_not_fit_together_is_refused(kind: Kind) -> None:
    three, zeros = torch.arange(3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"source.clusters must be \(4,\), .* got shape \(3,\)"):
        kind(mabm.PrototypeSplit(torch.eye(4), three, zeros, zeros))
    with pytest.raises(TypeError, match=r"source.prototypes must be floating point, got .*int64"):
        kind(mabm.PrototypeSplit(torch.eye(4).long(), zeros, zeros, zeros))


# Inference mode


@each_kind
def test_an_update_in_inference_mode_serves_a_later_backward(kind: Kind) -> None:
    batch = one_batch()
    memory, other = kind(batch.prototypes), kind(batch.prototypes)
    other.update(batch.features, batch.targets)
    with torch.inference_mode():
        memory.update(2 * batch.features, batch.targets.clone())
    torch.testing.assert_close(memory.prototypes, other.prototypes, rtol=0, atol=1e-6)
    assert not memory.prototypes.requires_grad
    features = batch.features.clone().requires_grad_()
    mabm.split_contrast_loss(features, batch.targets, memory).backward()
    memory.load_state_dict(other.state_dict())
    assert features.grad.isfinite().all()


@each_kind
def test_a_state_loaded_in_inference_mode_serves_a_later_backward(kind: Kind) -> None:
    batch = one_batch()
    with torch.inference_mode():
        memory = kind(torch.eye(8))
        memory.load_state_dict(kind(batch.prototypes.clone()).state_dict())
    features = batch.features.clone().requires_grad_()
    mabm.split_contrast_loss(features, batch.targets, memory).backward()
    assert features.grad.isfinite().all()


def test_a_split_made_in_inference_mode_serves_a_loss() -> None:
    batch = one_batch()
    with torch.inference_mode():
        split = mabm.split_prototypes(batch.features * 1, batch.targets, batch.targets % 2)
    assert not split.prototypes.requires_grad
    assert not any(part.is_inference() for part in (split.prototypes, split.targets))
    features = batch.features.clone().requires_grad_()
    mabm.split_contrast_loss(features, split.targets, split).backward()
    assert torch.equal(
        split.prototypes,
        mabm.split_prototypes(batch.features, batch.targets, batch.targets % 2).prototypes,
    )


def test_a_loss_takes_what_was_made_in_inference_mode() -> None:
    batch = one_batch()
    with torch.inference_mode():
        p, y, c = batch.prototypes * 1, batch.targets * 1, batch.clusters * 1
        weights = torch.ones(12)
    for loss in (
        lambda f: mabm.cluster_contrast_loss(f, p, y),
        lambda f: mabm.multi_positive_loss(f, p, y, c, positive_weights=weights),
    ):
        features = batch.features.clone().requires_grad_()
        loss(features).backward()
        assert features.grad.isfinite().all()


@pytest.mark.parametrize("mode", ["CM", "CMhard", "CMhybrid"])
def test_the_old_memory_moves_whatever_mode_it_was_made_in(mode: str) -> None:
    batch, found = one_batch(), []
    for context in (nullcontext, torch.inference_mode):
        with context():
            memory = ClusterMemory(8, 12, mode=mode)
            memory.features = batch.prototypes.repeat(2 if mode == "CMhybrid" else 1, 1)
        inputs = batch.features.clone().requires_grad_()
        memory(inputs, batch.targets).backward()
        found.append((memory.features.clone(), inputs.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_memory_that_backward_cannot_write_to_is_refused() -> None:
    batch = one_batch()
    with torch.inference_mode():
        features = batch.prototypes * 1
    inputs = batch.features.clone().requires_grad_()
    with pytest.raises(ValueError, match="features must be a tensor that a backward pass can"):
        cm(inputs, batch.targets, features)


# States


def faulty(kind: Kind) -> dict[str, tuple[dict[str, Any], str]]:
    state = dict(kind(torch.eye(6, 4)).state_dict())
    not_finite = state["prototypes"].clone()
    not_finite[..., 3, 1] = torch.nan
    without = {"prototypes": state["prototypes"]}
    return {
        "clusters of another number": ({**state, "clusters": torch.arange(5)}, "clusters must be"),
        "clusters of another shape": ({**state, "clusters": torch.eye(2).long()}, "clusters"),
        "clusters that are no integers": ({**state, "clusters": torch.rand(6)}, "clusters must be"),
        "no clusters": (without, "clusters"),
        "prototypes of another width": ({**state, "prototypes": torch.eye(6)}, "prototypes"),
        "prototypes that are integers": (
            {**state, "prototypes": state["prototypes"].long()},
            "prototypes must be floating point",
        ),
        "NaN": ({**state, "prototypes": not_finite}, r"prototypes must be finite .* in row \d"),
        "an array": ({**state, "clusters": "text"}, "clusters must be a torch.Tensor"),
        "a sparse one": (
            {**state, "prototypes": state["prototypes"].to_sparse()},
            "prototypes must be a dense tensor",
        ),
        "without values": (
            {**state, "prototypes": state["prototypes"].to("meta")},
            "prototypes must contain values",
        ),
    }


@each_kind
@pytest.mark.parametrize("fault", faulty(mabm.MeanMemory))
@pytest.mark.parametrize("prefix", ["", "memory."])
def test_a_state_that_is_refused_changes_nothing(kind: Kind, fault: str, prefix: str) -> None:
    state, message = faulty(kind)[fault]
    memory = kind(F.normalize(torch.ones(9, 4), dim=1))
    before = {name: (part, part.clone()) for name, part in memory.named_buffers()}
    module = torch.nn.ModuleDict({"memory": memory}) if prefix else memory
    with pytest.raises(RuntimeError, match=message):
        module.load_state_dict({f"{prefix}{key}": value for key, value in state.items()})
    for name, part in memory.named_buffers():
        assert part is before[name][0]
        assert torch.equal(part, before[name][1])


@each_kind
def test_a_key_too_many_changes_nothing_either(kind: Kind) -> None:
    memory = kind(torch.eye(4))
    with pytest.raises(RuntimeError, match="else"):
        memory.load_state_dict({**kind(torch.ones(6, 4)).state_dict(), "else": torch.ones(1)})
    assert torch.equal(memory.prototypes, kind(torch.eye(4)).prototypes)


@each_kind
def test_what_is_not_strict_is_nothing_or_the_whole(kind: Kind) -> None:
    memory, other = kind(torch.eye(4)), kind(torch.eye(4).flip(0))
    memory.load_state_dict({"else": torch.ones(1)}, strict=False)
    assert torch.equal(memory.prototypes, kind(torch.eye(4)).prototypes)
    with pytest.raises(RuntimeError, match="clusters must be given with prototypes, got none"):
        memory.load_state_dict({"prototypes": other.prototypes}, strict=False)
    assert torch.equal(memory.prototypes, kind(torch.eye(4)).prototypes)
    memory.load_state_dict({**other.state_dict(), "else": torch.ones(1)}, strict=False)
    assert torch.equal(memory.prototypes, other.prototypes)


def test_the_old_memory_takes_a_state_whole_or_not_at_all() -> None:
    memory = ClusterMemory(4, 3)
    memory.features = torch.eye(4)[:3]
    held = memory.features
    with pytest.raises(RuntimeError, match="else"):
        memory.load_state_dict({"features": torch.ones(3, 4), "else": torch.ones(1)})
    assert torch.equal(held, torch.eye(4)[:3])
    memory.load_state_dict({"features": torch.ones(3, 4)})
    assert memory.features is held  # as it always was
    np.testing.assert_array_equal(held, np.ones((3, 4)))
