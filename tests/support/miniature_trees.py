"""Miniature SYSU-MM01, RegDB, LLCM and lists of images: real layouts, drawn persons, few images.

An identity is a pattern of colored blocks. Visible images show it under the light of their camera,
infrared ones show its inverted luminance, so that there is a gap, and something to learn across it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mabm.data import INFRARED, VISIBLE

SYSU_MODALITY = {1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED}
LLCM_CAMERAS = {"vis": (1, 2, 3, 4, 5, 6, 7, 8, 9), "nir": (1, 2, 4, 5, 6, 7, 8, 9)}


def draw_person(
    identity: int, camera: int, number: int, modality: int, size: tuple[int, int]
) -> Image.Image:
    """Draws one picture of a person, height and width in pixels; the same one in every run."""
    pattern = np.random.default_rng([identity]).uniform(0, 255, (6, 3, 3))
    rng = np.random.default_rng([identity, camera, number, modality])
    if modality == INFRARED:
        pattern = np.repeat(255 - pattern.mean(axis=2, keepdims=True), 3, axis=2)
    light = np.random.default_rng([camera, modality]).uniform(0.7, 1.0, 3)
    noise = rng.normal(0, 6, (*size, 3 if modality == VISIBLE else 1))
    rows = np.minimum(np.arange(size[0]) * 6 // size[0], 5)
    columns = np.minimum(np.arange(size[1]) * 3 // size[1], 2)
    picture = np.roll(pattern[rows][:, columns], number % 3, axis=1) * light + noise
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def build_sysu(
    root: Path,
    *,
    train: int = 3,
    val: int = 1,
    test: int = 2,
    images: int = 2,
    size: tuple[int, int] = (24, 12),
) -> Path:
    """Builds SYSU-MM01: identities 1 to train + val + test, and one more that is in no list.

    Camera 5 has not seen the identities whose number is divisible by three, as in the real data not
    every camera has seen everybody.
    """
    count = train + val + test
    for camera, modality in SYSU_MODALITY.items():
        for identity in range(1, count + 2):
            if camera == 5 and identity % 3 == 0:
                continue
            folder = root / f"cam{camera}" / f"{identity:04}"
            folder.mkdir(parents=True)
            for number in range(1, images + 1):
                picture = draw_person(identity, camera, number, modality, size)
                picture.save(folder / f"{number:04}.jpg", quality=95)
    lists = root / "exp"
    lists.mkdir()
    _write_ids(lists / "train_id.txt", range(1, train + 1))
    _write_ids(lists / "val_id.txt", range(train + 1, train + val + 1))
    _write_ids(lists / "test_id.txt", range(train + val + 1, count + 1))
    _write_ids(lists / "available_id.txt", range(1, count + 1))
    return root


def build_regdb(
    root: Path,
    *,
    identities: int = 4,
    images: int = 2,
    trials: int = 2,
    size: tuple[int, int] = (24, 12),
) -> Path:
    """Builds RegDB: persons 1 to ``identities``, half of them training in every trial."""
    names = {}
    for kind, letter, modality in (("Visible", "v", VISIBLE), ("Thermal", "t", INFRARED)):
        for person in range(1, identities + 1):
            folder = root / kind / str(person)
            folder.mkdir(parents=True)
            for number in range(1, images + 1):
                name = f"male_front_{letter}_{number:05}_{person}.bmp"
                draw_person(person, modality + 1, number, modality, size).save(folder / name)
                names[modality, person, number] = f"{kind}/{person}/{name}"
    (root / "idx").mkdir()
    for trial in range(1, trials + 1):
        order = 1 + np.random.default_rng(trial).permutation(identities)
        halves = {
            "train": sorted(order[: identities // 2]),
            "test": sorted(order[identities // 2 :]),
        }
        for part, persons in halves.items():
            for kind, modality in (("visible", VISIBLE), ("thermal", INFRARED)):
                lines = [
                    f"{names[modality, person, number]} {label}\n"
                    for label, person in enumerate(persons)
                    for number in range(1, images + 1)
                ]
                (root / "idx" / f"{part}_{kind}_{trial}.txt").write_text("".join(lines))
    return root


def build_llcm(
    root: Path,
    *,
    train: int = 3,
    test: int = 2,
    images: int = 2,
    cameras: Iterable[int] = (1, 3, 4),
    size: tuple[int, int] = (24, 12),
) -> Path:
    """Builds LLCM: identities seen by some of the nine cameras, every camera's folder being there.

    The persons' numbers leave gaps, as the real ones do: the odd ones are test identities.
    """
    persons = {
        "train": [2 * n for n in range(1, train + 1)],
        "test": [2 * n + 1 for n in range(test)],
    }
    lists: dict[str, list[str]] = {}
    for kind, modality in (("vis", VISIBLE), ("nir", INFRARED)):
        for camera in LLCM_CAMERAS[kind]:
            (root / f"test_{kind}" / f"cam{camera}").mkdir(parents=True)
        seen = [camera for camera in cameras if camera in LLCM_CAMERAS[kind]]
        for part, numbers in persons.items():
            for label, person in enumerate(numbers):
                for camera in seen:
                    for number in range(1, images + 1):
                        name = f"{person:04}_c{camera:02}_s185{camera:03}_f{number:04}_{kind}.jpg"
                        picture = draw_person(person, camera, number, modality, size)
                        # Test images lie in both places of the real data.
                        places = [root / kind / f"{person:04}"]
                        if part == "test":
                            places.append(root / f"test_{kind}" / f"cam{camera}" / f"{person:04}")
                        for folder in places:
                            folder.mkdir(parents=True, exist_ok=True)
                            picture.save(folder / name, quality=95)
                        line = f"{kind}/{person:04}/{name} {label}\n"
                        lists.setdefault(f"{part}_{kind}.txt", []).append(line)
    (root / "idx").mkdir()
    for name, lines in lists.items():
        (root / "idx" / name).write_text("".join(lines))
    _write_ids(root / "idx" / "test_id.txt", persons["test"])
    return root


def build_image_list(
    root: Path,
    *,
    train: int = 6,
    test: int = 3,
    images: int = 3,
    size: tuple[int, int] = (24, 24),
    leave_out: Iterable[str] = (),
) -> Path:
    """Builds images of one's own and the table that lists them, which it returns.

    Persons 0 to train - 1 are to train on, of identities that the table does not know; the others
    are to test on. Two cameras see visible, two infrared images. ``leave_out`` names columns.
    """
    rows = []
    for person in range(train + test):
        for camera, word in ((1, "visible"), (2, "Visible"), (3, "infrared"), (4, "thermal")):
            modality = VISIBLE if camera < 3 else INFRARED
            folder = root / f"camera {camera}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(images):
                path = folder / f"{person}_{number}.png"
                draw_person(person, camera, number, modality, size).save(path)
                rows.append(
                    {
                        "path": path.relative_to(root).as_posix(),
                        "modality": word,
                        "camera": camera,
                        "identity": "" if person < train else person,
                        "split": "train" if person < train else "test",
                    }
                )
    kept = [name for name in rows[0] if name not in set(leave_out)]
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root / "list.csv"


def _write_ids(path: Path, identities: Iterable[int]) -> None:
    path.write_text(",".join(str(identity) for identity in identities) + "\n")


Change = Callable[[Path], object]
"""Makes something wrong in a tree with this root."""


def write(path: str, content: str | bytes) -> Change:
    """Replaces a file of a tree, or adds it."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda root: (root / path).write_bytes(raw)
