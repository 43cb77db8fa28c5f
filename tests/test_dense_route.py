"""The dense route that the benchmark compares with gives the library's distances and labels."""

import argparse
import json
from pathlib import Path

import dense_route
import numpy as np
import pytest
import routes
from features import make_features

import mabm


@pytest.mark.parametrize("ranking", dense_route.RANKINGS)
@pytest.mark.parametrize("preset", routes.PRESETS)
@pytest.mark.parametrize("k2", [1, 3])
def test_it_gives_distances_and_labels_of_the_library(ranking: str, preset: str, k2: int) -> None:
    if ranking == "faiss":
        pytest.importorskip("faiss", reason="needs faiss: pip install faiss-cpu")
    features, modality = make_features(400, 64)

    groups = dense_route.group_rows(modality, preset)
    lists = dense_route.RANKINGS[ranking](features, groups, 20)
    distance = dense_route.dense_jaccard(features, lists, 20, k2)

    options = {"k1": 20, "k2": k2, "preset": preset}
    expected = mabm.modality_jaccard(features, modality, **options)
    np.testing.assert_allclose(distance, expected, rtol=0, atol=1e-5)
    labels = mabm.pseudo_labels(features, modality, **options).labels
    assert labels.max() > 0
    np.testing.assert_array_equal(dense_route.cluster(distance), labels)


def run_benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: str, wrong: int = 0) -> None:
    """Runs the benchmark on little, in this process; some labels of the dense route are wrong."""

    def run_here(
        route: str, preset: str, count: int, options: argparse.Namespace
    ) -> tuple[dict[str, object], routes.Ints | None]:
        seconds, result = routes.ROUTES[route](*make_features(count, options.dim), preset)
        if route == "dense":
            result[:wrong] = result.max() + 1
        return {"seconds": seconds, "peak": 10**9}, None if route == "rankings" else result

    monkeypatch.setattr(routes, "run_apart", run_here)
    monkeypatch.setattr(routes, "check_equality", lambda: None)
    few = ["--samples", "300", "--dim", "16", "--rounds", "2"]
    monkeypatch.setattr("sys.argv", ["routes.py", *few, *arguments])
    routes.main()


@pytest.mark.parametrize(("wrong", "said"), [(0, "equal"), (3, "different for 3 samples")])
def test_the_benchmark_says_whether_labels_are_equal(
    wrong: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    saved = tmp_path / "figures.json"
    run_benchmark(monkeypatch, "--json", str(saved), wrong=wrong)
    output = capsys.readouterr().out
    assert output.count(f"labels of the dense route: {said}") == len(routes.PRESETS)
    for found in json.loads(saved.read_text())["300"].values():
        whole, again = found["rounds"]
        parts = ("ranking by torch", "loop over rows", "DBSCAN")
        assert whole["dense route, ranking by torch"] == sum(whole[part] for part in parts)
        assert "DBSCAN" not in again


def test_the_benchmark_can_leave_the_dense_route_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_benchmark(monkeypatch, "--presets", "bmil", "--dense-rounds", "0")
    output = capsys.readouterr().out
    assert "modality-aware (bmil): PseudoLabels(300 samples" in output
    assert "ranking by torch" in output
    assert "dense route" not in output
    assert "spcl" not in output
