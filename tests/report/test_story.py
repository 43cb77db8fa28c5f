"""The story of a run: scores before training and after each stage, and what each stage changed."""

from typing import Any

from mabm.report.story import DataFacts, tell_story
from mabm.report.tables import NONE


def entry(stage: int, epoch: int, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "epoch": epoch, "seconds": 60.0, **more}


def found(rank1: float, mean_precision: float) -> dict[str, Any]:
    return {"there": {"mean": {"rank1": rank1, "mAP": mean_precision}}}


def diagnosed(noise: int, ari: float | None, spanning: float) -> dict[str, Any]:
    facts = {"num_samples": 100, "num_noise": noise, "ari": ari, "share_spanning": spanning}
    return {"visible": {"num_samples": 60}, "infrared": {"num_samples": 40}, "all": facts}


HISTORY = [
    entry(0, 0, evaluation=found(0.5, 0.25), within_modality={"visible": {"rank1": 0.75}}),
    entry(1, 1, evaluation=found(0.9, 0.9), clusters={"visible": 9}, losses={"visible": 2.0}),
    entry(1, 2, evaluation=found(0.375, 0.25), diagnostics=diagnosed(50, 0.25, 0.0)),
    entry(2, 1, clusters={"visible": 8, "global": 5}, diagnostics=diagnosed(40, 0.5, 0.5)),
    entry(2, 2, clusters={"visible": 8, "global": 7}, diagnostics=diagnosed(20, 0.75, 0.875)),
    entry(2, 3, evaluation=found(0.625, 0.5), losses={"visible": 1.5}),
]
HISTORY[2]["clusters"] = {"visible": 8}
MINUS = "\N{MINUS SIGN}"


def test_milestones_are_the_last_evaluations_of_each_stage() -> None:
    story = tell_story(HISTORY)
    assert story.milestones is not None
    assert story.milestones.heads == ["before training", "stage 1, epoch 2", "stage 2, epoch 3"]
    assert story.milestones.searches == [
        (
            "there",
            [
                ("R1", [("50.0", ""), ("37.5", f"{MINUS}12.5"), ("62.5", "+25.0")], "+12.5"),
                ("mAP", [("25.0", ""), ("25.0", "+0.0"), ("50.0", "+25.0")], "+25.0"),
            ],
        ),
        ("within visible", [("R1", [("75.0", ""), (NONE, ""), (NONE, "")], NONE)]),
    ]
    assert story.outcome == (
        "Mean average precision (mAP): there 25.0 % before training, 25.0 % after stage 1, "
        "50.0 % after stage 2, epoch 3."
    )
    assert story.time == "5 epochs in 6 min 0 s, evaluation included."


def test_stages_go_from_their_first_epoch_to_their_last() -> None:
    table = tell_story(HISTORY).stages
    assert table is not None
    assert table.heads == ["stage 1", "stage 2"]
    assert dict(table.rows) == {
        "epochs": ["2", "3"],
        "time": ["2 min 0 s", "3 min 0 s"],
        "loss, visible": ["2.00", "1.50"],
        "clusters, visible": ["9 → 8", "8"],
        "clusters, global": [NONE, "5 → 7"],
        "images in no cluster, %": ["50.0", "40.0 → 20.0"],
        "ARI, %": ["25.0", "50.0 → 75.0"],
        # Stage 1 looks for no clusters across modalities: 0 would not be a finding.
        "clusters spanning both modalities, %": [NONE, "50.0 → 87.5"],
    }


def test_the_data_in_one_sentence() -> None:
    images = {"visible": 1200, "infrared": 700}
    assert tell_story([], DataFacts(images, 60, 655, 30)).data == (
        "Trained without labels on 1,200 visible and 700 infrared images of 60 identities (used "
        "only for the diagnostics on this page). Tested on 655 images of 30 other identities."
    )
    unknown = tell_story([], DataFacts(images)).data
    assert unknown.endswith("700 infrared images. There are no test images.")
    assert tell_story(HISTORY).data == "Each epoch clusters 60 visible and 40 infrared images."


def test_a_run_that_has_just_begun() -> None:
    story = tell_story([])
    assert (story.data, story.outcome, story.time) == ("", "", "")
    assert story.milestones is story.stages is None
    begun = tell_story(HISTORY[:1])
    assert begun.milestones is not None
    assert not begun.milestones.has_change
    assert begun.outcome == begun.time == ""
    assert begun.stages is None
    assert not begun.compares_identities
    assert tell_story(HISTORY).compares_identities
