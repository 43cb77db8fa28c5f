"""One optimizer step: equal to PyTorch's own, whole or in parts, and without trace if it fails."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mabm
from mabm.models import TwoStreamEncoder
from mabm.train import Learner, TrainingError, distributed

SECTIONS = (8, 8, 8)  # two views of visible images, and infrared ones
SIZE, WIDTH = sum(SECTIONS), 16


class Plain(nn.Module):
    """Without batch normalization a sample's features are its own. All start from one place."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.stems = nn.ModuleList(nn.Linear(3 * 16, WIDTH) for _ in range(2))
        self.norm = nn.BatchNorm1d(WIDTH) if norm else nn.Identity()
        self.trunk = nn.Sequential(nn.Tanh(), nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH))

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        assert len(images)
        flat = images.flatten(1) / 255
        both = torch.stack([stem(flat) for stem in self.stems])
        return self.trunk(self.norm(both[modality, torch.arange(len(flat))]))


def make(encoder: nn.Module, *, sgd: bool = False, **options: Any) -> Learner:
    encoder = copy.deepcopy(encoder)
    kind: Any = torch.optim.SGD if sgd else torch.optim.Adam
    learner = Learner(encoder, kind(encoder.parameters(), lr=0.01, weight_decay=0.1), **options)
    if learner.scaler.is_enabled():  # PyTorch's first scale overflows, and finds its way down
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    return learner


def batch(size: tuple[int, int] = (4, 4)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = 255 * torch.rand(SIZE, 3, *size, generator=generator)
    return images, torch.tensor([0] * 16 + [1] * 8)


MEMORY = torch.randn(2, 6, 192, generator=torch.Generator().manual_seed(2))
TARGETS = torch.arange(SIZE) % 6


def contrast(features: Tensor) -> dict[str, Tensor]:
    """The margin is taken of a mean over the batch, so that neither loss is a sum over samples."""
    split = torch.split(features, [16, 8])
    targets = torch.split(TARGETS, [16, 8])
    memory = nn.functional.normalize(MEMORY[..., : features.shape[1]], dim=2)
    return {
        name: mabm.hybrid_contrast_loss(rows, memory, own, margin=0.5)
        for name, rows, own in zip(("visible", "infrared"), split, targets, strict=True)
    }


def state(learner: Learner) -> dict[str, Tensor]:
    """All that a step may change, the scaler left out."""
    found = {f"encoder.{k}": v.clone() for k, v in learner.encoder.state_dict().items()}
    for number, each in learner.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{k}": torch.as_tensor(v).clone() for k, v in each.items()}
    return found


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not one[name].equal(other[name])] == []


def by_hand(learner: Learner, images: Tensor, modality: Tensor) -> dict[str, float]:
    """The same step in plain PyTorch."""
    learner.encoder.train()
    learner.optimizer.zero_grad()
    losses = contrast(learner.encoder(images, modality))
    torch.stack(list(losses.values())).sum().backward()
    learner.optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("encoder", [Plain(0.3), Plain(norm=True), TwoStreamEncoder()])
def test_a_step_is_that_of_plain_pytorch_to_the_bit(encoder: nn.Module) -> None:
    learner, reference = make(encoder), make(encoder)
    images, modality = batch((16, 16) if isinstance(encoder, TwoStreamEncoder) else (4, 4))
    for step in range(3):
        torch.manual_seed(step)
        learner.encoder.eval()  # however it was left
        losses, features = learner.step(images, modality, contrast, SECTIONS) or ({}, images)
        torch.manual_seed(step)
        assert losses == by_hand(reference, images, modality)
        assert (features.shape[0], features.requires_grad) == (SIZE, False)
        assert_equal(state(learner), state(reference))
    assert learner.encoder.training


def test_features_returned_are_those_of_the_loss() -> None:
    learner = make(Plain())
    images, modality = batch()
    seen: list[Tensor] = []

    def losses_of(features: Tensor) -> dict[str, Tensor]:
        seen.append(features.detach().clone())
        return contrast(features)

    _, features = learner.step(images, modality, losses_of, SECTIONS) or ({}, images)
    assert features.equal(seen[0])
    assert not features.equal(learner.encoder(images, modality).detach())  # one step later


