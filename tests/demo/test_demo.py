"""The demo: what it compares, its pictures, and the claim that it shows."""

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

import mabm
from mabm import demo
from mabm.cli import main
from mabm.cluster.quality import cross_modality_pairs
from mabm.data import identity_splits
from mabm.demo.comparison import EPS_VALUES, split_identities
from mabm.demo.pictures import draw_examples, draw_pairs

WANTED = identity_splits().unlabeled[:60]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> demo.DemoResult:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return demo.run(folder, identities=WANTED, progress=False)


def test_small_run_is_sane(result: demo.DemoResult) -> None:
    images = result.images
    assert set(images.identity) == set(WANTED)
    for each in result.methods:
        assert each.labels.shape == (len(images),)
        assert each.num_clusters == each.labels.max() + 1
        assert each.num_noise == (each.labels < 0).sum()
        assert 0 < each.num_spanning <= each.num_clusters
        assert 0 < each.ari <= 1
        assert each.across == cross_modality_pairs(each.labels, images.identity, images.modality)
        alone = [
            cross_modality_pairs(each.labels[rows], images.identity[rows], np.arange(len(rows)))
            for rows in (np.flatnonzero(images.modality == modality) for modality in (0, 1))
        ]
        for name in ("num_true", "num_found", "num_right"):
            assert getattr(each.within, name) == sum(getattr(pairs, name) for pairs in alone)


def test_modality_awareness_finds_more_pairs_across(result: demo.DemoResult) -> None:
    assert result.aware.across.f1 > result.naive.across.f1
    assert result.aware.across.recall > result.naive.across.recall
    assert result.aware.num_spanning > result.naive.num_spanning


def test_eps_of_a_half_is_the_best_on_the_other_half_alone(result: demo.DemoResult) -> None:
    images, settings = result.images, result.settings
    features = demo.features_of(images)
    one, other = split_identities(images.identity)
    assert not set(images.identity[one]) & set(images.identity[other])
    assert len(one) + len(other) == len(images)
    graph = mabm.jaccard_graph(
        features[other], images.modality[other], max_distance=0.8, k1=settings.k1, k2=3
    )
    scores = [
        cross_modality_pairs(graph.dbscan(eps), images.identity[other], images.modality[other]).f1
        for eps in EPS_VALUES
    ]
    assert result.aware.eps[0] == EPS_VALUES[int(np.argmax(scores))]
    found = mabm.pseudo_labels(
        features[one], images.modality[one], eps=result.aware.eps[0], k1=settings.k1, k2=3
    )
    assert np.array_equal(result.aware.labels[one], found.labels)


@pytest.mark.parametrize(("place", "preset", "k2"), [(2, "spcl", 6), (3, "bmil", 3)])
def test_centered_methods_cluster_centered_features(
    result: demo.DemoResult, place: int, preset: str, k2: int
) -> None:
    images, found = result.images, result.methods[place]
    assert found.method.name.endswith("centered")
    features = demo.features_of(images)
    rows = split_identities(images.identity)[0]
    groups = images.modality[rows]
    centered, plain = (
        mabm.pseudo_labels(
            each, groups, eps=found.eps[0], k1=result.settings.k1, k2=k2, preset=preset
        ).labels
        for each in (mabm.center_modalities(features[rows], groups), features[rows])
    )
    assert np.array_equal(found.labels[rows], centered)
    assert not np.array_equal(found.labels[rows], plain)


def test_curves_agree_with_a_count_of_all_pairs(result: demo.DemoResult) -> None:
    images, settings, curve = result.images, result.settings, result.naive.distances
    features, threshold = demo.features_of(images), np.float32(0.7)
    num_true = num_found = num_right = 0
    for rows in split_identities(images.identity):
        distance = mabm.modality_jaccard(features[rows], k1=settings.k1, k2=settings.k2)
        people, groups = images.identity[rows], images.modality[rows]
        across = np.triu(groups[:, None] != groups)
        same = across & (people[:, None] == people)
        num_true += same.sum()
        num_found += (across & (distance <= threshold)).sum()
        num_right += (same & (distance <= threshold)).sum()
    place = np.searchsorted(curve.threshold, threshold, side="right") - 1
    assert curve.recall[place] == num_right / num_true
    assert curve.precision[place] == num_right / num_found
    assert curve.recall_at(curve.precision[place]) >= curve.recall[place]
    assert curve.recall_at(1.1) == 0


