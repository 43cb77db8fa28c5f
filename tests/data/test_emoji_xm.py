"""The shipped drawings, their fixed splits, and frames that depend on nothing but their number."""

import hashlib
from importlib import resources

import numpy as np
import pytest
import torch

from mabm.data import (
    INFRARED,
    VISIBLE,
    Frames,
    identity_splits,
    load_drawings,
    render_drawings,
    render_identities,
)

SHA256 = "a56cff2928754acc30e852f361ad1f03be10b16eac1e1cd68dd4d4acb6522060"


@pytest.fixture(scope="module")
def frames() -> Frames:
    return render_identities(identity_splits().unlabeled[:6])


def test_shipped_file_is_the_published_one() -> None:
    content = resources.files("mabm.data").joinpath("emoji_xm.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256


def test_attribution_ships_and_names_every_source() -> None:
    text = resources.files("mabm.data").joinpath("ATTRIBUTION.md").read_text(encoding="utf-8")
    assert SHA256 in text
    for source in load_drawings().camera_source:
        assert str(source) in text


def test_drawings_are_complete_and_read_only() -> None:
    drawings = load_drawings()
    assert drawings.rgba.shape == (8343, 48, 48, 4)
    assert drawings.rgba.dtype == np.uint8
    assert np.bincount(drawings.modality).tolist() == [4642, 3701]
    assert set(drawings.camera[drawings.modality == VISIBLE]) == {1, 2, 3, 4, 5}
    assert set(drawings.camera[drawings.modality == INFRARED]) == {6, 7, 8, 9}
    assert drawings.vendor[drawings.camera == 4][0] == "emojione"
    assert len(np.unique(np.stack([drawings.identity, drawings.camera]), axis=1).T) == 8343
    for array in (drawings.identity, drawings.camera, drawings.modality):
        assert array.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        drawings.rgba[0] = 0


def test_splits_partition_the_identities() -> None:
    splits = identity_splits()
    groups = [splits.start_visible, splits.start_infrared, splits.unlabeled, splits.test]
    assert [len(group) for group in groups] == [176, 177, 350, 234]
    assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(937))
    assert load_drawings().is_test[splits.test].all()


def test_splits_are_fixed() -> None:
    splits = identity_splits()
    digest = hashlib.sha256()
    for group in (splits.start_visible, splits.start_infrared, splits.unlabeled):
        digest.update(group.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "e10d1c8c8c1c6e16"


def test_frames_carry_what_is_known_of_them(frames: Frames) -> None:
    drawings = load_drawings()
    chosen = np.isin(drawings.identity, identity_splits().unlabeled[:6])
    visible = (chosen & (drawings.modality == VISIBLE)).sum()
    infrared = (chosen & (drawings.modality == INFRARED)).sum()
    assert np.bincount(frames.modality).tolist() == [2 * visible, 3 * infrared]
    assert frames.images.shape == (len(frames), 3, 48, 48)
    assert frames.images.dtype == np.uint8
    assert np.array_equal(frames.modality, (frames.camera > 5).astype(np.int64))
    order = np.lexsort((frames.camera, frames.identity))
    assert np.array_equal(order, np.arange(len(frames)))


def test_infrared_is_gray_and_visible_is_not(frames: Frames) -> None:
    spread = np.ptp(frames.images.astype(int), axis=1).max(axis=(1, 2))
    assert (spread[frames.modality == INFRARED] == 0).all()
    assert (spread[frames.modality == VISIBLE] > 10).all()


def test_frame_is_the_same_in_every_batch(frames: Frames) -> None:
    drawings = load_drawings()
    picked = [3, len(frames) - 1, 40, 7]
    rows = [
        np.flatnonzero(
            (drawings.identity == frames.identity[i]) & (drawings.camera == frames.camera[i])
        )[0]
        for i in picked
    ]
    number = [
        i
        - np.flatnonzero(
            (frames.identity == frames.identity[i]) & (frames.camera == frames.camera[i])
        )[0]
        for i in picked
    ]
    again = render_drawings(np.array(rows), np.array(number))
    assert np.array_equal(again.images, frames.images[picked])
    alone = render_drawings(np.array(rows[:1]), np.array(number[:1]))
    assert np.array_equal(alone.images[0], frames.images[3])


def test_frames_do_not_depend_on_chunks_or_order(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = identity_splits().unlabeled[:4]
    whole = render_identities(wanted)
    monkeypatch.setattr("mabm.data.drawings._RENDER_CHUNK", 3)
    assert np.array_equal(render_identities(wanted[::-1]).images, whole.images)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    wanted = identity_splits().unlabeled[:2]
    np.random.seed(1)  # noqa: NPY002  (the state that must not matter)
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = render_identities(wanted)
    after = np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    assert np.array_equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    assert np.array_equal(render_identities(wanted).images, first.images)


def test_first_frame_continues_the_sequence() -> None:
    wanted = identity_splits().unlabeled[:2]
    four = render_identities(wanted, visible_frames=4, infrared_frames=0)
    later = render_identities(wanted, visible_frames=2, infrared_frames=0, first_frame=2)
    number = np.arange(len(four)) % 4
    assert np.array_equal(four.images[number >= 2], later.images)
    assert not np.array_equal(four.images[number < 2], later.images)


def test_brightness_stays_in_the_recipe(frames: Frames) -> None:
    infrared = frames.images[frames.modality == INFRARED]
    # Background 20-70 under gain 0.5-0.9, then +20: corners are mostly background.
    corners = infrared[:, 0, :3, :3].astype(float).mean(axis=(1, 2))
    assert 25 < np.median(corners) < 90
    # Inverted luminance: the drawing, black in the artwork, is brighter than the background.
    assert (infrared.max(axis=(1, 2, 3)) > corners + 40).all()


@pytest.mark.parametrize(
    ("identities", "message"),
    [([937], r"\[0, 937\), got 937"), ([-1], "got -1"), ([4, 4], "must not repeat")],
)
def test_bad_identities_are_named(identities: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_identities(identities)


def test_bad_counts_and_rows_are_named() -> None:
    with pytest.raises(ValueError, match=r"visible_frames must be >= 0, got -1"):
        render_identities([0], visible_frames=-1)
    with pytest.raises(ValueError, match=r"rows must be in \[0, 8343\), got 8343"):
        render_drawings(np.array([8343]), np.array([0]))
    with pytest.raises(ValueError, match=r"shape \(N,\), got \(2,\) and \(1,\)"):
        render_drawings(np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="frame must be >= 0, got -2"):
        render_drawings(np.array([0]), np.array([-2]))


def test_nothing_to_render() -> None:
    assert render_identities([]).images.shape == (0, 3, 48, 48)
