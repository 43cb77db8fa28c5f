"""RegDB in its original layout.

::

    Visible/1/male_front_v_00007_1.bmp      ten images of each of 412 persons, and as many
    Thermal/1/male_front_t_00007_1.bmp      thermal ones
    idx/train_visible_1.txt                 lists of ten trials: train_visible, train_thermal,
                                            test_visible and test_thermal

A line of a list is a path and a label, ``Visible/1/male_front_v_00007_1.bmp 0``. A trial divides
the persons into halves at random, so a model that was trained on one trial has seen half of the
test persons of every other. **Labels run from 0 in each half: training identity 3 and test
identity 3 are two persons.**

Source: Nguyen et al., Sensors 2017 (the images); Ye et al., AAAI 2018 (the ten trials).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mabm._core.arguments import check_integer
from mabm._core.modalities import INFRARED, VISIBLE
from mabm.data.layout import (
    Found,
    Scan,
    check_root,
    counted,
    find_layout,
    listed,
    read_list,
    within,
)
from mabm.data.records import ReidData

NAME: Final = "regdb"
NUM_TRIALS: Final = 10
PARTS: Final = ("idx", "Visible", "Thermal")
# One camera of each kind; the numbers are this library's, as the data set gives none.
CAMERA: Final = {VISIBLE: 1, INFRARED: 2}


def read_regdb(root: Path | str, *, trial: int) -> ReidData:
    """Reads one trial of RegDB.

    Args:
        root: The folder with ``Visible``, ``Thermal`` and ``idx``.
        trial: Which of the ten divisions, 1 to 10.

    Returns:
        The images of 206 training and of 206 other, test persons, both ordered by label, camera
        and file name. An image is visible or infrared as the list says that it is in. Camera 1 is
        the visible one, camera 2 the thermal one. Labels of training and of test do not relate.

    Raises:
        FileNotFoundError: A list, or an image that is in one, is missing.
        ValueError: The root is no folder, the trial out of range, or a list does not say what it
            must.

    Example:
        >>> from mabm.data import read_regdb
        >>> data = read_regdb("datasets/RegDB", trial=1)  # doctest: +SKIP
        >>> data.train.identity, data.test.camera  # doctest: +SKIP
    """
    return scan_regdb(check_root(root), check_trial(trial)).data()


def check_trial(trial: int) -> int:
    """Returns the number of a trial, or says that there is no such trial."""
    return check_integer("trial", trial, at_least=1, at_most=NUM_TRIALS)


def scan_regdb(root: Path, trial: int) -> Scan:
    """Looks through a tree of RegDB for the images of one trial."""
    scan = Scan(NAME, root, trial)
    if not find_layout(scan, PARTS):
        return scan
    lists = {
        (part, modality): f"idx/{part}_{kind}_{trial}.txt"
        for part in ("train", "test")
        for modality, kind in ((VISIBLE, "visible"), (INFRARED, "thermal"))
    }
    lacking = [name for name in lists.values() if not (root / name).is_file()]
    if lacking:
        scan.missing(f"of trial {trial}, {counted(lacking, 'list')} missing: {listed(lacking)}")
        return scan
    for (part, modality), name in lists.items():
        rows = scan.train if part == "train" else scan.test
        for path, label in read_list(scan, name):
            rows.append(Found(path, label, CAMERA[modality], modality))
    both = {row.path for row in scan.train} & {row.path for row in scan.test}
    if both:
        names = listed(within(path, root) for path in sorted(both))
        scan.wrong(f"trial {trial} has images in both its training and its test lists: {names}")
    return scan
