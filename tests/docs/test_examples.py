"""The examples of the documentation run, and print what their pages say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GAP = EXAMPLES / "clusters_across_a_gap.py"
SHARED = EXAMPLES / "several_processes.py"  # which reads files: test_several_processes.py


def run_example(script: Path, folder: Path, *arguments: str) -> str:
    """What an example prints, run in an empty folder."""
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "agg"},
        check=True,
        text=True,
        capture_output=True,
    ).stdout


@pytest.mark.slow
@pytest.mark.needs("matplotlib", "tqdm")
@pytest.mark.parametrize(
    "script", sorted({*EXAMPLES.glob("*.py")} - {GAP, SHARED}), ids=lambda p: p.stem
)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    assert run_example(script, tmp_path)


@pytest.mark.needs("matplotlib")
def test_only_modality_aware_clusters_span_a_gap(tmp_path: Path) -> None:
    output = run_example(GAP, tmp_path, "gap.png")

    first = re.findall(r"^(\S+) +PseudoLabels\(1200 .*?(\d+) spanning", output, re.M)[:2]
    assert first == [("classic", "0"), ("modality-aware", "60")]
    assert output.count(" 0 spanning") > 1  # so it is at every eps

    rows = re.findall(r"^(\S+) +((?: *[\d.]+){10})$", output, re.M)
    table = {name: [float(value) for value in values.split()] for name, values in rows}
    by_gap = {name: dict(zip(table["gap"], table[name], strict=True)) for name in table}
    assert by_gap["classic"][0] == by_gap["modality-aware"][0] == 60
    assert by_gap["classic"][1] == 0
    assert by_gap["modality-aware"][1] == 60

    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
