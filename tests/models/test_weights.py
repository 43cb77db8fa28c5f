"""Weights: what is read from which file, what is refused, and that nothing read is executed."""

import io
import logging
import os
import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from full_disk import most_bytes
from torch import nn

from mabm.models import (
    AgwResNet50,
    TwoStreamEncoder,
    build_encoder,
    load_encoder,
    load_pretrained,
    load_weights,
    save_encoder,
    save_weights,
)

WIDTHS = (4, 4, 4, 4, 6)


def narrow() -> TwoStreamEncoder:
    return TwoStreamEncoder(widths=WIDTHS)


def state_of(encoder: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def assert_equal(found: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    assert found.state_dict().keys() == expected.keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


class Bomb:
    """What an attacker would pickle: unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


# ---- the kinds of files


@pytest.mark.parametrize(
    "kind", ["plain.pth", "nested.pt", "wrapped.pth", "ours.pt", "a.safetensors", "a.npz"]
)
def test_every_kind_of_file_fills_the_encoder(kind: str, tmp_path: Path) -> None:
    path, source = tmp_path / kind, narrow()
    nn.init.normal_(source.stems[1][1].running_mean)
    state = state_of(source)
    if kind == "plain.pth":
        torch.save(state, path)
    elif kind == "nested.pt":
        torch.save({"epoch": 3, "state_dict": state, "best": 0.5}, path)
    elif kind == "wrapped.pth":
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif kind == "ours.pt":
        save_encoder(source, path, name="small", meta={})
    elif kind == "a.safetensors":
        safetensors.torch.save_file(state, path)
    else:
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    encoder = narrow()
    report = load_weights(encoder, path)
    assert_equal(encoder, state)
    assert set(report.loaded) == set(state)
    assert report.missing == report.left_out == ()


def test_half_precision_is_widened(tmp_path: Path) -> None:
    source = narrow()
    torch.save(
        {n: t.half() if t.is_floating_point() else t for n, t in state_of(source).items()},
        tmp_path / "half.pth",
    )
    encoder = narrow()
    load_weights(encoder, tmp_path / "half.pth")
    assert encoder.blocks[0].body[0].weight.dtype == torch.float32
    torch.testing.assert_close(
        encoder.blocks[0].body[0].weight, source.blocks[0].body[0].weight, rtol=1e-3, atol=1e-4
    )


def test_a_plain_resnet_fills_every_stem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with the names of torchvision's ResNet-50, its classifier too."""
    single = AgwResNet50(num_modalities=1, non_local=(0, 0, 0, 0)).state_dict()
    state = {n.removeprefix("stems.0."): t.half() for n, t in single.items() if n[:5] != "neck."}
    state |= {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}
    # Older files of torchvision have no counters of batch normalization.
    state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "resnet50.pth")
    encoder = AgwResNet50()
    before = state_of(encoder)
    with caplog.at_level(logging.INFO, logger="mabm.models.weights"):
        report = load_weights(encoder, tmp_path / "resnet50.pth")
    own = encoder.state_dict()
    for group in (0, 1):
        assert torch.equal(own[f"stems.{group}.conv1.weight"], state["conv1.weight"].float())
        assert torch.equal(own[f"stems.{group}.bn1.bias"], state["bn1.bias"].float())
    assert torch.equal(own["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"].float())
    assert report.left_out == ("fc.weight", "fc.bias")
    assert {name.split(".")[0] for name in report.missing} == {"non_local", "neck"}
    for name in report.missing:
        assert torch.equal(own[name], before[name]), name
    assert {*report.loaded, *report.missing} == {n for n in own if "num_batches" not in n}
    assert [record.getMessage() for record in caplog.records] == [
        f"resnet50.pth: {len(report.loaded)} tensors loaded; not in the file, unchanged: "
        f"non_local ({len(report.missing) - 4}), neck (4); in the file, not used: fc (2)"
    ]


# ---- what is refused


@pytest.mark.parametrize("kind", ["zip.pth", "old.pt", "raw.pth", "nested.pt"])
def test_pickled_code_is_refused_and_never_run(kind: str, tmp_path: Path) -> None:
    path, marker = tmp_path / kind, tmp_path / "was_here"
    state: dict[str, object] = {**state_of(narrow()), "bomb": Bomb(marker)}
    if kind == "raw.pth":
        path.write_bytes(pickle.dumps(state, protocol=2))
    elif kind == "nested.pt":
        torch.save({"format": "mabm-encoder", "version": 1, "state": state}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip.pth")
    encoder = narrow()
    before = state_of(encoder)
    for load in (lambda: load_weights(encoder, path), lambda: load_encoder(path)):
        with pytest.raises(ValueError, match="could execute code when loaded, and are rejected"):
            load()
    assert not marker.exists()
    assert_equal(encoder, before)
    # The file is a working attack: only the way it is read makes it harmless.
    with path.open("rb") as stream:
        if kind == "raw.pth":
            pickle.load(stream)
        else:
            torch.load(stream, weights_only=False)
    assert marker.exists()


def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "was_here"
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in state_of(narrow()).items()}
    arrays["neck.weight"] = np.array([Bomb(marker)], dtype=object)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_weights(narrow(), tmp_path / "a.npz")
    assert not marker.exists()


def test_files_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    encoder, good = narrow(), state_of(narrow())
    before, path = state_of(encoder), tmp_path / "a.pth"
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        (
            {**good, "neck.weight": torch.ones(7)},
            r"neck\.weight must have shape \(6,\), got \(7,\)",
        ),
        ({**good, "neck.weight": torch.full((6,), torch.nan)}, r"neck\.weight must be finite"),
        ({n: t for n, t in good.items() if n != "gem_power"}, r"missing 1: \['gem_power'\]"),
        ({"features.0.weight": torch.ones(2)}, r"such as .*, got \['features\.0\.weight'\]"),
        ({}, "must contain named tensors"),
    ]
    for state, message in cases:
        torch.save(state, path)
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, path)
        assert_equal(encoder, before)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="must contain named tensors"):
        load_weights(encoder, path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_damaged_files_are_named(suffix: str, tmp_path: Path) -> None:
    state, path = state_of(narrow()), tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    elif suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        save_weights(narrow(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:7], b"", b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.(pth|npz|safetensors)"):
            load_weights(narrow(), path)


def itself(length: int) -> dict[str, object]:
    """A dictionary that holds itself after as many others."""
    first: dict[str, object] = {}
    last = first
    for _ in range(length):
        last["state"] = {}
        last = last["state"]  # type: ignore[assignment]
    last["state"] = first
    return first


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = dict(state_of(narrow()))
    for _ in range(depth):
        value = {"model": value}
    return value


@pytest.mark.parametrize("content", [itself(0), itself(1), itself(7), itself(50), nested(50)])
def test_a_file_that_holds_itself_or_is_nested_deep_is_refused(
    content: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "s.pth"
    torch.save(content, path)
    encoder = narrow()
    before = state_of(encoder)
    with pytest.raises(ValueError, match=r"s\.pth must contain named tensors"):
        load_weights(encoder, path)
    with pytest.raises(ValueError, match=r"s\.pth must be a file of save_encoder"):
        load_encoder(path)
    assert_equal(encoder, before)


def test_tensors_are_found_beside_other_things_of_those_names(tmp_path: Path) -> None:
    state = state_of(narrow())
    torch.save({"state": "done", "model": {"state_dict": state}}, tmp_path / "a.PTH")
    encoder = narrow()
    load_weights(encoder, tmp_path / "a.PTH")
    assert_equal(encoder, state)


def quantized(values: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(values, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:.*(sparse|Sparse|quantize|TypedStorage|nested)")
@pytest.mark.parametrize(
    ("strange", "message"),
    [
        (
            lambda x: x.to_sparse(),
            "must be dense real numbers, got a tensor of layout torch.sparse_coo",
        ),
        (lambda x: x[None].to_sparse_csr(), "got a tensor of layout torch.sparse_csr"),
        (lambda x: x.to("meta"), "got a meta tensor, which has no values"),
        (lambda x: x.to(torch.complex64), "dense real numbers, got torch.complex64"),
        (lambda x: x > 0, "dense real numbers, got torch.bool"),
        (lambda x: x.long(), "dense real numbers, got torch.int64"),
        (quantized, "got a quantized tensor"),
        (lambda x: torch.nested.nested_tensor([x, x[:2]]), "got a nested tensor"),
        (lambda x: x * torch.inf, "must be finite"),
        (lambda x: x.double() * 1e300, "must be finite"),
    ],
)
def test_strange_tensors_are_named_and_change_nothing(
    strange: Any, message: str, tmp_path: Path
) -> None:
    path, state = tmp_path / "a.pth", state_of(narrow())
    state["neck.weight"] = strange(torch.ones(6))
    torch.save(state, path)
    encoder = narrow()
    before = state_of(encoder)
    with pytest.raises(ValueError, match=rf"a\.pth: weights of neck\.weight .*{message}") as caught:
        load_weights(encoder, path)
    assert "\n" not in str(caught.value)
    assert_equal(encoder, before)


@pytest.mark.parametrize("value", [torch.tensor(1.5), torch.tensor(True), torch.tensor(1j)])
def test_counters_are_integers(value: torch.Tensor, tmp_path: Path) -> None:
    state = {**state_of(narrow()), "neck.num_batches_tracked": value}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"dense integer numbers, got {value.dtype}"):
        load_weights(narrow(), tmp_path / "a.pth")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_rounded(dtype: torch.dtype, tmp_path: Path) -> None:
    state = state_of(narrow())
    kept = {n: t.to(dtype) if t.is_floating_point() else t.int() for n, t in state.items()}
    torch.save(kept, tmp_path / "a.pth")
    encoder = narrow()
    load_weights(encoder, tmp_path / "a.pth")
    assert_equal(encoder, {name: kept[name].to(tensor.dtype) for name, tensor in state.items()})


def test_a_small_file_of_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    """Two gigabytes of zeros in two megabytes, in a form that each reader would unpack."""
    for name, entry in (("a.npz", "neck.weight.npy"), ("a.pth", "a/data.pkl")):
        path = tmp_path / name
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(entry, "w", force_zip64=True) as stream,
        ):
            for _ in range(17):
                stream.write(bytes(2**26))
        with pytest.raises(
            ValueError, match=rf"{name} must expand to at most 20 times its \d+ bytes"
        ):
            load_weights(narrow(), path)


def npz_with(header: str) -> bytes:
    """An archive with one array, whose header is given and whose numbers are missing."""
    text = header.encode().ljust(118 - 1) + b"\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("neck.weight.npy", b"\x93NUMPY\x01\x00" + bytes([118, 0]) + text)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"1 2 3\n",
        pickle.dumps({"a": 1}),
        npz_with("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }"),
        npz_with(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},), }}"),
        npz_with("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
        npz_with("{'descr': '<U4', 'fortran_order': False, 'shape': (0,), }"),
        npz_with("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (0,), }"),
        npz_with("("),
    ],
)
def test_damaged_archives_of_arrays_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.npz is not a complete \.npz file of numbers: "
    ) as caught:
        load_weights(narrow(), path)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert "allow_pickle=True" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "npz", "safetensors"])