def test_gains_of_an_emoji_are_of_its_own_pairs(result: demo.DemoResult) -> None:
    images, gains = result.images, result.gains
    assert gains.num_higher + gains.num_lower + gains.num_same == len(WANTED)
    gain = gains.after - gains.before
    best = gains.identity.tolist().index(gains.greatest(1)[0])
    worst = gains.identity.tolist().index(gains.least(1)[0])
    assert (gain[best], gain[worst]) == (gain.max(), gain.min())
    # Of the pairs across modalities that have a member of this emoji.
    labels = result.aware.labels
    mine = images.identity == gains.identity[best]
    across = np.triu(images.modality[:, None] != images.modality) & (mine[:, None] | mine)
    same = across & (images.identity[:, None] == images.identity)
    joined = across & (labels[:, None] == labels) & (labels >= 0)
    f1 = 2 * (same & joined).sum() / (same.sum() + joined.sum())
    assert gains.after[best] == pytest.approx(f1)


def test_shipped_features_are_those_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = demo.list_images(WANTED[[3, 40]])
    shipped = demo.features_of(images)
    computed = demo.features.compute_features(images)
    # A last bit of a convolution may differ between machines, and so may one of float16.
    np.testing.assert_allclose(computed, shipped, rtol=2e-3, atol=1e-4)
    assert np.array_equal(computed, computed.astype(np.float16))
    assert demo.features_of(demo.list_images()).shape == (7634, 192)


def test_pictures_are_written(result: demo.DemoResult) -> None:
    assert [path.name for path in result.pictures] == ["before_after.png", "pairs.png"]
    for path in result.pictures:
        assert path.stat().st_size < 200_000
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 600
            assert len(np.unique(np.asarray(picture.convert("L")))) > 40


def test_pictures_leave_the_style_alone(result: demo.DemoResult) -> None:
    before = dict(mpl.rcParams)
    draw_pairs(result.methods)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("number", [0, 1])
def test_boxes_hold_the_clusters_of_the_emoji(result: demo.DemoResult, number: int) -> None:
    images, gains = result.images, result.gains
    labels = (result.naive.labels, result.aware.labels)[number]
    own, others, faded, left_out = [], 0, 0, []
    for identity in [*gains.greatest(3), *gains.least(1)]:
        mine = np.flatnonzero(images.identity == identity)
        first = [mine[images.camera[mine] == camera][0] for camera in set(images.camera[mine])]
        own += first
        for label in {labels[row] for row in first} - {-1}:
            strangers = ((labels == label) & (images.identity != identity)).sum()
            others += min(2, strangers)
            left_out += [f"+{strangers - 2}"] if strangers > 2 else []
        faded += sum(labels[row] == -1 for row in first)
    # The same clustering in both panels: everything is drawn twice.
    (axes,) = draw_examples(images, labels, labels, gains).axes
    drawn = [np.asarray(each.get_array()).tobytes() for each in axes.images]
    assert len(drawn) == 2 * (len(own) + others)
    for tile in images.render(np.array(own)).transpose(0, 2, 3, 1):
        assert drawn.count(tile.tobytes()) >= 2
    frames = [each for each in axes.patches if type(each).__name__ == "Rectangle"]
    assert len(frames) == 2 * others > 0
    assert sum(each.get_alpha() != 1 for each in axes.images) == 2 * faded
    words = [each.get_text() for each in axes.texts if each.get_text().startswith("+")]
    assert sorted(words) == sorted(2 * left_out)
    assert left_out


def test_picture_without_clusters_is_drawn(result: demo.DemoResult, tmp_path: Path) -> None:
    noise = np.full(len(result.images), -1)
    draw_examples(result.images, noise, noise, result.gains).savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_table_says_what_was_compared(result: demo.DemoResult) -> None:
    table = demo.format_table(result)
    assert "drawings, not photographs" in table
    assert "24 neighbors and 6 averaged rows in total" in table
    assert "(modality-aware: 12 and 3 per modality)" in table
    assert "own eps: chosen by F1 on 30 emoji, reported on the other 30, then swapped" in table
    for each in result.methods:
        row = re.search(rf"^{each.method.name}  .*$", table, re.MULTILINE)
        assert row is not None
        for value in (each.across.recall, each.across.f1, each.within.f1, each.ari):
            assert f"{value:.3f}" in row[0]
    assert max(map(len, table.splitlines())) <= 100


