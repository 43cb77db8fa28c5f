"""Every stage on a team of threads, against the stages of one process: the same bits."""

import pytest
import torch
from cases import Case, cases
from golden_files import GOLDEN, Golden
from hypothesis import given
from hypothesis import strategies as st
from team_stages import check_same, splits

from mabm._core.arrays import check_features
from mabm.distance.jaccard import resolve_options


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
