"""A GPU against the CPU: the same bits, where it was asked to work, and without waiting for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from cases import KINDS, Case, cases, make_features
from devices import CPU, Device, switched
from golden_files import GOLDEN, Golden
from hypothesis import given, settings
from op_samples import OPS, make_samples
from pipeline import results

import mabm
from mabm.distance import candidates, whole_products
from mabm.distance.integer_products import IntegerProduct
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import FloatProduct, HalfProduct

# Ops whose results have a size that the host knows: they wait for nothing.
OF_KNOWN_SIZE = (
    "measure_columns",
    "measure_rows",
    "halve_rows",
    "round_rows_",
    "collect_candidates_",
    "rank_candidates",
    "rank_exactly",
    "reciprocal_mask",
    "jaccard_distance",
    "dbscan",
    "join_samples_",
)
# About half a second: longer by far than a launch takes, whatever else the machine does.
CYCLES = 10**9


def check_same(found: dict[str, Any], expected: dict[str, Any], device: Device) -> None:
    for name, value in expected.items():
        here, there = CPU.get(value), device.get(found[name])
        assert there.dtype == here.dtype, name
        np.testing.assert_array_equal(there, here, err_msg=name)


def check_same_as_the_cpu(device: Device, case: Case | Golden) -> None:
    expected = results(case.features, case.modality, case.options)
    check_same(results(*device.inputs(case), case.options), expected, device)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_golden_files(gpu: Device, golden: Golden) -> None:
    check_same_as_the_cpu(gpu, golden)
    for eps, labels in golden.labels.items():
        found = mabm.pseudo_labels(*gpu.inputs(golden), eps=eps, **golden.options)
        np.testing.assert_array_equal(gpu.get(found.labels), labels)


@settings(max_examples=100)
@given(cases())
def test_random_cases(gpu: Device, case: Case) -> None:
    check_same_as_the_cpu(gpu, case)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 255, 256, 257, 1025])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_about_those_of_warps_and_blocks(gpu: Device, kind: str, count: int) -> None:
    modality = (np.arange(count) % 7 == 0).astype(np.int64)
    features = make_features(kind, modality, seed=count)
    options = {"k1": 13, "k2": 4}
    expected = results(features, modality, options)
    check_same(results(gpu.put(features), gpu.put(modality), options), expected, gpu)


@pytest.mark.parametrize("preset", mabm.PRESETS)
def test_no_samples(gpu: Device, preset: str) -> None:
    features, modality = np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64)
    options = {"preset": preset}
    expected = results(features, modality, options)
    check_same(results(gpu.put(features), gpu.put(modality), options), expected, gpu)


def many(count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Identities of twenty in two groups."""
    rng = np.random.default_rng(count)
    centers, gap = rng.normal(size=(count // 20, dim)), rng.normal(size=(2, dim))
    modality = rng.integers(0, 2, size=count)
    features = centers[rng.integers(0, count // 20, size=count)] + 0.6 * gap[modality]
    return (features + 0.7 * rng.normal(size=(count, dim))).astype(np.float32), modality


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
def test_several_tiles(gpu: Device, preset: str) -> None:
    features, modality = many(candidates._GPU_TILE + 1300, 128)
    inputs = gpu.put(features), gpu.put(modality)
    expected = mabm.rank_neighbors(features, modality, preset=preset)
    found = mabm.rank_neighbors(*inputs, preset=preset)
    np.testing.assert_array_equal(gpu.get(found.ranks), expected.ranks)
    np.testing.assert_array_equal(gpu.get(found.scores), expected.scores)
    labels = mabm.pseudo_labels(features, modality, preset=preset).labels
    found_labels = mabm.pseudo_labels(*inputs, preset=preset).labels
    assert len(np.unique(labels)) > 100
    np.testing.assert_array_equal(gpu.get(found_labels), labels)


def put(device: Device, parts: Any) -> list[Any]:
    return [device.put(part) if isinstance(part, torch.Tensor) else part for part in parts]


def rows_with_a_long_one(count: int, members: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The indptr and indices of rows that have one member each, but for row 5."""
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(1))[:members]
    indices = torch.cat([torch.arange(5), chosen.sort().values, torch.arange(6, count)])
    sizes = torch.ones(count, dtype=torch.int64)
    sizes[5] = members
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), indices.to(torch.int32)


# About the members of a table in shared memory, and more columns than all of it has sums for.
@pytest.mark.parametrize("members", [1535, 1536, 1537, 33_000])
def test_averages_of_sizes_about_those_of_tables_and_windows(gpu: Device, members: int) -> None:
    count = 2 * members
    indptr, indices = rows_with_a_long_one(count, members)
    values = torch.rand(len(indices), generator=torch.Generator().manual_seed(2)) + 0.1
    encoding = mabm.Encoding.from_values(indptr, indices, values)
    averaged = torch.stack([torch.arange(count), torch.arange(count).roll(1)], dim=1)
    shares = torch.full((count, 2), 0.5, dtype=torch.float64)
    arguments = *encoding.tensors(), averaged, shares
    expected = torch.ops.mabm.average_encodings(*arguments)
    assert int(expected[0].diff().max()) >= members
    found = torch.ops.mabm.average_encodings(*put(gpu, arguments))
    check_same(dict(enumerate(found)), dict(enumerate(expected)), gpu)


@pytest.mark.parametrize("members", [1535, 1536, 1537, 3000])
def test_sets_of_sizes_about_those_of_tables_and_windows(gpu: Device, members: int) -> None:
    ranks = torch.arange(3000).repeat(3000, 1)
    mask = torch.zeros(ranks.shape, dtype=torch.bool)
    mask[0, torch.randperm(3000, generator=torch.Generator().manual_seed(1))[:members]] = True
    mask[1:9, :7] = True
    half = mask.flip(1)
    expected = torch.ops.mabm.expand_neighbors(ranks, mask, ranks, half)
    assert int(expected[0].diff().max()) >= members
    found = torch.ops.mabm.expand_neighbors(*put(gpu, (ranks, mask, ranks, half)))
    check_same(dict(enumerate(found)), dict(enumerate(expected)), gpu)


# As many lists as shared memory has samples for, and more.
@pytest.mark.parametrize("num_groups", [8, 9, 300])
def test_many_groups(gpu: Device, num_groups: int) -> None:
    features, _ = many(1500, 16)
    modality = np.arange(1500) % num_groups
    expected = mabm.rank_neighbors(features, modality, k1=2 * num_groups)
    found = mabm.rank_neighbors(gpu.put(features), gpu.put(modality), k1=2 * num_groups)
    np.testing.assert_array_equal(gpu.get(found.ranks), expected.ranks)
    np.testing.assert_array_equal(gpu.get(found.scores), expected.scores)


# More groups than shared memory has lists for, in the tables of a tile.
def test_groups_by_the_thousand(gpu: Device) -> None:
    count, num_groups = 300, 12_400  # a table of 0.6 GB
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 8, generator=generator)
    groups = torch.randint(0, num_groups, (count,), generator=generator, dtype=torch.int32)
    rows = torch.arange(5)
    groups[:5], groups[5] = 0, num_groups - 1
    lists = (torch.arange(num_groups, dtype=torch.int32) % 5).expand(num_groups, -1).contiguous()
    layout = groups[:5], groups, lists, 0, torch.full((5,), 0.1), [3] * 5, True, False, None, None
    state = (
        torch.zeros(5, 5, 40),
        torch.zeros(5, 5, 40, dtype=torch.int32),
        torch.zeros(5, 5, dtype=torch.int32),
        torch.full((5, 5), -torch.inf),
    )
    collected = called("collect_candidates_", (x[:5] @ x.T, torch.ones(count), *layout, *state))
    found = called(
        "collect_candidates_", put(gpu, (x[:5] @ x.T, torch.ones(count), *layout, *state))
    )
    indices, counts = found[-3:-1]
    np.testing.assert_array_equal(gpu.get(counts), collected[-2])
    ranked = OPS.rank_candidates(gpu.put(x), gpu.put(rows), indices, counts, [3] * 5, False)
    exactly = OPS.rank_exactly(x, rows, groups, lists, [3] * 5, False)
    check_same(dict(enumerate(ranked)), dict(enumerate(exactly)), gpu)


@pytest.mark.parametrize(("count", "dim"), [(257, 31), (1300, 513), (4100, 2048)])
def test_what_is_measured_and_rounded_of_features(gpu: Device, count: int, dim: int) -> None:
    features = torch.from_numpy(many(count, dim)[0])
    features[:2] = 0
    center = features.mean(dim=0)
    integers = torch.zeros(count, dim + -dim % 64, dtype=torch.int8)
    calls: dict[str, tuple[torch.Tensor, ...]] = {
        "measure_columns": (features,),
        "measure_rows": (features, center),
        "halve_rows": (features, center, torch.tensor(2.0**7)),
        "round_rows_": (features, center, integers),
    }
    for name, args in calls.items():
        found, expected = called(name, put(gpu, args)), called(name, args)
        check_same(dict(enumerate(found)), dict(enumerate(expected)), gpu)


@pytest.mark.parametrize("euclidean", [False, True])
def test_candidates_with_and_without_bounds(gpu: Device, euclidean: bool) -> None:
    # As many candidates as a list may hold, of which the bounds leave few.
    count, width, capacity = 700, 30, 184
    features = torch.from_numpy(many(count, 200)[0])
    rows = torch.arange(count)
    distances = torch.cdist(features, features).square() / -2
    scores = (distances if euclidean else features @ features.T).topk(capacity, dim=1)
    indices = scores.indices.to(torch.int32)[:, None].contiguous()
    counts = torch.full((count, 1), capacity, dtype=torch.int32)
    arguments = features, rows, indices, counts, [width], euclidean
    expected = OPS.rank_candidates(*arguments)
    offsets = scores.values[:, :1].abs().amax(dim=1).double() * 1e-3
    area = torch.tensor(1.0, dtype=torch.float64)
    bounds = scores.values[:, None].contiguous(), offsets, area
    for given_bounds in ((), bounds):
        found = OPS.rank_candidates(*put(gpu, (*arguments, *given_bounds)))
        check_same(dict(enumerate(found)), dict(enumerate(expected)), gpu)


@pytest.mark.parametrize("product", [FloatProduct, HalfProduct, IntegerProduct])
def test_every_product(gpu: Device, product: type, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = results(GOLDEN[0].features, GOLDEN[0].modality, GOLDEN[0].options)
    monkeypatch.setattr(candidates, "wants_integers", lambda x: False)
    monkeypatch.setattr(candidates, "product_of", product)
    check_same(results(*gpu.inputs(GOLDEN[0]), GOLDEN[0].options), expected, gpu)


def test_a_product_in_tf32_changes_nothing(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    features, modality = many(3000, 200)
    expected = mabm.rank_neighbors(features, modality)
    monkeypatch.setattr(candidates, "wants_integers", lambda x: False)
    monkeypatch.setattr(candidates, "product_of", FloatProduct)
    with switched(torch.backends.cuda.matmul, "fp32_precision", "tf32"):
        found = mabm.rank_neighbors(gpu.put(features), gpu.put(modality))
    np.testing.assert_array_equal(gpu.get(found.ranks), expected.ranks)


@pytest.mark.parametrize(
    "name", ["allow_fp16_accumulation", "allow_fp16_reduced_precision_reduction"]
)
@pytest.mark.parametrize("value", [False, True])
def test_how_the_gpu_may_add_float16_changes_nothing(gpu: Device, name: str, value: bool) -> None:
    features, modality = many(3000, 2048)
    expected = mabm.rank_neighbors(features, modality)
    with switched(torch.backends.cuda.matmul, name, value):
        found = mabm.rank_neighbors(gpu.put(features), gpu.put(modality))
    np.testing.assert_array_equal(gpu.get(found.ranks), expected.ranks)


@pytest.mark.parametrize("in_digits", [False, True])
@pytest.mark.parametrize(("count", "dim"), [(60, 130), (1300, 512), (500, 2048)])
def test_products_of_whole_numbers(
    gpu: Device, count: int, dim: int, in_digits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, modality = many(count, dim)
    inputs = features, np.arange(count) // 20, np.arange(count) % 6 + 1, modality
    task = mabm.SEARCH_TASKS["regdb"][0]
    split = count // 3
    halves = features[:split], features[split:], modality[:split], modality[split:]
    rows = torch.from_numpy(features)
    others = rows[: count // 2] * 3, rows
    scores = mabm.evaluate_search(*inputs, task=task)
    reranked = mabm.evaluate_search(*inputs, task=task, rerank=mabm.RerankOptions())
    distance = mabm.rerank(*halves)
    products = whole_products.inner_products(*others)
    monkeypatch.setattr(whole_products, "wants_digits", lambda x: in_digits)
    found = whole_products.inner_products(*map(gpu.put, others))
    np.testing.assert_array_equal(gpu.get(found), products)
    np.testing.assert_array_equal(gpu.get(mabm.rerank(*map(gpu.put, halves))), distance)
    put = [gpu.put(part) for part in inputs]
    assert mabm.evaluate_search(*put, task=task).to_dict() == scores.to_dict()
    again = mabm.evaluate_search(*put, task=task, rerank=mabm.RerankOptions())
    assert again.to_dict() == reranked.to_dict()


def test_the_same_results_on_every_run(gpu: Device) -> None:
    inputs, options = gpu.inputs(GOLDEN[0]), GOLDEN[0].options
    first = {name: gpu.get(value) for name, value in results(*inputs, options).items()}
    for _ in range(5):
        check_same(results(*inputs, options), first, gpu)


def test_the_pipeline_runs_on_a_side_stream(gpu: Device) -> None:
    golden = GOLDEN[0]
    expected = results(golden.features, golden.modality, golden.options)
    features, modality = gpu.inputs(golden)
    late_features, late_modality = torch.zeros_like(features), torch.zeros_like(modality)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES // 4)
        late_features.copy_(features)
        late_modality.copy_(modality)
        found = results(late_features, late_modality, golden.options)
    torch.cuda.current_stream().wait_stream(stream)
    check_same(found, expected, gpu)


@pytest.mark.parametrize("name", make_samples(CPU))
def test_each_op_works_on_the_current_stream(gpu: Device, name: str) -> None:
    args = make_samples(gpu)[name]
    expected = called(name, args)
    late = [torch.zeros_like(a) if isinstance(a, torch.Tensor) else a for a in args]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES // 4)  # on another stream the arguments would still be zeros
        for there, here in zip(late, args, strict=True):
            if isinstance(here, torch.Tensor):
                there.copy_(here)
        found = called(name, late)
    torch.cuda.current_stream().wait_stream(stream)
    for part, wanted in zip(found, expected, strict=True):
        assert torch.equal(part, wanted)


def test_a_second_gpu_that_is_not_the_current_one(gpu: Device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs several GPUs")
    second = Device(torch.device("cuda", 1))
    assert torch.cuda.current_device() == 0
    for golden in GOLDEN[:2]:
        expected = results(golden.features, golden.modality, golden.options)
        found = results(*second.inputs(golden), golden.options)
        assert {value.device for value in found.values()} == {second.torch}
        check_same(found, expected, second)
    assert torch.cuda.current_device() == 0
    ranks, mask, *_ = make_samples(second)["expand_neighbors"]
    with pytest.raises(RuntimeError, match="all tensors must be on one device"):
        OPS.expand_neighbors(ranks, mask.to(gpu.torch), None, None)


def test_everything_stays_on_the_device(gpu: Device) -> None:
    golden = GOLDEN[0]
    features, modality = gpu.inputs(golden)
    for value in results(features, modality, golden.options).values():
        assert value.device == features.device
    labels = mabm.pseudo_labels(features, modality)
    assert labels.modality.device == features.device
    ranking = mabm.rank_neighbors(features, modality)
    assert ranking.groups.device == features.device
    graph = mabm.jaccard_graph(features, modality)
    assert graph.to_torch().device == features.device
    assert mabm.encode_samples(features, modality).values.device == features.device
    assert mabm.rerank(features[:9], features[9:]).device == features.device


def called(name: str, args: tuple[Any, ...] | list[Any]) -> list[torch.Tensor]:
    """What an op puts out, the arguments that it writes to among it."""
    args = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    result = getattr(OPS, name)(*args)
    found = [*result] if isinstance(result, tuple) else [] if result is None else [result]
    return [*found, *(a for a in args if isinstance(a, torch.Tensor))]


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """What PyTorch itself would wait for is an error meanwhile."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check_does_not_wait(call: Callable[[], object]) -> None:
    """Fails if a call returns only when the GPU has done what it was given before."""
    call()  # allocates, loads kernels, makes handles: only once
    torch.cuda.synchronize()
    torch.cuda._sleep(CYCLES)
    asleep = torch.cuda.Event()
    asleep.record()
    with refusing_to_wait():
        call()
    awake = asleep.query()
    torch.cuda.synchronize()
    assert not awake


# PyTorch says of the mode that it is a prototype.
without_waiting = pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")


@without_waiting
@pytest.mark.parametrize("name", OF_KNOWN_SIZE)
def test_ops_of_known_size_wait_for_nothing(gpu: Device, name: str) -> None:
    args = make_samples(gpu)[name]
    check_does_not_wait(lambda: called(name, args))


@without_waiting
@pytest.mark.parametrize("product", [FloatProduct, HalfProduct])
def test_collecting_candidates_waits_for_nothing(
    gpu: Device, product: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "wants_integers", lambda x: False)
    monkeypatch.setattr(candidates, "product_of", product)
    x = gpu.put(torch.randn(3000, 64))
    layout = ListLayout(
        gpu.put(torch.zeros(3000, dtype=torch.int32)),
        gpu.put(torch.zeros(1, 1, dtype=torch.int32)),
        [30],
    )
    check_does_not_wait(lambda: list(candidates.propose_candidates(x, layout, False)))


@without_waiting
@pytest.mark.parametrize("in_digits", [False, True])
def test_products_of_whole_numbers_wait_for_nothing(
    gpu: Device, in_digits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_products, "wants_digits", lambda x: in_digits)
    x = gpu.put(torch.randn(300, 256))
    check_does_not_wait(lambda: whole_products.inner_products(x[:70], x))
    check_does_not_wait(
        lambda: whole_products.WholeRows(x).squared_distances(whole_products.WholeRows(x))
    )


@without_waiting
def test_labels_of_a_graph_wait_for_nothing(gpu: Device) -> None:
    graph = mabm.jaccard_graph(*gpu.inputs(GOLDEN[0]))
    check_does_not_wait(lambda: graph.dbscan(0.3))


@without_waiting
def test_the_dense_distance_of_many_waits_for_nothing(gpu: Device) -> None:
    features, modality = many(5000, 32)  # its entries are sorted by PyTorch, many otherwise
    encoding = mabm.encode_samples(gpu.put(features), gpu.put(modality))
    check_does_not_wait(lambda: mabm.jaccard_distance(encoding))


@pytest.mark.parametrize("name", OF_KNOWN_SIZE)
def test_ops_of_known_size_run_in_cuda_graphs(gpu: Device, name: str) -> None:
    # A graph cannot hold what waits for the device, so this is also a proof that nothing does.
    samples, others = (make_samples(gpu, reverse=reverse)[name] for reverse in (False, True))
    inputs = [a.clone() if isinstance(a, torch.Tensor) else a for a in samples]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        called(name, inputs)  # PyTorch asks for a run outside first
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = called(name, inputs)
    for args in (samples, others, others):  # other numbers in the same places, and once more
        for place, value in zip(inputs, args, strict=True):
            if isinstance(value, torch.Tensor):
                place.copy_(value)
        for part in found:
            part.zero_()
        graph.replay()
        for part, wanted in zip(found, called(name, args), strict=True):
            assert torch.equal(part, wanted)
