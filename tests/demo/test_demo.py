"""The demo: its pictures, and the claim it shows."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from mabm import demo
from mabm.cli import main
from mabm.data import identity_splits
from mabm.demo.pictures import draw_clusters, draw_distances


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> demo.DemoResult:
    return demo.run(
        tmp_path_factory.mktemp("demo") / "new" / "folder",
        identities=identity_splits().unlabeled[:60],
        progress=False,
    )


def test_small_run_is_sane(result: demo.DemoResult) -> None:
    count = len(result.frames)
    assert result.features.shape == (count, 192)
    assert set(np.unique(result.frames.identity)) == set(identity_splits().unlabeled[:60])
    for method in (result.naive, result.aware):
        assert method.labels.shape == (count,)
        assert method.num_clusters == method.labels.max() + 1
        assert method.num_noise == (method.labels < 0).sum()
        assert method.num_spanning <= method.num_clusters
        assert 0 < method.ari <= 1
        assert 0 < method.nmi <= 1
        assert method.pairs.num_right <= min(method.pairs.num_true, method.pairs.num_found)
        assert method.distances.counts.sum() == count * (count - 1) // 2
        assert method.seconds > 0


def test_modality_awareness_finds_more_pairs_across(result: demo.DemoResult) -> None:
    assert result.aware.pairs.recall > result.naive.pairs.recall
    assert result.aware.pairs.precision > result.naive.pairs.precision
    assert result.aware.num_spanning > result.naive.num_spanning


def test_pictures_are_written(result: demo.DemoResult) -> None:
    assert [path.name for path in result.pictures] == ["clusters.png", "distances.png"]
    for path in result.pictures:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 600
            assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_pictures_leave_the_style_alone(result: demo.DemoResult) -> None:
    before = dict(mpl.rcParams)
    draw_distances({"one": result.naive.distances})
    assert dict(mpl.rcParams) == before


def test_sheet_without_spanning_clusters_is_drawn(result: demo.DemoResult, tmp_path: Path) -> None:
    noise = np.full(len(result.frames), -1)
    draw_clusters(result.frames, noise, noise).savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_table_says_what_was_compared(result: demo.DemoResult) -> None:
    table = demo.format_table(result)
    assert "drawings, not photographs" in table
    assert "24 neighbors and 6 averaged rows in all (modality-aware: 12 and 3 a modality)" in table
    for method in (result.naive, result.aware):
        row = re.search(rf"^{method.name} .*$", table, re.MULTILINE)
        assert row is not None
        assert f"{method.pairs.recall:.3f}" in row[0]
        assert f"{method.ari:.3f}" in row[0]


def test_seed_chooses_other_frames(result: demo.DemoResult, tmp_path: Path) -> None:
    wanted = identity_splits().unlabeled[:6]
    one, same, other = (
        demo.run(tmp_path, identities=wanted, seed=seed, progress=False) for seed in (0, 0, 1)
    )
    assert np.array_equal(one.frames.images, same.frames.images)
    assert np.array_equal(one.aware.labels, same.aware.labels)
    assert not np.array_equal(one.frames.images, other.frames.images)
    assert np.array_equal(one.frames.images, result.frames.images[: len(one.frames)])
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
    monkeypatch.setattr(demo, "render_identities", None)  # nothing is rendered before
    with pytest.raises(ImportError, match=rf'{missing}: pip install "mabm\[demo\]"'):
        demo.run(tmp_path, identities=[0], progress=False)


def test_what_cannot_work_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "render_identities", None)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        demo.run(tmp_path / "file")
    with pytest.raises(ValueError, match="identities must not be empty"):
        demo.run(tmp_path, identities=[])


def test_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = demo.run
    wanted = identity_splits().unlabeled[:6]

    def small_run(*arguments: object, **options: object) -> demo.DemoResult:
        return run(*arguments, **options, identities=wanted)

    monkeypatch.setattr(demo, "run", small_run)
    words = ["demo", "--output", str(tmp_path / "out"), "--seed", "2", "--k1", "20"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert (
        "20 neighbors and 6 averaged rows in all (modality-aware: 10 and 3 a modality)" in printed
    )
    assert f"saved {tmp_path / 'out' / 'clusters.png'}" in printed
    assert (tmp_path / "out" / "distances.png").exists()
    with pytest.raises(SystemExit):
        main(["demo", "--seed", "-1"])
    assert "--seed: must be an integer >= 0 of at most 64 bits, got '-1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k1", "1"], "k1 must be in [2, 1024], at least one for each of the 2 groups"),
        (["--k2", "30"], "k2 must be in [1, 24], which ends at k1, got 30"),
        (["--k2", "1"], "k2 must be at least 2, a row of each modality, got 1"),
        (["--seed", "9" * 18], "seed must be in [0, 1048576], got 999"),
        (["--eps", "1.5"], "eps must be in [0, 1), got 1.5"),
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
