"""Numbers of runs as CSV: those of the history, unchanged."""

import csv
import io
from typing import Any

from mabm.report.numbers import numbers_csv


def test_every_number_is_read_back_unchanged() -> None:
    tree: dict[str, Any] = {"task": "there", "mean": {"rank1": 1 / 3, "mAP": None}, "trials": [0]}
    one = [
        {"stage": 0, "epoch": 0, "evaluation": {"there": tree}},
        {
            "stage": 1,
            "epoch": 1,
            "losses": {'a, "b"': 1e-17},
            "warnings": ["x"],
            "skipped": 3,
            "evaluation": {"there": {"mean": {"mAP": 0.25}}},
        },
    ]
    two = [{"stage": 1, "epoch": 1, "learning_rate": 0.00035}]
    rows = list(csv.DictReader(io.StringIO(numbers_csv({"one": one, "two": two}), newline="")))
    assert list(rows[0]) == [
        *("run", "stage", "epoch", "evaluation.there.mean.rank1", 'losses.a, "b"', "skipped"),
        *("evaluation.there.mean.mAP", "learning_rate"),
    ]
    assert [(row["run"], row["stage"], row["epoch"]) for row in rows] == [
        *(("one", "0", "0"), ("one", "1", "1"), ("two", "1", "1")),
    ]
    assert float(rows[0]["evaluation.there.mean.rank1"]) == 1 / 3
    assert rows[0]["evaluation.there.mean.mAP"] == rows[0]["skipped"] == ""
    assert float(rows[1]['losses.a, "b"']) == 1e-17
    assert rows[1]["skipped"] == "3"
    assert float(rows[2]["learning_rate"]) == 0.00035
    assert float(rows[1]["evaluation.there.mean.mAP"]) == 0.25


def test_no_epoch_leaves_the_head() -> None:
    assert numbers_csv({"one": []}) == numbers_csv({}) == "run,stage,epoch\n"
