"""Augmentation: whose draws an image gets, and what each step does to its pixels."""

import colorsys
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from devices import CPU, Device
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from mabm.data import Augmentation, augment, augmentation, philox
from mabm.models import AgwResNet50

NOTHING = {"padding": 0, "flip": 0.0, "erasing": 0.0}
EVERYTHING = Augmentation(padding=3, jitter=0.5, channels="infrared")


def noise(count: int, height: int = 12, width: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def coordinates(count: int, height: int, width: int) -> torch.Tensor:
    """Images whose pixels say where they were: 1 + row in red, 1 + column in green."""
    rows = torch.arange(1, height + 1).view(-1, 1).expand(height, width)
    columns = torch.arange(1, width + 1).expand(height, width)
    image = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    return image.expand(count, -1, -1, -1)


# ---- the draws


def test_philox_gives_the_published_numbers() -> None:
    # Known answers that the authors of the generator distribute with it.
    for counter, key, expected in (
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ):
        words = [np.array([word], dtype=np.uint64) for word in counter]
        found = philox.philox4x32(tuple(words), tuple(np.uint64(word) for word in key))  # type: ignore[arg-type]
        assert [int(word[0]) for word in found] == expected


def test_draws_are_uniform_and_differ_by_seed_key_and_place() -> None:
    keys = np.arange(-2000, 2000)
    draws = philox.uniform_draws((1, 2), keys, 7)
    assert draws.shape == (4000, 7)
    assert np.unique(draws).size > 27_900  # 28,000 numbers of 32 bits: hardly any twice
    counts = np.stack([np.histogram(column, 10, (0, 1))[0] for column in draws.T])
    assert ((counts > 300) & (counts < 500)).all()  # 400 expected, deviation 19
    assert abs(np.corrcoef(draws.T) - np.eye(7)).max() < 0.08
    assert not (draws == philox.uniform_draws((1, 3), keys, 7)).any()
    assert (draws[:, :3] == philox.uniform_draws((1, 2), keys, 3)).all()
    assert (draws[::-1] == philox.uniform_draws((1, 2), keys[::-1], 7)).all()
    assert philox.uniform_draws(0, keys[:0], 3).shape == (0, 3)


def test_an_image_is_augmented_alike_in_every_batch(device: Device) -> None:
    images, keys = noise(24), np.arange(100, 124)
    whole = device.get(augment(device.put(images), EVERYTHING, seed=(5, 1), keys=keys))
    order = np.random.default_rng(0).permutation(24)[:9]
    some = augment(device.put(images[order]), EVERYTHING, seed=(5, 1), keys=keys[order])
    np.testing.assert_allclose(device.get(some), whole[order], atol=1e-3)
    alone = augment(device.put(images[4:5]), EVERYTHING, seed=(5, 1), keys=[104])
    np.testing.assert_allclose(device.get(alone), whole[4:5], atol=1e-3)
    # One image under many keys and seeds is augmented in many ways.
    twice = device.put(images[:1].expand(24, -1, -1, -1))
    many = device.get(augment(twice, EVERYTHING, seed=(5, 1), keys=keys))
    other = device.get(augment(twice, EVERYTHING, seed=(5, 2), keys=keys))
    assert len(np.unique(np.concatenate([many, other]).reshape(48, -1), axis=0)) > 40


def test_a_gpu_gives_the_pixels_of_the_cpu(gpu: Device) -> None:
    images, keys = noise(64), np.arange(64)
    expected = augment(images, EVERYTHING, seed=3, keys=keys)
    found = augment(gpu.put(images), EVERYTHING, seed=3, keys=keys)
    np.testing.assert_allclose(gpu.get(found), CPU.get(expected), atol=1e-2)


def test_nothing_is_changed_but_the_result() -> None:
    images = noise(16)
    before, state = images.clone(), torch.get_rng_state()
    result = augment(images, EVERYTHING, seed=1, keys=torch.arange(16))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.dtype == torch.float32
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 255
    assert torch.equal(result, augment(images, EVERYTHING, seed=1, keys=list(range(16))))


def test_an_empty_recipe_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(augmentation, "uniform_draws", refuse)
    images = noise(4)
    assert torch.equal(
        augment(images, Augmentation(**NOTHING), seed=0, keys=range(4)), images.float()
    )
    assert augment(images[:0], EVERYTHING, seed=0, keys=[]).shape == (0, 3, 12, 8)


# ---- geometry


def test_crops_are_windows_of_the_padded_image() -> None:
    count, height, width, padding = 4000, 7, 5, 2
    images = coordinates(count, height, width)
    recipe = Augmentation(**{**NOTHING, "padding": padding})
    result = augment(images, recipe, seed=0, keys=np.arange(count)).to(torch.int64)
    padded = np.pad(images[0].numpy(), ((0, 0), (padding, padding), (padding, padding)))
    side = 2 * padding + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
    table = {windows[:, y, x].tobytes(): (y, x) for y in range(side) for x in range(side)}
    counts = np.zeros((side, side), dtype=int)
    for window in result.to(torch.uint8).numpy():
        counts[table[window.tobytes()]] += 1
    assert (abs(counts - count / side**2) < 60).all()  # 160 expected, deviation 12


def test_half_of_the_images_are_mirrored() -> None:
    images = noise(2000)
    result = augment(images, Augmentation(**{**NOTHING, "flip": 0.5}), seed=0, keys=np.arange(2000))
    straight = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (straight ^ mirrored).all()
    assert 900 < int(mirrored.sum()) < 1100
    always = augment(images, Augmentation(**{**NOTHING, "flip": 1.0}), seed=0, keys=np.arange(2000))
    assert torch.equal(always, images.flip(3).float())


def test_crop_and_mirror_draw_apart() -> None:
    """The place of the crop does not tell whether the image is mirrored."""
    recipe = Augmentation(padding=1, flip=0.5, erasing=0.0)
    result = augment(coordinates(4000, 6, 6), recipe, seed=0, keys=np.arange(4000))
    columns = result[:, 1].amax(1)
    mirrored = columns[:, 2] > columns[:, 3]
    # The inner columns hold 2..5 whatever the crop: their first number says where it began.
    start = torch.where(mirrored, columns[:, 3], columns[:, 2])
    for place in start.unique():
        assert 0.42 < mirrored[start == place].float().mean() < 0.58


@pytest.mark.parametrize("size", [(288, 144), (48, 48)])
def test_erased_rectangles(size: tuple[int, int]) -> None:
    count = 1200 if size == (48, 48) else 150
    height, width = size
    images = torch.full((1, 3, *size), 7, dtype=torch.uint8).expand(count, -1, -1, -1)
    recipe = Augmentation(**{**NOTHING, "erasing": 0.5}, erasing_fill=(1.5, 2.5, 3.5))
    result = augment(images, recipe, seed=0, keys=np.arange(count))
    erased = (result != 7).all(1)
    assert torch.equal(erased, (result != 7).any(1))
    shares, aspects = [], []
    for mask, image in zip(erased, result, strict=True):
        if not mask.any():
            continue
        rows, columns = torch.nonzero(mask.any(1)), torch.nonzero(mask.any(0))
        tall, wide = (int(span[-1] - span[0]) + 1 for span in (rows, columns))
        assert int(mask.sum()) == tall * wide  # a full rectangle
        assert tall < height
        assert wide < width
        assert image[:, mask].unique(dim=1).squeeze(1).tolist() == [1.5, 2.5, 3.5]
        shares.append(tall * wide / (height * width))
        aspects.append(tall / wide)
    assert abs(len(shares) / count - 0.5) < 3.5 * 0.5 / count**0.5
    slack = 2 / min(size)  # a side is rounded to whole pixels
    assert 0.02 - slack < min(shares) < 0.06
    assert 0.34 < max(shares) < 0.4 + slack
    assert 0.3 - 3 * slack < min(aspects) < 0.6
    assert 2.6 < max(aspects) < 1 / 0.3 + 24 * slack
    # Drawn uniformly, not log-uniformly: the mean is near the middle of the range, 1.8, less what
    # did not fit (log-uniform draws have 1.25).
    assert 1.5 < np.mean(aspects) < 1.95
    touched = erased.any(0)
    for strip in (touched[: height // 8], touched[-height // 8 :]):
        assert strip.any()
    for strip in (touched[:, : width // 8], touched[:, -width // 8 :]):
        assert strip.any()


def test_erased_rectangles_reach_every_edge() -> None:
    images = torch.full((1, 3, 40, 30), 7, dtype=torch.uint8).expand(3000, -1, -1, -1)
    recipe = Augmentation(**{**NOTHING, "erasing": 1.0})
    erased = (augment(images, recipe, seed=0, keys=np.arange(3000)) != 7).all(1)
    rows, columns = erased.any(2), erased.any(1)
    at_edge = torch.stack([rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]])
    assert ((at_edge.float().mean(1) > 0.04) & (at_edge.float().mean(1) < 0.2)).all()
    # Where it lies from left to right does not tell where it lies from top to bottom.
    center = torch.stack([rows.float() @ torch.arange(40.0), columns.float() @ torch.arange(30.0)])
    center /= torch.stack([rows.sum(1), columns.sum(1)])
    assert abs(torch.corrcoef(center)[0, 1]) < 0.08


def test_mirroring_and_erasing_draw_apart() -> None:
    images = coordinates(3000, 8, 8)
    recipe = Augmentation(padding=0, flip=0.5, erasing=0.5, erasing_area=(0.02, 0.2))
    result = augment(images, recipe, seed=0, keys=np.arange(3000))
    erased = (result[:, 2] > 0).flatten(1).any(1)
    known = torch.where(result[:, 2] > 0, 0, result[:, 1] - images[:, 1])
    mirrored = known.flatten(1).any(1)
    assert abs(torch.corrcoef(torch.stack([erased, mirrored]).float())[0, 1]) < 0.07
    assert 0.2 < share(erased & mirrored) < 0.3


def test_a_rectangle_that_cannot_fit_is_not_erased() -> None:
    whole = Augmentation(**{**NOTHING, "erasing": 1.0}, erasing_area=(1.0, 1.0))
    images = noise(50)
    assert torch.equal(augment(images, whole, seed=0, keys=range(50)), images.float())


# ---- channels


def share(which: torch.Tensor) -> float:
    return float(which.float().mean())


def copies(result: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
    """(B,) for each channel: whether all three of the result are that one."""
    return [(result == images[:, c : c + 1]).flatten(1).all(1) for c in range(3)]


def test_exchange_copies_one_channel_to_all() -> None:
    images = noise(3000, 4, 4)
    recipe = Augmentation(**NOTHING, channels="exchange")
    red, green, blue = copies(augment(images, recipe, seed=0, keys=np.arange(3000)), images)
    assert (red.int() + green.int() + blue.int() == 1).all()
    for chosen in (red, green, blue):
        assert 0.3 < share(chosen) < 0.37


def test_infrared_copies_a_channel_or_keeps_or_grays() -> None:
    images = noise(4000, 4, 4)
    recipe = Augmentation(**NOTHING, channels="infrared")
    result = augment(images, recipe, seed=0, keys=np.arange(4000))
    kept = (result == images).flatten(1).all(1)
    gray = np.einsum("c,bchw->bhw", [0.2989, 0.587, 0.114], images.numpy())[:, None]
    grayed = torch.from_numpy((abs(result.numpy() - gray) < 1e-3).reshape(4000, -1).all(1))
    kinds = [*copies(result, images), kept, grayed]
    assert (torch.stack(kinds).int().sum(0) == 1).all()
    for kind in kinds[:3]:
        assert 0.22 < share(kind) < 0.28
    for kind in kinds[3:]:
        assert 0.1 < share(kind) < 0.15


def test_channels_are_copied_after_erasing() -> None:
    recipe = Augmentation(
        padding=0, flip=0.0, erasing=1.0, erasing_fill=(1.5, 2.5, 3.5), channels="exchange"
    )
    result = augment(noise(300, 16, 16), recipe, seed=0, keys=range(300))
    assert torch.equal(result[:, :1].expand_as(result), result)
    fills = [(result[:, 0] == fill).flatten(1).any(1) for fill in (1.5, 2.5, 3.5)]
    assert (sum(fill.int() for fill in fills) == 1).all()
    assert all(fill.any() for fill in fills)


# ---- color jitter


def apply(kind: str, images: torch.Tensor, factor: float) -> NDArray[np.float32]:
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = getattr(augmentation, f"_{kind}")
    return change(images.float(), torch.full((len(images), 1, 1, 1), factor)).numpy()


def turned(images: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
    """The hue of every pixel turned, by the standard library's color model."""
    result = np.empty_like(images)
    for (b, y, x), _ in np.ndenumerate(images[:, 0]):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[b, :, y, x] / 255)
        result[b, :, y, x] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return result * 255


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.93, 1.0, 1.5])
def test_strengths_follow_pillow(factor: float) -> None:
    images = noise(3, 20, 16)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    for kind, enhance in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        expected = np.stack([np.asarray(enhance(p).enhance(factor)) for p in pictures])
        found = apply(kind, images, factor).transpose(0, 2, 3, 1)
        # Pillow rounds the gray value, then the result.
        assert abs(found - expected).max() < 1.6, kind


@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 0.1, 0.5])
def test_hue_follows_the_standard_library(turn: float) -> None:
    images = noise(2, 9, 9)
    images[0, :, 0] = 200  # gray pixels have no hue
    images[0, :, 1] = torch.tensor([0, 255, 255], dtype=torch.uint8).view(3, 1)  # two greatest
    images[0, :, 2] = torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1)
    images[0, :, 3] = 0
    np.testing.assert_allclose(
        apply("hue", images, turn), turned(images.double().numpy(), turn), atol=2e-3
    )


