"""Search tasks: whose images are the queries, whose the gallery, and how often it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from mabm._core.arguments import check_integer
from mabm._core.names import NamedMapping
from mabm._core.saving import Saved
from mabm.evaluation.retrieval import PROTOCOLS, RetrievalProtocol

GalleryKind = Literal["one_per_camera", "all"]

_VISIBLE: Final = 0
_INFRARED: Final = 1


@dataclass(frozen=True)
class SearchTask(Saved):
    """One test of a data set: queries of one modality searched in a gallery of another.

    Attributes:
        data: Name of the data set.
        name: Name of the task; the direction is named by words, query first.
        query_modality: Modality of the queries.
        gallery_modality: Modality of the gallery.
        query_cameras: Cameras that queries come from; ``None`` for all.
        gallery_cameras: Cameras that the gallery comes from, in the order that they are drawn in;
            ``None`` for all.
        gallery: ``"one_per_camera"``: one image of every identity in every camera, drawn anew for
            every trial (:func:`mabm.draw_gallery`); needs ``gallery_cameras``. ``"all"``: every
            image, in one trial.
        num_trials: Trials 0, 1, ... to average over.
        protocol: What is left out of a ranked gallery, and what the CMC counts.

    Example:
        >>> from mabm import RetrievalProtocol, SearchTask
        >>> SearchTask("mine", "infrared-to-visible", 1, 0, RetrievalProtocol("mine")).gallery
        'all'
    """

    data: str
    name: str
    query_modality: int
    gallery_modality: int
    protocol: RetrievalProtocol
    query_cameras: tuple[int, ...] | None = None
    gallery_cameras: tuple[int, ...] | None = None
    gallery: GalleryKind = "all"
    num_trials: int = 1

    def __post_init__(self) -> None:
        """Refuses choices that do not go together."""
        if self.gallery not in get_args(GalleryKind):
            raise ValueError(
                f"gallery must be one of {get_args(GalleryKind)}, got {self.gallery!r}"
            )
        check_integer("num_trials", self.num_trials, at_least=1)
        if self.gallery == "all" and self.num_trials != 1:
            raise ValueError(
                f'num_trials must be 1 with gallery="all", which every trial would be the same of, '
                f"got {self.num_trials}"
            )
        if self.gallery == "one_per_camera" and self.gallery_cameras is None:
            raise ValueError(
                'gallery_cameras must be given with gallery="one_per_camera", for the draw follows '
                "their order; got None"
            )
        for name in ("query_cameras", "gallery_cameras"):
            cameras = getattr(self, name)
            if cameras is not None and not (cameras and len(set(cameras)) == len(cameras)):
                raise ValueError(f"{name} must be cameras without repeats, or None; got {cameras}")
        if not isinstance(self.protocol, RetrievalProtocol):
            raise TypeError(
                f"protocol must be a RetrievalProtocol, got {type(self.protocol).__name__}"
            )


_SYSU_INFRARED = (3, 6)
_LLCM_VISIBLE = (1, 2, 3, 4, 5, 6, 7, 8, 9)
_LLCM_INFRARED = (1, 2, 4, 5, 6, 7, 8, 9)  # no camera 3 by night

# Cameras of one maker, whose color and monochrome drawings are alike: emojione, Microsoft, Google
# (data/ATTRIBUTION.md). A query is not to be found by its maker's hand.
_EMOJI_SAME_VENDOR = ((6, 4), (7, 5), (8, 1), (8, 2))
_EMOJI_PROTOCOL = RetrievalProtocol(
    "emoji_xm",
    excluded_cameras=_EMOJI_SAME_VENDOR + tuple((b, a) for a, b in _EMOJI_SAME_VENDOR),
)


def _sysu(name: str, gallery_cameras: tuple[int, ...]) -> SearchTask:
    return SearchTask(
        "sysu_mm01",
        name,
        _INFRARED,
        _VISIBLE,
        PROTOCOLS["sysu_mm01"],
        query_cameras=_SYSU_INFRARED,
        gallery_cameras=gallery_cameras,
        gallery="one_per_camera",
        num_trials=10,
    )


def _llcm(name: str, query: int, gallery: int) -> SearchTask:
    cameras = {_VISIBLE: _LLCM_VISIBLE, _INFRARED: _LLCM_INFRARED}
    return SearchTask(
        "llcm",
        name,
        query,
        gallery,
        PROTOCOLS["llcm"],
        query_cameras=cameras[query],
        gallery_cameras=cameras[gallery],
        gallery="one_per_camera",
        num_trials=10,
    )


def _by_data(*tasks: SearchTask) -> Mapping[str, tuple[SearchTask, ...]]:
    names = dict.fromkeys(task.data for task in tasks)
    return NamedMapping(
        {name: tuple(task for task in tasks if task.data == name) for name in names}
    )


SEARCH_TASKS: Mapping[str, tuple[SearchTask, ...]] = _by_data(
    # Wu et al., ICCV 2017.
    _sysu("all-search", (1, 2, 4, 5)),
    _sysu("indoor-search", (1, 2)),
    # Nguyen et al., Sensors 2017; every model has a trial of its own, ten in all.
    SearchTask("regdb", "visible-to-thermal", _VISIBLE, _INFRARED, PROTOCOLS["regdb"]),
    SearchTask("regdb", "thermal-to-visible", _INFRARED, _VISIBLE, PROTOCOLS["regdb"]),
    # Zhang and Wang, CVPR 2023.
    _llcm("infrared-to-visible", _INFRARED, _VISIBLE),
    _llcm("visible-to-infrared", _VISIBLE, _INFRARED),
    # Drawings that ship with the library.
    SearchTask("emoji_xm", "infrared-to-visible", _INFRARED, _VISIBLE, _EMOJI_PROTOCOL),
    SearchTask("emoji_xm", "visible-to-infrared", _VISIBLE, _INFRARED, _EMOJI_PROTOCOL),
)
"""The tasks of each data set by its name, in any spelling of it; read-only."""


def check_trial(model_trial: int | None, data_trial: int | None) -> None:
    """Refuses to test a model on another trial of RegDB than the one it was trained on.

    Every trial of RegDB splits the same 412 identities into halves by chance, one to train on and
    one to test on: about half of the test identities of one trial are training identities of
    another.

    Args:
        model_trial: The trial that the model was trained on; ``None`` where that is not known.
        data_trial: The trial that it is to be tested on; ``None`` for data without trials, which
            passes.

    Raises:
        ValueError: The trials differ, or the model's is not known.

    Example:
        >>> from mabm.evaluation import check_trial
        >>> check_trial(3, 3)
    """
    if data_trial is None or model_trial == data_trial:
        return
    if model_trial is None:
        raise ValueError(
            f"model_trial must be {data_trial}, the trial that is tested, got None: without the "
            "trial that a model was trained on there is no telling which identities it has seen"
        )
    raise ValueError(
        f"model_trial must be {data_trial}, the trial that is tested, got {model_trial}: the other "
        "trials' test identities are among those that the model was trained on, so their scores "
        f"are no test; test it on trial {model_trial}"
    )
