"""Every op as PyTorch sees it: opcheck, whole-graph compilation, no gradient, no segfault."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import CPU, Device
from op_samples import OPS, make_samples

import mabm

NAMES = make_samples(CPU).keys()
Samples = dict[str, tuple[Any, ...]]


@pytest.fixture(scope="session")
def samples(device: Device) -> Samples:
    return make_samples(device)


def sample_of(samples: Samples, name: str) -> tuple[Any, ...]:
    if name not in samples:
        pytest.skip("only the CPU has this op")
    return samples[name]


def op(name: str) -> Callable[..., Any]:
    return getattr(OPS, name).default


def test_there_is_a_sample_of_every_op() -> None:
    registered = {
        name.removeprefix("mabm::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("mabm::")
    }
    assert registered == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, samples: Samples) -> None:
    torch.library.opcheck(op(name), sample_of(samples, name))


def test_opcheck_without_expansion(samples: Samples) -> None:
    ranks, mask, *_ = samples["expand_neighbors"]
    torch.library.opcheck(op("expand_neighbors"), (ranks, mask, None, None))


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # not wanted here
@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole(name: str, samples: Samples) -> None:
    call, sample = op(name), sample_of(samples, name)
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True)

    def run(function: Callable[..., Any]) -> list[Any]:
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in sample]
        result = function(*args)
        results = result if isinstance(result, tuple) else (result,)
        return [*results, *args]  # the arguments too: an op may write to them

    for found, expected in zip(run(compiled), run(call), strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["rank_exactly", "rank_candidates"])
def test_a_gradient_is_refused_by_name(name: str, samples: Samples) -> None:
    features, *rest = samples[name]
    scores = op(name)(features.clone().requires_grad_(), *rest)[1]
    with pytest.raises(RuntimeError, match=f"mabm::{name} has no gradient"):
        scores.sum().backward()


def test_labels_and_encodings_are_integers_without_gradient(samples: Samples) -> None:
    features, *rest = samples["encode_neighbors"]
    results = op("encode_neighbors")(features.clone().requires_grad_(), *rest)
    assert not any(result.requires_grad for result in results)


def test_public_functions_give_no_gradient_and_take_features_that_have_one(
    device: Device,
) -> None:
    features = device.put(torch.randn(20, 4)).requires_grad_()
    distance = mabm.modality_jaccard(features)
    assert not distance.requires_grad


@pytest.mark.parametrize(
    ("name", "position", "replacement", "message"),
    [
        ("encode_neighbors", 0, torch.zeros(24, 5, dtype=torch.float64), "features must be Float"),
        ("encode_neighbors", 0, torch.zeros(23, 5), "features must have size 24 on axis 0, got 23"),
        ("encode_neighbors", 0, torch.zeros(5, 24).T, "features must be contiguous"),
        (
            "encode_neighbors",
            1,
            torch.zeros(0, dtype=torch.int64),
            "indptr must have one entry more",
        ),
        ("encode_neighbors", 4, None, "products must come with ranks"),
        (
            "encode_neighbors",
            4,
            torch.zeros(24, 5, dtype=torch.float64),
            "products must have size 6 on axis 1, got 5",
        ),
        ("measure_rows", 1, torch.zeros(4), "center must have size 5 on axis 0, got 4"),
        ("halve_rows", 2, torch.zeros(1), "scale must have 0 dimensions, got 1"),
        ("round_rows_", 1, torch.zeros(6), "center must have size 5 on axis 0, got 6"),
        (
            "round_rows_",
            2,
            torch.zeros(24, 4, dtype=torch.int8),
            "integers must have 5 columns or more, got 4",
        ),
        ("dbscan", 2, torch.zeros(3), "distances must have size"),
        ("weigh_products", 2, torch.zeros(3, dtype=torch.float64), "products must have size"),
        ("weigh_products", 2, torch.zeros(24), "products must be Double, got Float"),
        ("near_rows", 3, torch.zeros(0, dtype=torch.int64), "indptr must have one entry more"),
        ("near_rows", 5, torch.zeros(3, dtype=torch.int32), "weights must have size"),
        ("join_samples_", 0, torch.zeros(24, dtype=torch.int64), "parents must be Int, got Long"),
        ("join_samples_", 2, torch.zeros(11, dtype=torch.int32), "second must have size 12"),
        ("reciprocal_mask", 0, torch.zeros(4, dtype=torch.int64), "ranks must have 2 dimensions"),
        (
            "collect_candidates_",
            0,
            torch.zeros(23, 30),
            "products must have size 24 or more on axis 0, got 23",
        ),
        (
            "collect_candidates_",
            0,
            torch.zeros(30, 23),
            "products must have size 24 or more on axis 1, got 23",
        ),
    ],
)
def test_ops_check_what_they_are_given(
    name: str,
    position: int,
    replacement: torch.Tensor,
    message: str,
    samples: Samples,
    device: Device,
) -> None:
    args = list(samples[name])
    args[position] = device.put(replacement)
    with pytest.raises(RuntimeError, match=message):
        op(name)(*args)


# Numbers that address memory, out of range: the op, the position of the argument, the replacement
# (a tensor, or a number to put into the tensor of the sample) and the error.
OUT_OF_RANGE = [
    ("screen_pairs_", 10, 2, r"groups must be in \[0, 2\), got 2"),
    ("screen_pairs_", 11, -1, r"list_of_group must be in \[0, 2\), got -1"),
    ("screen_pairs_", 12, [3, 4], "lower_bounds must have room for 4 a list, got 3"),
    ("screen_pairs_", 13, 24, r"rows must be in \[0, 24\), got 24"),
    ("screen_pairs_", 14, -1, r"columns must be in \[0, 24\), got -1"),
    ("screen_pairs_", 15, -1, r"places must be in \[0, 24\) for every sample with lists, got -1"),
    ("screen_pairs_", 19, torch.zeros(24, 2, 11), "bounds must have size 12 on axis 2, got 11"),
    ("screen_pairs_", 21, 13, r"counts must be in \[-1, 13\), got 13"),
    ("cut_candidates_", 2, -2, r"counts must be in \[-1, 13\), got -2"),
    ("collect_candidates_", 2, 2, r"row_groups must be in \[0, 2\), got 2"),
    ("collect_candidates_", 2, -(2**31), r"row_groups must be in \[0, 2\), got -2147483648"),
    ("collect_candidates_", 3, 2**31 - 1, r"column_groups must be in \[0, 2\), got 2147483647"),
    ("collect_candidates_", 4, 2, r"list_of_group must be in \[0, 2\), got 2"),
    ("collect_candidates_", 4, -1, r"list_of_group must be in \[0, 2\), got -1"),
    ("collect_candidates_", 14, 8, r"counts must be in \[-1, 8\), got 8"),
    ("collect_candidates_", 14, -2, r"counts must be in \[-1, 8\), got -2"),
    ("rank_candidates", 1, 24, r"rows must be in \[0, 24\), got 24"),
    ("rank_candidates", 1, -(2**63), r"rows must be in \[0, 24\), got -9223372036854775808"),
    ("rank_candidates", 2, 24, r"candidates must be in \[0, 24\), got 24"),
    ("rank_candidates", 2, -1, r"candidates must be in \[0, 24\), got -1"),
    ("rank_candidates", 3, 9, r"counts must be in \[-1, 9\), got 9"),
    ("rank_candidates", 3, -2, r"counts must be in \[-1, 9\), got -2"),
    ("rank_exactly", 1, 2**62, r"rows must be in \[0, 24\), got 4611686018427387904"),
    ("rank_exactly", 2, 2, r"groups must be in \[0, 2\), got 2"),
    ("rank_exactly", 3, 2, r"list_of_group must be in \[0, 2\), got 2"),
    ("reciprocal_mask", 0, 24, r"ranks must be in \[-1, 24\), got 24"),
    ("reciprocal_mask", 0, 2**63 - 1, r"ranks must be in \[-1, 24\), got 9223372036854775807"),
    ("reciprocal_mask", 0, -2, r"ranks must be in \[-1, 24\), got -2"),
    ("expand_neighbors", 0, 24, r"ranks must be in \[-1, 24\), got 24"),
    ("expand_neighbors", 0, torch.full((24, 6), -1), "ranks must not be -1 where the mask is set"),
    ("expand_neighbors", 2, 24, r"half_ranks must be in \[-1, 24\), got 24"),
    ("encode_neighbors", 1, 2**62, "indptr must ascend, got 4611686018427387904 and then"),
    ("encode_neighbors", 1, -1, "indptr must ascend, got 0 and then -1 in row 0"),
    ("encode_neighbors", 1, torch.tensor([0, 9999] * 12 + [9999]), "indptr must run from 0 to"),
    ("encode_neighbors", 2, 24, r"indices must be in \[0, 24\), got 24"),
    ("encode_neighbors", 2, -1, r"indices must be in \[0, 24\), got -1"),
    ("encode_neighbors", 3, 24, r"ranks must be in \[-1, 24\), got 24"),
    ("weigh_products", 0, -1, "indptr must ascend, got 0 and then -1 in row 0"),
    ("weigh_products", 1, -1, r"indices must be in \[0, 2147483648\), got -1"),
    ("average_encodings", 1, 24, r"indices must be in \[0, 24\), got 24"),
    ("average_encodings", 2, 0, "weights must be positive, got 0 or less in row 0"),
    ("average_encodings", 3, 24, r"neighbors must be in \[-1, 24\), got 24"),
    ("average_encodings", 4, float("nan"), r"neighbor_weights must be in \[0, 1\]"),
    ("jaccard_distance", 1, 24, r"indices must be in \[0, 24\), got 24"),
    ("jaccard_distance", 4, -1, r"indices must be in \[0, 24\), got -1"),
    ("jaccard_graph", 0, -(2**63), "indptr must ascend"),
    ("jaccard_graph", 1, 24, r"indices must be in \[0, 24\), got 24"),
    ("jaccard_graph", 2, -5, "weights must be positive, got 0 or less in row 0"),
    ("jaccard_graph", 2, 2**31 - 1, r"must sum to less than 2\^31, got \d+ in row 0"),
    ("near_rows", 1, 24, r"indices must be in \[0, 24\), got 24"),
    ("near_rows", 3, 2**62, "indptr must ascend"),
    ("near_rows", 4, -1, r"indices must be in \[0, 24\), got -1"),
    ("near_rows", 5, 0, "weights must be positive, got 0 or less in row 0"),
    ("dbscan", 0, 2**62, "indptr must ascend"),
    ("dbscan", 1, 24, r"indices must be in \[0, 24\), got 24"),
    ("dbscan", 1, -1, r"indices must be in \[0, 24\), got -1"),
    ("join_samples_", 0, 1, "the sample or a smaller one with a parent, got 1 for sample 0"),
    ("join_samples_", 0, -2, "parents must be -1, .*, got -2 for sample 0"),
    ("join_samples_", 0, torch.tensor([-1, 0] + 22 * [1]).int(), "got 0 for sample 1"),
    ("join_samples_", 0, -1, "first must be samples that have a parent, got 0"),
    ("join_samples_", 1, 24, r"first must be in \[0, 24\), got 24"),
    ("join_samples_", 2, -1, r"second must be in \[0, 24\), got -1"),
]


@pytest.mark.parametrize(("name", "position", "wrong", "message"), OUT_OF_RANGE)
def test_on_the_cpu_ops_look_at_numbers_that_address_memory(
    name: str, position: int, wrong: float | list[int] | torch.Tensor, message: str
) -> None:  # on a GPU they would have to wait
    args = list(make_samples(CPU)[name])
    if isinstance(wrong, int | float):
        changed = args[position].clone()
        first = 1 if name == "jaccard_graph" and position == 0 else 0
        first = 1 if changed.dim() == 1 and len(changed) == 25 else first  # a start of rows
        changed.view(-1)[first] = wrong
        wrong = changed
    args[position] = wrong
    with pytest.raises(RuntimeError, match=message):
        op(name)(*args)


def test_rows_that_do_not_ascend_are_no_encoding() -> None:
    indptr, indices, weights, _ = make_samples(CPU)["jaccard_graph"]
    row = int((indptr.diff() > 1).nonzero()[0])
    indices = indices.clone()
    indices[indptr[row] + 1] = indices[indptr[row]]
    with pytest.raises(RuntimeError, match=f"indices must ascend within each row.* row {row}"):
        op("jaccard_graph")(indptr, indices, weights, 0.9)


@pytest.mark.parametrize(
    ("name", "position", "wrong", "message"),
    [
        ("collect_candidates_", 5, -1, "first_column must be at least 0 .* got -1"),
        ("collect_candidates_", 5, 2**31 - 24, "the last one below 2.31, got 2147483624"),
        ("collect_candidates_", 7, [3, -1], "widths must be in .*, got -1"),
        ("rank_candidates", 4, [3, -1], "widths must be in .*, got -1"),
        ("rank_exactly", 4, [2**62, 2**62], "widths must be in .*, got 4611686018427387904"),
        ("rank_exactly", 4, [3, -(2**62)], "widths must be in .*, got -4611686018427387904"),
        ("rank_exactly", 4, [1] * 4097, "widths must be those of at most 4096 lists, got 4097"),
        ("jaccard_distance", 6, -1, "num_samples must be in .*, got -1"),
        ("jaccard_distance", 6, 2**62, "num_samples must be in .*, got 4611686018427387904"),
        ("weigh_products", 3, -1, "first_row must be at least 0 .*, got -1 and 24 rows"),
        ("weigh_products", 3, 2**31 - 24, "the last row below 2.31, got 2147483624"),
        ("near_rows", 6, -1, "num_samples must be in .*, got -1"),
        ("near_rows", 7, -0.1, r"max_distance must be in \[0, 1\), got -0.1"),
        ("near_rows", 7, 1.0, r"max_distance must be in \[0, 1\), got 1"),
        ("jaccard_graph", 3, float("nan"), r"max_distance must be in \[0, 1\), got -?nan"),
        ("jaccard_graph", 3, 1.0, r"max_distance must be in \[0, 1\), got 1"),
    ],
)
def test_numbers_on_the_host_are_checked_everywhere(
    name: str, position: int, wrong: object, message: str, samples: Samples
) -> None:
    args = list(samples[name])
    args[position] = wrong
    with pytest.raises(RuntimeError, match=message):
        op(name)(*args)


def test_ops_rank_features_that_are_not_finite() -> None:
    features, rows, *rest = make_samples(CPU)["rank_exactly"]
    features = features.clone()
    features[::3] = torch.nan
    features[1::3] = torch.inf
    ranks, scores = op("rank_exactly")(features, rows, *rest)
    assert int(ranks.min()) >= 0
    assert int(ranks.max()) < 24
    assert not bool(scores.isnan().any())


@pytest.mark.parametrize("name", sorted(NAMES - {"reciprocal_mask"}))  # which takes one tensor
def test_ops_refuse_tensors_on_two_devices(name: str, gpu: Device) -> None:
    args = make_samples(gpu)[name]
    tensors = [position for position, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
    for position in tensors:
        mixed = list(args)
        mixed[position] = args[position].cpu()
        with pytest.raises(RuntimeError, match="all tensors must be on one device"):
            op(name)(*mixed)
