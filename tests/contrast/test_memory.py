"""Memories against released outputs, the reference and one another's processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from contrast_cases import Batch, as_on_a_gpu, batches, no_synchronization, one_batch
from devices import Device
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mabm
from mabm import reference

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = (mabm.MeanMemory, mabm.HardMemory, mabm.HybridMemory)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
Kind = Callable[..., Any]
Way = Callable[[], AbstractContextManager[Any]]
both_ways = pytest.mark.parametrize("way", [nullcontext, as_on_a_gpu], ids=["at hand", "on a GPU"])


def updated(kind: Kind, batch: Batch, way: Way = nullcontext, **options: Any) -> Tensor:
    memory = kind(batch.prototypes, **options)
    with way():
        assert memory.update(batch.features, batch.targets) is None
    return memory.prototypes


def by_reference(kind: Kind, batch: Batch, momentum: float) -> Any:
    arguments = (batch.features, batch.targets, momentum)
    if kind is mabm.MeanMemory:
        return reference.update_mean(batch.prototypes, *arguments)
    if kind is mabm.HardMemory:
        return reference.update_hard(batch.prototypes, *arguments)
    return np.stack(reference.update_hybrid(batch.prototypes, batch.prototypes, *arguments))


@pytest.mark.parametrize("name", ["mean", "hard", "hybrid"])
def test_released_memories(name: str) -> None:
    with np.load(GOLDEN / "memory.npz") as data:
        golden = {key: torch.from_numpy(data[key]) for key in data.files}
    kind = dict(zip(("mean", "hard", "hybrid"), KINDS, strict=True))[name]
    memory = kind(golden["initial"], momentum=golden["momentum"].item())
    loss_of = mabm.hybrid_contrast_loss if name == "hybrid" else mabm.cluster_contrast_loss
    for step in range(3):
        inputs, targets = golden["inputs"][step].requires_grad_(), golden["targets"][step]
        temperature = golden["temperature"].item()
        loss = loss_of(inputs, memory.prototypes, targets, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, inputs)
        memory.update(inputs, targets)
        for found, expected, bound in (
            (loss, golden[f"{name}_loss"][step], 1e-5),
            (gradient, golden[f"{name}_grad"][step], 1e-5),
            (memory.prototypes.flatten(0, -2), golden[f"{name}_memory"][step], 1e-6),
        ):
            torch.testing.assert_close(found.detach(), expected, rtol=0, atol=bound)


def test_released_multi_positive_loss() -> None:
    with np.load(GOLDEN / "multi_positive.npz") as data:
        golden = {key: torch.from_numpy(data[key]) for key in data.files}
    memory = mabm.HybridMemory(golden["initial"], momentum=golden["momentum"].item())
    for step in range(3):
        inputs, targets = golden["inputs"][step].requires_grad_(), golden["targets"][step]
        loss = mabm.multi_positive_loss(
            inputs,
            memory.prototypes,
            targets,
            golden["prototype_cluster"],
            num_selected=int(golden["num_selected"]),
            temperature=golden["temperature"].item(),
        )
        (gradient,) = torch.autograd.grad(loss, inputs)
        memory.update(inputs, targets)
        for found, expected, bound in (
            (loss, golden["loss"][step], 1e-5),
            (gradient, golden["grad"][step], 1e-5),
            (memory.prototypes.flatten(0, -2), golden["memory"][step], 1e-6),
        ):
            torch.testing.assert_close(found.detach(), expected, rtol=0, atol=bound)


@each_kind
@given(batch=batches(torch.float64), momentum=st.sampled_from((0.0, 0.1, 0.9, 1.0)))
def test_matches_the_reference(kind: Kind, batch: Batch, momentum: float) -> None:
    expected = by_reference(kind, batch, momentum)
    found = updated(kind, batch, momentum=momentum)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@each_kind
@given(batch=batches())
def test_updates_without_waiting_give_the_same_bits(kind: Kind, batch: Batch) -> None:
    assert torch.equal(updated(kind, batch, as_on_a_gpu), updated(kind, batch))


@each_kind
@given(batch=batches())
def test_rows_without_samples_do_not_change(kind: Kind, batch: Batch) -> None:
    found = updated(kind, batch).reshape(-1, *batch.prototypes.shape)
    absent = torch.ones(len(batch.prototypes), dtype=torch.bool)
    absent[batch.targets[batch.targets >= 0]] = False
    for bank in found:
        assert torch.equal(bank[absent], batch.prototypes[absent])


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.__name__)
@given(batch=batches(), seed=st.integers(0, 2**32 - 1))
def test_hard_and_hybrid_do_not_depend_on_the_batch_order(
    kind: Kind, batch: Batch, seed: int
) -> None:
    order = torch.randperm(len(batch.targets), generator=torch.Generator().manual_seed(seed))
    permuted = Batch(batch.features[order], batch.prototypes, batch.targets[order], batch.clusters)
    assert torch.equal(updated(kind, permuted), updated(kind, batch))


def test_the_mean_memory_depends_on_the_order_within_a_class() -> None:
    batch = one_batch()
    batch.targets[:] = torch.arange(24) % 2
    apart = torch.cat([torch.arange(0, 24, 2), torch.arange(1, 24, 2)])
    regrouped = Batch(batch.features[apart], batch.prototypes, batch.targets[apart], batch.clusters)
    backwards = Batch(
        batch.features.flip(0), batch.prototypes, batch.targets.flip(0), batch.clusters
    )
    found = updated(mabm.MeanMemory, batch)
    assert torch.equal(updated(mabm.MeanMemory, regrouped), found)
    assert not torch.allclose(updated(mabm.MeanMemory, backwards), found)


@each_kind
@given(batch=batches(), seed=st.integers(0, 2**32 - 1))
def test_names_of_prototypes_change_nothing(kind: Kind, batch: Batch, seed: int) -> None:
    order = torch.randperm(len(batch.prototypes), generator=torch.Generator().manual_seed(seed))
    targets = torch.where(batch.targets < 0, -1, torch.argsort(order)[batch.targets])
    renamed = Batch(batch.features, batch.prototypes[order], targets, batch.clusters)
    assert torch.equal(updated(kind, renamed), updated(kind, batch)[..., order, :])


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.__name__)
def test_ties_go_to_the_first_sample(kind: Kind) -> None:
    memory = kind(torch.eye(3)[:1], momentum=0.0)
    memory.update(torch.eye(3)[[0, 2, 1, 2]], torch.zeros(4, dtype=torch.int64))
    assert torch.equal(memory.prototypes.reshape(-1, 3)[-1], torch.eye(3)[2])


@each_kind
@both_ways
def test_a_batch_of_noise_changes_nothing(kind: Kind, way: Way) -> None:
    for size, count in ((5, 4), (0, 4), (5, 0), (0, 0)):
        prototypes = torch.randn(count, 3)
        memory = kind(prototypes)
        before = memory.prototypes
        batch = (torch.randn(size, 3), torch.full((size,), -1))
        with way():
            memory.update(*batch)
        assert torch.equal(memory.prototypes, before)


@each_kind
def test_a_backward_pass_moves_no_memory_and_an_update_no_gradient(kind: Kind) -> None:
    batch = one_batch()
    memory = kind(batch.prototypes)
    before = memory.prototypes.clone()
    features = batch.features.clone().requires_grad_()

    def loss() -> Tensor:
        return mabm.multi_positive_loss(features, memory.prototypes, batch.targets, memory.clusters)

    (expected,) = torch.autograd.grad(loss(), features)
    assert torch.equal(memory.prototypes, before)
    value = loss()
    memory.update(features, batch.targets)
    assert not torch.equal(memory.prototypes, before)
    (found,) = torch.autograd.grad(value, features)
    assert torch.equal(found, expected)
    assert not memory.prototypes.requires_grad


@each_kind
def test_a_memory_is_built_and_rebuilt_from_a_split(kind: Kind) -> None:
    features = torch.randn(40, 6, requires_grad=True)
    first = mabm.split_prototypes(features, torch.arange(40) % 5, torch.arange(40) // 20)
    second = mabm.split_prototypes(features, torch.arange(40) % 7 - 1, torch.arange(40) // 20)
    memory = kind(first)
    assert torch.equal(memory.clusters, first.clusters)
    memory.update(features, first.targets)
    memory.rebuild(second)
    assert torch.equal(memory.clusters, second.clusters)
    for bank in memory.prototypes.reshape(-1, *second.prototypes.shape):
        assert torch.equal(bank, second.prototypes)
    assert not memory.prototypes.requires_grad
    kept = second.prototypes.clone()
    memory.update(features, second.targets)
    assert torch.equal(second.prototypes, kept)  # a memory moves on a copy


@each_kind
def test_a_memory_made_in_inference_mode_serves_losses(kind: Kind) -> None:
    batch = one_batch()
    with torch.inference_mode():
        memory = kind(mabm.split_prototypes(batch.features, batch.targets))
    features = batch.features.clone().requires_grad_()
    targets = batch.targets % len(memory.clusters)
    mabm.split_contrast_loss(features, targets, memory).backward()
    memory.update(features, targets)
    with torch.inference_mode():
        memory.rebuild(batch.prototypes)
    mabm.split_contrast_loss(features, targets, memory).backward()
    assert features.grad.isfinite().all()


def test_a_memory_can_be_built_from_a_split_of_arrays() -> None:
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    split = mabm.split_prototypes(features, np.arange(20) % 4)
    memory = mabm.HybridMemory(split)
    np.testing.assert_array_equal(memory.prototypes[1], split.prototypes)
    memory.update(torch.from_numpy(features), torch.from_numpy(split.targets))
    np.testing.assert_array_equal(
        split.prototypes, mabm.split_prototypes(features, split.targets).prototypes
    )


@each_kind
@pytest.mark.parametrize("count", [12, 5])
def test_state_dicts_round_trip(kind: Kind, count: int) -> None:
    batch = one_batch()
    features = torch.randn(30, 8)
    memory = kind(mabm.split_prototypes(features, torch.arange(30) % 6 - 1, torch.arange(30) % 2))
    memory.update(features, torch.arange(30) % len(memory.clusters))
    state = memory.state_dict()
    other = torch.nn.ModuleDict({"memory": kind(torch.zeros(count, 8))})
    other.load_state_dict({f"memory.{name}": value.clone() for name, value in state.items()})
    assert torch.equal(other["memory"].clusters, memory.clusters)
    targets = batch.targets % len(memory.clusters)
    for each in (memory, other["memory"]):
        each.update(batch.features, targets)
    assert torch.equal(other["memory"].prototypes, memory.prototypes)


def test_a_state_of_another_width_or_kind_is_refused() -> None:
    state = mabm.MeanMemory(torch.zeros(4, 8)).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for prototypes"):
        mabm.MeanMemory(torch.zeros(4, 7)).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for prototypes"):
        mabm.HybridMemory(torch.zeros(4, 8)).load_state_dict(state)
    memory = mabm.MeanMemory(torch.ones(5, 7))
    with pytest.raises(RuntimeError, match="size mismatch for prototypes"):
        memory.load_state_dict(state)
    assert torch.equal(memory.prototypes, torch.ones(5, 7))  # and nothing is lost


@each_kind
def test_a_state_is_loaded_into_the_memory_and_not_into_its_source(kind: Kind) -> None:
    split = mabm.split_prototypes(torch.eye(4), torch.tensor([0, 2, 5, 7]))
    other = kind(mabm.split_prototypes(torch.eye(4).flip(0), torch.tensor([1, 3, 4, 9])))
    memory = kind(split)
    memory.load_state_dict(other.state_dict())
    assert memory.clusters.tolist() == [1, 3, 4, 9]
    assert split.clusters.tolist() == [0, 2, 5, 7]
    assert torch.equal(split.prototypes, torch.eye(4))


@each_kind
def test_updates_are_float32_under_autocast_and_of_half_features(kind: Kind) -> None:
    batch = one_batch()
    expected = updated(kind, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(updated(kind, batch), expected)
    half = batch.features.bfloat16()
    rounded = Batch(half.float(), batch.prototypes, batch.targets, batch.clusters)
    found = updated(kind, Batch(half, batch.prototypes, batch.targets, batch.clusters))
    assert found.dtype == torch.float32
    assert torch.equal(found, updated(kind, rounded))


@each_kind
def test_same_bits_for_any_number_of_threads(kind: Kind) -> None:
    batch = one_batch(256, 300, 40)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(updated(kind, batch))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(memory, found[0]) for memory in found)


@each_kind
def test_updates_compile_whole(kind: Kind) -> None:
    batch = one_batch(8, 8, 4)
    batch.targets[:] = torch.arange(8) // 3
    options = {"max_repeats": 3} if kind is mabm.MeanMemory else {}
    memory, other = kind(batch.prototypes), kind(batch.prototypes, **options)
    torch.compiler.reset()
    compiled = torch.compile(other.update, fullgraph=True)
    for _ in range(2):
        memory.update(batch.features, batch.targets)
        compiled(batch.features, batch.targets)
        torch.testing.assert_close(other.prototypes, memory.prototypes)


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in KINDS), (mabm.MeanMemory, {"max_repeats": 24})]
)
def test_no_synchronization_on_a_gpu(gpu: Device, kind: Kind, options: dict[str, int]) -> None:
    batch = one_batch()
    expected = updated(kind, batch)
    memory = kind(batch.prototypes, **options).to(gpu.torch)
    features, targets = gpu.put(batch.features), gpu.put(batch.targets)
    kind(batch.prototypes, **options).to(gpu.torch).update(features, targets)  # libraries loaded
    with no_synchronization():
        memory.update(features, targets)
    torch.testing.assert_close(memory.prototypes.cpu(), expected)


def test_max_repeats_changes_no_result_and_is_enforced() -> None:
    batch = one_batch()
    batch.targets[:] = torch.arange(24) % 6
    expected = updated(mabm.MeanMemory, batch)
    for known in (4, 5, 100):
        assert torch.equal(updated(mabm.MeanMemory, batch, max_repeats=known), expected)
        found = updated(mabm.MeanMemory, batch, as_on_a_gpu, max_repeats=known)
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"more often than max_repeats = 3, got one 4 times"):
        updated(mabm.MeanMemory, batch, max_repeats=3)
    with pytest.raises(RuntimeError, match="more often than max_repeats = 3"):
        updated(mabm.MeanMemory, batch, as_on_a_gpu, max_repeats=3)


SIZES = ((5, 9), (7, 0), (0, 6), (0, 0), (1, 1))
"""Batch sizes of the two ranks in consecutive steps."""


def shares(size: int, rank: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    targets = torch.randint(-1, 4, (size,), generator=generator)
    features = torch.randn(size, 6, generator=generator)
    features[size // 3 : size // 2, rank] = torch.nan if rank else torch.inf  # left out
    return features, targets


def one_rank(rank: int, address: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        memories = [kind(torch.eye(6)[:4]) for kind in KINDS]
        history = []
        for step, sizes in enumerate(SIZES):
            for memory in memories:
                memory.update(*shares(sizes[rank], rank, step))
            history.append([memory.prototypes for memory in memories])
        alone = mabm.MeanMemory(torch.eye(6)[:4])
        alone.update(*shares(5, rank, 0), gather=False)
        in_group = mabm.MeanMemory(torch.eye(6)[:4])
        group = dist.new_group([0, 1])
        in_group.update(*shares(SIZES[0][rank], rank, 0), group=group)
        torch.save([history, alone.prototypes, in_group.prototypes], f"{results}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_every_rank_ends_with_the_memory_of_the_joined_batch(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/rendezvous"
    mp.spawn(one_rank, args=(address, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    memories = [kind(torch.eye(6)[:4]) for kind in KINDS]
    for step, sizes in enumerate(SIZES):
        parts = [shares(size, rank, step) for rank, size in enumerate(sizes)]
        features, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        for number, memory in enumerate(memories):
            kept = features.isfinite().all(dim=1)
            memory.update(features[kept], targets[kept])
            for history, _, _ in found:
                assert torch.equal(history[step][number], memory.prototypes)
    for rank, (history, alone, in_group) in enumerate(found):
        expected = mabm.MeanMemory(torch.eye(6)[:4])
        expected.update(*shares(5, rank, 0))
        assert torch.equal(alone, expected.prototypes)
        assert torch.equal(in_group, history[0][0])


ROWS, TARGETS = torch.ones(2, 3), torch.tensor([0, 1])


@each_kind
@pytest.mark.parametrize(
    ("features", "targets", "error", "message"),
    [
        (ROWS.numpy(), TARGETS, TypeError, "features must be a torch.Tensor, got ndarray"),
        (ROWS[0], TARGETS, ValueError, r"features must be \(N, D\), got shape \(3,\)"),
        (
            ROWS[:, :2],
            TARGETS,
            ValueError,
            "features must have 3 columns as prototypes have, got 2",
        ),
        (ROWS, TARGETS + 3, ValueError, r"targets must be in \[-1, 4\), .* got 4"),
        (ROWS, TARGETS.float(), TypeError, "targets must be integers, got dtype torch.float32"),
        (ROWS, TARGETS[:1], ValueError, r"targets must be \(2,\), .* got shape \(1,\)"),
        (
            ROWS.to("meta"),
            TARGETS.to("meta"),
            ValueError,
            "features must be on cpu as the memory is, got meta",
        ),
    ],
)
def test_bad_batches(
    kind: Kind, features: Any, targets: Any, error: type[Exception], message: str
) -> None:
    memory = kind(torch.ones(4, 3))
    with pytest.raises(error, match=message):
        memory.update(features, targets)
    assert torch.equal(memory.prototypes, torch.ones_like(memory.prototypes))


@each_kind
@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([1.0], {}, TypeError, "source must be a PrototypeSplit or a torch.Tensor, got list"),
        (torch.ones(3), {}, ValueError, r"source must be \(N, D\), got shape \(3,\)"),
        (torch.ones(3, 2).int(), {}, TypeError, "source must be floating point, got dtype"),
        (ROWS, {"momentum": 1.5}, ValueError, r"momentum must be in \[0, 1\], got 1.5"),
        (ROWS, {"momentum": "0.1"}, TypeError, "momentum must be a number, got str"),
    ],
)
def test_bad_memories(
    kind: Kind, source: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(source, **options)


@pytest.mark.parametrize("repeats", [0, -1])
def test_bad_repeats(repeats: int) -> None:
    with pytest.raises(ValueError, match=f"max_repeats must be at least 1, got {repeats}"):
        mabm.MeanMemory(ROWS, max_repeats=repeats)


def test_the_repr_of_a_memory_has_its_sizes() -> None:
    assert repr(mabm.HybridMemory(torch.ones(4, 3))) == (
        "HybridMemory(4 prototypes of 3 dimensions, momentum=0.1)"
    )


def test_the_watch_detects_synchronization() -> None:
    with as_on_a_gpu():
        for wait in (lambda: ROWS.sum().item(), lambda: ROWS[ROWS > 0], TARGETS.unique):
            with pytest.raises(AssertionError, match="waits for the device"):
                wait()
