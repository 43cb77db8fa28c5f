"""Released checkpoints: read safely, named as ours, and the same features come out."""

import gzip
import logging
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from released_checkpoint import Released, released_network, save_released

from mabm.models import AgwResNet50, build_encoder, load_weights
from mabm.models.released_names import by_our_names

# Weights that a checkpoint holds and the network does not compute with.
UNUSED = {"visible_module", "thermal_module", "base_resnet", "classifier"}


@pytest.fixture(scope="module")
def network() -> Released:
    return released_network()


@pytest.fixture(scope="module")
def encoder() -> AgwResNet50:
    return AgwResNet50()


@pytest.fixture(scope="module")
def checkpoint(network: Released, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_released(network, tmp_path_factory.mktemp("adca") / "model_best.pth.tar")


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (3, 3, 64, 32), generator=generator, dtype=torch.uint8)


def assert_same_features(encoder: torch.nn.Module, network: Released) -> None:
    """In evaluation mode and at length one, as features are compared."""
    encoder.eval()
    for group in (0, 1):
        with torch.no_grad():
            expected = network(images(), group)
            found = encoder(images(), torch.full((3,), group))
        assert (expected[0] - expected[1]).abs().max() > 0.01  # not all alike
        normalize = torch.nn.functional.normalize
        torch.testing.assert_close(normalize(found), normalize(expected), rtol=0, atol=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---- names and features


@pytest.mark.parametrize(("kind", "zipped"), [("adca", True), ("agw", False)])
def test_a_released_checkpoint_gives_the_features_of_its_network(
    kind: str,
    zipped: bool,
    network: Released,
    encoder: AgwResNet50,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / {"adca": "model_best.pth.tar", "agw": "sysu_agw_best.t"}[kind]
    save_released(network, path, kind=kind, zipped=zipped)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    with caplog.at_level(logging.INFO, logger="mabm.models.weights"):
        report = load_weights(encoder, path)
    assert_same_features(encoder, network)
    own = encoder.state_dict()
    assert set(report.loaded) == set(own)
    assert report.missing == ()
    assert {name.split(".")[0] for name in report.left_out} == UNUSED
    assert len(report.loaded) + len(report.left_out) == len(network.state_dict())
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{path.name}: {len(own)} tensors loaded; in the file, not used: ")
    assert "base_resnet (6: the stem of its ResNet, which never runs)" in message
    assert "classifier (1: of the training identities)" in message


def test_every_part_of_the_network_matters(network: Released, checkpoint: Path) -> None:
    """Or features could agree without it: non-local blocks above all, which start as nothing."""
    encoder = build_encoder("agw-resnet50", weights=checkpoint).eval()
    with torch.no_grad():
        before = encoder(images(), torch.tensor([0, 1, 0]))
        for name in ("non_local.1.0.g.weight", "non_local.2.2.theta.bias", "neck.running_mean"):
            tensor = encoder.state_dict()[name]
            kept = tensor.clone()
            tensor.add_(0.5)
            changed = (encoder(images(), torch.tensor([0, 1, 0])) - before).abs().max()
            tensor.copy_(kept)
            assert changed > 1e-3, name


def test_a_network_without_non_local_blocks_stays_one(tmp_path: Path) -> None:
    """As ADCA is released: new blocks are the identity."""
    network = released_network(non_local=False, seed=1)
    path = save_released(network, tmp_path / "checkpoint.pth.tar")
    encoder = AgwResNet50()
    report = load_weights(encoder, path)
    assert {name.split(".")[0] for name in report.missing} == {"non_local"}
    assert "non_local (60: a network without them; new blocks change nothing)" in str(report)
    assert_same_features(encoder, network)


def test_blocks_whose_g_is_a_convolution_alone() -> None:
    names = by_our_names(["NL_2.1.g.weight", "NL_2.1.phi.bias", "NL_4.0.W.0.weight", "fc.weight"])
    assert names == {
        "non_local.1.1.g.weight": "NL_2.1.g.weight",
        "non_local.1.1.phi.bias": "NL_2.1.phi.bias",
        "non_local.3.0.out.weight": "NL_4.0.W.0.weight",
    }
    with pytest.raises(ValueError, match=r"non_local\.1\.0\.g\.bias once, got NL_2\.0\.g\.0"):
        by_our_names(["NL_2.0.g.0.bias", "NL_2.0.g.bias"])


# ---- what does not fit


def without(*starts: str) -> Callable[[dict[str, Any]], object]:
    def remove(state: dict[str, Any]) -> None:
        for name in [name for name in state if name.startswith(starts)]:
            del state[name]

    return remove


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("bottleneck."), r"missing 4: \['neck\.bias', 'neck\.running_mean'"),
        (without("NL_3.2.W"), r"missing 6: \['non_local\.2\.2\.norm\.bias'"),
        (without("thermal_module."), r"missing 5: \['stems\.1\.bn1\.bias'"),
        (without("base_resnet."), r"missing 260: \['layer1\.0\.bn1\.bias'"),
        (
            lambda state: state.update({"bottleneck.weight": torch.ones(512)}),
            r"weights of neck\.weight must have shape \(2048,\), got \(512,\)",
        ),
    ],
)
def test_half_a_checkpoint_is_refused_by_what_it_lacks(
    change: Callable[[dict[str, Any]], object],
    message: str,
    network: Released,
    encoder: AgwResNet50,
    tmp_path: Path,
) -> None:
    state = {n: t.new_full((), 7).expand(t.shape) for n, t in network.state_dict().items()}
    change(state)
    torch.save({"state_dict": state}, tmp_path / "half.pth.tar")
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(encoder, tmp_path / "half.pth.tar")
    assert str(caught.value).startswith(f"{tmp_path / 'half.pth.tar'}: weights ")
    assert not any((tensor == 7).all() for tensor in encoder.state_dict().values())


