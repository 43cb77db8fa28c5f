"""The record of a distance's options: what the public keywords mean, and what is refused."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mabm
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import MAX_K

DRAWS = np.random.default_rng(5)
FEATURES = DRAWS.normal(size=(60, 8)).astype(np.float32)
MODALITY = np.arange(60) % 2


@pytest.mark.parametrize("name", mabm.PRESETS)
def test_every_published_preset_has_options(name: str) -> None:
    found = DistanceOptions.resolve(30, 6, name, "exact", num_groups=2)
    assert found == DistanceOptions(preset=mabm.PRESETS[name])


def test_the_default_preset_goes_by_the_modality() -> None:
    for num_groups, name in ((None, "spcl"), (1, "bmil"), (2, "bmil")):
        found = DistanceOptions.resolve(10, 3, None, "fast", num_groups=num_groups)
        assert found == DistanceOptions(10, 3, mabm.PRESETS[name], "fast")


@given(
    k1=st.integers(-2, MAX_K + 2),
    k2=st.integers(-2, MAX_K + 2),
    preset=st.sampled_from([None, *mabm.PRESETS]),
    num_groups=st.sampled_from([None, 1, 2, 5]),
)
def test_what_is_taken_for_some_groups_is_taken_for_any(
    k1: int, k2: int, preset: str | None, num_groups: int | None
) -> None:
    try:
        found = DistanceOptions.resolve(k1, k2, preset, "exact", num_groups=num_groups)
    except ValueError:
        return
    assert replace(found) == found  # through the checks of the constructor
    assert (found.k1, found.k2) == (k1, k2)
    assert 1 <= found.k2 <= found.k1 <= MAX_K


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k1": 0}, ValueError, r"k1 must be in \[1, 1024\], got 0"),
        ({"k1": 5}, ValueError, r"k2 must be in \[1, 5\], which ends at k1, got 6; preset 'bmil'"),
        ({"k1": 10.0}, TypeError, "k1 must be an integer, got float"),
        ({"k2": 31}, ValueError, r"k2 must be in \[1, 30\], .* got 31"),
        ({"preset": 5}, TypeError, "preset must be a name, a Preset or None, got int"),
        ({"precision": "loose"}, ValueError, "precision must be one of .* got 'loose'"),
        (
            {"preset": mabm.PRESETS["ca_jaccard"], "k1": 20},
            ValueError,
            "preset 'ca_jaccard' has its own k1_intra and k1_inter .* got 20",
        ),
    ],
)
def test_options_are_checked_at_construction(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        DistanceOptions(**options)


def test_re_ranking_holds_the_same_record() -> None:
    options = mabm.RerankOptions(k1=12, k2=4, preset="modal_invariant", precision="fast")
    assert options.distance == DistanceOptions(12, 4, mabm.PRESETS["modal_invariant"], "fast")


@pytest.mark.parametrize("name", mabm.PRESETS)
def test_re_ranking_takes_any_preset(name: str) -> None:
    lists = {"k1": 30, "k2": 6} if name == "ca_jaccard" else {"k1": 8, "k2": 3}
    options = mabm.RerankOptions(**lists, preset=name)
    sides = FEATURES[:20], FEATURES[20:], MODALITY[:20], MODALITY[20:]
    found = mabm.rerank(*sides, **asdict(options))
    expected = mabm.rerank(*sides, **lists, preset=options.distance.preset)
    np.testing.assert_array_equal(found, expected)


def test_re_ranking_leaves_the_lists_of_a_preset_alone() -> None:
    with pytest.raises(ValueError, match=r"preset .ca_jaccard. has its own .* k1 must stay 30"):
        mabm.RerankOptions(preset="ca_jaccard")  # re-ranking has shorter lists by default
