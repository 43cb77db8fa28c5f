"""A team of threads with the GPU's ops, on the emulated grid: the bits of one process on a CPU."""

import pytest
import torch
from cases import KINDS, Case, cases, make_features
from grid_ops import on_the_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from team_stages import check_same, splits

from mabm import PRESETS
from mabm._core.arrays import check_features
from mabm.distance import candidates
from mabm.distance.jaccard import resolve_options
from mabm.distributed import ranking as shard_ranking


@settings(max_examples=12)
@given(cases(max_size=40), st.data())
def test_any_split(case: Case, data: st.DataObject) -> None:
    x, groups = check_features(case.features), torch.from_numpy(case.modality)
    options = resolve_options(groups, case.k1, case.k2, case.preset, "exact")
    eps = data.draw(st.sampled_from((0.0, 0.3, 0.6)))
    counts = data.draw(splits(len(x), max_size=4))
    check_same(x, groups, options, counts, eps, on_the_grid())


@pytest.mark.parametrize("counts", [[70, 80], [0, 50, 1, 99]], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str, counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_TILE", 64)
    monkeypatch.setattr(shard_ranking, "_PIECES", 4)
    groups = torch.arange(150) % 3
    kind = KINDS[list(PRESETS).index(preset) % len(KINDS)]
    x = check_features(make_features(kind, groups.numpy(), seed=4))
    k1 = 30 if preset == "ca_jaccard" else 9
    options = resolve_options(groups, k1, 6, PRESETS[preset], "exact")
    check_same(x, groups, options, counts, team_runs_in=on_the_grid())


def test_one_group() -> None:
    x = torch.randn(90, 20, generator=torch.Generator().manual_seed(0))
    options = resolve_options(None, 8, 3, None, "exact")
    check_same(x, None, options, [40, 50], team_runs_in=on_the_grid())