def test_another_encoder_says_which_one_it_is(checkpoint: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the names of AGW.*encoder 'agw-resnet50', got TwoStream"
    ):
        build_encoder("small", weights=checkpoint)


# ---- how it is read


def rename(path: Path, pattern: str, name: str, *, zipped: bool) -> None:
    """Changes the names in a file of torch.save, whose pickle holds them as text."""

    def renamed(content: bytes) -> bytes:
        changed, count = re.subn(pattern.encode(), name.encode(), content)
        assert count
        return changed

    if not zipped:
        path.write_bytes(renamed(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, renamed(content) if entry.endswith("data.pkl") else content)


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("zipped", [True, False])
def test_values_of_either_numpy_are_passed_over(
    core: str, zipped: bool, encoder: AgwResNet50, tmp_path: Path
) -> None:
    """NumPy 2 renamed ``numpy.core``; files keep the name of the version that wrote them."""
    path, small = tmp_path / "a.pth.tar", {"weight": torch.ones(2)}
    values = [np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True), np.ones((2, 3))]
    content = {"state_dict": small, "best_mAP": values}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    rename(path, r"numpy\._?core\.", f"numpy.{core}.", zipped=zipped)
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.raises(ValueError, match=r"must have names of .*, got \['weight'\]"):  # it was read
        load_weights(encoder, path)
    assert set(torch.serialization.get_safe_globals()) == allowed


class Bomb:
    """What an attacker would pickle: unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.mkdir, ("was_here",), r"(posix|nt)\.mkdir"),
        (eval, ("__import__('os').mkdir('was_here')",), r"eval"),
        (np.load, ("x.npy", None, True), r"numpy\.load"),
        (np.lib.format.open_memmap, ("was_here", "w+", "f8", (1,)), r"numpy\.lib\.\S*open_memmap"),
        (getattr, (os, "mkdir"), "getattr"),
    ],
)
def test_the_allowed_names_open_nothing_else(
    function: Callable[..., Any],
    arguments: tuple[object, ...],
    name: str,
    zipped: bool,
    encoder: AgwResNet50,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if function is getattr:
        arguments = (np.float64(1), "real")
    content = {"state_dict": {}, "best_mAP": Bomb(function, *arguments), "epoch": np.float64(1)}
    torch.save(content, "a.pth.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"in it, got {name}: other objects could execute code"):
        load_weights(encoder, "a.pth.tar")
    assert os.listdir() == ["a.pth.tar"]


def test_real_archives_say_what_to_do(
    checkpoint: Path, encoder: AgwResNet50, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth.tar"
    (tmp_path / "b").write_bytes(b"weights")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "b", "b")
    with pytest.raises(ValueError, match=r"a\.pth\.tar .* a tar archive: unpack it"):
        load_weights(encoder, path)
    path.write_bytes(gzip.compress(b"weights"))
    with pytest.raises(ValueError, match=r"a\.pth\.tar .* compressed by gzip: decompress it"):
        load_weights(encoder, path)
    path.write_bytes(checkpoint.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"a\.pth\.tar"):
        load_weights(encoder, path)