@pytest.mark.parametrize("count", [2, 3, 8, 100])
def test_micro_batches_change_nothing_but_rounding(count: int) -> None:
    whole, parts = make(Plain(), sgd=True), make(Plain(), sgd=True, micro_batches=count)
    images, modality = batch()
    for _ in range(3):
        expected = whole.step(images, modality, contrast, SECTIONS)
        found = parts.step(images, modality, contrast, SECTIONS)
        assert expected is not None
        assert found is not None
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)
        for name, gradient in gradients(parts).items():
            assert gradient.abs().max() > 1e-4
            torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-4, atol=1e-6)
        for name, value in state(parts).items():
            torch.testing.assert_close(value, state(whole)[name], rtol=1e-5, atol=1e-6)


def gradients(learner: Learner) -> dict[str, Tensor]:
    return {name: each.grad for name, each in learner.encoder.named_parameters()}


def test_every_micro_batch_has_its_share_of_every_section() -> None:
    learner = make(Plain(), micro_batches=3)
    images, modality = batch()
    seen: list[list[int]] = []
    learner.encoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(
            [int((images == each).flatten(1).all(1).nonzero()) for each in inputs[0]]
        )
    )
    learner.step(images, modality, contrast, SECTIONS)
    parts = [
        [0, 1, 2, 8, 9, 10, 16, 17, 18],
        [3, 4, 5, 11, 12, 13, 19, 20, 21],
        [6, 7, 14, 15, 22, 23],
    ]
    assert seen == 2 * parts


def test_both_passes_of_micro_batches_draw_the_same_numbers() -> None:
    learner = make(Plain(dropout=0.5), sgd=True, micro_batches=3)
    images, modality = batch()
    outputs: list[Tensor] = []
    learner.encoder.register_forward_hook(lambda *call: outputs.append(call[2]))

    def drawing(features: Tensor) -> dict[str, Tensor]:
        return {"loss": (features * torch.rand_like(features)).sum()}

    torch.manual_seed(3)
    learner.step(images, modality, drawing, SECTIONS)
    after = torch.rand(3)
    first, second = outputs[:3], outputs[3:]
    assert [each.requires_grad for each in outputs] == [False] * 3 + [True] * 3
    assert all(one.equal(other) for one, other in zip(first, second, strict=True))
    assert not first[0].equal(first[1])
    # And those after the step are as if there had been one pass.
    torch.manual_seed(3)
    for output in first:
        nn.functional.dropout(torch.ones_like(output), 0.5)
    torch.rand(SIZE, WIDTH)
    assert after.equal(torch.rand(3))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_running_statistics_move_once_with_every_part(count: int) -> None:
    learner = make(Plain(norm=True), sgd=True, micro_batches=count)
    reference = copy.deepcopy(learner.encoder).train()
    images, modality = batch()
    learner.step(images, modality, contrast, SECTIONS)
    sides = torch.arange(SIZE).view(3, count, -1)
    for part in range(count):
        rows = sides[:, part].flatten()
        reference(images[rows], modality[rows])
    for name, buffer in reference.named_buffers():
        assert learner.encoder.get_buffer(name).equal(buffer)
    assert learner.encoder.norm.num_batches_tracked == count


HALVES = (  # each view of the visible images with half of the infrared ones
    torch.cat([torch.arange(8), torch.arange(16, 20)]),
    torch.cat([torch.arange(8, 16), torch.arange(20, 24)]),
)


def on_two_gpus(
    encoder: nn.Module, images: Tensor, modality: Tensor
) -> tuple[Tensor, list[nn.Module]]:
    """Features and replicas of an encoder, as DataParallel has them on two GPUs."""
    replicas = [copy.deepcopy(encoder).train() for _ in HALVES]
    outputs = [
        replica(images[rows], modality[rows])
        for replica, rows in zip(replicas, HALVES, strict=True)
    ]
    return torch.cat(outputs)[torch.cat(HALVES).argsort()], replicas


