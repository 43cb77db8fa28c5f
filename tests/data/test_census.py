"""The census: what agrees with the published numbers, and what is said where it does not."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from miniature_trees import Change, build_llcm, build_regdb, build_sysu, draw_person, write

from mabm.data import VISIBLE, Census, CensusRow, take_census


def counts(census: Census) -> dict[str, int]:
    return {row.what: row.found for row in census.rows}


def build_whole_regdb(root: Path) -> Path:
    """RegDB with all that is published of it: 412 persons, ten trials; one picture, linked."""
    picture = root / "one.bmp"
    root.mkdir()
    draw_person(0, 1, 1, VISIBLE, (4, 2)).save(picture)
    names: dict[str, list[list[str]]] = {}
    for kind in ("Visible", "Thermal"):
        for person in range(1, 413):
            (root / kind / str(person)).mkdir(parents=True)
            paths = [f"{kind}/{person}/{number}.bmp" for number in range(10)]
            for path in paths:
                os.link(picture, root / path)
            names.setdefault(kind.lower(), []).append(paths)
    picture.unlink()
    (root / "idx").mkdir()
    for trial in range(1, 11):
        for kind, persons in names.items():
            turned = persons[trial:] + persons[:trial]
            for part, half in (("train", turned[:206]), ("test", turned[206:])):
                lines = [f"{path} {label}\n" for label, paths in enumerate(half) for path in paths]
                (root / "idx" / f"{part}_{kind}_{trial}.txt").write_text("".join(lines))
    return root


def test_a_whole_data_set_is_complete(tmp_path: Path) -> None:
    root = build_whole_regdb(tmp_path / "RegDB")
    census = take_census("regdb", root)
    assert census.problems == ()
    assert census.is_complete
    assert counts(census) == {
        "visible images": 4120,
        "thermal images": 4120,
        "trials 1 to 10: training persons": 206,
        "trials 1 to 10: visible training images": 2060,
        "trials 1 to 10: thermal training images": 2060,
        "trials 1 to 10: test persons": 206,
        "trials 1 to 10: visible test images": 2060,
        "trials 1 to 10: thermal test images": 2060,
    }
    assert all(row.agrees for row in census.rows)
    assert take_census("regdb", root, trial=7).is_complete

    lost = "Visible/8/3.bmp"  # a training image of trials 1 to 7
    (root / lost).unlink()
    census = take_census("regdb", root)
    assert not census.is_complete
    assert counts(census)["visible images"] == 4119
    assert counts(census)["trials 1 to 7: visible training images"] == 2059
    assert counts(census)["trials 8 to 10: visible test images"] == 2059
    assert counts(census)["trials 8 to 10: visible training images"] == 2060
    assert len(census.problems) == 10
    assert all(problem.endswith(f"cannot be found: {lost}") for problem in census.problems)


def test_sysu_mm01_is_counted(tmp_path: Path) -> None:
    census = take_census("sysu_mm01", build_sysu(tmp_path))
    assert [(row.what, row.published, row.found) for row in census.rows] == [
        ("training identities", 395, 4),
        ("visible training images", 22258, 30),
        ("infrared training images", 11909, 16),
        ("test identities", 96, 2),
        ("infrared test images (queries)", 3803, 8),
        ("visible test images", None, 14),
        ("all-search gallery (identities x cameras)", 301, 7),
        ("identities in no list", None, 1),
    ]
    assert census.problems == ()
    assert not census.is_complete


def test_llcm_is_counted(tmp_path: Path) -> None:
    census = take_census("llcm", build_llcm(tmp_path))
    assert [(row.published, row.found) for row in census.rows] == [
        (713, 3),
        (16946, 18),
        (13975, 12),
        (351, 2),
        (8680, 12),
        (7166, 8),
    ]
    assert census.problems == ()
    # By publication, LLCM has 46,767 images.
    assert sum(row.published or 0 for row in census.rows if "images" in row.what) == 46767


BUILDERS = {"sysu_mm01": build_sysu, "regdb": build_regdb, "llcm": build_llcm}


def cut(path: str, length: int) -> Change:
    return lambda root: os.truncate(root / path, length)


def prefix_lists(prefix: str) -> Change:
    def change(root: Path) -> None:
        for path in (root / "idx").glob("*_1.txt"):
            lines = path.read_text().splitlines()
            path.write_text("".join(f"{prefix}{line}\n" for line in lines))

    return change


@pytest.mark.parametrize(
    ("name", "change", "problems"),
    [
        (
            "sysu_mm01",
            lambda root: shutil.rmtree(root / "cam4"),
            ["folder cam4 is missing"],
        ),
        (
            "sysu_mm01",
            lambda root: (root / "exp" / "train_id.txt").unlink(),
            ["list exp/train_id.txt is missing", "exp/available_id.txt is not the union"],
        ),
        (
            "sysu_mm01",
            write("exp/test_id.txt", "5,6,81,82,83,84,85,86,87"),
            [
                "no images of 7 of the test identities: 81, 82, 83, 84, 85 and 2 more",
                "exp/available_id.txt is not the union",
            ],
        ),
        (
            "sysu_mm01",
            write("exp/test_id.txt", "5,5,6"),
            ["exp/test_id.txt has 1 identities more than once"],
        ),
        (
            "sysu_mm01",
            cut("cam3/0002/0001.jpg", 0),
            ["1 image file of 0 bytes: cam3/0002/0001.jpg"],
        ),
        (
            "sysu_mm01",
            write("cam3/0002/0001.jpg", "<html>not found</html>"),
            ["1 image file damaged, or no image: cam3/0002/0001.jpg"],
        ),
        (
            "sysu_mm01",
            write("cam3/0002/0001.jpg.part", "half"),
            ["1 file extra among the images, passed over: cam3/0002/0001.jpg.part"],
        ),
        ("sysu_mm01", write("cam3/0002/Thumbs.db", "thumbs"), []),
        (
            "sysu_mm01",
            lambda root: (root / "cam3" / "copy of 0002").mkdir(),
            ["folder cam3/copy of 0002 is extra: its name is not an identity"],
        ),
        (
            "sysu_mm01",
            lambda root: (root / "cam7").mkdir(),
            ["folder cam7 is extra: there is no such camera"],
        ),
        (
            "sysu_mm01",
            lambda root: (root / "cam3" / "0002" / "0009.jpg").symlink_to("gone.jpg"),
            [r"1 image file that cannot be opened: cam3/0002/0009.jpg \(No such file"],
        ),
        (
            "regdb",
            lambda root: shutil.copy(
                root / "Visible/1/male_front_v_00001_1.bmp", root / "Visible/1/more.bmp"
            ),
            ["1 image in no list, passed over: Visible/1/more.bmp"],
        ),
        (
            "regdb",
            prefix_lists("../dataset/RegDB/"),
            [
                part
                for kind in ("train_visible", "train_thermal", "test_visible", "test_thermal")
                for part in (
                    f"{kind}_1.txt lists 4 images that cannot be found: ../dataset/RegDB/",
                    f"{kind}_1.txt puts ../dataset/RegDB before paths that are right without it",
                )
            ]
            + ["16 images in no list"],
        ),
        (
            "llcm",
            lambda root: shutil.copytree(root / "test_nir/cam1", root / "test_nir/cam3"),
            ["folder test_nir/cam3 is extra: it is none of the cameras"],
        ),
        (
            "llcm",
            lambda root: (root / "test_vis" / "cam1" / "0044").mkdir(),
            ["test_vis/cam1 has identities that are not in idx/test_id.txt: 44"],
        ),
        (
            "llcm",
            write("idx/test_id.txt", "1,2,3"),
            [
                "test identities are also trained on: 2",
                "no images of 1 of the test identities: 2",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_else(
    tmp_path: Path, name: str, change: Change, problems: list[str]
) -> None:
    root = BUILDERS[name](tmp_path / "data")
    change(root)
    census = take_census(name, root, trial=1 if name == "regdb" else None)
    assert len(census.problems) == len(problems), census.problems
    for found, expected in zip(census.problems, problems, strict=True):
        assert re.search(expected, found)
    assert not census.is_complete


def test_lists_of_whole_paths_are_followed(tmp_path: Path) -> None:
    root = build_regdb(tmp_path / "data")
    prefix_lists(f"{root}/")(root)
    assert take_census("regdb", root, trial=1).problems == ()
    elsewhere = shutil.move(root / "Visible" / "1", tmp_path / "elsewhere")
    for path in (root / "idx").iterdir():
        path.write_text(path.read_text().replace(str(root / "Visible" / "1"), str(elsewhere)))
    (tmp_path / "elsewhere" / "male_front_v_00001_1.bmp").write_bytes(b"")
    census = take_census("regdb", root, trial=1)
    assert census.problems == (f"1 image file of 0 bytes: {elsewhere}/male_front_v_00001_1.bmp",)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_root_at_the_wrong_level_is_the_only_problem(tmp_path: Path, name: str) -> None:
    root = BUILDERS[name](tmp_path / "data")
    (problem,) = take_census(name, tmp_path).problems
    assert problem.startswith("the root is one level too high: ")
    assert problem.endswith(f"are in {root}")
    child = next(path for path in sorted(root.iterdir()) if path.is_dir())
    (problem,) = take_census(name, child).problems
    assert problem.startswith("the root is one level too low: ")


@pytest.mark.parametrize("name", list(BUILDERS))
def test_an_empty_folder_lacks_everything(tmp_path: Path, name: str) -> None:
    census = take_census(name, tmp_path)
    assert not any(counts(census).values())
    assert all(problem.endswith(" is missing") for problem in census.problems)
    assert len(census.problems) == {"sysu_mm01": 7, "regdb": 3, "llcm": 5}[name]


def test_only_decoding_finds_an_image_cut_short(tmp_path: Path) -> None:
    root = build_sysu(tmp_path)
    os.truncate(root / "cam1/0001/0001.jpg", 200)
    assert take_census("sysu_mm01", root).problems == ()
    census = take_census("sysu_mm01", root, decode=True)
    assert census.problems == ("1 image file damaged, or no image: cam1/0001/0001.jpg",)


def test_problems_among_the_lists_name_the_first_few(tmp_path: Path) -> None:
    root = build_sysu(tmp_path)
    for path in (root / "cam2").rglob("*.jpg"):
        path.write_bytes(b"")
    (problem,) = take_census("sysu_mm01", root).problems
    assert problem == (
        "12 image files of 0 bytes: cam2/0001/0001.jpg, cam2/0001/0002.jpg, cam2/0002/0001.jpg, "
        "cam2/0002/0002.jpg, cam2/0003/0001.jpg and 7 more"
    )


CENSUS = Census(
    name="regdb",
    root=Path("RegDB"),
    trial=3,
    rows=(
        CensusRow("persons", 412, 412),
        CensusRow("visible images", 4120, 4117),
        CensusRow("thermal images", 4120, 12345),
        CensusRow("identities in no list", None, 0),
    ),
    problems=("folder Thermal is missing",),
)


def test_the_table_is_for_people() -> None:
    assert str(CENSUS).splitlines() == [
        "regdb, trial 3 in RegDB",
        "",
        "                       published   found",
        "persons                      412     412",
        "visible images             4,120   4,117  3 missing",
        "thermal images             4,120  12,345  8,225 extra",
        "identities in no list          -       0",
        "",
        "1 problem:",
        "- folder Thermal is missing",
        "",
        "NOT complete",
    ]
    whole = Census("llcm", Path("LLCM"), None, CENSUS.rows[:1], ())
    assert str(whole).splitlines()[0] == "llcm in LLCM"
    assert str(whole).splitlines()[-1] == "complete"


def test_the_dict_is_for_json() -> None:
    assert json.loads(json.dumps(CENSUS.to_dict())) == {
        "name": "regdb",
        "root": "RegDB",
        "trial": 3,
        "complete": False,
        "rows": [
            {"what": "persons", "published": 412, "found": 412},
            {"what": "visible images", "published": 4120, "found": 4117},
            {"what": "thermal images", "published": 4120, "found": 12345},
            {"what": "identities in no list", "published": None, "found": 0},
        ],
        "problems": ["folder Thermal is missing"],
    }


def test_complete_means_counts_and_no_problems() -> None:
    right, wrong = CENSUS.rows[0], CENSUS.rows[1]
    unpublished = CENSUS.rows[3]
    assert Census("llcm", Path(), None, (right, unpublished), ()).is_complete
    assert not Census("llcm", Path(), None, (right, wrong), ()).is_complete
    assert not Census("llcm", Path(), None, (right,), ("something",)).is_complete


@pytest.mark.parametrize(
    ("name", "root", "trial", "message"),
    [
        ("emoji_xm", ".", None, "name must be one of sysu_mm01, regdb, llcm, got 'emoji_xm'"),
        ("llcm", ".", 1, "trial must be None for llcm, which has no trials, got 1"),
        ("regdb", ".", 11, r"trial must be in \[1, 10\], got 11"),
        ("regdb", "no/such/folder", None, "no/such/folder does not exist"),
    ],
)
def test_what_cannot_be_counted_is_told(
    name: str, root: str, trial: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        take_census(name, root, trial=trial)
