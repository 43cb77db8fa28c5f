from pathlib import Path

import pytest
from commands import write_inputs


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with features and modality in files of every kind."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    return tmp_path