@pytest.mark.parametrize("encoder", [Plain(norm=True), TwoStreamEncoder()])
@pytest.mark.parametrize("count", [1, 2])
def test_halves_are_normalized_as_on_two_gpus(encoder: nn.Module, count: int) -> None:
    learner = make(encoder, sgd=True, normalization="halves", micro_batches=count)
    images, modality = batch((16, 16) if isinstance(encoder, TwoStreamEncoder) else (4, 4))
    for _ in range(2):
        features, replicas = on_two_gpus(learner.encoder, images, modality)
        losses = contrast(features)
        torch.stack(list(losses.values())).sum().backward()
        taken = learner.step(images, modality, contrast, SECTIONS)
        assert taken is not None
        assert taken[0] == pytest.approx({name: loss.item() for name, loss in losses.items()})
        torch.testing.assert_close(taken[1], features.detach(), rtol=1e-5, atol=1e-6)
        for name, gradient in gradients(learner).items():
            parts = [replica.get_parameter(name).grad for replica in replicas]
            given = [part for part in parts if part is not None]
            expected = torch.stack(given).sum(0) if given else None
            assert (gradient is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
        for name, buffer in learner.encoder.named_buffers():
            assert buffer.equal(replicas[0].get_buffer(name)), name
            if name.endswith("running_mean"):
                assert not buffer.equal(replicas[1].get_buffer(name))
    norms = [each for each in learner.encoder.modules() if hasattr(each, "track_running_stats")]
    assert all(each.track_running_stats for each in norms)


def test_parts_of_halves_move_the_statistics_of_the_first_half_alone() -> None:
    learner = make(Plain(norm=True), sgd=True, normalization="halves", micro_batches=4)
    reference = copy.deepcopy(learner.encoder).train()
    images, modality = batch()
    learner.step(images, modality, contrast, SECTIONS)
    for first, second in ((0, 16), (4, 18)):
        rows = torch.cat([torch.arange(first, first + 4), torch.arange(second, second + 2)])
        reference(images[rows], modality[rows])
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(learner.encoder.get_buffer(name), buffer)
    assert learner.encoder.norm.num_batches_tracked == 2


def test_one_view_or_one_modality_is_cut_in_half() -> None:
    """DataParallel cuts what it is given, whatever it holds."""
    learner = make(Plain(norm=True), normalization="halves")
    images, modality = batch()
    reference = copy.deepcopy(learner.encoder).train()
    expected = torch.cat(
        [reference(images[rows], modality[rows]) for rows in torch.arange(16).view(2, 8)]
    )
    found = learner.step(
        images[:16], modality[:16], lambda features: {"loss": features.square().sum()}, (16,)
    )
    assert found is not None
    torch.testing.assert_close(found[1], expected.detach())


def test_a_step_in_halves_that_is_not_finite_leaves_no_trace() -> None:
    learner = make(Plain(norm=True), normalization="halves")
    images, modality = batch()
    learner.step(images, modality, contrast, SECTIONS)
    before = state(learner)
    broken = images.clone()
    broken[8] = torch.nan  # of the second half
    assert learner.step(broken, modality, contrast, SECTIONS) is None
    assert_equal(before, state(learner))
    assert learner.encoder.norm.track_running_stats


def test_several_processes_join_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="normalization must be 'whole' when several processes"):
        make(Plain(), normalization="halves")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("count", [1, 2])
def test_half_precision_is_of_the_encoder_alone(precision: str, count: int) -> None:
    learner = make(Plain(), precision=precision, micro_batches=count, sgd=True)
    full = make(Plain(), sgd=True)
    inner: list[torch.dtype] = []
    learner.encoder.trunk.register_forward_hook(lambda *call: inner.append(call[2].dtype))
    dtypes: list[torch.dtype] = []

    def losses_of(features: Tensor) -> dict[str, Tensor]:
        assert not torch.is_autocast_enabled("cpu")
        losses = contrast(features)
        dtypes.extend([features.dtype, *(loss.dtype for loss in losses.values())])
        return losses

    images, modality = batch()
    found = learner.step(images, modality, losses_of, SECTIONS)
    expected = full.step(images, modality, contrast, SECTIONS)
    assert found is not None
    assert expected is not None
    assert set(dtypes) == {torch.float32}
    assert set(inner) == {getattr(torch, precision)}
    assert found[0] != expected[0]
    assert found[0] == pytest.approx(expected[0], rel=0.02)
    for name, value in learner.encoder.named_parameters():
        assert value.dtype == torch.float32
        gradient = gradients(full)[name]
        # What float16 scales for the way back is unscaled again.
        torch.testing.assert_close(
            value.grad, gradient, rtol=0, atol=0.03 * gradient.abs().max().item()
        )


