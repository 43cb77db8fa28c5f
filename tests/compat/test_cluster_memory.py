"""The old memory by the calls of each code base, against what that code base computes."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contrast_cases import Batch, batches, one_batch
from hypothesis import given
from torch import Tensor

import mabm
from mabm.compat.clustercontrast import ClusterMemory, cm, cm_hard, cm_hybrid

TEMP = 0.05


def fill(memory: ClusterMemory, batch: Batch, banks: int = 1) -> ClusterMemory:
    memory.features = batch.prototypes.repeat(banks, 1)
    return memory


def logits_of(batch: Batch, features: Tensor | None = None) -> Tensor:
    rows = F.normalize(batch.features)
    return rows @ (batch.prototypes if features is None else features).T / TEMP


def after(memory: ClusterMemory, batch: Batch, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The value, the gradient and the features after one backward pass of the value's sum."""
    inputs = batch.features.clone().requires_grad_()
    value = memory(inputs, batch.targets, **options)
    value.sum().backward()
    assert inputs.grad is not None
    return value.detach(), inputs.grad, memory.features.clone()


# Label smoothing


def smoothed_by_loops(logits: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Targets keep 0.9; 0.1 goes to all classes, or to the K // 50 greatest from K = 100 on."""
    total = 0.0
    for row, target in zip(logits.double(), targets.tolist(), strict=True):
        labels = [0.0] * len(row)
        labels[target] += 0.9
        if num_classes < 100:
            for c in range(len(row)):
                labels[c] += 0.1 / num_classes
        else:
            greatest = sorted(range(len(row)), key=lambda c: -float(row[c]))
            for c in greatest[: num_classes // 50]:
                labels[c] += 0.1 / (num_classes // 50)
        log_sum = math.log(sum(math.exp(float(x)) for x in row))
        total -= sum(w * (float(x) - log_sum) for w, x in zip(labels, row, strict=True))
    return torch.tensor(total / len(targets), dtype=logits.dtype)


@pytest.mark.parametrize("count", [2, 12, 99, 100, 149, 150, 260])
@pytest.mark.parametrize("smooth", [1e-3, 0.1, 1, 5, True])
def test_smoothing_is_a_switch(count: int, smooth: float) -> None:
    batch = one_batch(count=count)
    memory = fill(ClusterMemory(8, count, smooth=smooth), batch)
    expected = smoothed_by_loops(logits_of(batch), batch.targets, count)
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)
    memory.smooth = 0
    plain = F.cross_entropy(logits_of(batch), batch.targets)
    torch.testing.assert_close(memory(batch.features, batch.targets), plain)
    memory.smooth = smooth
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)


@pytest.mark.parametrize("count", [12, 150])
def test_smoothing_counts_the_classes_of_num_samples(count: int) -> None:
    """BMIL's memory of all is made for its clusters and holds its prototypes."""
    batch = one_batch(count=30)
    memory = fill(ClusterMemory(8, count, smooth=0.1), batch)
    expected = smoothed_by_loops(logits_of(batch), batch.targets, count)
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)
    memory.num_samples = 30
    expected = smoothed_by_loops(logits_of(batch), batch.targets, 30)
    torch.testing.assert_close(memory(batch.features, batch.targets), expected)


