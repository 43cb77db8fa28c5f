"""The commands on README and the guide's pages are run, as they stand there.

On the pages of :data:`WHOLE` each line of a code block, and each command within the text and
tables, must be one that can be run here; on the others, commands of ``mabm`` in code blocks are.

What is changed so that all of them together take a minute: SYSU-MM01, RegDB, LLCM and the table of
images are miniatures, the open data is cut to a few identities, and ``mabm train`` is given small
images, batches and stages by further ``--set`` options. ``sysu`` runs once with AGW's ResNet-50,
from a file named and laid out as torchvision's; the other runs take the small encoder. Released
checkpoints are stand-ins, tested on small images. ``torchrun`` is what stands behind that name,
``python -m torch.distributed.run``, on a free port; it starts two processes. Installations
(``pip``) are left out.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pages
import pytest
import torch
from commands import COMMANDS
from extras import needs_training
from miniature_trees import build_image_list, build_llcm, build_regdb, build_sysu
from pages import ROOT, blocks
from prepared_trees import prepare_sysu
from released_checkpoint import released_network, save_released

from mabm import demo, train
from mabm.cli import main
from mabm.data import emoji_xm
from mabm.models import build_encoder

GUIDE = ROOT / "docs" / "guide"
TRAINING, GPUS, LINE = (
    GUIDE / f"{name}.md" for name in ("training", "several_gpus", "command_line")
)
WHOLE = (TRAINING, GPUS, LINE)
FREE = [
    page
    for page in (*pages.pages("docs/guide"), ROOT / "docs" / "install.md", ROOT / "docs" / "faq.md")
    if page not in WHOLE
]

FOLDERS = {"sysu_mm01": "DATA/SYSU-MM01", "regdb": "DATA/RegDB", "llcm": "DATA/LLCM"}
PREPARED = "PREPARED"  # SYSU-MM01 as other code bases copy it
SIZE = (32, 16)
SHORT = [
    "data.workers=0",
    "clustering.k1=12",
    "clustering.k2=3",
    "batch.identities=2",
    "batch.instances=4",
    *(f"stage{stage}.{key}" for stage in (1, 2) for key in ("epochs=1", "iterations=2")),
]
SMALL_IMAGES = [f"data.height={SIZE[0]}", f"data.width={SIZE[1]}"]
SMALL_DRAWINGS = ["data.height=24", "data.width=24", "data.identities=none", "data.held_out=0"]
SMALL_ENCODER = ["model.name=small", "model.weights=emoji_xm", "run.report=false"]

# A command of mabm alone on its line, not what it prints.
RUNS = re.compile(rf"(mabm ({'|'.join(COMMANDS)})|torchrun .*-m mabm )[^|>&;]*$")

# Something that a command's output must say.
SAYS = {
    "demo": "saved demo_output/before_after.png",
    "cluster": "clusters",
    "estimate": "in all",
    "assign": "new samples in",
    "train": "mAP",
    "report": "saved ",
    "evaluate": "mAP",
    "extract": "features",
    "census": "published",
    "info": "torch",
    "completion": "complete -o",
}


def commands_of(page: Path) -> list[list[str]]:
    """A page's commands, word by word.

    An option that a row of a table names beside a command is tried in place of its output.
    """
    lines = [
        line
        for block in blocks(page)
        if block.language in ("", "bash", "sh")
        for line in block.text.splitlines()
    ]
    if page not in WHOLE:
        return [shlex.split(line, comments=True) for line in lines if RUNS.match(line)]
    found = [words for line in lines if (words := shlex.split(line, comments=True))]
    text = pages.without_code(page.read_text(encoding="utf-8"))
    for paragraph in re.split(r"\n\n|(?<=\|)\n", text):
        spans = [shlex.split(span) for span in re.findall(r"`([^`]+)`", paragraph)]
        programs = [words for words in spans if is_command(words)]
        found += programs
        if paragraph.startswith("|"):
            options = [words for words in spans if words[0].startswith("--")]
            found += [without_output(programs[0]) + words for words in options if programs]
    return [words for words in found if words[0] != "pip"]


def without_output(words: list[str]) -> list[str]:
    if "--output" not in words:
        return words
    place = words.index("--output")
    return words[:place] + words[place + 2 :]


def is_command(words: list[str]) -> bool:
    """Whether it is more than the name of a program."""
    programs = ("mabm", "torchrun", "python", "make")
    return len(words) > 1 and words[0] in programs and words != ["python", "-m", "mabm"]


def arguments_of(words: list[str]) -> list[str]:
    """What ``mabm`` is given: without the program's name, small, and with the roots there are."""
    known = words[0] == "mabm" or (words[0] == "torchrun" and "mabm" in words)
    assert known, f"cannot run {shlex.join(words)}"
    words = words[words.index("mabm") + 1 :]
    data = next((name for name in FOLDERS if name in " ".join(words)), "")
    words = [re.sub(r"(?<!\w)ROOT\b", FOLDERS.get(data, "ROOT"), word) for word in words]
    if words[0] == "evaluate" and "--model" in words:  # else in the size of the configuration
        return [*words, "--size", *map(str, SIZE)]
    if words[0] != "train" or "--show" in words:
        return words
    is_open = words[1].startswith("emoji_xm")
    overrides = [*SHORT, *(SMALL_DRAWINGS if is_open else SMALL_IMAGES)]
    if "runs/sysu" not in words and not is_open:
        overrides += SMALL_ENCODER
    return [*words, *(word for override in overrides for word in ("--set", override))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with all that the commands take as given."""
    folder = tmp_path_factory.mktemp("workplace")
    build_sysu(folder / FOLDERS["sysu_mm01"], train=4, val=2, test=3, images=3, size=SIZE)
    build_regdb(folder / FOLDERS["regdb"], identities=12, images=8, size=SIZE)
    prepare_sysu(folder / FOLDERS["sysu_mm01"], folder / PREPARED)
    build_llcm(folder / FOLDERS["llcm"], train=6, test=3, images=3, size=SIZE)
    table = build_image_list(folder / "own", size=SIZE)
    lines = table.read_text(encoding="utf-8").splitlines()
    (folder / "people.csv").write_text(
        "\n".join([lines[0], *(f"own/{each}" for each in lines[1:])])
    )
    encoder = build_encoder("agw-resnet50", seed=1)
    state = {
        encoder.pretrained_name(name): tensor  # of both stems, the last one stays
        for name, tensor in encoder.state_dict().items()
        if not name.startswith(encoder.top)
    }
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048)}, folder / "resnet50.pth")
    network = released_network()
    for name in ("adca_sysu.pth.tar", "adca_regdb_1.pth.tar"):
        save_released(network, folder / name)
    rng = np.random.default_rng(0)
    person, modality = np.arange(400) % 20, rng.integers(0, 2, 400)
    features = rng.normal(size=(20, 32))[person] + 0.3 * rng.normal(size=(400, 32))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.save(folder / "features.npy", features.astype(np.float32))
    np.save(folder / "modality.npy", modality)
    for name, column in (("shards", features.astype(np.float32)), ("shard_modalities", modality)):
        (folder / name).mkdir()
        for number, part in enumerate(np.split(column, [10, 250])):
            np.save(folder / name / f"{number}.npy", part)
    np.save(folder / "new.npy", features[:30].astype(np.float32))
    np.save(folder / "new_modality.npy", modality[:30])
    splits = emoji_xm.identity_splits()
    few = replace(splits, unlabeled=splits.unlabeled[:14], test=splits.test[:4])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (emoji_xm, demo.features):
            patch.setattr(module, "identity_splits", lambda: few)
        yield folder


def run_by_torchrun(words: list[str]) -> tuple[int, str]:
    """``torchrun ... -m mabm ...`` in processes of its own: status and standard output."""
    options = words[1 : words.index("mabm") + 1]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*start, *options, *arguments_of(words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout


def test_commands_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration is trained, every command is in the table, and all else is refused."""
    found = {page: [shlex.join(words) for words in commands_of(page)] for page in WHOLE}
    for config in train.CONFIGS:
        assert any(line.startswith(f"mabm train {config} --") for line in found[TRAINING])
    named = {line.split()[1] for line in found[LINE] if line.startswith("mabm ")}
    assert named == {*COMMANDS, "COMMAND"}
    for page in (GPUS, LINE):
        assert any(line.startswith("torchrun ") for line in found[page])
    assert any(commands_of(page) for page in FREE)
    page = tmp_path / "page.md"
    page.write_text(
        "First:\n\n```\nmake dance  # now\n```\n\n```\n$ it's\nmabm info\nmabm info > x\n```\n"
    )
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert commands_of(page) == [["mabm", "info"]]
    with pytest.raises(AssertionError, match="cannot run make dance"):
        arguments_of(["make", "dance"])


def test_targets_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    lines = [
        line
        for page in pages.pages("docs")
        for block in blocks(page)
        for line in block.text.splitlines()
    ]
    named = {match[1] for line in lines if (match := re.match(r"(?:\$ )?make ([a-z][\w-]*)", line))}
    assert named
    assert sorted(named - targets) == []


@needs_training
@pytest.mark.slow
def test_every_command_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [shlex.join(words) for page in (*WHOLE, *FREE) for words in commands_of(page)]
    for line in dict.fromkeys(found):  # each of them once
        words = shlex.split(line)
        if "COMMAND" in words:
            for name in COMMANDS:
                with pytest.raises(SystemExit) as left:
                    main([name if word == "COMMAND" else word for word in words[1:]])
                assert left.value.code == 0, line
                assert capsys.readouterr().out.startswith(f"usage: mabm {name}"), line
            continue
        if words[0] == "torchrun":
            status, out = run_by_torchrun(words)
            error = ""
        else:
            status = main(arguments_of(words))
            out, error = capsys.readouterr()
        command = arguments_of(words)[0]
        # A miniature is not what was published, which census says by its status.
        assert status == (1 if command == "census" else 0), f"{line}\n{error}"
        assert ("[clustering]" if "--show" in words else SAYS[command]) in out, line
        for option, file in itertools.pairwise(words):
            if option in ("--output", "--json") and "--show" not in words:
                assert Path(file).exists(), f"{line}: {file}"
    history = (workplace / "runs" / "sysu-2" / "history.jsonl").read_text().splitlines()
    assert len(history) == 3  # the start and two epochs, written once
