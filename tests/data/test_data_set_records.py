"""One record says everything of a data set, and everything follows the records."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from extras import needs_training

import mabm
from mabm import RetrievalProtocol, SearchTask
from mabm.data import DATA_SETS, CensusRow, DataSet, ImageSet, ReidData, read_data, take_census
from mabm.data.counts import Counts
from mabm.data.layout import Scan
from mabm.data.sets import CONFIGS

ROOT = Path(mabm.__file__).parent


def read_toy(root: Path | str, *, trial: int) -> ReidData:
    pixels = np.zeros((4, 3, 8, 4), np.uint8)
    images = ImageSet(pixels, [0, 0, 1, 1], [1, 2, 1, 2], [0, 1, 0, 1])
    return ReidData("toy_set", train=images, test=images, trial=trial)


def count_toy(root: Path, trial: int | None) -> Counts:
    return Counts([Scan("toy_set", root, trial)], [CensusRow("images", 4, 4)])


TOY = DataSet(
    name="toy_set",
    aliases=("toy",),
    reader=read_toy,
    count=count_toy,
    num_trials=3,
    protocol=RetrievalProtocol("toy_set", exclude_same_camera=True),
    search_tasks=(SearchTask("toy_set", "toy-search", 1, 0, RetrievalProtocol("toy_set")),),
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """A data set more among the others."""
    monkeypatch.setitem(DATA_SETS._values, TOY.name, TOY)
    monkeypatch.setitem(DATA_SETS._aliases, *TOY.aliases, TOY.name)
    return TOY


def with_folders() -> list[str]:
    """The data sets that lie in a folder: they neither ship nor are lists of images; in order."""
    return [name for name, each in DATA_SETS.items() if not (each.ships or each.is_list)]


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_record_is_in_the_file_of_its_name_and_uses_that_name(name: str) -> None:
    record = DATA_SETS[name]
    assert record.name == name
    assert record.reader.__module__ == f"mabm.data.{name}"
    assert record.search_tasks
    tasks = (*record.search_tasks, *record.more_search_tasks)
    assert {task.data for task in tasks} == {name}
    assert {task.protocol.name for task in tasks} == {name}
    assert len({task.name for task in tasks}) == len(tasks)
    assert record.protocol in {None, *(task.protocol for task in record.search_tasks)}
    assert (ROOT / "train" / "configs" / f"{name}.toml").is_file()
    assert (record.count is None) == (record.ships or record.is_list)


@pytest.mark.parametrize("spelling", ["toy_set", "toy-set", "TOY"])
@pytest.mark.usefixtures("toy")
def test_another_record_is_read_counted_and_tested(spelling: str, tmp_path: Path) -> None:
    test = read_data(spelling, tmp_path, trial=2).test
    census = take_census(spelling, tmp_path)
    assert (census.name, census.is_complete) == ("toy_set", True)
    assert mabm.PROTOCOLS[spelling].exclude_same_camera
    scores = mabm.evaluate_search(
        np.eye(2)[test.identity],
        test.identity,
        test.camera,
        test.modality,
        task=mabm.SEARCH_TASKS[spelling][0],
        trial=2,
    )
    assert scores.mean["mAP"] == 1
    ids = np.array([0, 1])
    assert (
        mabm.evaluate_retrieval(
            1 - np.eye(2), ids, ids, np.array([1, 1]), np.array([2, 2]), protocol=spelling
        ).mean_average_precision
        == 1
    )


@pytest.mark.usefixtures("toy")
def test_another_record_is_checked_like_the_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trial must be in \[1, 3\] for toy_set, got None"):
        read_data("toy", tmp_path)
    for call in (read_data, take_census):
        with pytest.raises(ValueError, match=r"trial must be in \[1, 3\], got 4"):
            call("toy", tmp_path, trial=4)
    with pytest.raises(ValueError, match="root must be the folder of toy_set"):
        read_data("toy", trial=1)
    known, countable = ", ".join(DATA_SETS), ", ".join(with_folders())
    assert known.endswith("toy_set")
    assert countable.endswith("toy_set")
    with pytest.raises(ValueError, match=f"name must be one of {known}, got 'market'"):
        read_data("market")
    with pytest.raises(ValueError, match=f"name must be one of {countable}, got 'emoji_xm'"):
        take_census("emoji_xm", tmp_path)


@needs_training
@pytest.mark.usefixtures("toy")
def test_another_record_is_known_to_configurations() -> None:
    from mabm.train import DataConfig

    assert DataConfig(name="Toy").name == "toy_set"
    with pytest.raises(ValueError, match=r"one of .*'emoji_xm',.* 'toy_set'\), got 'market'"):
        DataConfig(name="market")


@pytest.mark.usefixtures("toy")
def test_another_record_is_known_to_commands(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def shown(command: str) -> str:
        with pytest.raises(SystemExit):
            run(command, "--help")
        return " ".join(capsys.readouterr().out.split())

    *others, last = with_folders()
    folders = f"{', '.join(others)} or {last}"
    assert last == "toy_set"
    *configs, last_config = CONFIGS  # those that ship; the toy has none
    assert f"{', '.join(configs)} or {last_config}, which ship" in shown("train")
    assert f"{folders} with its folder, or emoji_xm" in shown("extract")
    assert folders in shown("census")
    for command in ("train", "extract", "census", "evaluate"):
        assert "regdb, 1 to 10; toy_set, 1 to 3" in shown(command)
    with pytest.raises(SystemExit):
        run("evaluate", tmp_path, "--task", "none")
    assert "toy-search" in capsys.readouterr().err
    assert run("census", "toy", tmp_path)[0] == 0
    status, _, err = run("extract", "emoji_xm", "--data", "toy", "--output", tmp_path / "f.npy")
    assert (status, "--data must be toy_set:ROOT" in err) == (2, True)
    pytest.importorskip("shtab")
    script = run("completion", "bash")[1]
    for names in (DATA_SETS, with_folders()):
        assert f'compgen -W "{" ".join(names)}"' in script


NAMED_ELSEWHERE = {
    "data/sets.py": "the list of records",
    "models/weights.py": "weights that ship are named after the data that they learned",
    "train/config.py": "the defaults are those of one data set",
    "demo/features.py": "the demonstration is of one data set",
}
"""Modules that name a data set in code beside the one of the data set, and why."""


def spoken(path: Path) -> Iterator[str]:
    """The texts in the code of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_other_module_has_the_name_of_a_data_set_in_its_code() -> None:
    names = {*DATA_SETS, *(alias for record in DATA_SETS.values() for alias in record.aliases)}
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if names & set(spoken(path)) and not path.is_relative_to(ROOT / "compat")
    }
    assert modules == {*NAMED_ELSEWHERE, *(f"data/{name}.py" for name in DATA_SETS)}