@pytest.mark.parametrize("mode", ["CMhybrid", "CMhcl", "CMhard"])
def test_smoothing_of_two_banks(mode: str) -> None:
    batch = one_batch(count=120)
    memory = ClusterMemory(8, 120, mode=mode, smooth=0.1)
    memory.features = torch.cat([batch.prototypes, batch.prototypes.flip(1)])
    mean, hard = (
        smoothed_by_loops(logits_of(batch, bank), batch.targets, 120)
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
    expected = smoothed_by_loops(logits_of(batch)[kept], targets[kept], count)
    torch.testing.assert_close(memory(batch.features, targets), expected)
    assert memory(batch.features, torch.full_like(targets, -1)) == 0


@pytest.mark.parametrize("count", [12, 120])
def test_smoothing_has_the_gradient_of_its_formula(count: int) -> None:
    batch = one_batch(count=count)
    _, gradient, _ = after(fill(ClusterMemory(8, count, smooth=1), batch), batch)
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


# Logits, weights and momentum of one call


@pytest.mark.parametrize("options", [{}, {"use_hard": True}, {"smooth": 1}])
def test_return_out_gives_logits_alone_and_moves_by_every_input(options: dict[str, Any]) -> None:
    """N-ULC makes its own loss of them, and reads ``use_hard`` nowhere."""
    batch = one_batch()
    found = after(fill(ClusterMemory(8, 12, **options), batch), batch, return_out=True)
    expected = after(fill(ClusterMemory(8, 12), batch), batch)
    torch.testing.assert_close(found[0], logits_of(batch))
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
    torch.testing.assert_close(found, logits_of(batch).repeat(1, 2))


@pytest.mark.parametrize("use_hard", [False, True])
@pytest.mark.parametrize("name", ["momentum", "training_momentum"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_momentum_of_one_call(use_hard: bool, name: str, as_tensor: bool) -> None:
    batch = one_batch()
    value = torch.tensor(0.75) if as_tensor else 0.75
    memory = fill(ClusterMemory(8, 12, momentum=0.25, use_hard=use_hard), batch)
    found = after(memory, batch, **{name: value})
    expected = after(fill(ClusterMemory(8, 12, momentum=0.75, use_hard=use_hard), batch), batch)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)
    assert memory.momentum == 0.25


def test_a_momentum_of_zero_is_the_memory_s_own_in_pgm_and_zero_in_sdcl() -> None:
    batch = one_batch()
    own, zero = (fill(ClusterMemory(8, 12, momentum=m), batch) for m in (0.5, 0.0))
    first, second = (after(memory, batch)[2] for memory in (own, zero))
    assert not torch.equal(first, second)
    for nothing in (None, 0, 0.0, torch.tensor(0.0)):
        memory = fill(ClusterMemory(8, 12, momentum=0.5), batch)
        assert torch.equal(after(memory, batch, momentum=nothing)[2], first)
    memory = fill(ClusterMemory(8, 12, momentum=0.5), batch)
    assert torch.equal(after(memory, batch, training_momentum=0)[2], second)


@pytest.mark.parametrize("as_type", [torch.as_tensor, np.asarray, Tensor.double])
@pytest.mark.parametrize("use_hard", [False, True])
def test_weights_of_rows(as_type: Any, use_hard: bool) -> None:
    batch = one_batch()
    weights = torch.rand(24)
    memory = fill(ClusterMemory(8, 12, use_hard=use_hard), batch)
    found = after(memory, batch, ca=as_type(weights))
    rows = [
        w * F.cross_entropy(x[None], y[None])
        for x, y, w in zip(logits_of(batch), batch.targets, weights, strict=True)
    ]
    torch.testing.assert_close(found[0], torch.stack(rows).mean())
    expected = after(fill(ClusterMemory(8, 12, use_hard=use_hard), batch), batch)
    assert torch.equal(found[2], expected[2])  # weights do not move the memory
    ones = after(fill(ClusterMemory(8, 12, use_hard=use_hard), batch), batch, ca=torch.ones(24))
    torch.testing.assert_close(ones[1], expected[1])
    alike = fill(ClusterMemory(8, 12), batch)(batch.features, batch.targets, ca=np.float32(3))
    torch.testing.assert_close(alike, 3 * expected[0])


def test_weights_of_rows_leave_noise_out() -> None:
    batch, weights = one_batch(), torch.rand(24)
    targets = batch.targets.clone()
    targets[:5] = -1
    memory = fill(ClusterMemory(8, 12), batch)
    found = memory(batch.features, targets, ca=weights)
    losses = F.cross_entropy(logits_of(batch)[5:], targets[5:], reduction="none")
    torch.testing.assert_close(found, (losses * weights[5:]).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca": torch.ones(24, 1)}, r"ca must be \(24,\), one a row .*, got shape \(24, 1\)"),
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


def test_weights_of_rows_are_refused_where_nothing_weighs() -> None:
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
    expected = after(fill(given, batch, banks), batch)
    memory = fill(ClusterMemory(8, 12), batch, banks)
    setattr(memory, name, value)
    found = after(memory, batch)
    assert getattr(memory, name) == value
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)


def test_use_hard_is_switched_off_again() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, use_hard=True), batch)
    memory.use_hard = False
    found, expected = after(memory, batch), after(fill(ClusterMemory(8, 12), batch), batch)
    assert torch.equal(found[2], expected[2])
    assert memory.mode == "CM"


def test_hard_weight_and_the_multi_positive_loss_are_set() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 12, mode="CMhybrid"), batch, banks=2)
    memory.hard_weight = 1.0
    plain = F.cross_entropy(logits_of(batch), batch.targets)
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
        expected = F.cross_entropy(logits_of(batch).repeat(1, banks), batch.targets)
        torch.testing.assert_close(memory(batch.features, batch.targets), expected)
        memory.proxy_pseudo_labels = batch.clusters
        torch.testing.assert_close(memory(batch.features, batch.targets), expected)


# PCLHD: two banks of clusters, and a bank of their images


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
    expected = after(hybrid, batch)
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
    expected = smoothed_by_loops(logits_of(batch)[4:], targets[4:], 110)
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
        found.append(after(memory, batch, **options))
    for mine, other in zip(*found, strict=True):
        assert torch.equal(mine, other)


def test_use_hard_keeps_one_bank_however_many_rows_it_has() -> None:
    batch = one_batch()
    memory = fill(ClusterMemory(8, 6, use_hard=True), batch)  # 12 rows are twice 6
    expected = after(fill(ClusterMemory(8, 12, use_hard=True), batch), batch)
    for mine, other in zip(after(memory, batch), expected, strict=True):
        assert torch.equal(mine, other)


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