def test_seed_chooses_other_images(tmp_path: Path) -> None:
    wanted = WANTED[:4]
    one, same, other = (demo.list_images(wanted, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.render(slice(5)), same.render(slice(5)))
    frames = [set(zip(each.drawing, each.frame, strict=True)) for each in (one, other)]
    assert not frames[0] & frames[1]
    found = demo.run(tmp_path, identities=wanted, seed=1, progress=False)
    assert np.array_equal(found.images.frame, other.frame)
    with pytest.raises(ValueError, match=r"seed must be in .* got -1"):
        demo.run(tmp_path, seed=-1)


@pytest.mark.parametrize("missing", ["tqdm", "matplotlib"])
def test_missing_extra_is_named(
    missing: str,
    remove_package: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    remove_package(missing)
    monkeypatch.setattr(demo, "list_images", None)  # nothing is read before
    with pytest.raises(ImportError, match=rf'{missing}: pip install "mabm\[demo\]"'):
        demo.run(tmp_path, identities=[0], progress=False)


def test_what_cannot_work_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "features_of", None)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        demo.run(tmp_path / "file")
    for name in ("before_after.png", "pairs.png"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(IsADirectoryError, match=name):
            demo.run(tmp_path / name)
    for too_few in ([], WANTED[:1]):
        with pytest.raises(ValueError, match=f"identities must be at least 2, .* {len(too_few)}$"):
            demo.run(tmp_path, identities=too_few)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "features_of", None)
    opened = Path.open

    def refuse(path: Path, mode: str = "r", **options: object) -> object:
        if "w" in mode:  # as in a folder of someone else: the tests may run as root
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"before_after\.png"):
        demo.run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_features_are_shipped_without_a_warning_of_python() -> None:
    # A module that its own package imports would be run twice, which Python warns of.
    code = "import runpy; runpy.run_module('mabm.demo.shipping', run_name='not main')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("name", ["k1", "k2"])
def test_half_of_the_neighbors_is_a_whole_number(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be even, half for each modality.* got 5$"):
        demo.Settings(**{"k1": 24, "k2": 4, name: 5})
    assert demo.Settings(k1=2, k2=2).k2 == 2


def test_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = demo.run

    def small_run(*arguments: object, **options: object) -> demo.DemoResult:
        return run(*arguments, **options, identities=WANTED[:6])

    monkeypatch.setattr(demo, "run", small_run)
    words = ["demo", "--output", str(tmp_path / "out"), "--seed", "2", "--k1", "20"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "20 neighbors and 6 averaged rows in total" in printed
    assert "(modality-aware: 10 and 3 per modality)" in printed
    assert f"saved {tmp_path / 'out' / 'before_after.png'}" in printed
    assert (tmp_path / "out" / "pairs.png").exists()
    with pytest.raises(SystemExit):
        main(["demo", "--seed", "-1"])
    assert "--seed: must be an integer >= 0 of at most 64 bits, got '-1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k1", "1"], "k1 must be in [2, 1024], at least one for each of the 2 groups"),
        (["--k2", "30"], "k2 must be in [1, 24], which ends at k1, got 30"),
        (["--k1", "25"], "k1 must be even, half for each modality, so that all methods take"),
        (["--k2", "1"], "k2 must be at least 2, a row of each modality, got 1"),
        (["--seed", "9" * 18], "seed must be in [0, 1048576], got 999"),
    ],
)
def test_bad_settings_are_one_line_before_any_work(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "out"), *words]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f"mabm demo: {message}" in printed.err
    assert not (tmp_path / "out").exists()


def test_library_does_not_load_the_demo() -> None:
    code = (
        "import sys, mabm; "
        "unwanted = ('mabm.data', 'mabm.models', 'mabm.demo', 'matplotlib'); "
        "print([m for m in sys.modules if m.startswith(unwanted)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
