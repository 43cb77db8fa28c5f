"""Backbones of timm: with a stand-in that needs no timm, and with timm where it is installed."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mabm.models import (
    TimmEncoder,
    build_encoder,
    extract,
    load_encoder,
    load_weights,
    save_encoder,
)


class Backbone(nn.Module):
    """A network as timm makes them: two convolutions on the image, a sized embedding, no head."""

    num_features = 6
    head_hidden_size = 8

    def __init__(self, img_size: tuple[int, int] | None = None, num_classes: int = 10) -> None:
        super().__init__()
        self.img_size = img_size
        self.stem = nn.ModuleDict({"a": nn.Conv2d(3, 6, 3), "b": nn.Conv2d(3, 6, 3, bias=False)})
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(torch.relu(self.norm(self.stem["a"](x) + self.stem["b"](x))))
        return self.head(maps.mean(dim=(2, 3)))


class Settings:
    def __init__(self, **values: object) -> None:
        self.values = values

    def to_dict(self) -> dict[str, object]:
        return self.values


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for timm with two backbones; returns what it was asked to make."""
    calls: list[dict[str, Any]] = []
    settings = {
        "free": Settings(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.25)),
        "sized": Settings(fixed_input_size=True, input_size=(3, 24, 40)),
        "headless": None,
    }

    def create_model(name: str, **options: Any) -> nn.Module:
        calls.append({"name": name, **options})
        if name == "headless":
            network = nn.Sequential(nn.Linear(3, 3))
            network.num_features = 3  # type: ignore[assignment]
            return network
        return Backbone(options.get("img_size"), options["num_classes"])

    timm = SimpleNamespace(
        is_model=lambda name: name in settings,
        list_models=lambda pattern: [name for name in settings if pattern.strip("*") in name],
        get_pretrained_cfg=settings.get,
        create_model=create_model,
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def batch(height: int = 9, width: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.tensor([1, 0, 2, 1, 0])


def test_no_weights_are_fetched_and_no_classifier_made(made: list[dict[str, Any]]) -> None:
    TimmEncoder("free")
    assert made == [{"name": "free", "pretrained": False, "num_classes": 0}]


def test_each_modality_has_its_own_first_convolutions(made: list[dict[str, Any]]) -> None:
    encoder = TimmEncoder("free", num_modalities=3).eval()
    images, modality = batch()
    own = encoder.state_dict()
    # Copies start equal.
    alone = encoder(images, torch.zeros_like(modality))
    torch.testing.assert_close(encoder(images, modality), alone, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for group in range(3):
            for place in ("a", "b"):
                own[f"backbone.stem.{place}.by_modality.{group}.weight"].add_(0.1 * group)
    found = encoder(images, modality)
    for row, group in enumerate(modality.tolist()):
        plain = Backbone(num_classes=0).eval()
        plain.load_state_dict(
            {
                name.replace(f".by_modality.{group}", "").removeprefix("backbone."): tensor
                for name, tensor in own.items()
                if name.startswith("backbone.")
                and ("by_modality" not in name or f"by_modality.{group}." in name)
            }
        )
        mean, deviation = torch.tensor(0.5), torch.tensor([0.5, 0.5, 0.25]).view(3, 1, 1)
        expected = encoder.neck(plain((images[row : row + 1] / 255 - mean) / deviation))
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(made: list[dict[str, Any]]) -> None:
    encoder = TimmEncoder("free", num_modalities=4)
    encoder(*batch()).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        learns = parameter.requires_grad and "by_modality.3" not in name
        assert (parameter.grad is not None) == learns, name


def test_names_of_timm_fill_every_modality(made: list[dict[str, Any]], tmp_path: Path) -> None:
    source = Backbone()
    torch.save(source.state_dict(), tmp_path / "backbone.pth")
    encoder = build_encoder("timm:free", weights=tmp_path / "backbone.pth")
    own = encoder.state_dict()
    for group in (0, 1):
        assert torch.equal(own[f"backbone.stem.a.by_modality.{group}.bias"], source.stem["a"].bias)
    assert torch.equal(own["backbone.body.weight"], source.body.weight)
    report = load_weights(encoder, tmp_path / "backbone.pth")
    assert report.left_out == ("head.weight", "head.bias")
    assert {name.split(".")[0] for name in report.missing} == {"neck"}


def test_the_size_goes_to_backbones_that_need_one(
    made: list[dict[str, Any]], tmp_path: Path
) -> None:
    sized = build_encoder("timm:sized", image_size=(32, 16))
    assert build_encoder("timm:free", image_size=(32, 16)).image_size is None
    assert build_encoder("timm:sized").image_size == (24, 40)
    assert [call.get("img_size") for call in made] == [(32, 16), None, None]
    assert sized.num_features == 8
    # A saved encoder is made again for the same size.
    save_encoder(sized, tmp_path / "a.pt", name="timm:sized", meta={"epoch": 3})
    found, meta = load_encoder(tmp_path / "a.pt")
    assert made[-1]["img_size"] == found.image_size == (32, 16)
    assert meta == {"epoch": 3}
    images, modality = batch()
    modality = modality.clamp(max=1)
    expected = extract(sized, images, modality)
    assert torch.equal(extract(found, images, modality), expected)


def test_unknown_backbones_are_named(made: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"backbone of timm, got 'siz'; similar: \['sized'\]"):
        TimmEncoder("siz")
    with pytest.raises(ValueError, match="begins with a convolution, got 'headless'"):
        TimmEncoder("headless")


def test_timm_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'need timm: pip install "mabm\[timm\]"'):
        build_encoder("timm:resnet18")


# ---- with timm itself


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason='timm is an extra: pip install "mabm[timm]"')


@pytest.mark.parametrize("name", ["resnet18", "repvgg_a0", "mobilenetv3_small_050"])
def test_a_backbone_of_timm_gives_its_own_features(timm: Any, name: str, tmp_path: Path) -> None:
    source = timm.create_model(name)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    encoder = build_encoder(f"timm:{name}", weights=tmp_path / "a.pth").eval()
    images, modality = batch(64, 32)
    source.reset_classifier(0)
    mean, deviation = (
        torch.tensor(source.pretrained_cfg[part]).view(3, 1, 1) for part in ("mean", "std")
    )
    with torch.inference_mode():
        expected = encoder.neck(source.eval()((images / 255 - mean) / deviation))
        found = encoder(images, modality.clamp(max=1))
    assert found.shape == (5, encoder.num_features)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_transformer_of_timm_takes_the_size_of_person_images(timm: Any, tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224")
    torch.save(source.state_dict(), tmp_path / "a.pth")
    encoder = build_encoder(
        "timm:vit_tiny_patch16_224", weights=tmp_path / "a.pth", image_size=(64, 32)
    )
    own = encoder.state_dict()["backbone.pos_embed"]
    assert own.shape == (1, 1 + 4 * 2, 192)
    # The class token keeps its embedding; those of places are resampled.
    torch.testing.assert_close(own[:, 0], source.pos_embed[:, 0])
    torch.testing.assert_close(own[:, 1:].mean(), source.pos_embed[:, 1:].mean(), atol=3e-3, rtol=0)
    images, modality = batch(64, 32)
    with torch.inference_mode():
        assert encoder(images, modality.clamp(max=1)).shape == (5, 192)