def test_what_is_no_file_is_not_read(suffix: str, tmp_path: Path) -> None:
    folder, pipe = tmp_path / f"folder.{suffix}", tmp_path / f"pipe.{suffix}"
    folder.mkdir()
    os.mkfifo(pipe)  # which would never be read to its end
    for path in (folder, pipe):
        with pytest.raises(ValueError, match=r"must be a file, got "):
            load_weights(narrow(), path)


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "shape", "kind"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_that_does_not_fit_changes_nothing(wrong: str, assign: bool) -> None:
    encoder = narrow()
    before, kept = state_of(encoder), dict(encoder.named_parameters())
    state: dict[str, Any] = {name: tensor + 1 for name, tensor in before.items()}
    if wrong == "missing":
        del state["neck.bias"]
    elif wrong == "unexpected":
        state["fc.weight"] = torch.ones(1)
    else:
        state["neck.bias"] = torch.ones(5) if wrong == "shape" else "bias"
    with pytest.raises(RuntimeError):
        encoder.load_state_dict(state, assign=assign)
    assert_equal(encoder, before)
    assert all(kept[name] is each for name, each in encoder.named_parameters())
    state = {name: tensor + 1 for name, tensor in before.items()}
    encoder.load_state_dict(state, assign=assign)
    assert_equal(encoder, state)


