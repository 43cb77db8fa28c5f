"""Which settings a run may go on with."""

import dataclasses

import pytest

from mabm.train.config import AugmentationConfig, BatchConfig, ClusteringConfig, Config, DataConfig
from mabm.train.config_files import to_tree
from mabm.train.records.resuming import check_same

BEGUN_EARLIER = to_tree(Config())
BEGUN_EARLIER["clustering"] = {
    **{key: value for key, value in BEGUN_EARLIER["clustering"].items() if key != "preset"},
    "half_list": "merged",
}
"""What a run kept before any preset could be chosen: the half list written out."""


@pytest.mark.parametrize("half_list", [None, "merged"])
def test_the_same_half_list_may_be_named_or_left_to_the_preset(half_list: str | None) -> None:
    now = to_tree(Config(clustering=ClusteringConfig(half_list=half_list)))
    check_same(BEGUN_EARLIER, now)
    check_same(now, to_tree(Config()))


@pytest.mark.parametrize("changed", [{"preset": "spcl"}, {"half_list": "balanced"}])
def test_another_distance_is_refused(changed: dict[str, str]) -> None:
    now = to_tree(Config())
    now["clustering"].update(changed)
    (key,) = changed
    with pytest.raises(ValueError, match=rf"clustering\.{key} must be '\w+' as in the run"):
        check_same(BEGUN_EARLIER, now)


def test_settings_that_earlier_runs_did_not_have_are_what_these_did() -> None:
    earlier = to_tree(Config())
    del earlier["augmentation"]["erasing_fill"], earlier["batch"]["sampling"]
    del earlier["batch"]["normalization"], earlier["data"]["test_resampling"]
    del earlier["clustering"]["center_modalities"]
    del earlier["clustering"]["on_all_processes"]
    now = Config(
        data=DataConfig(test_resampling="bicubic"),
        augmentation=AugmentationConfig(erasing_fill=(123.675, 116.28, 103.53)),
        batch=BatchConfig(sampling="even"),
    )
    check_same(earlier, to_tree(now))
    shared = dataclasses.replace(now.clustering, on_all_processes=True)  # with the same clusters
    check_same(earlier, to_tree(dataclasses.replace(now, clustering=shared)))
    for changed, words in [
        ({"data": DataConfig()}, r"resampling must be 'bicubic' as in the run .* got 'lanczos'"),
        ({"augmentation": AugmentationConfig()}, r"fill must be \(123\.675, .* as in the run"),
        (
            {"clustering": ClusteringConfig(center_modalities=True)},
            r"clustering\.center_modalities must be False as in the run .* got True",
        ),
        ({"batch": BatchConfig()}, r"sampling must be 'even' as in the run .* got 'released'"),
        ({"batch": dataclasses.replace(now.batch, normalization="halves")}, r"must be 'whole' as"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_same(earlier, to_tree(dataclasses.replace(now, **changed)))
