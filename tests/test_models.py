"""The two-stream encoder, its weights, and the training that makes them."""

import io
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mabm.data import identity_splits, render_identities
from mabm.models import TwoStreamEncoder, extract, load_pretrained, load_weights, save_weights
from mabm.models.pretrain import Schedule, infrared_to_visible, train


@pytest.fixture(scope="module")
def pretrained() -> TwoStreamEncoder:
    return load_pretrained("emoji-xm")


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    frames = render_identities(identity_splits().unlabelled[:2])
    return torch.from_numpy(frames.images), torch.from_numpy(frames.modality)


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
    unit = extract(pretrained, images, modality, normalise_mean=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(images)))


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
    with pytest.raises(ValueError, match=r"name must be one of \['emoji-xm'\], got 'sysu'"):
        load_pretrained("sysu")


def test_pretrained_features_recognise_unseen_identities(pretrained: TwoStreamEncoder) -> None:
    unseen = identity_splits().unlabelled[::14]
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
