"""Encoding and query expansion against the reference, row by row."""

import numpy as np
import pytest
import torch
from cases import Case, cases
from devices import Device, threads
from golden_files import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from op_samples import OPS

import mabm
from mabm import reference


@given(cases())
def test_rows_are_the_reference_rows(device: Device, case: Case) -> None:
    features, modality = device.inputs(case)
    ranking = mabm.rank_neighbors(features, modality, k1=case.k1, preset=case.preset)
    encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
    lists = reference.rank(case.features, case.modality, case.preset, case.k1)
    sets = reference.k_reciprocal_sets(case.features, lists, case.preset, case.k1)
    expected = reference.encode(case.features, sets)
    np.testing.assert_allclose(encoding.to_scipy().toarray(), expected, rtol=0, atol=1e-7)


@given(cases())
def test_expanded_rows_are_the_reference_rows(device: Device, case: Case) -> None:
    features, modality = device.inputs(case)
    ranking = mabm.rank_neighbors(features, modality, k1=case.k1, preset=case.preset)
    encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
    expanded = mabm.expand_queries(encoding, ranking, k2=case.k2)
    lists = reference.rank(case.features, case.modality, case.preset, case.k1)
    expected = reference.expand_queries(
        case.features,
        encoding.to_scipy().toarray().astype(float),
        lists,
        case.modality,
        case.preset,
        case.k2,
    )
    np.testing.assert_allclose(expanded.to_scipy().toarray(), expected, rtol=0, atol=1e-7)


def test_the_exponential_is_accurate_over_its_whole_range(device: Device) -> None:
    # Row 0 has neighbors at every inner product from 1 down to -11.
    features = np.concatenate([[[1.0]], np.linspace(1, -11, 400)[:, None]]).astype(np.float32)
    indptr = np.concatenate([[0, 400], np.arange(401, 801)]).astype(np.int64)
    indices = np.concatenate([np.arange(1, 401), np.arange(1, 401)]).astype(np.int32)
    sets = mabm.NeighborSets(device.put(indptr), device.put(indices))
    encoding = mabm.encode_neighbors(device.put(features), sets)
    weights = np.exp(2 * (features[1:, 0].astype(float) - 1))
    expected = np.round(weights / weights.sum() * 2**30)
    found = device.get(encoding.weights[: encoding.indptr[1]])
    assert 300 < len(found) < 400  # it ends where the fixed point does
    expected[: len(found)] -= found
    assert np.abs(expected).max() <= 1


def test_a_sample_without_reciprocal_neighbors_is_encoded_by_itself(device: Device) -> None:
    sets = mabm.NeighborSets(
        device.put(torch.tensor([0, 0, 1])), device.put(torch.tensor([0], dtype=torch.int32))
    )
    encoding = mabm.encode_neighbors(device.put(torch.randn(2, 3)), sets)
    assert encoding.to_torch().to_dense().tolist() == [[1, 0], [1, 0]]


def test_a_row_without_neighbors_to_average_stays_as_it_is(device: Device) -> None:
    encoding = mabm.encode_samples(device.put(torch.eye(3)), k1=1, k2=1)
    ranks = device.put(torch.tensor([[1], [-1], [0]]))
    scores = device.put(torch.tensor([[0.0], [-torch.inf], [0.0]], dtype=torch.float64))
    ranking = mabm.Ranking(ranks, scores, (1,), mabm.PRESETS["spcl"], k1=4)
    expanded = mabm.expand_queries(encoding, ranking, k2=3)
    assert expanded.to_torch().to_dense().tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_stages_one_by_one_are_the_whole(device: Device) -> None:
    features, modality = device.inputs(GOLDEN[0])
    ranking = mabm.rank_neighbors(features, modality)
    encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
    encoding = mabm.expand_queries(encoding, ranking)
    whole = mabm.encode_samples(features, modality)
    np.testing.assert_array_equal(device.get(encoding.weights), device.get(whole.weights))
    np.testing.assert_array_equal(
        device.get(mabm.jaccard_distance(encoding)),
        device.get(mabm.modality_jaccard(features, modality)),
    )


@given(cases())
def test_products_that_the_ranking_has_are_those_of_the_features(
    device: Device, case: Case
) -> None:
    features, modality = device.inputs(case)
    options = case.options
    ranking = mabm.rank_neighbors(features, modality, k1=options["k1"], preset=options["preset"])
    encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
    encoding = mabm.expand_queries(encoding, ranking, k2=options["k2"])
    whole = mabm.encode_samples(features, modality, **options)
    for part, expected in zip(whole.tensors(), encoding.tensors(), strict=True):
        assert torch.equal(part, expected)


