"""Batches: what decides the draws, what a resumed epoch sees, and what several processes share."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from mabm.data import INFRARED, VISIBLE
from mabm.train import AugmentationConfig, BatchConfig, distributed
from mabm.train.batches import View, draw_batches, view_batch
from mabm.train.position import Position


class Place(NamedTuple):
    """All that decides a draw."""

    seed: int
    stage: int
    epoch: int
    iteration: int = 0
    stream: int = 0

    @property
    def position(self) -> Position:
        return Position(self.stage, self.epoch, self.iteration)

    @property
    def keywords(self) -> dict[str, int]:
        return {"seed": self.seed, "stream": self.stream}

    def number(self, *more: int) -> int:
        return self.position.seed(self.seed, self.stream, *more)


PLACE = Place(seed=5, stage=1, epoch=2)
OPTIONS = BatchConfig(identities=4, instances=3)
CPU = torch.device("cpu")


def samples() -> tuple[dict[int, Tensor], Tensor]:
    """Targets of 200 samples for each modality, noise among them, and cameras."""
    rng = np.random.default_rng(0)
    modality = torch.from_numpy(rng.integers(0, 2, 200))
    labels = torch.from_numpy(rng.integers(-1, 9, 200))
    targets = {group: labels.masked_fill(modality != group, -1) for group in (VISIBLE, INFRARED)}
    return targets, torch.from_numpy(rng.integers(0, 3, 200))


def draw(place: Place = PLACE, iterations: int = 6, **options: Any) -> list[dict[int, list[int]]]:
    targets, cameras = samples()
    return draw_batches(
        targets,
        cameras,
        place.position,
        iterations=iterations,
        options=dataclasses.replace(OPTIONS, **options),
        **place.keywords,
    )


def places() -> list[Place]:
    """Places that differ in one coordinate from the first, or have two exchanged."""
    values = [(5, 1, 2, 3, 0), (6, 1, 2, 3, 0), (5, 2, 2, 3, 0), (5, 1, 3, 3, 0), (5, 1, 2, 4, 0)]
    values += [(5, 1, 2, 3, 1), (5, 2, 1, 3, 0), (5, 1, 3, 2, 0), (5, 1, 2, 0, 3), (0, 0, 0, 0, 0)]
    return [Place(*value) for value in values]


def test_numbers_of_places_are_their_own() -> None:
    numbers = [place.number(*more) for place in places() for more in ((), (0,), (1,), (0, 0))]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)
    assert [place.number(1) for place in places()] == [place.number(1) for place in places()]


def test_batches_hold_what_was_asked_for() -> None:
    targets, cameras = samples()
    batches = draw()
    assert len(batches) == 6
    for batch in batches:
        assert list(batch) == [VISIBLE, INFRARED]
        for group, rows in batch.items():
            labels = targets[group][rows].view(4, 3)
            assert bool((labels >= 0).all())
            assert labels.equal(labels[:, :1].expand(4, 3))
            assert len(labels[:, 0].unique()) == 4
            # Every cluster here has samples of each camera.
            shot = cameras[rows].view(4, 3)
            assert bool((shot[:, 1:] != shot[:, :1]).all())


def test_modalities_may_have_batch_sizes_of_their_own() -> None:
    targets, cameras = samples()
    options = BatchConfig(identities=2, infrared_identities=4, instances=3)
    batches = draw_batches(
        targets, cameras, PLACE.position, iterations=6, options=options, **PLACE.keywords
    )
    assert [{group: len(rows) for group, rows in batch.items()} for batch in batches] == [
        {VISIBLE: 6, INFRARED: 12}
    ] * 6
    # What one modality has does not move what the other draws.
    assert [batch[INFRARED] for batch in batches] == [batch[INFRARED] for batch in draw()]
    found = view(batches[0], padding=2)
    assert found.sections == (6, 6, 12)
    parts = found.by_modality(found.rows)
    assert parts[VISIBLE].tolist() == [*batches[0][VISIBLE], *batches[0][VISIBLE]]
    assert parts[INFRARED].tolist() == batches[0][INFRARED]


def test_cameras_are_optional() -> None:
    targets, cameras = samples()
    batches = draw_batches(
        targets, None, PLACE.position, iterations=20, options=OPTIONS, **PLACE.keywords
    )
    shot = torch.stack([cameras[batch[VISIBLE]].view(4, 3) for batch in batches])
    assert bool((shot[..., 1:] == shot[..., :1]).any())


def test_fewer_clusters_than_a_batch_holds() -> None:
    targets, _ = samples()
    few = {VISIBLE: targets[VISIBLE].masked_fill(targets[VISIBLE] > 1, -1)}
    for batch in draw_batches(
        few, None, PLACE.position, iterations=4, options=OPTIONS, **PLACE.keywords
    ):
        assert list(batch) == [VISIBLE]
        labels = few[VISIBLE][batch[VISIBLE]].view(4, 3)
        assert sorted(labels[:, 0].tolist()) == [0, 0, 1, 1]


def test_the_same_place_draws_the_same() -> None:
    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 - a global state that must not matter
    assert draw() == first


@pytest.mark.parametrize(
    "place", [Place(6, 1, 2), Place(5, 2, 2), Place(5, 1, 3), Place(5, 1, 2, 0, 1)]
)
def test_another_place_draws_others(place: Place) -> None:
    pairs = zip(draw(), draw(place), strict=True)
    assert all(one[group] != other[group] for one, other in pairs for group in one)


def test_modalities_draw_apart() -> None:
    targets, cameras = samples()
    same = draw_batches(
        {VISIBLE: targets[VISIBLE], INFRARED: targets[VISIBLE]},
        cameras,
        PLACE.position,
        iterations=3,
        options=OPTIONS,
        **PLACE.keywords,
    )
    assert all(batch[VISIBLE] != batch[INFRARED] for batch in same)


@pytest.mark.parametrize("first", range(7))
@pytest.mark.parametrize("sampling", ["even", "released"])
def test_a_resumed_epoch_draws_the_rest_of_the_plan(first: int, sampling: str) -> None:
    place = PLACE._replace(iteration=first)
    assert draw(place, sampling=sampling) == draw(sampling=sampling)[first:]


def test_left_over_clusters_are_dropped_as_released_or_drawn_next() -> None:
    """There are nine clusters; two batches of four leave one over."""
    targets, _ = samples()
    for sampling in ("released", "even"):
        batches = draw(iterations=36, sampling=sampling)
        clusters = [targets[VISIBLE][batch[VISIBLE][::3]].tolist() for batch in batches]
        times = np.bincount(np.concatenate(clusters), minlength=9)
        assert times.sum() == 36 * 4
        assert (times == 16).all() == (sampling == "even")


# Views


def images_of(rows: dict[int, list[int]], size: tuple[int, int] = (12, 8)) -> Tensor:
    """Images whose pixels tell their row, as a reader would give them."""
    wanted = [row for group in (VISIBLE, INFRARED) for row in rows.get(group, ())]
    generator = torch.Generator().manual_seed(0)
    everything = torch.randint(0, 256, (200, 3, *size), generator=generator, dtype=torch.uint8)
    return everything[wanted]


def view(rows: dict[int, list[int]], place: Place = PLACE, **options: Any) -> View:
    return view_batch(
        images_of(rows),
        rows,
        place.position,
        options=AugmentationConfig(**options),
        device=CPU,
        **place.keywords,
    )


STILL = {"padding": 0, "flip": 0.0, "erasing": 0.0, "jitter": 0.0, "exchange": False}


def test_views_come_in_sections() -> None:
    rows = draw()[0]
    found = view(rows, padding=2, erasing=0.0)  # what is erased has a color
    assert found.sections == (12, 12, 12)
    assert found.images.shape == (36, 3, 12, 8)
    assert found.images.dtype == torch.float32
    assert found.modality.tolist() == [VISIBLE] * 24 + [INFRARED] * 12
    assert found.rows.tolist() == [*rows[VISIBLE], *rows[VISIBLE], *rows[INFRARED]]
    first, second, _ = torch.split(found.images, found.sections)
    assert not first.equal(second)
    is_gray = found.images.amax(1).sub(found.images.amin(1)).flatten(1).amax(1) == 0
    # The second view has one channel copied; infrared images often have, the first view never.
    gray = [part.sum().item() for part in torch.split(is_gray, found.sections)]
    assert gray[:2] == [0, 12]
    assert 0 < gray[2] <= 12


def test_views_of_images_that_nothing_varies() -> None:
    rows = draw()[0]
    found = view(rows, **STILL)
    plain = images_of(rows).float()
    first, second, infrared = torch.split(found.images, found.sections)
    assert first.equal(plain[:12])
    assert second.equal(plain[:12])
    for image, before in zip(infrared, plain[12:], strict=True):  # one channel's, or as it was
        assert image.equal(before) or image.equal(image[:1].expand(3, -1, -1))


def test_one_view_of_visible_images() -> None:
    rows = draw()[0]
    found = view(rows, second_view=False)
    assert found.sections == (12, 12)
    assert found.rows.tolist() == [*rows[VISIBLE], *rows[INFRARED]]
    assert found.images[:12].equal(view(rows).images[:12])


@pytest.mark.parametrize("group", [VISIBLE, INFRARED])
def test_one_modality_alone(group: int) -> None:
    rows = {group: draw()[0][group]}
    found = view(rows)
    assert found.sections == ((12, 12, 0) if group == VISIBLE else (0, 0, 12))
    assert found.modality.tolist() == [group] * sum(found.sections)
    alone = view(draw()[0]).images
    assert found.images.equal(alone[:24] if group == VISIBLE else alone[24:])


def test_infrared_images_are_jittered_where_the_method_says() -> None:
    rows = {INFRARED: draw()[0][INFRARED]}
    still = STILL | {"jitter": 0.5}
    plain = {stage: view(rows, Place(5, stage, 2), **STILL).images for stage in (1, 2)}
    for stage, wanted in itertools.product((1, 2), (True, False)):
        found = view(rows, Place(5, stage, 2), **still, jitter_infrared=wanted).images
        assert found.equal(plain[stage]) == (not (wanted and stage == 1))


def test_what_is_drawn_depends_on_the_place_alone() -> None:
    rows = draw()[0]
    torch.manual_seed(1)
    first = view(rows).images
    torch.manual_seed(2)
    assert view(rows).images.equal(first)
    found = [view(rows, place).images for place in places()]
    for one, other in itertools.combinations(found, 2):
        halves = zip(torch.split(one, 12), torch.split(other, 12), strict=True)
        assert not any(left.equal(right) for left, right in halves)


def test_the_same_image_twice_is_varied_twice() -> None:
    row = draw()[0][VISIBLE][0]
    found = view({VISIBLE: [row] * 8}).images
    assert len({image.numpy().tobytes() for image in found}) > 8


# Several processes


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a function as each of so many ranks in turn; what they would join stays apart."""

    def run(count: int, function: Any) -> Iterator[Any]:
        for rank in range(count):
            with monkeypatch.context() as patch:
                patch.setattr(distributed, "world_size", lambda: count)
                patch.setattr(distributed, "rank", lambda rank=rank: rank)
                patch.setattr(distributed, "join", lambda part, _: part)
                yield function()

    return run


