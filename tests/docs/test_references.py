"""References in docstrings: short names are found, wrong paths stay broken."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx")

EXTENSION = Path(__file__).parents[2] / "docs" / "_extensions" / "docstrings.py"


@pytest.fixture(scope="module")
def extension() -> Any:
    spec = importlib.util.spec_from_file_location("docstrings", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("target", "public", "is_found"),
    [
        ("center_modalities", "mabm.center_modalities", True),
        ("mabm.distance.centering.center_modalities", "mabm.center_modalities", True),
        ("mabm.no.such.module.center_modalities", "mabm.center_modalities", False),
        ("mabm.report.center_modalities", "mabm.center_modalities", False),
        ("modalities", "mabm.center_modalities", False),
        ("PseudoLabels.num_clusters", "mabm.PseudoLabels.num_clusters", True),
        ("NoSuch.num_clusters", "mabm.PseudoLabels.num_clusters", False),
        (
            "mabm.cluster.pseudo_labels.PseudoLabels.labels",  # a field: no attribute of the class
            "mabm.PseudoLabels.labels",
            True,
        ),
        ("mabm.cluster.pseudo_labels.labels", "mabm.PseudoLabels.labels", False),
    ],
)
def test_a_path_counts_only_where_it_leads(
    extension: Any, target: str, public: str, is_found: bool
) -> None:
    assert extension.is_name_of(target, public) is is_found
