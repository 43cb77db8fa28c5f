"""RegDB in its original layout.

::

    Visible/1/male_front_v_00007_1.bmp      ten images of each of 412 persons, and as many
    Thermal/1/male_front_t_00007_1.bmp      thermal ones
    idx/train_visible_1.txt                 lists of ten trials: train_visible, train_thermal,
                                            test_visible and test_thermal

A line of a list is a path and a label, ``Visible/1/male_front_v_00007_1.bmp 0``. A trial splits the
persons randomly into halves, so a model trained on one trial has seen about half of the test
persons of every other trial. **Labels start at 0 in each half: training identity 3 and test
identity 3 are different persons.**

Source: Nguyen et al., Sensors 2017 (the images); Ye et al., AAAI 2018 (the ten trials).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mabm._core.arguments import check_integer
from mabm._core.modalities import INFRARED, VISIBLE
from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm.data import prepared
from mabm.data.counts import CensusRow, Counts, count_identities, count_images
from mabm.data.data_set import DataSet
from mabm.data.layout import (
    FoundImage,
    Scan,
    check_root,
    counted,
    find_layout,
    listed,
    looks_like,
    read_list,
    resolve,
    within,
)
from mabm.data.records import ReidData

NAME: Final = "regdb"
NUM_TRIALS: Final = 10
PARTS: Final = ("idx", "Visible", "Thermal")
KINDS: Final = {VISIBLE: "visible", INFRARED: "thermal"}
# One camera of each kind; the numbers are this library's, as the data set gives none.
CAMERA: Final = {VISIBLE: 1, INFRARED: 2}


def read_regdb(root: Path | str, *, trial: int) -> ReidData:
    """Reads one trial of RegDB.

    Args:
        root: The folder with ``Visible``, ``Thermal`` and ``idx``, or one with ``ir_modify`` and
            ``rgb_modify``, as prepared by other code bases. Case is ignored, and images may have
            been converted to another format than in the lists.
        trial: Number of the trial, 1 to 10.

    Returns:
        The images of 206 training persons and 206 other persons for testing, both ordered by label,
        camera and file name. The list that contains an image defines its modality. Camera 1 is
        visible, camera 2 is thermal. Labels of training and test are unrelated.

    Raises:
        FileNotFoundError: A list, or an image in a list, is missing.
        ValueError: The root is not a folder, the trial is out of range, or a list is malformed.

    Example:
        >>> from mabm.data import read_regdb
        >>> data = read_regdb("datasets/RegDB", trial=1)  # doctest: +SKIP
        >>> data.train.identity, data.test.camera  # doctest: +SKIP
    """
    folder = check_root(root)
    number = check_integer("trial", trial, at_least=1, at_most=NUM_TRIALS)
    return scan_regdb(folder, number).data()


def scan_regdb(root: Path, trial: int) -> Scan:
    """Scans a tree of RegDB for the images of one trial."""
    scan = Scan(NAME, root, trial)
    if _is_prepared(root):
        prepared.scan_prepared(scan, lambda modality, _: CAMERA[modality])
        return scan
    if not find_layout(scan, PARTS, other=prepared.PARTS):
        return scan
    lists = {
        (part, modality): f"idx/{part}_{kind}_{trial}.txt"
        for part in ("train", "test")
        for modality, kind in KINDS.items()
    }
    lacking = [name for name in lists.values() if not resolve(root, name).is_file()]
    if lacking:
        scan.note_missing(
            f"of trial {trial}, {counted(lacking, 'list')} missing: {listed(lacking)}"
        )
        return scan
    for (part, modality), name in lists.items():
        rows = scan.train if part == "train" else scan.test
        for path, label in read_list(scan, name):
            rows.append(FoundImage(path, label, CAMERA[modality], modality))
    both = {row.path for row in scan.train} & {row.path for row in scan.test}
    if both:
        names = listed(within(path, root) for path in sorted(both))
        scan.note_error(
            f"trial {trial} has images in both its training and its test lists: {names}"
        )
    return scan


def _is_prepared(root: Path) -> bool:
    return not looks_like(root, PARTS) and looks_like(root, prepared.PARTS)


def count_regdb(root: Path, trial: int | None) -> Counts:
    """Counts a tree of RegDB for its census: one trial, or all where ``trial`` is ``None``."""
    trials = range(1, NUM_TRIALS + 1) if trial is None else (trial,)
    scans = [scan_regdb(root, number) for number in trials]
    # Nguyen et al., Sensors 2017: 412 persons, ten images of each in each modality. Ye et al., AAAI
    # 2018: halved in ten trials.
    everything = [row for scan in scans for row in (*scan.train, *scan.test)]
    rows, copied = [], _is_prepared(root)  # a copy has its own images in each trial
    for modality, kind in KINDS.items():
        paths = {row.path for row in everything if row.modality == modality}
        found = {prepared.original_name(path) for path in paths} if copied else paths
        rows.append(CensusRow(f"{kind} images", 4_120, len(found)))
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, scan in zip(trials, scans, strict=True):
        parts = (scan.train, scan.test)
        persons = [count_identities(part) for part in parts]
        images = [
            count_images(part, modality) for part in parts for modality in (VISIBLE, INFRARED)
        ]
        groups.setdefault((*persons, *images), []).append(number)
    for counts, members in groups.items():
        name = f"trial {members[0]}" if len(members) == 1 else f"trials {_spans(members)}"
        rows += [
            CensusRow(f"{name}: training persons", 206, counts[0]),
            CensusRow(f"{name}: visible training images", 2_060, counts[2]),
            CensusRow(f"{name}: thermal training images", 2_060, counts[3]),
            CensusRow(f"{name}: test persons", 206, counts[1]),
            CensusRow(f"{name}: visible test images", 2_060, counts[4]),
            CensusRow(f"{name}: thermal test images", 2_060, counts[5]),
        ]
    return Counts(
        scans,
        rows,
        listed_folders=[] if copied else [resolve(root, part).name for part in PARTS[1:]],
    )


def _spans(numbers: Sequence[int]) -> str:
    """Returns ascending numbers as words: 1 to 3, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(
        f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans
    )


# Nguyen et al., Sensors 2017. Each trial has a model of its own; results are averaged over the ten.
PROTOCOL: Final = RetrievalProtocol(NAME)

DATA_SET: Final = DataSet(
    name=NAME,
    reader=read_regdb,
    count=count_regdb,
    num_trials=NUM_TRIALS,
    protocol=PROTOCOL,
    search_tasks=(
        SearchTask(NAME, "visible-to-thermal", VISIBLE, INFRARED, PROTOCOL),
        SearchTask(NAME, "thermal-to-visible", INFRARED, VISIBLE, PROTOCOL),
    ),
    modality_names=KINDS,
)
