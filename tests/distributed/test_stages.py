"""Every stage on a team of threads, against the stages of one process: the same bits."""

import numpy as np
import pytest
import torch
from cases import Case, cases, make_features
from golden_files import GOLDEN, Golden
from hypothesis import given
from hypothesis import strategies as st
from team_stages import check_same, splits

from mabm._core.arrays import check_features
from mabm.distance.jaccard import resolve_options
from mabm.distributed import encoding, graph, neighbor_lists


@given(cases(max_size=60), st.data())
def test_any_split_gives_the_bits_of_one_process(case: Case, data: st.DataObject) -> None:
    x, groups = check_features(case.features), torch.from_numpy(case.modality)
    options = resolve_options(groups, case.k1, case.k2, case.preset, "exact")
    eps = data.draw(st.sampled_from((0.0, 0.3, 0.6)))
    check_same(x, groups, options, data.draw(splits(len(x))), eps)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_golden_inputs(golden: Golden) -> None:
    x, groups = check_features(golden.features), torch.from_numpy(golden.modality)
    options = resolve_options(groups, golden.k1, golden.k2, golden.preset, "exact")
    third = len(x) // 3
    check_same(x, groups, options, [third, 0, 2 * third, len(x) - 3 * third])


@pytest.mark.parametrize("kind", ["clustered", "duplicates", "ties"])
def test_results_do_not_depend_on_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_PAIRS_AT_ONCE", 5)
    monkeypatch.setattr(graph, "_PART_ROWS", 7)
    monkeypatch.setattr(neighbor_lists, "_MERGE_BYTES", 1 << 12)
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 2, size=90)
    x = check_features(make_features(kind, groups, 3))
    options = resolve_options(torch.from_numpy(groups), 10, 3, None, "exact")
    for counts in ([50, 40], [31, 0, 30, 29], [90]):
        check_same(x, torch.from_numpy(groups), options, counts)


@given(cases(max_size=40), st.data())
def test_without_groups(case: Case, data: st.DataObject) -> None:
    x = check_features(case.features)
    options = resolve_options(None, case.k1, min(case.k2, case.k1), "spcl", "exact")
    check_same(x, None, options, data.draw(splits(len(x))))