def joined(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Section by section, the ranks' parts one after the other."""
    return torch.cat([part for sections in zip(*parts, strict=True) for part in sections])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("clusters", [9, 3])
@pytest.mark.parametrize(
    "more", [{}, {"infrared_identities": 8}, {"infrared_identities": 8, "sampling": "even"}]
)
def test_processes_share_the_batch_of_one(
    count: int, clusters: int, more: dict[str, Any], processes: Any
) -> None:
    targets, cameras = samples()
    options = dataclasses.replace(OPTIONS, **more)
    targets = {group: each.masked_fill(each >= clusters, -1) for group, each in targets.items()}

    def plan() -> list[dict[int, list[int]]]:
        position = Position(PLACE.stage, PLACE.epoch, iteration=1)
        return draw_batches(
            targets, cameras, position, iterations=3, options=options, **PLACE.keywords
        )

    expected, shared = plan(), list(processes(count, plan))
    for iteration, whole in enumerate(expected):
        for group, rows in whole.items():
            assert [row for part in shared for row in part[iteration][group]] == rows

    place, turn = Place(5, 1, 2, 1), iter(shared)
    found = list(processes(count, lambda: view(next(turn)[0], place)))
    single = view(expected[0], place)
    for name in ("images", "modality", "rows"):
        parts = [torch.split(getattr(each, name), each.sections) for each in found]
        assert joined(parts).equal(getattr(single, name))
