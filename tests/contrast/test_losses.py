"""Losses against the reference and by what they promise: gradients, noise, precision, compiling."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contrast_cases import Batch, as_on_a_gpu, batches, no_synchronization, one_batch, unit
from devices import Device
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mabm
from mabm import reference

Loss = Callable[..., Any]
"""(features, prototypes, targets, clusters) -> loss: all kinds called alike."""


def cluster(f: Tensor, p: Tensor, y: Tensor, c: Tensor, **options: Any) -> Any:
    return mabm.cluster_contrast_loss(f, p, y, **options)


def hybrid(f: Tensor, p: Tensor, y: Tensor, c: Tensor, **options: Any) -> Any:
    return mabm.hybrid_contrast_loss(f, torch.stack([p, p.flip(1)]), y, **options)


def multi_positive(f: Tensor, p: Tensor, y: Tensor, c: Tensor, **options: Any) -> Any:
    return mabm.multi_positive_loss(f, p, y, c, **{"num_selected": 6, **options})


def multi_positive_of_banks(f: Tensor, p: Tensor, y: Tensor, c: Tensor, **options: Any) -> Any:
    return multi_positive(f, torch.stack([p, p.flip(1), -p]), y, c, **options)


def split_contrast(f: Tensor, p: Tensor, y: Tensor, c: Tensor, **options: Any) -> Any:
    split = mabm.PrototypeSplit(p, c, torch.zeros_like(c), y)
    return mabm.split_contrast_loss(f, y, split, **{"num_selected": 6, **options})


LOSSES = (cluster, hybrid, multi_positive, multi_positive_of_banks, split_contrast)
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def parts(batch: Batch, rows: Any = slice(None)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch.features[rows], batch.prototypes, batch.targets[rows], batch.clusters


def gradient(loss: Loss, batch: Batch) -> Tensor:
    features = batch.features.clone().requires_grad_()
    found = loss(features, *parts(batch)[1:])
    assert found.shape == ()
    assert found.isfinite()
    found.backward()
    assert features.grad is not None
    return features.grad


@given(batches(torch.float64), st.sampled_from((1, 3, 50)))
def test_matches_the_reference(batch: Batch, num_selected: int) -> None:
    f, p, y, c = parts(batch)
    turned = p.flip(1)
    assert cluster(f, p, y, c).item() == pytest.approx(reference.cluster_contrast_loss(f, p, y))
    expected = reference.hybrid_contrast_loss(f, p, turned, y)
    assert hybrid(f, p, y, c).item() == pytest.approx(expected)
    banks = [reference.multi_positive_loss(f, b, y, c, num_selected) for b in (p, turned, -p)]
    found = multi_positive(f, p, y, c, num_selected=num_selected)
    assert found.item() == pytest.approx(banks[0])
    found = multi_positive_of_banks(f, p, y, c, num_selected=num_selected)
    assert found.item() == pytest.approx(np.mean(banks))


@each_loss
def test_gradients_in_features_and_prototypes(loss: Loss) -> None:
    batch = one_batch(7, 4, 10, torch.float64)
    targets = batch.targets.clone()
    targets[2] = -1
    f, p = batch.features.requires_grad_(), batch.prototypes.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p: loss(f, p, targets, batch.clusters), (f, p))


@each_loss
@given(batch=batches(), seed=st.integers(0, 2**32 - 1))
def test_permuting_a_batch_permutes_gradients(loss: Loss, batch: Batch, seed: int) -> None:
    order = torch.randperm(len(batch.targets), generator=torch.Generator().manual_seed(seed))
    permuted = Batch(batch.features[order], batch.prototypes, batch.targets[order], batch.clusters)
    torch.testing.assert_close(
        gradient(loss, permuted), gradient(loss, batch)[order], rtol=1e-4, atol=1e-6
    )


@each_loss
@given(batch=batches(), seed=st.integers(0, 2**32 - 1))
def test_names_of_prototypes_and_clusters_change_nothing(
    loss: Loss, batch: Batch, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(batch.prototypes), generator=generator)
    names = torch.randperm(7 * len(order) + 10, generator=generator)
    number_of = torch.argsort(order)
    renamed = Batch(
        batch.features,
        batch.prototypes[order],
        torch.where(batch.targets < 0, -1, number_of[batch.targets]),
        names[batch.clusters + 3][order],
    )
    torch.testing.assert_close(gradient(loss, renamed), gradient(loss, batch), rtol=1e-4, atol=1e-6)


@each_loss
@given(batch=batches())
def test_noise_is_left_out(loss: Loss, batch: Batch) -> None:
    found = gradient(loss, batch)
    kept = batch.targets >= 0
    assert torch.equal(found[~kept], torch.zeros_like(found[~kept]))
    rest = Batch(batch.features[kept], batch.prototypes, batch.targets[kept], batch.clusters)
    torch.testing.assert_close(found[kept], gradient(loss, rest), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss(*parts(batch)), loss(*parts(rest)), rtol=1e-5, atol=1e-6)


@each_loss
@pytest.mark.parametrize(
    ("size", "count"), [(5, 4), (0, 4), (5, 0), (0, 0)], ids=["noise", "no row", "no one", "naught"]
)
def test_without_prototypes_the_loss_is_zero_and_has_a_gradient(
    loss: Loss, size: int, count: int
) -> None:
    batch = one_batch(size, 3, max(count, 1))
    clusters = torch.arange(count)
    nothing = Batch(batch.features, batch.prototypes[:count], torch.full((size,), -1), clusters)
    assert loss(*parts(nothing)).item() == 0
    assert torch.equal(gradient(loss, nothing), torch.zeros(size, 3))


def test_a_row_of_zeros_has_a_gradient() -> None:
    batch = one_batch()
    batch.features[3] = 0
    for loss in LOSSES:
        assert gradient(loss, batch).isfinite().all()


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_are_float32_under_autocast_and_for_half_features(
    loss: Loss, dtype: torch.dtype
) -> None:
    batch = one_batch()
    expected, exact = loss(*parts(batch), return_logits=True)
    features = batch.features.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found, logits = loss(features, *parts(batch)[1:], return_logits=True)
    found.backward()
    assert found.dtype == logits.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(logits, exact)
    assert torch.equal(features.grad, gradient(loss, batch))

    half = batch.features.to(dtype)
    halved = Batch(half, batch.prototypes, batch.targets, batch.clusters)
    assert gradient(loss, halved).dtype == dtype
    found, logits = loss(*parts(halved), return_logits=True)
    assert logits.dtype == torch.float32
    assert torch.equal(found, loss(half.float(), *parts(batch)[1:]))


def test_a_layer_under_autocast_learns_through_a_loss() -> None:
    batch, layer = one_batch(), torch.nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = layer(batch.features)
        assert features.dtype == torch.bfloat16
        loss = mabm.cluster_contrast_loss(features, batch.prototypes, batch.targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [cluster, hybrid, multi_positive_of_banks, split_contrast],
    ids=lambda loss: loss.__name__,
)
def test_compiles_whole(loss: Loss) -> None:
    batch = one_batch()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(*parts(batch)), loss(*parts(batch)))
    torch.testing.assert_close(gradient(compiled, batch), gradient(loss, batch))


def test_compiled_logits_are_float32_under_autocast() -> None:
    batch = one_batch()
    torch.compiler.reset()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.compile(cluster, fullgraph=True)(*parts(batch), return_logits=True)
    expected = cluster(*parts(batch), return_logits=True)
    torch.testing.assert_close(found, expected)


@each_loss
def test_checkpointing_changes_nothing(loss: Loss) -> None:
    batch, layer = one_batch(), torch.nn.Linear(8, 8)

    def whole(x: Tensor) -> Any:
        return loss(layer(x), *parts(batch)[1:])

    found = []
    for call in (whole, lambda x: checkpoint(whole, x, use_reentrant=False)):
        layer.zero_grad()
        call(batch.features).backward()
        found.append(layer.weight.grad.clone())
    assert torch.equal(*found)


@each_loss
def test_accumulated_halves_make_the_whole(loss: Loss) -> None:
    batch = one_batch()
    features = batch.features.clone().requires_grad_()
    for rows in (slice(0, 12), slice(12, 24)):
        (loss(features[rows], *parts(batch, rows)[1:]) / 2).backward()
    torch.testing.assert_close(features.grad, gradient(loss, batch))


@each_loss
@given(batch=batches())
def test_losses_do_not_wait_for_the_device(loss: Loss, batch: Batch) -> None:
    expected = gradient(loss, batch)
    with as_on_a_gpu():
        features = batch.features.clone().requires_grad_()
        loss(features, *parts(batch)[1:]).backward()
    assert torch.equal(features.grad, expected)


def test_weights_are_checked_without_waiting_for_the_device() -> None:
    f, p, y, c = parts(one_batch())
    weights = torch.rand(24, 12)
    expected = multi_positive(f, p, y, c, positive_weights=weights)
    with as_on_a_gpu():
        found = multi_positive(f, p, y, c, positive_weights=weights)
    assert torch.equal(found, expected)


@each_loss
def test_no_synchronization_on_a_gpu(gpu: Device, loss: Loss) -> None:
    batch = one_batch()
    f, p, y, c = map(gpu.put, parts(batch))
    f.requires_grad_()
    loss(f, p, y, c).backward()  # libraries loaded
    f.grad = None
    with no_synchronization():
        loss(f, p, y, c).backward()
    torch.testing.assert_close(f.grad.cpu(), gradient(loss, batch))


def test_returned_logits_are_the_similarities() -> None:
    f, p, y, c = parts(one_batch())
    expected = torch.nn.functional.normalize(f) @ p.T / 0.1
    for loss in (cluster, multi_positive, split_contrast):
        _, logits = loss(f, p, y, c, temperature=0.1, return_logits=True)
        torch.testing.assert_close(logits, expected)
    _, logits = hybrid(f, p, y, c, temperature=0.1, return_logits=True)
    assert logits.shape == (2, 24, 12)
    torch.testing.assert_close(logits[0], expected)
    _, logits = multi_positive_of_banks(f, p, y, c, temperature=0.1, return_logits=True)
    torch.testing.assert_close(logits[2], -expected)


def test_logits_carry_a_gradient() -> None:
    f, p, y, _ = parts(one_batch())
    f.requires_grad_()
    mabm.cluster_contrast_loss(f, p, y, return_logits=True)[1].sum().backward()
    assert f.grad.abs().sum() > 0


def test_the_margin_applies_to_the_mean_bank_only() -> None:
    f, p, y, c = parts(one_batch())
    mean, hard = (mabm.cluster_contrast_loss(f, bank, y) for bank in (p, p.flip(1)))
    assert hybrid(f, p, y, c, margin=0.0).item() == pytest.approx(0.5 * (mean + hard).item())
    assert hybrid(f, p, y, c, margin=1e3).item() == pytest.approx(0.5 * hard.item())


def test_a_positive_alone_in_its_softmax_has_loss_zero() -> None:
    f, p, y, _ = parts(one_batch())
    assert multi_positive(f, p, y, torch.arange(12), num_selected=1).item() == 0
    # Positives enter even where there are more of them than are selected.
    both = multi_positive(f, p, y, torch.arange(12) // 2, num_selected=1)
    assert both.item() == pytest.approx(
        reference.multi_positive_loss(f, p, y, torch.arange(12) // 2, 1)
    )


def test_with_one_prototype_per_cluster_and_all_selected_it_is_cluster_contrast() -> None:
    f, p, y, _ = parts(one_batch())
    found = multi_positive(f, p, y, torch.arange(12), num_selected=50)
    torch.testing.assert_close(found, mabm.cluster_contrast_loss(f, p, y))


def test_weights_weigh_the_positives() -> None:
    f, p, y, c = parts(one_batch())
    assert torch.equal(multi_positive(f, p, y, c, positive_weights=torch.ones(12)),
                       multi_positive(f, p, y, c))  # fmt: skip
    # A weight on the first prototype of each cluster leaves cross entropy with that target.
    first = (torch.arange(12) % 2 == 0).float()
    found, logits = multi_positive(
        f, p, y, c, positive_weights=first, num_selected=12, return_logits=True
    )
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, y // 2 * 2))
    # A row of weights for each sample; only their ratios count.
    rows = torch.rand(24, 12)
    torch.testing.assert_close(
        multi_positive(f, p, y, c, positive_weights=rows),
        multi_positive(f, p, y, c, positive_weights=3 * rows),
    )
    # A row whose positives weigh nothing is left out.
    rows[:12] = 0
    torch.testing.assert_close(
        multi_positive(f, p, y, c, positive_weights=rows),
        multi_positive(f[12:], p, y[12:], c, positive_weights=rows[12:]),
    )
    nothing = multi_positive(f.requires_grad_(), p, y, c, positive_weights=torch.zeros(12))
    nothing.backward()
    assert nothing.item() == 0
    assert torch.equal(f.grad, torch.zeros(24, 8))


def test_weights_receive_a_gradient() -> None:
    f, p, y, c = parts(one_batch(5, 4, 6, torch.float64))
    weights = (0.1 + torch.rand(5, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: multi_positive(f, p, y, c, positive_weights=w), (weights,)
    )


def test_a_custom_selector_decides_what_enters_the_softmax() -> None:
    f, p, y, c = parts(one_batch())
    asked = []

    def everyone(logits: Tensor, positives: Tensor, num_selected: int) -> Tensor:
        asked.append((logits.shape, positives.shape, num_selected, logits.requires_grad))
        return torch.ones_like(positives)

    f.requires_grad_()
    found = multi_positive_of_banks(f, p, y, c, select=everyone)
    assert asked == [((3, 24, 12), (24, 12), 6, False)]
    torch.testing.assert_close(found, multi_positive_of_banks(f, p, y, c, num_selected=50))

    def no_one(logits: Tensor, positives: Tensor, num_selected: int) -> Tensor:
        return torch.zeros_like(positives)

    y[3] = -1
    loss = multi_positive(f, p, y, c, select=no_one)
    loss.backward()
    assert f.grad.isfinite().all()
    assert loss.item() == pytest.approx(reference.multi_positive_loss(f.detach(), p, y, c, 1))


def test_the_hardest_are_the_most_similar() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    positives = torch.tensor([[False, False, False, True]])
    assert mabm.select_hardest(logits, positives, 3).tolist() == [[True, False, True, True]]
    assert mabm.select_hardest(logits, positives, 1).tolist() == [[False, False, False, True]]
    assert mabm.select_hardest(logits, positives, 50).all()


def test_the_prototypes_of_a_split_receive_a_gradient() -> None:
    features = torch.randn(40, 6, requires_grad=True)
    split = mabm.split_prototypes(features, torch.arange(40) % 5, torch.arange(40) // 20)
    loss = mabm.split_contrast_loss(features, split.targets, split)
    loss.backward()
    apart = features.detach().clone().requires_grad_()
    fixed = mabm.split_prototypes(apart.detach(), torch.arange(40) % 5, torch.arange(40) // 20)
    mabm.split_contrast_loss(apart, split.targets, fixed).backward()
    assert not torch.allclose(features.grad, apart.grad)


def test_a_split_and_its_memory_give_the_same_loss() -> None:
    features, labels = torch.randn(40, 6), torch.arange(40) % 5
    split = mabm.split_prototypes(features, labels, torch.arange(40) // 20)
    expected = mabm.split_contrast_loss(features, split.targets, split)
    for kind in (mabm.MeanMemory, mabm.HardMemory, mabm.HybridMemory):
        found = mabm.split_contrast_loss(features, split.targets, kind(split))
        torch.testing.assert_close(found, expected)


def test_modules_compute_the_functions_with_their_options() -> None:
    f, p, y, c = parts(one_batch())
    banks = torch.stack([p, p.flip(1)])
    weights = torch.rand(12)
    split = mabm.PrototypeSplit(p, c, c, y)
    pairs = [
        (mabm.ClusterContrastLoss(temperature=0.1)(f, p, y), cluster(f, p, y, c, temperature=0.1)),
        (
            mabm.HybridContrastLoss(temperature=0.1, margin=0.5)(f, banks, y),
            hybrid(f, p, y, c, temperature=0.1, margin=0.5),
        ),
        (
            mabm.MultiPositiveLoss(num_selected=5, temperature=0.1)(f, p, y, c, weights),
            multi_positive(f, p, y, c, num_selected=5, temperature=0.1, positive_weights=weights),
        ),
        (
            mabm.SplitContrastLoss(num_selected=5)(f, y, split),
            multi_positive(f, p, y, c, num_selected=5),
        ),
    ]
    for found, expected in pairs:
        assert torch.equal(found, expected)
    assert repr(mabm.HybridContrastLoss()) == "HybridContrastLoss(temperature=0.05, margin=0.2)"
    assert "num_selected=50, temperature=0.05" in repr(mabm.SplitContrastLoss())
    assert not list(mabm.MultiPositiveLoss().state_dict())


F, P, Y, C = torch.ones(3, 2), torch.ones(4, 2), torch.tensor([0, 3, -1]), torch.arange(4)
BAD_BATCHES = [
    ({"features": [[1.0, 2.0]]}, TypeError, "features must be a torch.Tensor, got list"),
    ({"features": F.int()}, TypeError, "features must be floating point, got dtype torch.int32"),
    ({"features": F[0]}, ValueError, r"features must be \(N, D\), got shape \(2,\)"),
    ({"features": F.to_sparse()}, TypeError, "features must be a dense tensor, got layout"),
    ({"features": torch.ones(3, 5)}, ValueError, "must have 2 columns as prototypes have, got 5"),
    ({"prototypes": P.numpy()}, TypeError, "prototypes must be a torch.Tensor, got ndarray"),
    ({"prototypes": P.int()}, TypeError, "prototypes must be floating point, got dtype .*int32"),
    ({"prototypes": P.to("meta")}, ValueError, "prototypes must be on cpu as features are, got m"),
    ({"targets": Y.float()}, TypeError, "targets must be integers, got dtype torch.float32"),
    ({"targets": Y == 0}, TypeError, "targets must be integers, got dtype torch.bool"),
    ({"targets": Y[:2]}, ValueError, r"targets must be \(3,\), one per row .* got shape \(2,\)"),
    ({"targets": Y + 1}, ValueError, r"targets must be in \[-1, 4\), rows of prototypes .* got 4"),
    ({"targets": Y - 1}, ValueError, r"targets must be in \[-1, 4\), .* got -2"),
    ({"targets": Y.to("meta")}, ValueError, "targets must be on cpu as features are, got meta"),
    ({"temperature": 0}, ValueError, "temperature must be above 0, got 0"),
    ({"temperature": -1.0}, ValueError, r"temperature must be in \[0, inf\), got -1.0"),
    ({"temperature": float("inf")}, ValueError, r"temperature must be in \[0, inf\), got inf"),
    ({"temperature": "0.05"}, TypeError, "temperature must be a number, got str"),
]  # fmt: skip
BAD_SELECTIONS = [
    ({"prototypes": P[0]}, ValueError, r"prototypes must be \(P, D\), or \(M, P, D\) .* got .*2,"),
    ({"prototypes": P[None, :0][:0]}, ValueError, r"prototypes must be .* got shape \(0, 0, 2\)"),
    ({"clusters": C[:2]}, ValueError, r"clusters must be \(4,\), one per prototype, got .*\(2,\)"),
    ({"clusters": C.float()}, TypeError, "clusters must be integers, got dtype torch.float32"),
    ({"clusters": C.to("meta")}, ValueError, "clusters must be on cpu as prototypes are"),
    ({"num_selected": 0}, ValueError, "num_selected must be at least 1, got 0"),
    ({"num_selected": 5.0}, TypeError, "num_selected must be an integer, got float"),
    ({"positive_weights": C}, TypeError, "positive_weights must be floating point, got .*int64"),
    ({"positive_weights": F}, ValueError, r"positive_weights must be \(4,\) or \(3, 4\), got .*2"),
    ({"positive_weights": C - 2.5}, ValueError, r"must be 0 or in \[1e-30, 1e\+30\], got -2.5"),
    ({"positive_weights": C * torch.nan}, ValueError, r"must be 0 or in .* got nan"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD_BATCHES)
def test_bad_batches(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"features": F, "prototypes": P, "targets": Y, **change}
    with pytest.raises(error, match=message):
        mabm.cluster_contrast_loss(**given)
    with pytest.raises(error, match=message):
        mabm.multi_positive_loss(**given, clusters=C)
    if isinstance(given["prototypes"], Tensor):
        given["prototypes"] = given["prototypes"][None].expand(2, -1, -1)
    with pytest.raises(error, match=message):
        mabm.hybrid_contrast_loss(**given)


@pytest.mark.parametrize(("change", "error", "message"), BAD_SELECTIONS)
def test_bad_selections(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mabm.multi_positive_loss(
            **{"features": F, "prototypes": P, "targets": Y, "clusters": C, **change}
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mabm.cluster_contrast_loss(F, P[None], Y), ValueError, r"\(C, D\), got .*1, 4, 2"),
        (lambda: mabm.hybrid_contrast_loss(F, P, Y), ValueError, r"\(2, C, D\), .* got .*\(4, 2\)"),
        (lambda: mabm.hybrid_contrast_loss(F, P.expand(3, 4, 2), Y), ValueError, r"got .*3, 4, 2"),
        (
            lambda: mabm.hybrid_contrast_loss(F, P.expand(2, 4, 2), Y, margin=-0.1),
            ValueError,
            r"margin must be in \[0, inf\), got -0.1",
        ),
        (lambda: mabm.split_contrast_loss(F, Y, P), TypeError, "source must have .* got Tensor"),
        (lambda: mabm.ClusterContrastLoss(temperature=0), ValueError, "must be above 0, got 0"),
        (lambda: mabm.HybridContrastLoss(margin=None), TypeError, "margin must be a number"),
        (lambda: mabm.SplitContrastLoss(num_selected=0), ValueError, "must be at least 1, got 0"),
    ],
)
def test_other_bad_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_mixed_dtypes_are_computed_in_the_wider() -> None:
    f, p, y, _ = parts(one_batch())
    _, logits = mabm.cluster_contrast_loss(f, p.double(), y, return_logits=True)
    assert logits.dtype == torch.float64
    generator = torch.Generator().manual_seed(0)
    half = unit(12, 8, generator=generator, dtype=torch.bfloat16)
    _, logits = mabm.cluster_contrast_loss(f, half, y, return_logits=True)
    assert logits.dtype == torch.float32