def test_missing_files_and_strange_names(tmp_path: Path) -> None:
    for suffix in ("pth", "safetensors", "npz"):
        with pytest.raises(FileNotFoundError):
            load_weights(narrow(), tmp_path / f"none.{suffix}")
    with pytest.raises(FileNotFoundError):
        load_encoder(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"must be a \.pth, \.pt, .* or \.npz file, got"):
        load_weights(narrow(), tmp_path / "weights.pkl")


def test_safetensors_missing_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(ImportError, match=r'pip install "mabm\[train\]"'):
        load_weights(narrow(), tmp_path / "a.safetensors")


# ---- encoders by name


def test_build_encoder_draws_from_its_seed_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (build_encoder("small", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal(same, state_of(one))
    assert not torch.equal(
        one.state_dict()["blocks.0.body.0.weight"], other.state_dict()["blocks.0.body.0.weight"]
    )
    assert one.training
    assert build_encoder("small", num_modalities=3).num_modalities == 3


def test_shipped_weights_by_name() -> None:
    assert_equal(build_encoder("small", weights="emoji_xm"), state_of(load_pretrained("emoji_xm")))
    with pytest.raises(
        ValueError,
        match=r"'emoji_xm' are for the encoder 'small' with 2 .* got "
        r"'agw-resnet50' with 2",
    ):
        build_encoder("agw-resnet50", weights="emoji_xm")
    with pytest.raises(ValueError, match="with 2 modalities, got 'small' with 3"):
        build_encoder("small", weights="emoji_xm", num_modalities=3)


def test_weights_of_a_file_by_name(tmp_path: Path) -> None:
    source = build_encoder("small", seed=5)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    assert_equal(build_encoder("small", weights=tmp_path / "a.pth"), state_of(source))


def test_initial_weights_seed_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What seeds every GPU as well is not called: their states could not be put back."""

    def refuse(seed: int) -> None:
        raise AssertionError(seed)

    monkeypatch.setattr(torch, "manual_seed", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    assert build_encoder("small").num_modalities == 2


@pytest.mark.parametrize("name", ["resnet50", "timm:", ""])
def test_unknown_encoders_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"one of \['agw-resnet50', 'small'\] or 'timm:NAME', got"):
        build_encoder(name)


# ---- whole encoders


class Wrapper(nn.Module):
    """As ``DistributedDataParallel`` wraps a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_encoder_comes_back_as_it_was(wrapped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    encoder = build_encoder("small", num_modalities=3, seed=9)
    meta = {
        "data": "regdb",
        "trial": None,
        "scores": [np.float64(0.5), float("nan"), np.float32(2)],
        "config": {"sizes": (48, np.int64(3)), "on": True},
    }
    torch.manual_seed(7)
    before = torch.get_rng_state()
    save_encoder(Wrapper(encoder) if wrapped else encoder, path, name="small", meta=meta)
    found, back = load_encoder(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal(found, state_of(encoder))
    assert found.num_modalities == 3
    assert not found.training
    assert back["data"] == "regdb"
    assert back["trial"] is None
    assert back["scores"][::2] == [0.5, 2.0]
    assert np.isnan(back["scores"][1])
    assert back["config"] == {"sizes": [48, 3], "on": True}
    assert os.listdir(tmp_path) == ["weights.pt"]
    content = torch.load(path, weights_only=True)
    assert content["format"] == "mabm-encoder"
    assert content["version"] == 1


def test_an_unfinished_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    save_encoder(narrow(), path, name="small", meta={})
    old = path.read_bytes()

    def full_disk(_: object, stream: Any) -> None:
        stream.write(b"half of")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_encoder(narrow(), path, name="small", meta={})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["weights.pt"]


@pytest.mark.parametrize("write", ["encoder", "weights"])
def test_a_full_disk_is_named_and_what_was_there_stays(write: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    save = partial(save_encoder, name="small", meta={}) if write == "encoder" else save_weights
    with most_bytes(1000), pytest.raises(OSError, match="File too large") as caught:
        save(narrow(), path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["weights"]
    save_weights(narrow(), path)
    assert os.listdir(tmp_path) == ["weights"]  # that very name


def test_meta_that_holds_itself_is_not_saved(tmp_path: Path) -> None:
    meta: dict[str, Any] = {}
    meta["more"] = [meta]
    with pytest.raises(ValueError, match="nested at most 64 deep; does it contain itself"):
        save_encoder(narrow(), tmp_path / "a.pt", name="small", meta=meta)
    assert os.listdir(tmp_path) == []


def test_what_is_no_encoder_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(TypeError, match="encoder must be an Encoder, got Linear"):
        save_encoder(nn.Linear(2, 2), path, name="small", meta={})
    with pytest.raises(TypeError, match=r"meta\['a'\]\[1\] must be a plain value, got Tensor"):
        save_encoder(narrow(), path, name="small", meta={"a": [1, torch.ones(1)]})
    with pytest.raises(TypeError, match=r"meta\['a'\] must have strings as keys, got 3"):
        save_encoder(narrow(), path, name="small", meta={"a": {3: 4}})
    assert not path.exists()


def test_what_is_no_encoder_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(narrow().state_dict(), path)
    with pytest.raises(ValueError, match="must be a file of save_encoder; for the weights of a"):
        load_encoder(path)
    torch.save({"format": "mabm-encoder", "version": 2}, path)
    with pytest.raises(ValueError, match="must be of version 1, got 2"):
        load_encoder(path)
    torch.save({"format": "mabm-encoder", "version": 1, "name": "small"}, path)
    with pytest.raises(ValueError, match="it has no 'num_modalities'"):
        load_encoder(path)
    save_encoder(TwoStreamEncoder(), path, name="small", meta={})
    content = torch.load(path, weights_only=True)
    for key, value, message in (
        ("name", 5, "must have a string as name, got 5"),
        ("name", "large", "does not contain an encoder 'large': name must be one of"),
        ("num_modalities", "two", r"num_modalities in \[1, \d+\], .* got 'two'"),
        ("num_modalities", True, r"num_modalities in \[1, \d+\], .* got True"),
        ("num_modalities", 10**9, r"num_modalities in \[1, \d+\], .* got 1000000000"),
        ("num_modalities", 3, "does not contain an encoder 'small'"),
        ("image_size", 5, r"\(height, width\) as image_size, got 5"),
        ("image_size", (1, 2, 3), r"\(height, width\) as image_size, got \(1, 2, 3\)"),
        ("image_size", (48, -1), r"\(height, width\) as image_size, got \(48, -1\)"),
        ("image_size", (10**9, 10**9), r"image_size must be in \[1, 4096\], got 1000000000"),
        ("meta", None, "a dictionary as meta, got NoneType"),
        ("state", [1], "must contain named tensors"),
        ("version", torch.ones(1), "must be of version 1, got"),
    ):
        torch.save({**content, key: value}, path)
        with pytest.raises(ValueError, match=rf"a\.pt .*{message}") as caught:
            load_encoder(path)
        assert "\n" not in str(caught.value)
    content["state"]["stems.2.0.weight"] = torch.ones(1)
    torch.save(content, path)
    with pytest.raises(
        ValueError, match=r"not contain an encoder 'small': .* not used: stems \(1\)"
    ):
        load_encoder(path)
    save_encoder(narrow(), path, name="small", meta={})  # of another size than "small" has
    with pytest.raises(ValueError, match="does not contain an encoder 'small': weights of stems"):
        load_encoder(path)