class Faulty(Plain):
    """Batch normalization, and a last gradient that is multiplied on its way back."""

    factor = 1.0

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        features = super().forward(images, modality)
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient * self.factor)
        return features


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("fault", ["loss nan", "loss inf", "gradient nan", "gradient inf"])
def test_a_step_that_is_not_finite_leaves_no_trace(
    fault: str, count: int, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    learner = make(Faulty(norm=True), micro_batches=count, precision=precision)
    twin = make(Faulty(norm=True), micro_batches=count, precision=precision)
    images, modality = batch()
    where, value = fault.split()

    def losses_of(features: Tensor) -> dict[str, Tensor]:
        losses = contrast(features)
        return losses | {"odd": losses["visible"] * float(value)} if where == "loss" else losses

    assert learner.step(images, modality, contrast, SECTIONS) is not None
    before = state(learner)
    learner.encoder.factor = float(value) if where == "gradient" else 1.0
    with caplog.at_level(logging.WARNING, "mabm"):
        assert learner.step(images, modality, losses_of, SECTIONS) is None
    assert "skipped a step whose loss or gradient is not finite (visible " in caplog.text
    assert learner.skipped == 1
    assert_equal(before, state(learner))
    assert all(gradient is None for gradient in gradients(learner).values())
    # The next one is as if there had been none.
    learner.encoder.factor = 1.0
    found = learner.step(images, modality, contrast, SECTIONS)
    twin.step(images, modality, contrast, SECTIONS)
    expected = twin.step(images, modality, contrast, SECTIONS)
    assert found is not None
    assert expected is not None
    assert learner.skipped == 0
    if precision == "float32":
        assert found[0] == expected[0]
        assert_equal(state(learner), state(twin))
    else:
        assert found[0] == pytest.approx(expected[0])
        if where == "gradient":
            assert learner.scaler.get_scale() == twin.scaler.get_scale() / 2


def test_a_gradient_may_be_large_if_it_is_finite() -> None:
    learner = make(Plain())
    images, modality = batch()
    found = learner.step(images, modality, lambda f: {"loss": 1e25 * f.sum()}, SECTIONS)
    assert found is not None
    assert max(gradient.abs().max() for gradient in gradients(learner).values()) > 1e20


@pytest.mark.parametrize("allowed", [0, 2])
def test_too_many_in_a_row_stop_the_run(allowed: int) -> None:
    learner = make(Plain(), max_skipped=allowed)
    images, modality = batch()

    def fail(features: Tensor) -> dict[str, Tensor]:
        return {"loss": features.sum() * float("nan")}

    for _ in range(2):  # one that succeeds starts the count anew
        for _ in range(allowed):
            assert learner.step(images, modality, fail, SECTIONS) is None
        assert learner.step(images, modality, contrast, SECTIONS) is not None
    before = state(learner)
    for _ in range(allowed):
        learner.step(images, modality, fail, SECTIONS)
    with pytest.raises(
        TrainingError, match=f"not finite in {allowed + 1} consecutive steps .*loss nan"
    ):
        learner.step(images, modality, fail, SECTIONS)
    assert_equal(before, state(learner))


@pytest.mark.parametrize("normalization", ["whole", "halves"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_compiled_encoder(
    count: int, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    compile_ = torch.compile

    def eager(model: nn.Module) -> Any:  # the inductor needs a compiler, and seconds
        calls.append(type(model).__name__)
        return compile_(model, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    options: dict[str, Any] = {"micro_batches": count, "normalization": normalization}
    learner = make(Plain(norm=True), **options, compile=True)
    reference = make(Plain(norm=True), **options)
    images, modality = batch()
    for _ in range(2):
        found = learner.step(images, modality, contrast, SECTIONS)
        expected = reference.step(images, modality, contrast, SECTIONS)
        assert found is not None
        assert expected is not None
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert calls == ["Plain"]
    assert learner.encoder.state_dict().keys() == reference.encoder.state_dict().keys()
    for name, value in state(learner).items():
        torch.testing.assert_close(value, state(reference)[name], rtol=1e-5, atol=1e-6)


def test_parameters_without_a_part_in_the_loss_stay() -> None:
    encoder = Plain()
    encoder.stems[0].requires_grad_(False)
    encoder.unused = nn.Linear(2, 2)
    learner = make(encoder)
    images, modality = batch()
    before = state(learner)
    assert learner.step(images, modality, contrast, SECTIONS) is not None
    after = state(learner)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {name.split(".")[1] for name in changed} == {"stems", "trunk"}
    assert "encoder.stems.0.weight" not in changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "precision must be one of .*'float16'.*, got 'fp16'"),
        ({"micro_batches": 0}, "micro_batches must be at least 1, got 0"),
        ({"normalization": "group"}, r"normalization must be one of \('whole', 'halves'\), got 'g"),
        ({"normalization": "halves", "micro_batches": 3}, "must be 1 or even .* 'halves', got 3"),
        ({"max_skipped": -1}, "max_skipped must be at least 0, got -1"),
    ],
)
def test_options_out_of_contract(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Plain(), **options)


def test_sections_make_up_the_batch() -> None:
    images, modality = batch()
    with pytest.raises(
        ValueError, match=r"sections must sum to 24, the number of images, got \(8, 8\)"
    ):
        make(Plain()).step(images, modality, contrast, (8, 8))
