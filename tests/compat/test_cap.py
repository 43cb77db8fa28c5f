"""CAP's name for the classic distance."""

import inspect

import numpy as np
import pytest
import torch
from golden_files import GOLDEN, Golden

from mabm.compat.cap import faiss_compute_jaccard_dist


@pytest.mark.parametrize("golden", [g for g in GOLDEN if g.preset.name == "spcl"], ids=str)
def test_released_distances(golden: Golden) -> None:
    found = faiss_compute_jaccard_dist(
        torch.from_numpy(golden.features), k1=golden.k1, k2=golden.k2
    )
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden.distance, rtol=0, atol=1e-5)


def test_every_argument_is_passed_on() -> None:
    x = torch.randn(60, 8)
    expected = faiss_compute_jaccard_dist(x, 9, 4)
    found = faiss_compute_jaccard_dist(x, 9, 4, False, 0, True)
    np.testing.assert_array_equal(found, expected.astype(np.float16))
    assert found.dtype == np.float16
    with pytest.raises(ValueError, match="search_option"):
        faiss_compute_jaccard_dist(x, search_option=6)


def test_the_signature_is_the_old_one() -> None:
    parameters = inspect.signature(faiss_compute_jaccard_dist).parameters
    assert [(name, p.default) for name, p in parameters.items()][1:] == [
        ("k1", 20),
        ("k2", 6),
        ("print_flag", True),
        ("search_option", 3),
        ("use_float16", False),
    ]
