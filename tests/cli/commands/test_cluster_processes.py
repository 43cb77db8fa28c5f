"""``mabm cluster`` in several processes: the same files as of one, and errors that are told once.

Two real processes, started once, run one command after another; ``torchrun`` itself starts the last
ones.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import Run

from mabm._core import advice
from mabm.cli import main

ROOT = Path(__file__).parents[3]
RANKS = 2
COUNT = 300
CUTS = (0, 40, 41, 41, 230, COUNT)  # of a file alone, of no row, of most rows
NAMES = ("part1.npy", "part2.npy", "part9.npy", "part10.npy", "part11.npy")

SAME: dict[str, str] = {
    "one file": "x.npy --modality y.npy --output {}.npz",
    "a folder": "f --modality g --output {}.npz",
    "a folder and a file": "f --modality y.npy --output {}.npy",
    "a table": "f --modality y.csv --output {}.csv",
    "words": "f --modality words --output {}.npz",
    "known words": "x.npy --modality known.npy --output {}.npz",
    "no modality": "f --modality none --output {}.npz",
    "other types": "mixed --modality y.npy --output {}.npy",
    "by columns": "columns.npy --modality y.npy --output {}.npy",
    "options": "f --modality g --k1 12 --k2 3 --eps 0.5 --min-samples 3 --output {}.npz",
    "a preset": "f --modality g --preset modal_invariant --precision fast --output {}.npz",
    "centered": "f --modality words --center-modalities --output {}.npz",
    "centered, one row": "single.npy --modality one.npy --center-modalities --output {}.npy",
    "fewer rows than processes": "single.npy --modality none --output {}.npz",
    "lines": "f --modality g --output -",
    "a summary": "f --modality g",
}
"""Commands that one process and several answer alike; {} is the name of a file to write."""

REFUSED: dict[str, tuple[str, int, str]] = {
    "sweep": ("f --modality g --sweep 0.3 0.5", 2, "--sweep cannot be combined with torchrun"),
    "limit": ("f --modality g --max-memory 1GB", 2, "--max-memory cannot be combined with"),
    "stdin": ("- --modality g", 2, "- (standard input) cannot be combined with torchrun"),
    "archive": ("x.npz", 2, "must be a .npy file or a folder of them under torchrun, got x.npz"),
    "device": ("f --modality g --device cuda:1", 2, "--device must be auto, cpu or cuda under"),
    "no modality given": ("f", 2, "give --modality FILE, or --modality none"),
    "key": ("f --modality g --key x", 1, "--key must be omitted for f"),
    "missing": ("missing.npy --modality g", 1, "No such file or directory: missing.npy"),
    "missing folder": ("missing --modality g", 1, "No such file or directory: missing"),
    "k1": (
        "f --modality g --k1 1 --k2 1",
        1,
        "k1 must be in [2, 1024], at least one for each of the 2",
    ),
    "eps": ("f --modality g --eps 2", 1, "eps must be in [0, 1), got 2.0"),
    "length": ("f --modality short.npy", 1, "short.npy must have 300 values, one per row"),
    "not finite": ("nan --modality none", 1, f"{Path('nan/b.npy')} must be finite in float32, got"),
    "output": ("f --modality g --output no/o.npy", 1, "--output must be in an existing folder"),
    "output among inputs": ("f --modality g --output f/o.npy", 1, "must not be in a folder of in"),
}
"""Commands that several processes refuse: status, and words of the one message."""


class Ended(NamedTuple):
    """What a process has of a command."""

    status: int
    out: str
    err: str


def write_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    person, modality = np.arange(COUNT) % 15, rng.integers(0, 2, COUNT)
    x = rng.normal(size=(15, 24))[person] + 0.55 * rng.normal(size=(COUNT, 24))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    words = np.array(["night", "day"])[modality]
    words[CUTS[3] :] = "dusk"
    words[-60:] = "dawn"  # a process that saw its rows alone would number them otherwise
    for name in ("f", "g", "words", "mixed", "nan"):
        (folder / name).mkdir()
    for name, begin, end in zip(NAMES, CUTS[:-1], CUTS[1:], strict=True):
        np.save(folder / "f" / name, x[begin:end])
        np.save(folder / "g" / name, modality[begin:end].astype(np.int16 if begin else np.int64))
        np.save(folder / "words" / name, words[begin:end])
    (folder / "f" / ".hidden").touch()
    np.save(folder / "mixed" / "a.npy", x[:200].astype(np.float16))
    np.save(folder / "mixed" / "b.npy", x[200:].astype(np.float64))
    np.save(folder / "nan" / "a.npy", x[:200])
    np.save(folder / "nan" / "b.npy", np.where(np.arange(100)[:, None] == 70, np.nan, x[200:]))
    np.save(folder / "x.npy", x)
    np.save(folder / "columns.npy", np.asfortranarray(x))
    np.save(folder / "single.npy", x[:1])
    np.save(folder / "one.npy", modality[:1])
    np.save(folder / "y.npy", modality)
    np.save(folder / "short.npy", modality[:-1])
    np.save(folder / "known.npy", np.array(["visible", "infrared"])[modality])
    np.savez(folder / "x.npz", features=x, modality=modality)
    (folder / "y.csv").write_text("\n".join(["modality", *map(str, modality)]))


def commands() -> list[list[str]]:
    """All commands, each with the name of its own file to write."""
    found = [line.format(f"shared{number}").split() for number, line in enumerate(SAME.values())]
    return found + [line.split() for line, _, _ in REFUSED.values()]


def one_rank(rank: int, ports: list[int], folder: str) -> None:
    """One of the processes, as ``torchrun`` would start it, for each command in turn."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= {"WORLD_SIZE": str(RANKS), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    found = []
    for words, port in zip(commands(), ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        advice.forget()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["cluster", *words])
        assert not dist.is_initialized()
        found.append((status, out.getvalue(), err.getvalue()))
    torch.save(found, f"{rank}.pt")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of features and modalities, and what two processes wrote there."""
    folder = tmp_path_factory.mktemp("processes")
    write_files(folder)
    stores = [
        dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in commands()
    ]
    mp.spawn(one_rank, args=([store.port for store in stores], str(folder)), nprocs=RANKS)
    return folder


@pytest.fixture(scope="module")
def ended(place: Path) -> list[list[Ended]]:
    """What each process has of each command."""
    return [[Ended(*each) for each in torch.load(place / f"{rank}.pt")] for rank in range(RANKS)]


def without_seconds(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.endswith(" s")]


@pytest.mark.parametrize("name", SAME)
def test_several_processes_write_and_say_what_one_does(
    name: str, place: Path, ended: list[list[Ended]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    number = list(SAME).index(name)
    words = SAME[name].format(f"alone{number}").split()
    advice.forget()
    status, out, err = run("cluster", *words)
    first, second = (each[number] for each in ended)
    assert (status, first.status, second) == (0, 0, Ended(0, "", ""))
    shared = first._replace(
        out=first.out.replace(f"shared{number}", f"alone{number}").replace(" in 2 processes", ""),
        err=first.err.replace(" in 2 processes", ""),
    )
    assert " in 2 processes" in first.out + first.err
    assert without_seconds(shared.out) == without_seconds(out)
    assert without_seconds(shared.err) == without_seconds(err)
    if words[-2] == "--output" and words[-1] != "-":
        written = Path(words[-1].replace("alone", "shared"))
        if written.suffix == ".npz":
            with np.load(words[-1]) as expected, np.load(written) as found:
                assert set(expected) == set(found)
                for array in expected:
                    assert expected[array].dtype == found[array].dtype
                    np.testing.assert_array_equal(expected[array], found[array])
                if name != "fewer rows than processes":
                    assert expected["labels"].max() > 2
        else:
            assert written.read_bytes() == Path(words[-1]).read_bytes()


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_is_told_once_and_ends_all(name: str, ended: list[list[Ended]]) -> None:
    number = len(SAME) + list(REFUSED).index(name)
    _, status, words = REFUSED[name]
    found = [each[number] for each in ended]
    assert [each.status for each in found] == [status] * RANKS
    errors = [each.err for each in found if each.err]
    assert len(errors) == 1
    assert errors[0].startswith("mabm cluster: ")
    assert words in errors[0]
    assert errors[0].count("\n") == 1


def test_an_error_of_one_process_names_the_row_in_the_file(ended: list[list[Ended]]) -> None:
    number = len(SAME) + list(REFUSED).index("not finite")
    assert ended[0][number].err == ""  # whose rows are finite
    assert ended[1][number].err.endswith("got NaN or Inf in row 70\n")


def torchrun(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    options = ("--standalone", "--nproc-per-node", str(RANKS), "-m", "mabm", "cluster")
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_torchrun_starts_them(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = torchrun(place, "f", "--modality", "g", "--output", "by_torchrun.npy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved by_torchrun.npy") == 1
    monkeypatch.chdir(place)
    assert run("cluster", "f", "--modality", "g", "--output", "by_one.npy")[0] == 0
    assert Path("by_torchrun.npy").read_bytes() == Path("by_one.npy").read_bytes()


@pytest.mark.slow
def test_torchrun_shows_the_error_of_one_process(place: Path) -> None:
    done = torchrun(place, "nan", "--modality", "none")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("mabm cluster: ")]
    assert told == [
        f"mabm cluster: {Path('nan/b.npy')} must be finite in float32, got NaN or Inf in row 70"
    ]