def test_jitter_follows_torchvision() -> None:
    functional = pytest.importorskip(
        "torchvision.transforms.functional",
        reason="optional: torchvision is not installed",
    )
    images = noise(4, 20, 16)
    for kind, factors in (
        ("brightness", (0.5, 1.3)),
        ("contrast", (0.5, 1.3)),
        ("saturation", (0.5, 1.3)),
        ("hue", (-0.4, 0.3)),
    ):
        for factor in factors:
            expected = getattr(functional, f"adjust_{kind}")(images.float() / 255, factor)
            np.testing.assert_allclose(
                apply(kind, images, factor), 255 * expected.numpy(), atol=5e-3, err_msg=kind
            )


def test_jitter_applies_four_changes_in_a_drawn_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 24 orders, each against the four changes one after the other in float64."""
    images = noise(24, 6, 5)
    draws = np.random.default_rng(0).random((24, augmentation._NUM_DRAWS))
    draws[:, augmentation._JITTER_ORDER] = (np.arange(24) + 0.5) / 24
    monkeypatch.setattr(augmentation, "uniform_draws", lambda *_: draws)
    result = augment(images, Augmentation(**NOTHING, jitter=0.6), seed=0, keys=range(24))

    def gray(image: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tensordot([0.2989, 0.587, 0.114], image, 1)

    def blend(
        image: NDArray[np.float64], base: NDArray[np.float64], f: float
    ) -> NDArray[np.float64]:
        return np.clip(f * image + (1 - f) * base, 0, 255)

    changes: list[Callable[[NDArray[np.float64], float], NDArray[np.float64]]] = [
        lambda image, u: blend(image, np.zeros(1), 0.4 + 1.2 * u),
        lambda image, u: blend(image, gray(image).mean(), 0.4 + 1.2 * u),
        lambda image, u: blend(image, gray(image), 0.4 + 1.2 * u),
        lambda image, u: turned(image[None], u - 0.5)[0],  # at most half a circle, not 0.6
    ]
    for row, order in enumerate(permutations(range(4))):
        expected = images[row].double().numpy()
        for kind in order:
            expected = changes[kind](expected, draws[row, augmentation._JITTER][kind])
        np.testing.assert_allclose(result[row].numpy(), expected, atol=5e-3, err_msg=str(order))


def test_no_strength_makes_a_negative_factor() -> None:
    white = torch.full((400, 3, 2, 2), 250, dtype=torch.uint8)
    result = augment(white, Augmentation(**NOTHING, jitter=2.0), seed=0, keys=range(400))
    # Factors in [0, 3]: one in a hundred is below 0.03, a quarter would be below 0 in [-1, 3].
    assert share(result.flatten(1).amax(1) < 7.5) < 0.05


def test_jitter_comes_after_crop_and_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less contrast lifts the black border too, toward the mean of what was cropped."""
    images, count, padding = noise(20, 9, 6), 20, 2
    draws = np.random.default_rng(0).random((count, augmentation._NUM_DRAWS))
    draws[:, augmentation._JITTER] = 0.5, 0.25, 0.5, 0.5  # contrast x 0.75, the others unchanged
    monkeypatch.setattr(augmentation, "uniform_draws", lambda *_: draws)
    recipe = Augmentation(padding=padding, flip=0.5, erasing=0.0, jitter=0.5)
    result = augment(images, recipe, seed=0, keys=range(count))
    geometry = Augmentation(padding=padding, flip=0.5, erasing=0.0)
    moved = augment(images, geometry, seed=0, keys=range(count)).double().numpy()
    gray = np.tensordot(moved, [0.2989, 0.587, 0.114], (1, 0)).mean((1, 2)).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(result.numpy(), 0.75 * moved + 0.25 * gray, atol=5e-3)
    border = (moved == 0).all(1)
    assert border.any(axis=(1, 2)).sum() > 15
    assert (result.numpy().transpose(0, 2, 3, 1)[border] > 5).all()


