"""Inputs that the tests draw: features of many kinds, groups of unequal sizes, parameters."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from mabm import PRESETS, Preset

KINDS = (
    "gaussian",  # nothing is near anything
    "clustered",  # identities with a gap between groups
    "flip_average",  # means of two unit vectors, norms a little below one
    "duplicates",  # few distinct rows
    "ties",  # small integers: many exactly equal scores
    "collapsed",  # nearly one point: no float32 product can rank it
    "norms",  # lengths over six orders of magnitude
)


@dataclass(frozen=True)
class Case:
    """One input of the pipeline."""

    features: NDArray[np.float32]
    modality: NDArray[np.int64]
    k1: int
    k2: int
    preset: Preset

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments shared by the library and its reference."""
        return {"k1": self.k1, "k2": self.k2, "preset": self.preset}


def make_features(kind: str, modality: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    count, dim = len(modality), int(rng.integers(1, 40))
    noise = rng.normal(size=(count, dim))
    if kind == "clustered":
        identity = rng.integers(0, max(count // 12, 1), size=count)
        centers = rng.normal(size=(count, dim))
        gap = rng.normal(size=(int(modality.max(initial=0)) + 1, dim))
        noise = centers[identity] + 0.6 * gap[modality] + 0.4 * noise
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    elif kind == "flip_average":
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        mirrored = noise + 0.3 * rng.normal(size=noise.shape)
        noise = 0.5 * (noise + mirrored / np.linalg.norm(mirrored, axis=1, keepdims=True))
    elif kind == "duplicates":
        noise = noise[rng.integers(0, max(count // 6, 1), size=count)]
    elif kind == "ties":
        noise = rng.integers(-2, 3, size=(count, dim)).astype(float)
    elif kind == "collapsed":
        noise = 1 + 1e-6 * noise
    elif kind == "norms":
        noise *= 10.0 ** rng.uniform(-3, 3, size=(count, 1))
    return noise.astype(np.float32)


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS, max_size: int = 120) -> Case:
    """Draws features of one kind in 1 to 4 groups of very unequal sizes, in any row order."""
    seed = draw(st.integers(0, 2**32 - 1))
    sizes = draw(st.lists(st.integers(1, max_size), min_size=1, max_size=4))
    modality = np.repeat(np.arange(len(sizes)), sizes)[: 2 * max_size]
    # Group numbers need be neither contiguous nor in the order of the rows.
    names = np.array([7, 0, 1000, 3])
    modality = np.random.default_rng(seed).permutation(modality)
    features = make_features(draw(st.sampled_from(kinds)), modality, seed)
    preset = PRESETS[draw(st.sampled_from(tuple(PRESETS)))]
    if preset.name == "ca_jaccard":
        lengths = [draw(st.integers(1, 12)) for _ in range(4)]
        fields = ("k1_intra", "k1_inter", "k2_intra", "k2_inter")
        preset = replace(preset, **dict(zip(fields, lengths, strict=True)))
        return Case(features, names[modality], 30, 6, preset)
    if preset.half_list is not None and draw(st.booleans()):
        preset = replace(preset, half_list=draw(st.sampled_from(("merged", "balanced"))))
    if preset.name == "bmil" and draw(st.booleans()):
        preset = replace(preset, query_expansion="merged")
    num_groups = len(np.unique(modality))
    k1 = draw(st.one_of(st.integers(num_groups, 40), st.sampled_from((num_groups, 1024))))
    k2 = draw(st.one_of(st.integers(1, min(k1, 12)), st.sampled_from((1, k1))))
    return Case(features, names[modality], k1, k2, preset)


GENERAL_POSITION = ("gaussian", "clustered", "flip_average", "norms")
"""Kinds without exact ties, where the order of the rows decides nothing."""