def test_known_products_are_found_from_either_side_and_missing_ones_computed() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(70, 33, generator=generator) / 5
    sets = torch.rand(70, 70, generator=generator) < 0.3
    sets[::9] = False  # some are empty
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), sets.sum(dim=1).cumsum(0)])
    parts = (features, indptr, torch.nonzero(sets)[:, 1].to(torch.int32))
    rows = torch.arange(70)
    ranks, products = torch.ops.mabm.rank_exactly(
        features, rows, rows.int() * 0, torch.zeros(1, 1, dtype=torch.int32), [7], False
    )
    ranks[torch.rand(70, 7, generator=generator) < 0.3] = -1  # lists with gaps
    ranks[::5] = -1
    expected = torch.ops.mabm.encode_neighbors(*parts, None, None)
    found = torch.ops.mabm.encode_neighbors(*parts, ranks, products)
    for part, wanted in zip(found, expected, strict=True):
        assert torch.equal(part, wanted)


@given(st.integers(1, 60), st.sampled_from((0.01, 0.1, 1.0, 30.0)), st.integers(0, 2**32 - 1))
def test_weights_of_products_are_those_of_the_features(
    device: Device, count: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = device.put(torch.randn(count, 9, generator=generator) * scale)
    sets = torch.rand(count, count, generator=generator) < torch.rand(count, 1, generator=generator)
    sets[:: count // 4 + 2] = False  # some are empty
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), sets.sum(dim=1).cumsum(0)])
    indices = sets.nonzero()[:, 1]
    rows, zeros = torch.arange(count), torch.zeros(1, count, dtype=torch.int32)
    groups = device.put(zeros[0]), device.put(zeros[:, :1])
    ranks, scores = OPS.rank_exactly(features, device.put(rows), *groups, [count], False)
    products = torch.empty_like(scores).scatter_(1, ranks, scores)[device.put(sets)]
    parts = device.put(indptr), device.put(indices.to(torch.int32))
    expected = OPS.encode_neighbors(features, *parts, None, None)
    for part, wanted in zip(OPS.weigh_products(*parts, products, 0), expected, strict=True):
        assert torch.equal(part, wanted)
    # Members and rows by numbers that reach beyond the rows.
    shifted = OPS.weigh_products(parts[0], parts[1] + 2**30, products, 2**30)
    for part, wanted, offset in zip(shifted, expected, (0, 2**30, 0), strict=True):
        assert torch.equal(part, wanted + offset)


def test_weights_of_products_have_the_same_bits_for_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(0, 9, (300,), generator=generator)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    products = torch.randn(int(sizes.sum()), generator=generator, dtype=torch.float64)
    indices = torch.randint(0, 2**31 - 1, products.shape, generator=generator, dtype=torch.int32)
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(OPS.weigh_products(indptr, indices, products, 2**31 - 301))
    for part, wanted in zip(*results, strict=True):
        assert torch.equal(part, wanted)
    last = int((sizes == 0).nonzero()[-1])
    indptr, indices, weights = results[0]
    assert indices[indptr[last] : indptr[last + 1]].tolist() == [2**31 - 301 + last]
    assert weights[indptr[last] : indptr[last + 1]].tolist() == [2**30]


def test_rows_that_do_not_belong_together_are_refused(device: Device) -> None:
    features = device.put(torch.randn(5, 3))
    ranking = mabm.rank_neighbors(features)
    sets = mabm.k_reciprocal_neighbors(ranking)
    with pytest.raises(ValueError, match="features must have 5 rows, one per neighbor set, got 4"):
        mabm.encode_neighbors(features[:4], sets)
    encoding = mabm.encode_neighbors(features, sets)
    with pytest.raises(ValueError, match="encoding must have 4 rows, one per ranked sample, got 5"):
        mabm.expand_queries(encoding, mabm.rank_neighbors(features[:4]))


def test_parts_of_any_memory_layout_are_taken() -> None:
    features = torch.randn(30, 6)
    ranking = mabm.rank_neighbors(features, torch.arange(30) % 2, k1=6)
    neighbors = mabm.k_reciprocal_neighbors(ranking)
    encoding = mabm.encode_neighbors(features, neighbors)
    expected = mabm.expand_queries(encoding, ranking, k2=2)
    columns = (ranking.ranks.T.contiguous().T, ranking.scores.T.contiguous().T)
    turned = mabm.Ranking(*columns, ranking.widths, ranking.preset, ranking.k1, ranking.groups)
    strided = torch.stack([encoding.indptr, encoding.indptr], dim=1)[:, 0]
    again = mabm.Encoding(strided, encoding.indices, encoding.weights)
    found = mabm.expand_queries(again, turned, k2=2)
    for part, wanted in zip(found.tensors(), expected.tensors(), strict=True):
        assert torch.equal(part, wanted)
