"""The two-stream encoder, its weights, and the training that makes them."""

import io
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import Schedule, infrared_to_visible, train

from mabm.data import identity_splits, render_identities
from mabm.models import TwoStreamEncoder, extract, load_pretrained, load_weights, save_weights
from mabm.models.encoder import generalized_mean


@pytest.fixture(scope="module")
def pretrained() -> TwoStreamEncoder:
    return load_pretrained("emoji_xm")


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    frames = render_identities(identity_splits().unlabeled[:2])
    return torch.from_numpy(frames.images), torch.from_numpy(frames.modality)


def narrow(num_modalities: int = 2) -> TwoStreamEncoder:
    return TwoStreamEncoder(num_modalities=num_modalities, widths=(4, 4, 4, 4, 6))


def noise(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 12, 10), generator=generator, dtype=torch.uint8)


def test_size_is_as_described() -> None:
    encoder = TwoStreamEncoder()
    assert 0.65e6 < sum(p.numel() for p in encoder.parameters()) < 0.75e6
    assert not encoder.neck.bias.requires_grad


def test_output_shape_for_any_mix(
    pretrained: TwoStreamEncoder, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, modality = batch
    with torch.inference_mode():
        assert pretrained(images, modality).shape == (len(images), 192)
        assert pretrained(images[modality == 1], modality[modality == 1]).shape[1] == 192
        assert pretrained(images[:0], modality[:0]).shape == (0, 192)
        assert pretrained(images[:2, :, :, :31], modality[:2]).shape == (2, 192)


def test_rows_keep_their_place(
    pretrained: TwoStreamEncoder, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, modality = batch
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        straight = pretrained(images, modality)
        shuffled = pretrained(images[order], modality[order])
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-4, atol=1e-4)


def test_modality_chooses_the_stem(
    pretrained: TwoStreamEncoder, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, modality = batch
    with torch.inference_mode():
        assert not torch.allclose(pretrained(images, modality), pretrained(images, 1 - modality))


@pytest.mark.parametrize("order", ["sorted", "mixed"])
def test_each_stem_sees_its_own_images_only(order: str) -> None:
    """In training: statistics of a stem are those of its images, an absent one stays untouched."""
    encoder = narrow(num_modalities=3)
    images, modality = noise(7), torch.tensor([0, 0, 0, 2, 2, 2, 2])
    if order == "mixed":
        shuffled = torch.tensor([3, 0, 4, 1, 5, 2, 6])
        images, modality = images[shuffled], modality[shuffled]
    encoder(images, modality).square().sum().backward()
    for group in (0, 2):
        convolution, norm, _ = encoder.stems[group]
        maps = convolution((images[modality == group].float() - 127.5) / 64)
        torch.testing.assert_close(norm.running_mean, 0.1 * maps.mean(dim=(0, 2, 3)))
        assert int(norm.num_batches_tracked) == 1
    assert int(encoder.stems[1][1].num_batches_tracked) == 0
    assert torch.equal(encoder.stems[1][1].running_mean, torch.zeros(4))
    assert all(parameter.grad is None for parameter in encoder.stems[1].parameters())


def test_narrow_encoders_keep_to_their_memory() -> None:
    """Gradients of strided 1x1 convolutions of few channels: see ``_ResidualBlock.forward``.

    In a process of its own, as what writes beyond its memory ends it.
    """
    script = (
        "import torch\n"
        "from mabm.models import TwoStreamEncoder\n"
        "torch.set_num_threads(2)\n"
        "encoder = TwoStreamEncoder(widths=(4, 4, 8, 12, 6))\n"
        "for step in range(60):\n"
        "    images = torch.rand(8 + step % 7, 3, 32 + step % 5, 28)\n"
        "    encoder(images, torch.arange(len(images)) % 2).square().sum().backward()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_floating_images_give_what_bytes_give() -> None:
    encoder, images, modality = narrow().eval(), noise(5), torch.tensor([0, 1, 1, 0, 1])
    expected = encoder(images, modality)
    for dtype in (torch.float32, torch.float64, torch.float16):  # float16 holds 0..255 exactly
        assert torch.equal(encoder(images.to(dtype), modality), expected)
    shifted = encoder(images.float() + 0.5, modality)
    assert not torch.allclose(shifted, expected, atol=1e-4)


def test_double_precision_throughout() -> None:
    encoder, modality = narrow().double().eval(), torch.tensor([1, 0])
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64) * 255
    assert encoder(images, modality).dtype == torch.float64
    images.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: encoder(x, modality), images, eps=1e-3, atol=1e-6)


def test_generalized_mean_is_the_power_mean() -> None:
    maps = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    expected = (np.mean(np.maximum(maps.numpy(), 0) ** 2.5, axis=(2, 3)) + 1e-12) ** (1 / 2.5)
    found = generalized_mean(maps, 2.5)
    np.testing.assert_allclose(found.numpy(), expected)
    assert torch.equal(generalized_mean(maps, torch.tensor(2.5, dtype=torch.float64)), found)


def test_generalized_mean_of_a_channel_that_is_zero_has_gradients() -> None:
    """As released, 1e-12 is added to the mean of cubes; there is no floor below the values."""
    maps = torch.zeros(1, 2, 3, 2)
    maps[0, 1] = 1e-5
    maps.requires_grad_()
    power = torch.tensor(3.0, requires_grad=True)
    found = generalized_mean(maps, power)
    torch.testing.assert_close(found, torch.tensor([[1e-4, (1e-15 + 1e-12) ** (1 / 3)]]))
    found.sum().backward()
    assert maps.grad is not None
    assert power.grad is not None
    assert bool(torch.isfinite(maps.grad).all())
    assert bool(torch.isfinite(power.grad))
    assert bool((maps.grad[0, 1] > 0).all())


def test_generalized_mean_leaves_half_precision() -> None:
    """300 ** 3 is no number of float16, and autocast would take the power there."""
    maps = torch.full((1, 2, 3, 3), 300.0, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):
        found = generalized_mean(maps, 3.0)
    torch.testing.assert_close(found, torch.full((1, 2), 300.0))


def test_autocast_stays_close_and_ends_in_full_precision(
    pretrained: TwoStreamEncoder, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with torch.inference_mode():
        exact = pretrained(*batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = pretrained(*batch)
    assert rough.dtype == torch.float32
    assert F.cosine_similarity(exact, rough).min() > 0.98
    assert not torch.equal(exact, rough)


def test_compiled_encoder_gives_the_same() -> None:
    encoder, images = narrow().eval(), noise(6)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(encoder, backend=backend)
    for modality in (torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0, 1, 1])):
        expected = encoder(images, modality)
        torch.testing.assert_close(compiled(images, modality), expected)
    # The graph breaks once, where images of each modality are counted; what comes before the count
    # is compiled once, what follows once for each composition.
    assert len(graphs) == 3
    compiled(images, modality.flip(0))
    assert len(graphs) == 3


def test_gradients_reach_both_stems(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    encoder = TwoStreamEncoder()
    encoder(*batch).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name


def test_extract_is_the_mean_of_two_unit_vectors(
    pretrained: TwoStreamEncoder, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, modality = batch
    with torch.inference_mode():
        straight = F.normalize(pretrained(images, modality))
        mirrored = F.normalize(pretrained(images.flip(3), modality))
    features = extract(pretrained, images, modality, batch_size=7)
    torch.testing.assert_close(features, 0.5 * (straight + mirrored), rtol=1e-4, atol=1e-5)
    assert (features.norm(dim=1) < 0.9999).any()
    unit = extract(pretrained, images, modality, normalize_mean=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(images)))


def test_extract_takes_wrapped_encoders_and_no_images(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
            return self.inner(images, modality)

    encoder = narrow()
    images, modality = batch
    expected = extract(encoder, images, modality)
    assert torch.equal(extract(Wrapper(encoder), images, modality), expected)
    torch.testing.assert_close(extract(encoder, images.float(), modality), expected)
    assert extract(encoder, images[:0], modality[:0]).shape == (0, 6)


def test_extract_leaves_the_encoder_as_it_was(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    encoder = TwoStreamEncoder().train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    features = extract(encoder, *batch)
    assert encoder.training
    assert not features.requires_grad
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_bad_input_is_named() -> None:
    encoder = TwoStreamEncoder()
    images, modality = torch.zeros(2, 3, 48, 48, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"images must be uint8 or floating, got torch\.int64"):
        encoder(images.long(), modality)
    with pytest.raises(TypeError, match=r"modality must be int64, got torch\.int32"):
        encoder(images, modality.int())
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(2, 1, 48, 48\)"):
        encoder(images[:, :1], modality)
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        encoder(images, modality[:1])
    with pytest.raises(ValueError, match=r"modality must be in \[0, 2\), got values in \[1, 2\]"):
        encoder(images, modality + 1)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        extract(encoder, images, modality, batch_size=0)
    with pytest.raises(ValueError, match="num_modalities must be >= 1, got 0"):
        TwoStreamEncoder(num_modalities=0)


def test_shipped_weights_are_small_float16_arrays() -> None:
    resource = resources.files("mabm.models").joinpath("emoji_xm_encoder.npz")
    content = resource.read_bytes()
    assert len(content) < 1.6e6
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        for name in archive.files:
            assert archive[name].dtype == np.float16
            assert np.isfinite(archive[name]).all()


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    encoder, other = TwoStreamEncoder(), TwoStreamEncoder()
    save_weights(encoder, tmp_path / "weights.npz")
    load_weights(other, tmp_path / "weights.npz")
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_pickled_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    encoder = TwoStreamEncoder()
    names = [n for n, t in encoder.state_dict().items() if t.is_floating_point()]
    pickled: dict[str, object] = {name: np.array([print], dtype=object) for name in names}
    np.savez(tmp_path / "pickled.npz", **pickled)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_weights(encoder, tmp_path / "pickled.npz")
    save_weights(TwoStreamEncoder(num_modalities=1), tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"missing 5: \['stems\.1\.0\.weight'"):
        load_weights(encoder, tmp_path / "one.npz")
    save_weights(TwoStreamEncoder(widths=(8, 8, 8, 8, 8)), tmp_path / "narrow.npz")
    with pytest.raises(ValueError, match=r"must have shape .* got"):
        load_weights(encoder, tmp_path / "narrow.npz")
    with pytest.raises(ValueError, match=r"name must be one of \['emoji_xm'\], got 'sysu'"):
        load_pretrained("sysu")


def test_pretrained_features_recognize_unseen_identities(pretrained: TwoStreamEncoder) -> None:
    unseen = identity_splits().unlabeled[::14]
    rank1, mean_precision = infrared_to_visible(pretrained, unseen)
    untrained_rank1, untrained = infrared_to_visible(TwoStreamEncoder(), unseen)
    assert rank1 > untrained_rank1 + 0.2
    assert mean_precision > untrained + 0.2


def test_training_is_seeded_and_restores_the_global_state() -> None:
    splits = identity_splits()
    schedule = Schedule(epochs=1, batch_size=4)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    runs = [
        train(splits.start_visible[:2], splits.start_infrared[:2], schedule=schedule, seed=seed)
        for seed in (5, 5, 6)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    for (name, one), two in zip(
        runs[0].state_dict().items(), runs[1].state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    first, _, other = (run.blocks[0].body[0].weight for run in runs)
    assert not torch.equal(first, other)


def test_training_refuses_a_pair_across_modalities() -> None:
    with pytest.raises(ValueError, match=r"must not share identities, got \[4\]"):
        train(np.array([1, 4]), np.array([4, 9]))
