"""``mabm assign``: new samples by an earlier clustering, with nothing said twice."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Run, refused

import mabm

K = {"k1": 12, "k2": 3}
OPTIONS = ("--k1", 12, "--k2", 3, "--eps", 0.5)
WORDS = ("assign", "new.npz", "--features", "old.npz", "--labels", "labels.npz")


def make_samples(seed: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    centers = np.random.default_rng(0).normal(size=(12, 16))
    noise = np.random.default_rng(seed).normal(size=(12 * each, 16))
    features = np.repeat(centers, each, axis=0) + 0.25 * noise
    return features.astype(np.float32), np.arange(12 * each) % 2


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """The current folder: 120 samples and their clustering, and 25 new ones."""
    monkeypatch.chdir(tmp_path)
    features, modality = make_samples(0, 10)
    np.savez("old.npz", features=features, modality=modality)
    new, groups = make_samples(1, 2)
    new, groups = np.append(new, 3 - new[:1], axis=0), np.append(groups, 1)
    np.savez("new.npz", features=new, modality=groups)
    assert run("cluster", "old.npz", *OPTIONS, "--output", "labels.npz")[0] == 0
    return tmp_path


def expected(eps: float = 0.5, **options: object) -> np.ndarray:
    with np.load("old.npz") as old, np.load("new.npz") as new:
        found = mabm.pseudo_labels(old["features"], old["modality"], eps=0.5, **K, **options)
        return mabm.predict_labels(
            new["features"], new["modality"], old["features"], found, eps=eps, **K, **options
        )


def test_what_a_clustering_keeps(place: Path) -> None:
    with np.load("old.npz") as old, np.load("labels.npz", allow_pickle=False) as kept:
        found = mabm.pseudo_labels(old["features"], old["modality"], eps=0.5, **K)
        assert set(kept) == {"labels", "modality", "core", "settings"}
        np.testing.assert_array_equal(kept["labels"], found.labels)
        np.testing.assert_array_equal(kept["core"], found.core)
        assert kept["core"].dtype == bool
        np.testing.assert_array_equal(kept["modality"], old["modality"])
        assert json.loads(str(kept["settings"])) == {
            "eps": 0.5, "min_samples": 4, "k1": 12, "k2": 3, "preset": "bmil",
            "precision": "exact", "modality_names": None,
        }  # fmt: skip


def test_assign_repeats_no_option(place: Path, run: Run) -> None:
    labels = expected()
    assert len(set(labels)) > 6  # a test of something
    status, out, err = run(*WORDS, "--output", "new.npy")
    assert (status, err) == (0, "")
    np.testing.assert_array_equal(np.load("new.npy"), labels)
    inside = labels[labels >= 0]
    lines = out.splitlines()
    assert lines[0] == (f"{len(inside)} of 25 new samples in {len(set(inside))} of 12 clusters")
    assert lines[1].startswith(f"{25 - len(inside)} in no cluster (")
    assert lines[-1] == "saved new.npy"
    assert run(*WORDS, "--output", "new.npy")[0] == 0  # once more, over its own
    assert run(*WORDS, "--output", "-") == (0, "".join(f"{n}\n" for n in labels), "")
    assert run(*WORDS, "--output", "out.npz")[0] == 0
    with np.load("out.npz") as out_npz, np.load("new.npz") as new:
        np.testing.assert_array_equal(out_npz["labels"], labels)
        np.testing.assert_array_equal(out_npz["modality"], new["modality"])


@pytest.mark.parametrize("preset", ["spcl", "modal_invariant", "bmil"])
def test_assign_goes_by_the_settings_of_the_clustering(preset: str, place: Path, run: Run) -> None:
    words = ("cluster", "old.npz", *OPTIONS, "--preset", preset, "--output", "labels.npz")
    assert run(*words)[0] == 0
    assert run(*WORDS, "--output", "new.npy")[0] == 0
    np.testing.assert_array_equal(np.load("new.npy"), expected(preset=preset))


def test_a_radius_of_its_own(place: Path, run: Run) -> None:
    assert run(*WORDS, "--eps", 0.05, "--output", "new.npy")[0] == 0
    labels = np.load("new.npy")
    np.testing.assert_array_equal(labels, expected(eps=0.05))
    assert (labels < 0).sum() > (expected() < 0).sum()


def test_core_samples_alone_hand_out_labels(place: Path, run: Run) -> None:
    with np.load("labels.npz") as kept:
        arrays = dict(kept)
    arrays["core"] = np.zeros(120, bool)
    np.savez("labels.npz", **arrays)
    assert run(*WORDS, "--output", "new.npy")[0] == 0
    assert (np.load("new.npy") == -1).all()


def test_without_a_modality(place: Path, run: Run) -> None:
    words = ("cluster", "old.npz", *OPTIONS, "--modality", "none", "--output", "labels.npz")
    assert run(*words)[0] == 0
    with np.load("old.npz") as old, np.load("new.npz") as new:
        found = mabm.pseudo_labels(old["features"], eps=0.5, **K)
        labels = mabm.predict_labels(new["features"], None, old["features"], found, eps=0.5, **K)
    assert run(*WORDS, "--output", "new.npy")[0] == 0
    np.testing.assert_array_equal(np.load("new.npy"), labels)
    message = "leave out --modality, as the clustering had none"
    assert message in refused(run, *WORDS, "--modality", "new.npz", "--output", "new.npy")


def test_words_mean_what_they_meant(place: Path, run: Run) -> None:
    """New samples of one modality alone: the same words in sorted order would be other numbers."""
    with np.load("old.npz") as old, np.load("new.npz") as new:
        np.save("old.npy", old["features"])
        np.save("new.npy", new["features"])
        Path("old.csv").write_text("\n".join(np.array(["rgb", "ir"])[old["modality"]]))
        found = mabm.pseudo_labels(old["features"], 1 - old["modality"], eps=0.5, **K)
        ones = np.ones(25, np.int64)
        labels = mabm.predict_labels(new["features"], ones, old["features"], found, eps=0.5, **K)
    words = ("cluster", "old.npy", "--modality", "old.csv", *OPTIONS, "--output", "l.npz")
    assert run(*words)[0] == 0
    Path("new.csv").write_text("\n".join(["rgb"] * 25))
    assign = ("assign", "new.npy", "--features", "old.npy", "--labels", "l.npz", "--modality")
    assert run(*assign, "new.csv", "--output", "out.csv")[0] == 0
    rows = Path("out.csv").read_text().splitlines()
    assert rows == ["row,labels", *(f"{row},{label}" for row, label in enumerate(labels))]
    Path("bad.csv").write_text("\n".join(["rgb", "night"] + ["rgb"] * 23))
    message = "--modality must be of ir, rgb, as in the clustering, got night, rgb"
    assert message in refused(run, *assign, "bad.csv", "--output", "out.csv")
    message = "--modality must be numbers, got rgb"
    by_numbers = ("assign", "new.npy", "--features", "old.npy", "--labels", "labels.npz")
    assert message in refused(run, *by_numbers, "--modality", "new.csv", "--output", "out.csv")


def test_words_with_a_number_of_their_own_mean_what_they_meant(place: Path, run: Run) -> None:
    """'visible' is 0 among 'visible' and 'infrared', and 1 among 'ir' and 'visible'."""
    with np.load("old.npz") as old, np.load("new.npz") as new:
        words = np.array(["ir", "visible"])[old["modality"]]
        np.savez("old_words.npz", features=old["features"], modality=words)
        np.save("new.npy", new["features"])
        found = mabm.pseudo_labels(old["features"], old["modality"], eps=0.5, **K)
        ones = np.ones(25, np.int64)
        labels = mabm.predict_labels(new["features"], ones, old["features"], found, eps=0.5, **K)
    assert run("cluster", "old_words.npz", *OPTIONS, "--output", "l.npz")[0] == 0
    assign = ("assign", "new.npy", "--features", "old_words.npz", "--labels", "l.npz", "--modality")
    Path("new.csv").write_text("\n".join(["visible"] * 25))
    np.save("words.npy", np.array(["visible"] * 25))
    for name in ("new.csv", "words.npy"):
        assert run(*assign, name, "--output", "-")[1].split() == [str(label) for label in labels]
    Path("new.csv").write_text("\n".join(["infrared"] * 25))
    message = "--modality must be of ir, visible, as in the clustering, got infrared"
    assert message in refused(run, *assign, "new.csv", "--output", "-")


def test_new_samples_from_standard_input(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load("new.npz") as new:
        stream = io.BytesIO()
        torch.save({name: torch.from_numpy(new[name]) for name in new}, stream)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream.getvalue())))
    status, out, err = run("assign", "-", *WORDS[2:], "--output", "-")
    assert (status, err) == (0, "")
    assert out.split() == [str(label) for label in expected()]


def test_a_column_that_may_be_somebodys_is_not_replaced(place: Path, run: Run) -> None:
    """Identities, say: their numbers may be as small as those of clusters."""
    identities = np.array([3, 7, 7, 11] * 10)
    np.save("identities.npy", identities)
    message = "must not replace a file of another kind"
    assert message in refused(run, *WORDS, "--output", "identities.npy")
    np.testing.assert_array_equal(np.load("identities.npy"), identities)


def change(**arrays: np.ndarray | None) -> None:
    with np.load("labels.npz") as kept:
        both = {**kept, **arrays}
    np.savez("x.npz", **{name: array for name, array in both.items() if array is not None})


def test_mistakes_are_one_line(place: Path, run: Run) -> None:
    with np.load("new.npz") as new:
        np.save("new_alone.npy", new["features"])
        np.save("narrow.npy", new["features"][:, :4])
    np.save("notes.npy", np.arange(200) + 5)
    np.savez("few.npz", features=np.ones((7, 16), np.float32))
    lacks = "must contain labels, core, settings of a clustering: write it with mabm cluster"
    out = ("--output", "out.npy")
    for words, message in [
        ((*WORDS[:-1], "notes.npy", *out), "--labels must be the .npz file of a clustering, got"),
        ((*WORDS[:-1], "old.npz", *out), lacks),
        ((*WORDS[:-1], "nothing.npz", *out), "No such file or directory: nothing.npz"),
        (("assign", "new_alone.npy", *WORDS[2:], *out), "give --modality FILE, the modality of"),
        (("assign", "narrow.npy", *WORDS[2:], "--modality", "new.npz", *out), "16 columns"),
        ((*WORDS[:3], "few.npz", *WORDS[4:], *out), "found must be (7,), one label per row"),
        ((*WORDS, "--eps", "1", *out), "eps must be in [0, 1), got 1.0"),
        ((*WORDS, "--output", "labels.npz"), "must not be an input of the command"),
        ((*WORDS, "--output", "new.npz"), "must not be an input of the command"),
        ((*WORDS, "--output", "notes.npy"), "must not replace a file"),
        ((*WORDS, "--output", "out.txt"), "--output must end in .npy or .csv or .npz"),
        (("assign", "-", "--modality", "-", *WORDS[2:], *out), "only one of NEW, --features"),
    ]:  # fmt: skip
        assert message in refused(run, *words), words
    for settings in ("", "[]", "{}", '{"modality_names": null, "eps": 3}', '{"modality_names": 3}'):
        change(settings=np.array(settings))
        assert "settings must be as mabm cluster writes them" in refused(
            run, *WORDS[:-1], "x.npz", *out
        ), settings
    good = json.loads(str(np.load("labels.npz")["settings"]))
    for name, value in [("eps", "a"), ("k1", 2.5), ("k2", None), ("preset", "x"), ("precision", 1)]:
        change(settings=np.array(json.dumps({**good, name: value})))
        assert f"settings must be as mabm cluster writes them: {name} must be " in refused(
            run, *WORDS[:-1], "x.npz", *out
        )
    change(core=np.ones(120))
    assert "x.npz: core must be (120,) bool" in refused(run, *WORDS[:-1], "x.npz", *out)
    change(labels=np.zeros((2, 3)))
    assert "labels must be integers" in refused(run, *WORDS[:-1], "x.npz", *out)


def test_a_clustering_of_centered_features_takes_no_new_samples(place: Path, run: Run) -> None:
    words = ("cluster", "old.npz", *OPTIONS, "--center-modalities", "--output", "labels.npz")
    status, out, _ = run(*words)
    assert status == 0
    assert "centered by modality" in out
    with np.load("old.npz") as old, np.load("labels.npz", allow_pickle=False) as kept:
        centered = mabm.center_modalities(old["features"], old["modality"])
        found = mabm.pseudo_labels(centered, old["modality"], eps=0.5, **K)
        np.testing.assert_array_equal(kept["labels"], found.labels)
    assert "made with --center-modalities" in run(*WORDS, "--output", "new.npy")[2]
    status, _, err = run("cluster", "old.npz", "--modality", "none", "--center-modalities")
    assert status != 0
    assert "--center-modalities needs a modality" in err
