"""Features of images and their batches, with and without workers and other processes."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabm.train import TrainingError, distributed, extract_features
from mabm.train.extraction import read_batches


class Images:
    """Images as a reader gives them, batch by batch."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (count, 3, 6, 5), generator=generator).to(torch.uint8)
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, rows: list[int]) -> Tensor:
        self.asked.append(rows)
        return self.pixels[rows]


class Small(nn.Module):
    """Two stems that tell left from right, and statistics that training would move."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stems = nn.ModuleList(nn.Linear(90, 8) for _ in range(2))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        flat = images.float().flatten(1) / 255
        both = torch.stack([stem(flat) for stem in self.stems])
        return self.norm(both[modality, torch.arange(len(flat))])


def by_definition(encoder: nn.Module, images: Images, modality: Tensor) -> Tensor:
    encoder.eval()
    with torch.no_grad():
        straight = F.normalize(encoder(images.pixels, modality), dim=1)
        mirrored = F.normalize(encoder(images.pixels.flip(3), modality), dim=1)
    return 0.5 * (straight + mirrored)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_features_are_the_mean_of_an_image_and_its_mirror_image(
    training: bool, batch_size: int
) -> None:
    images, modality, encoder = Images(11), torch.arange(11) % 2, Small().train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = extract_features(encoder, images, modality, batch_size=batch_size)
    assert encoder.training is training
    assert all(value.equal(before[name]) for name, value in encoder.state_dict().items())
    expected = by_definition(encoder, images, modality)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    norms = found.norm(dim=1)
    assert norms.min() < 0.99  # not normalized again
    again = extract_features(encoder, images, modality, batch_size=batch_size, normalize_mean=True)
    torch.testing.assert_close(again, F.normalize(expected, dim=1), rtol=1e-5, atol=1e-6)
    asked = images.asked[: -(-11 // batch_size)]
    assert [row for rows in asked for row in rows] == list(range(11))
    assert max(map(len, asked)) == min(batch_size, 11)


def test_features_can_be_trained_on() -> None:
    features = extract_features(Small(), Images(4), torch.zeros(4, dtype=torch.int64))
    assert not features.is_inference()
    weights = torch.ones(8, requires_grad=True)
    (features * weights).sum().backward()
    assert weights.grad is not None
    features += 1


def test_no_more_workers_than_cpus() -> None:
    many, none = (read_batches(Images(1), [[0]], workers) for workers in (10_000, 0))
    assert 1 <= many.num_workers <= (os.cpu_count() or 1)
    assert none.num_workers == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_random_state_alone(workers: int) -> None:
    before = torch.get_rng_state()
    found = list(read_batches(Images(5), [[4, 0], [2], [1, 1, 3]], workers))
    assert torch.get_rng_state().equal(before)
    pixels = Images(5).pixels
    assert [
        batch.equal(pixels[rows])
        for batch, rows in zip(found, ([4, 0], [2], [1, 1, 3]), strict=True)
    ] == [True] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_told_alike_by_any_process(workers: int) -> None:
    class Broken(Images):
        def __getitems__(self, rows: list[int]) -> torch.Tensor:
            if 2 in rows:
                raise ValueError("0002.jpg cannot be decoded")
            return super().__getitems__(rows)

    loader = iter(read_batches(Broken(5), [[4, 0], [2], [1]], workers))
    assert len(next(loader)) == 2
    with pytest.raises(ValueError, match=r"^0002\.jpg cannot be decoded$"):
        next(loader)


def test_processes_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, modality = Small(), torch.arange(11) % 2
    expected = extract_features(encoder, Images(11), modality)
    for count in (2, 4, 13):
        parts = []
        for rank in range(count):
            monkeypatch.setattr(distributed, "world_size", lambda count=count: count)
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(distributed, "join_ragged", lambda part: part)
            parts.append(extract_features(encoder, Images(11), modality, batch_size=2))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-5, atol=1e-6)


def test_features_that_are_not_finite_stop_the_run() -> None:
    encoder = Small()
    with torch.no_grad():
        encoder.stems[1].bias[3] = torch.nan
    with pytest.raises(TrainingError, match=r"got 2 of 5 that are not, the first in row 1"):
        extract_features(encoder, Images(5), torch.tensor([0, 1, 0, 1, 0]))


def test_extraction_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"modality must be \(5,\), .* got shape \(6,\)"):
        extract_features(Small(), Images(5), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        extract_features(Small(), Images(5), torch.zeros(5, dtype=torch.int64), batch_size=0)
