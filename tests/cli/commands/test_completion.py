"""What a shell completes: bash itself loads the script and asks its function."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run

from mabm.cli import main
from mabm.data.sets import CONFIGS, DATA_SETS
from mabm.distance.presets import PRESETS

shtab = pytest.importorskip("shtab", reason='needs shtab: pip install "mabm[completion]"')

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What bash offers for the last of some words, in a folder with three files and a folder."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    status, script, err = run("completion", "bash")
    assert (status, err) == (0, "")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("features.npy", "modality.csv", "emoji.toml"):
        Path(name).touch()
    Path("emoji_runs").mkdir()
    (tmp_path / "script").write_text(script)
    function = script.rstrip().splitlines()[-1].split()[-2]

    def of(*words: str) -> list[str]:
        lines = (
            'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            f'{function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", lines, tmp_path / "script", "mabm", *words],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return sorted(filter(None, done.stdout.split("\n")))

    return of


def test_bash_completes_commands_and_options(complete: Complete) -> None:
    assert {"cluster", "train", "completion"} <= set(complete(""))
    assert complete("cl") == ["cluster"]
    assert complete("cluster", "--mi") == ["--min-samples"]
    assert "--no-resume" in complete("train", "emoji_xm", "--")
    assert complete("completion", "") == ["bash", "tcsh", "zsh"]


def test_bash_completes_names(complete: Complete) -> None:
    assert complete("cluster", "x.npy", "--preset", "") == sorted(PRESETS)
    assert complete("cluster", "x.npy", "--modality", "no") == ["none"]
    assert complete("census", "") == sorted(set(DATA_SETS) - {"emoji_xm", "image_list"})
    assert complete("extract", "w.pt", "--data", "s") == ["sysu_mm01"]
    assert complete("train", "sy") == ["sysu_mm01"]
    assert "indoor-search" in complete("evaluate", "run", "--task", "")


def test_bash_completes_files_and_folders(complete: Complete) -> None:
    here = ["emoji.toml", "emoji_runs", "features.npy", "modality.csv"]
    emoji = [name for name in CONFIGS if name.startswith("emoji")]
    assert complete("cluster", "") == here
    assert complete("cluster", "features.npy", "--modality", "mod") == ["modality.csv"]
    assert complete("cluster", "features.npy", "--output", "fea") == ["features.npy"]
    assert complete("train", "emoji") == sorted(["emoji.toml", "emoji_runs", *emoji])
    assert complete("extract", "emoji_r") == ["emoji_runs"]
    assert complete("train", "emoji_xm", "--output", "") == ["emoji_runs"]  # folders alone
    assert complete("census", "regdb", "") == ["emoji_runs"]
    assert complete("report", "") == ["emoji_runs"]
    assert complete("evaluate", "emoji_r") == ["emoji_runs"]


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef mabm"), ("tcsh", "# AUTO")])
def test_other_shells_get_a_script_of_their_own(shell: str, begins: str, run: Run) -> None:
    status, script, err = run("completion", shell)
    assert (status, err) == (0, "")
    assert script.startswith(begins)
    assert "[:ROOT]" not in script  # whose colon zsh would take for its own
    for word in ("cluster", "min-samples", "sysu_mm01 regdb llcm", "modal_invariant"):
        assert word in script


def test_the_extra_is_named_where_it_is_missing(
    run: Run, remove_package: Callable[[str], None]
) -> None:
    remove_package("shtab")
    line = 'mabm completion: completion needs shtab: pip install "mabm[completion]"\n'
    assert run("completion", "bash") == (1, "", line)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["completion", "fish"])
    assert left.value.code == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
