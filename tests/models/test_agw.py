"""AGW's ResNet-50 against ResNet written out with plain functions, and its non-local blocks."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from mabm.models import AgwResNet50, build_encoder
from mabm.models.agw import _NonLocalBlock

DEPTHS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
State = dict[str, torch.Tensor]


def resnet50_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet-50 without its classifier, by rule."""

    def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (channels,)
        yield f"{name}.num_batches_tracked", ()

    def names() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "conv1.weight", (64, 3, 7, 7)
        yield from norm("bn1", 64)
        channels = 64
        for layer, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), start=1):
            for index in range(depth):
                block = f"layer{layer}.{index}"
                kernels = (1, 3, 1)
                sizes = (channels, width, width, 4 * width)
                for place in range(3):
                    shape = (sizes[place + 1], sizes[place], kernels[place], kernels[place])
                    yield f"{block}.conv{place + 1}.weight", shape
                    yield from norm(f"{block}.bn{place + 1}", sizes[place + 1])
                if index == 0:
                    yield f"{block}.downsample.0.weight", (4 * width, channels, 1, 1)
                    yield from norm(f"{block}.downsample.1", 4 * width)
                channels = 4 * width

    return dict(names())


def plain_forward(
    state: State, images: torch.Tensor, modality: torch.Tensor, *, training: bool = False
) -> torch.Tensor:
    """Two-stream ResNet-50 with the last stride 1, GeM and BNNeck: no modules, no non-local."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        stats = [None, None]
        if not training:
            stats = [state[f"{name}.running_mean"], state[f"{name}.running_var"]]
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.batch_norm(x, *stats, scale, shift, training=training)

    def block(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
        y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
        y = norm(
            F.conv2d(F.relu(norm(y, f"{name}.bn2")), state[f"{name}.conv3.weight"]), f"{name}.bn3"
        )
        if f"{name}.downsample.0.weight" in state:
            x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
            x = norm(x, f"{name}.downsample.1")
        return F.relu(x + y)

    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = (images.float() / 255 - mean) / deviation
    maps = torch.empty(0)
    for group in modality.unique().tolist():
        rows = modality == group
        x = F.conv2d(pixels[rows], state[f"stems.{group}.conv1.weight"], stride=2, padding=3)
        x = F.max_pool2d(F.relu(norm(x, f"stems.{group}.bn1")), 3, stride=2, padding=1)
        maps = maps if len(maps) else x.new_zeros(len(images), *x.shape[1:])
        maps[rows] = x
    for layer, depth in enumerate(DEPTHS, start=1):
        for index in range(depth):
            stride = 2 if index == 0 and layer in {2, 3} else 1
            maps = block(maps, f"layer{layer}.{index}", stride)
    pooled = (maps**3).mean(dim=(2, 3)) ** (1 / 3)
    return norm(pooled, "neck")


@pytest.fixture(scope="module")
def encoder() -> AgwResNet50:
    """With statistics and necks away from their start, where mistakes would hide."""
    encoder = build_encoder("agw-resnet50", seed=3)
    assert isinstance(encoder, AgwResNet50)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            if name.startswith("non_local"):
                continue
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                tensor.uniform_(0.8, 1.2, generator=generator)
            elif "bn" in name and name.endswith("bias"):
                tensor.normal_(0, 0.1, generator=generator)
    return encoder


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, 3, 64, 32), generator=generator, dtype=torch.uint8)
    return images, torch.tensor([1, 0, 0, 1, 0])


def test_names_and_shapes_are_those_of_torchvision() -> None:
    state = AgwResNet50(num_modalities=1, non_local=(0, 0, 0, 0)).state_dict()
    found = {
        name.removeprefix("stems.0."): tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.startswith("neck.")
    }
    assert found == resnet50_shapes()


def test_size() -> None:
    encoder = AgwResNet50(non_local=(0, 0, 0, 0))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    backbone, stem, neck = 25_557_032 - 2048 * 1000 - 1000, 3 * 64 * 7 * 7 + 2 * 64, 2 * 2048
    assert count == backbone + stem + neck
    assert encoder.num_features == 2048
    assert not encoder.neck.bias.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_forward_is_resnet_written_out(
    encoder: AgwResNet50, batch: tuple[torch.Tensor, torch.Tensor], training: bool
) -> None:
    """Which shows too that new non-local blocks change nothing."""
    expected = plain_forward(dict(encoder.state_dict()), *batch, training=training)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train(training)
    with torch.no_grad():
        found = encoder(*batch)
    encoder.load_state_dict(before)
    assert found.shape == (5, 2048)
    # Statistics of five images amplify rounding.
    tolerance = 1e-2 if training else 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=tolerance)


def test_non_local_blocks_follow_the_last_bottlenecks(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    encoder = AgwResNet50()
    calls: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in encoder.named_modules():
        if name.count(".") in {1, 2} and type(module).__name__ in {"_Bottleneck", "_NonLocalBlock"}:

            def record(_: object, __: object, output: torch.Tensor, name: str = name) -> None:
                calls.append(name)
                shapes[name] = tuple(output.shape[1:])

            module.register_forward_hook(record)
    with torch.inference_mode():
        encoder.eval()(*batch)
    expected = [f"layer1.{index}" for index in range(3)]
    expected += ["layer2.0", "layer2.1"]
    expected += ["layer2.2", "non_local.1.0", "layer2.3", "non_local.1.1"]
    expected += ["layer3.0", "layer3.1", "layer3.2"]
    expected += ["layer3.3", "non_local.2.0", "layer3.4", "non_local.2.1"]
    expected += ["layer3.5", "non_local.2.2"]
    expected += ["layer4.0", "layer4.1", "layer4.2"]
    assert calls == expected
    assert [shapes[f"layer{layer}.0"] for layer in (1, 2, 3, 4)] == [
        (256, 16, 8),
        (512, 8, 4),
        (1024, 4, 2),
        (2048, 4, 2),  # the last stage keeps the resolution
    ]


@pytest.mark.parametrize("inner", [1, 3])
def test_non_local_block_is_the_published_sum(inner: int) -> None:
    torch.manual_seed(0)
    block = _NonLocalBlock(6, inner).double().eval()
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)

    def rows(layer: torch.nn.Conv2d) -> torch.Tensor:  # (2, 15, inner)
        return torch.einsum("oi,bihw->bhwo", layer.weight[:, :, 0, 0], x).flatten(1, 2) + layer.bias

    weights = rows(block.theta) @ rows(block.phi).transpose(1, 2) / 15
    gathered = (weights @ rows(block.g)).unflatten(1, (5, 3)).permute(0, 3, 1, 2)
    expected = x + block.norm(block.out(gathered))
    torch.testing.assert_close(block(x), expected)
    assert not torch.allclose(block(x), x, atol=1e-3)


def test_channels_inside_non_local_blocks() -> None:
    single, half = AgwResNet50(), AgwResNet50(non_local_channels=None)
    shapes = [tuple(e.state_dict()["non_local.2.0.theta.weight"].shape) for e in (single, half)]
    assert shapes == [(1, 1024, 1, 1), (512, 1024, 1, 1)]


def test_every_part_learns_but_an_absent_stem(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    encoder = AgwResNet50(num_modalities=3)
    encoder(*batch).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        learns = parameter.requires_grad and not name.startswith("stems.2.")
        assert (parameter.grad is not None) == learns, name
    assert int(encoder.stems[2].bn1.num_batches_tracked) == 0
    assert int(encoder.stems[1].bn1.num_batches_tracked) == 1


def test_half_precision_stays_close(
    encoder: AgwResNet50, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    encoder.eval()
    with torch.inference_mode():
        exact = encoder(*batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = encoder(*batch)
    assert rough.dtype == torch.float32
    assert F.cosine_similarity(exact, rough).min() > 0.99


def test_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_modalities must be >= 1, got 0"):
        AgwResNet50(num_modalities=0)
    with pytest.raises(ValueError, match=r"at most \(3, 4, 6, 3\), got \(0, 5, 0, 0\)"):
        AgwResNet50(non_local=(0, 5, 0, 0))
    with pytest.raises(ValueError, match="non_local_channels must be >= 1 or None, got 0"):
        AgwResNet50(non_local_channels=0)
