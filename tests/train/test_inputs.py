"""The images of a run: which identities, read how, and how another data set is noticed."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniature_trees import build_regdb, build_sysu
from PIL import Image

from mabm.data import UNKNOWN, ImageReader, ImageSet, ReidData, read_data
from mabm.models import build_encoder, save_encoder
from mabm.train import DataConfig, inputs
from mabm.train.inputs import Inputs, check_start, choose_identities, read_inputs


def data(num_identities: int = 12) -> ReidData:
    """Identities 3, 13, 23, ... with five images each in no order, and three to test on."""
    rng = np.random.default_rng(0)
    identity = rng.permutation(np.repeat(10 * np.arange(num_identities) + 3, 5))
    count = len(identity)
    train = ImageSet(
        rng.integers(0, 256, (count, 3, 6, 4), dtype=np.uint8),
        identity,
        rng.integers(1, 4, count),
        rng.integers(0, 2, count),
    )
    return ReidData("emoji_xm", train, train.select(np.arange(9)))


def identities(images: ImageSet) -> list[int]:
    return sorted(set(images.identity.tolist()))


def test_all_stay_unless_asked() -> None:
    everything = data()
    assert choose_identities(everything) is everything


def test_identities_are_evenly_spaced() -> None:
    chosen = choose_identities(data(), identities=4)
    assert identities(chosen.train) == [3, 33, 63, 93]
    rows = np.isin(data().train.identity, [3, 33, 63, 93])
    expected = data().train.select(rows)  # all images of them, in their order
    assert np.array_equal(chosen.train.images, expected.images)
    assert np.array_equal(chosen.train.camera, expected.camera)
    assert chosen.test.identity.tolist() == data().test.identity.tolist()
    assert identities(choose_identities(data(), identities=12).train) == identities(data().train)
    assert identities(choose_identities(data(), identities=1).train) == [3]


@pytest.mark.parametrize("kept", [None, 1, 5, 9])
def test_held_out_identities_take_the_place_of_the_test_set(kept: int | None) -> None:
    chosen = choose_identities(data(), held_out=3, identities=kept)
    assert identities(chosen.test) == [3, 43, 83]
    assert len(chosen.test) == 15
    others = set(identities(data().train)) - {3, 43, 83}
    assert len(identities(chosen.train)) == (9 if kept is None else kept)
    assert set(identities(chosen.train)) <= others
    if kept is None:
        assert set(identities(chosen.train)) == others
    assert (chosen.name, chosen.trial) == (data().name, data().trial)


def test_which_are_held_out_does_not_depend_on_how_many_train() -> None:
    found = [choose_identities(data(), held_out=2, identities=n).test.identity for n in (1, 10)]
    assert found[0].tolist() == found[1].tolist()


def test_unknown_identities_are_never_chosen() -> None:
    some = data()
    unknown = np.where(np.arange(60) < 20, UNKNOWN, some.train.identity)
    train = ImageSet(some.train.images, unknown, some.train.camera, some.train.modality)
    chosen = choose_identities(replace(some, train=train), held_out=2, identities=3)
    assert UNKNOWN not in identities(chosen.train) + identities(chosen.test)
    nobody = replace(some, train=ImageSet(train.images, [UNKNOWN] * 60, [1] * 60, [0] * 60))
    with pytest.raises(
        ValueError, match=r"held_out must be at most 0, the number of identities, got 2"
    ):
        choose_identities(nobody, held_out=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identities": 13}, "identities must be at most 12, the number of identities, got 13"),
        ({"held_out": 13}, "held_out must be at most 12, the number of identities, got 13"),
        ({"held_out": 3, "identities": 10}, "identities must be at most 9, .*, got 10"),
    ],
)
def test_more_than_there_are(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_identities(data(), **options)


# Reading


def test_images_are_read_at_the_size_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_sysu(tmp_path / "sysu")
    config = DataConfig(
        root=str(tmp_path / "sysu"), height=24, width=12, cache=str(tmp_path / "cache")
    )
    read = read_inputs(config)
    assert read.train[0].shape == read.test[0].shape == (3, 24, 12)
    assert len(read.train) == len(read.data.train) == len(read.modality) == len(read.cameras)
    assert read.modality.dtype == read.cameras.dtype == torch.int64
    assert read.modality.tolist() == read.data.train.modality.tolist()
    assert read.cameras.tolist() == read.data.train.camera.tolist()
    assert read.train.num_cached == 1
    asked: list[Any] = []

    def reader(*args: Any, **more: Any) -> ReidData:
        asked.append((args, more))
        return data()

    monkeypatch.setattr(inputs, "read_data", reader)
    read = read_inputs(
        DataConfig(name="regdb", root="somewhere", trial=4, identities=2, held_out=1)
    )
    assert asked == [(("regdb", "somewhere"), {"trial": 4})]
    assert (identities(read.data.train), identities(read.data.test)) == ([13, 63], [3])


def test_test_images_have_a_filter_of_their_own(tmp_path: Path) -> None:
    build_sysu(tmp_path / "sysu", size=(30, 16))
    options: dict[str, Any] = {"root": str(tmp_path / "sysu"), "height": 24, "width": 12}
    published, bicubic = (
        read_inputs(DataConfig(**options, **more)) for more in ({}, {"test_resampling": "bicubic"})
    )
    files = published.data.test.images[0], published.data.train.images[0]
    for reader, file, filter_ in [
        (published.test, files[0], Image.Resampling.LANCZOS),
        (bicubic.test, files[0], Image.Resampling.BICUBIC),
        (published.train, files[1], Image.Resampling.BICUBIC),
        (bicubic.train, files[1], Image.Resampling.BICUBIC),
    ]:
        with Image.open(file) as opened:
            resized = np.asarray(opened.convert("RGB").resize((12, 24), filter_))
        assert np.array_equal(reader[0].numpy(), resized.transpose(2, 0, 1))
    # Held-out training images stand in for test images, and are read as these are.
    held_out = read_inputs(DataConfig(**options, held_out=2))
    file = held_out.data.test.images[0]
    with Image.open(file) as opened:
        resized = np.asarray(opened.convert("RGB").resize((12, 24), Image.Resampling.LANCZOS))
    assert np.array_equal(held_out.test[0].numpy(), resized.transpose(2, 0, 1))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="root must be the folder of sysu_mm01, got None"):
        read_inputs(DataConfig())
    with pytest.raises(ValueError, match=r"root must be a folder, but .*nowhere does not exist"):
        read_inputs(DataConfig(root=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="census"):
        read_inputs(DataConfig(root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"trial must be in \[1, 10\]"):
        read_inputs(DataConfig(name="regdb", root=str(tmp_path)))


# Another data set


def digest_of(train: ImageSet) -> str:
    images = data()
    reader = ImageReader(images.test)
    return Inputs(replace(images, train=train), reader, reader).digest()


def test_other_training_images_have_another_digest() -> None:
    train = data().train
    columns = train.images, train.identity, train.camera, train.modality
    first = digest_of(train)
    assert digest_of(data().train) == first
    twins = np.flatnonzero(
        (train.camera == train.camera[0]) & (train.modality == train.modality[0])
    )
    order = np.arange(60)
    order[twins[[0, 1]]] = twins[[1, 0]]  # of one camera and modality
    brighter = train.images.copy()  # type: ignore[union-attr]
    brighter[7, 0, 0, 0] ^= 1
    camera, modality = train.camera.copy(), train.modality.copy()
    camera[4] += 1
    modality[4] ^= 1
    others = [
        train.select(np.arange(59)),
        train.select(order),
        ImageSet(brighter, *columns[1:]),
        ImageSet(*columns[:2], camera, modality=train.modality),
        ImageSet(*columns[:3], modality),
    ]
    assert len({first, *map(digest_of, others)}) == 1 + len(others)


def test_files_may_move_but_not_change_places(tmp_path: Path) -> None:
    build_regdb(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    first, second = (read_data("regdb", tmp_path / each, trial=1) for each in ("first", "second"))
    assert digest_of(first.train) == digest_of(second.train)
    order = np.arange(len(first.train))
    order[[0, 1]] = [1, 0]
    assert first.train.modality[0] == first.train.modality[1]
    assert digest_of(first.train.select(order)) != digest_of(first.train)
    assert digest_of(first.train.select([0])) != digest_of(first.train.select([]))


def test_a_model_of_another_trial_is_no_start(tmp_path: Path) -> None:
    encoder, path = build_encoder("small"), tmp_path / "weights.pt"
    regdb = replace(data(), name="regdb", trial=2)
    for meta in ({"data": "regdb", "trial": 2}, {"data": "sysu_mm01", "trial": None}, {}):
        save_encoder(encoder, path, name="small", meta=meta)
        check_start(str(path), regdb)
    save_encoder(encoder, path, name="small", meta={"data": "regdb", "trial": 1})
    with pytest.raises(ValueError, match=r"model\.weights must be from trial 2, got trial 1"):
        check_start(str(path), regdb)
    check_start(str(path), data())  # other data, without trials
    torch.save(encoder.state_dict(), path)  # of a backbone: it does not say
    check_start(str(path), regdb)
    check_start("emoji_xm", regdb)
    check_start(None, regdb)
