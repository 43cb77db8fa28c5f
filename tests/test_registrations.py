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
    torch.library.opcheck(op(name), samples[name])


def test_opcheck_without_expansion(samples: Samples) -> None:
    ranks, mask, *_ = samples["expand_neighbors"]
    torch.library.opcheck(op("expand_neighbors"), (ranks, mask, None, None))


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # not wanted here
@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole(name: str, samples: Samples) -> None:
    call = op(name)
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True)

    def run(function: Callable[..., Any]) -> list[Any]:
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in samples[name]]
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
        ("dbscan", 2, torch.zeros(3), "distances must have size"),
        ("reciprocal_mask", 0, torch.zeros(4, dtype=torch.int64), "ranks must have 2 dimensions"),
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


def test_on_the_cpu_ops_look_at_the_ends_of_rows() -> None:  # on a GPU they would have to wait
    features, _, indices = make_samples(CPU)["encode_neighbors"]
    with pytest.raises(RuntimeError, match="indptr must run from 0 to"):
        op("encode_neighbors")(features, torch.tensor([0, 9999]), indices)


@pytest.mark.parametrize("name", sorted(NAMES - {"reciprocal_mask"}))  # which takes one tensor
def test_ops_refuse_tensors_on_two_devices(name: str, gpu: Device) -> None:
    args = make_samples(gpu)[name]
    tensors = [position for position, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
    for position in tensors:
        mixed = list(args)
        mixed[position] = args[position].cpu()
        with pytest.raises(RuntimeError, match="all tensors must be on one device"):
            op(name)(*mixed)