def test_erased_pixels_are_not_jittered() -> None:
    recipe = Augmentation(
        padding=0, flip=0.0, erasing=1.0, erasing_fill=(1.5, 2.5, 3.5), jitter=0.5
    )
    result = augment(noise(50, 16, 16), recipe, seed=0, keys=range(50))
    fill = torch.tensor([1.5, 2.5, 3.5]).view(1, 3, 1, 1)
    assert bool((result == fill).all(1).flatten(1).any(1).all())


def test_an_erased_pixel_is_what_the_released_fill_is_after_normalization() -> None:
    encoder = AgwResNet50()
    recipe = Augmentation(padding=0, flip=0.0, erasing=1.0)
    result = augment(torch.zeros(1, 3, 40, 20, dtype=torch.uint8), recipe, seed=0, keys=[0])
    fill = result[0].flatten(1).amax(1).view(3, 1, 1)  # the others are black
    normalized = (fill - encoder.pixel_mean) / encoder.pixel_deviation
    torch.testing.assert_close(
        normalized.flatten(), torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=1e-5
    )


# ---- contracts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": -1}, r"padding must be a number of pixels >= 0, got -1"),
        ({"padding": 1.5}, r"padding must be a number of pixels >= 0, got 1\.5"),
        ({"flip": 1.1}, r"flip must be a chance in \[0, 1\], got 1\.1"),
        ({"erasing": float("nan")}, r"erasing must be a chance in \[0, 1\], got nan"),
        ({"erasing_area": (0.4, 0.02)}, r"erasing_area must be .* got \(0\.4, 0\.02\)"),
        ({"erasing_area": (0.4, 1.2)}, r"erasing_area must be .* <= 1, got"),
        ({"erasing_aspect": (0.0, 3.3)}, r"erasing_aspect must be .* got \(0\.0, 3\.3\)"),
        ({"erasing_fill": (0, 0)}, r"erasing_fill must be three numbers in \[0, 255\]"),
        ({"jitter": -0.5}, r"jitter must be finite and >= 0, got -0\.5"),
        ({"channels": "gray"}, r"channels must be one of \['keep', 'exchange', 'infrared'\]"),
    ],
)
def test_recipes_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)  # type: ignore[arg-type]


def test_bad_batches_are_named() -> None:
    images = noise(2)
    with pytest.raises(TypeError, match=r"images must be a uint8 tensor, got torch\.float32"):
        augment(images.float(), EVERYTHING, seed=0, keys=[0, 1])
    with pytest.raises(TypeError, match="images must be a uint8 tensor, got ndarray"):
        augment(images.numpy(), EVERYTHING, seed=0, keys=[0, 1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(3, 12, 8\)"):
        augment(images[0], EVERYTHING, seed=0, keys=[0, 1, 2])
    with pytest.raises(ValueError, match=r"keys must have shape \(2,\), got \(3,\)"):
        augment(images, EVERYTHING, seed=0, keys=[0, 1, 2])
    with pytest.raises(TypeError, match="keys must be integers, got dtype float64"):
        augment(images, EVERYTHING, seed=0, keys=[0.0, 1.0])
    with pytest.raises(ValueError, match="negative"):
        augment(images, EVERYTHING, seed=-1, keys=[0, 1])
