"""Data sets are called by one name in what is written and by several in what is read."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Run
from extras import needs_training
from miniature_trees import build_regdb, build_sysu
from training_cases import small_config, small_data

import mabm
from mabm.data import DATA_SETS, read_data, take_census
from mabm.evaluation import PROTOCOLS, SEARCH_TASKS
from mabm.models import build_encoder, load_pretrained
from mabm.train import (
    CONFIGS,
    Config,
    DataConfig,
    ModelConfig,
    inputs,
    load_config,
    to_toml,
    train,
)
from mabm.train.records.resuming import check_same
from mabm.train.trained import read_trained

SPELLINGS = {
    "sysu_mm01": ("sysu_mm01", "sysu", "SYSU", "sysu-mm01", "SYSU-MM01", "Sysu_MM01"),
    "regdb": ("regdb", "RegDB", "REGDB"),
    "llcm": ("llcm", "LLCM"),
    "emoji_xm": ("emoji_xm", "emoji-xm", "Emoji-XM", "EMOJI_XM"),
    "image_list": ("image_list", "image-list", "Image_List"),
}
PAIRS = [(name, spelling) for name, all_of in SPELLINGS.items() for spelling in all_of]
EMOJI = SPELLINGS["emoji_xm"]


@pytest.mark.parametrize(("name", "spelling"), PAIRS)
def test_mappings_are_looked_up_in_every_spelling(name: str, spelling: str) -> None:
    assert SEARCH_TASKS[spelling] is SEARCH_TASKS[name]
    assert SEARCH_TASKS.get(spelling) is SEARCH_TASKS[name]
    assert spelling in SEARCH_TASKS
    if name in PROTOCOLS:
        assert PROTOCOLS[spelling].name == PROTOCOLS.get(spelling).name == name
    assert (spelling in PROTOCOLS) == (name not in ("emoji_xm", "image_list"))


def test_mappings_show_one_spelling_and_are_read_only() -> None:
    assert list(SEARCH_TASKS) == list(DATA_SETS) == list(SPELLINGS)
    assert list(PROTOCOLS) == ["sysu_mm01", "regdb", "llcm"]
    assert len(SEARCH_TASKS) == 5
    for name in ("sisu", "", None, 3, "sysu mm01"):
        assert name not in SEARCH_TASKS
        assert SEARCH_TASKS.get(name, "none") == "none"
    with pytest.raises(KeyError, match="Market"):
        SEARCH_TASKS["Market"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        SEARCH_TASKS["market"] = ()  # type: ignore[index]  # as a user might try
    assert dict(SEARCH_TASKS) == SEARCH_TASKS
    assert copy.deepcopy(PROTOCOLS) == pickle.loads(pickle.dumps(PROTOCOLS)) == PROTOCOLS


@pytest.mark.parametrize("spelling", SPELLINGS["sysu_mm01"])
def test_a_protocol_is_named_in_every_spelling(spelling: str) -> None:
    distance, ids = torch.tensor([[0.1, 0.2]]), torch.tensor([1])
    given: dict[str, Any] = {"query_cameras": torch.tensor([6]), "protocol": spelling}
    scores = mabm.evaluate_retrieval(
        distance, ids, torch.tensor([2, 1]), gallery_cameras=torch.tensor([1, 2]), **given
    )
    assert scores.mean_average_precision == 0.5


@pytest.mark.parametrize("spelling", SPELLINGS["sysu_mm01"])
def test_data_and_census_are_named_in_every_spelling(spelling: str, tmp_path: Path) -> None:
    root = build_sysu(tmp_path, images=2)
    assert read_data(spelling, root).name == "sysu_mm01"
    assert take_census(spelling, root).name == "sysu_mm01"


def test_a_trial_is_asked_for_in_every_spelling(tmp_path: Path) -> None:
    root = build_regdb(tmp_path)
    assert read_data("RegDB", root, trial=1).name == "regdb"
    assert take_census("RegDB", root, trial=1).trial == 1
    with pytest.raises(ValueError, match=r"trial must be in \[1, 10\] for regdb, got None"):
        read_data("REGDB", root)
    with pytest.raises(ValueError, match="root must be the folder of sysu_mm01"):
        read_data("sysu")


@pytest.mark.parametrize("spelling", EMOJI)
def test_weights_are_named_in_every_spelling(spelling: str) -> None:
    expected = load_pretrained().state_dict()
    for encoder in (load_pretrained(spelling), build_encoder("small", weights=spelling)):
        found = encoder.state_dict()
        assert all(found[name].equal(tensor) for name, tensor in expected.items())
    with pytest.raises(ValueError, match="weights 'emoji_xm' are for the encoder 'small'"):
        build_encoder("agw-resnet50", weights=spelling)


@needs_training
@pytest.mark.parametrize(("name", "spelling"), PAIRS)
def test_configurations_are_named_in_every_spelling(
    name: str, spelling: str, tmp_path: Path
) -> None:
    config = load_config(spelling)
    assert config == load_config(name)
    assert config.data.name == name
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{spelling}"\n[data]\nname = "{spelling}"\n')
    assert load_config(file) == config
    assert load_config("llcm", [f"data.name={spelling}"]).data.name == name
    assert DataConfig(name=spelling).name == name


@needs_training
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_named_in_any_case(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert load_config(name.upper().replace("_", "-")) == config
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{name.title()}"\n')
    assert load_config(file) == config


@needs_training
@pytest.mark.parametrize("spelling", EMOJI)
def test_weights_of_a_configuration_are_written_in_one_spelling(spelling: str) -> None:
    assert ModelConfig(weights=spelling).weights == "emoji_xm"
    assert 'weights = "emoji_xm"' in to_toml(load_config("sysu", [f"model.weights={spelling}"]))
    assert ModelConfig(weights=f"./{spelling}").weights == f"./{spelling}"  # a file
    assert ModelConfig(weights="RegDB").weights == "RegDB"  # no weights of it ship


@needs_training
def test_a_name_comes_before_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sysu", "sysu_mm01"):
        Path(name).write_text("[run]\nseed = 7\n")
        assert load_config(name).run.seed == 0
        assert load_config(f"./{name}").run.seed == 7


@needs_training
def test_a_run_with_an_earlier_spelling_resumes() -> None:
    from mabm.train.config_files import to_tree

    now = to_tree(load_config("emoji_xm"))
    kept = copy.deepcopy(now)
    kept["model"]["weights"] = "emoji-xm"  # as checkpoints hold it
    check_same(kept, now)
    kept["model"]["weights"] = "other.pth"
    with pytest.raises(ValueError, match=r"model\.weights must be 'other\.pth' as in the run"):
        check_same(kept, now)


@needs_training
def test_checkpoints_with_an_earlier_spelling_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mabm.train import trainer
    from mabm.train.config_files import to_tree

    def old_tree(config: Config) -> dict[str, dict[str, Any]]:
        tree = to_tree(config)
        tree["model"]["weights"] = "emoji-xm"
        return tree

    short = ("stage1.epochs=1", "stage1.iterations=1", "stage2.epochs=1", "stage2.iterations=1")
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: small_data())
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "to_tree", old_tree)
        train(small_config(*short), tmp_path, progress=False)
    config = read_trained(tmp_path).config
    assert config is not None
    assert config.model.weights == "emoji_xm"
    for name in ("result.json", "weights.pt"):
        (tmp_path / name).unlink()
    train(small_config(*short), tmp_path, progress=False)
    assert (tmp_path / "weights.pt").exists()


@needs_training
def test_a_folder_of_an_earlier_spelling_without_checkpoints_is_a_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: object, **__: object) -> None:
        raise ValueError("the work begins")

    monkeypatch.setattr("mabm.train.train", begin)
    old = to_toml(load_config("emoji_xm")).replace('"emoji_xm"\n\n[aug', '"emoji-xm"\n\n[aug')
    assert '"emoji-xm"' in old
    (tmp_path / "config.toml").write_text(old)
    for source in ("emoji_xm", tmp_path / "config.toml"):
        assert "the work begins" in run("train", source, "--output", tmp_path)[2]


def test_commands_take_every_spelling(run: Run, tmp_path: Path) -> None:
    root = build_sysu(tmp_path / "SYSU-MM01", images=2)
    expected = run("census", "sysu_mm01", root)
    assert expected[1].startswith("sysu_mm01 in ")
    for spelling in SPELLINGS["sysu_mm01"]:
        assert run("census", spelling, root) == expected
        status, out, _ = run("train", spelling, "--show")
        assert (status, out) == (0, run("train", "sysu_mm01", "--show")[1])
        err = run("extract", "emoji_xm", "--output", tmp_path / "f.npz", "--data", spelling)[2]
        assert "--data must be sysu_mm01:ROOT, with the folder that it is in" in err


def test_extract_takes_every_spelling(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    root = build_sysu(tmp_path / "SYSU-MM01", images=2)
    outputs = []
    for number, spelling in enumerate(EMOJI[:3]):
        file = Path(f"{number}.npy")
        data = f"{SPELLINGS['sysu_mm01'][number]}:{root}"
        words = ("--data", data, "--size", 16, 8, "--output", file)
        assert run("extract", spelling, *words)[0] == 0
        outputs.append(file.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    Path("emoji-xm").mkdir()
    Path("emoji-xm/weights.pt").write_bytes(b"damaged")  # a run, which comes before the name
    words = ("--data", f"sysu:{root}", "--output", "other.npy")
    assert "emoji-xm/weights.pt must be a torch.save file" in run("extract", "emoji-xm", *words)[2]


def test_searches_are_named_in_every_spelling(run: Run) -> None:
    for name in ("indoor-search", "Indoor_Search"):
        status, _, err = run("evaluate", "nothing", "--task", name)
        assert (status, "WEIGHTS must be a finished run" in err) == (1, True)  # its name was taken
    with pytest.raises(SystemExit):
        run("evaluate", "nothing", "--task", "outdoor-search")
