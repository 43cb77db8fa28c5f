"""Copies of miniature data sets as the `prepare_` scripts of other code bases write them."""

import shutil
from pathlib import Path

from mabm.data import read_data


def copy(source: Path, folder: Path, identity: str, camera: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / f"{identity}_c{camera}_{source.name}")


def prepare_sysu(root: Path, output: Path) -> Path:
    """Copies SYSU-MM01 as other code bases do: of a test identity, some images are in query."""
    data = read_data("sysu_mm01", root)
    for part, images in (("train", data.train), ("test", data.test)):
        for number, image in enumerate(images):
            folder = output / ("ir_modify" if image.modality else "rgb_modify")
            place = "query" if part == "test" and number % 3 == 0 else f"bounding_box_{part}"
            copy(Path(image.image), folder / place, f"{image.identity:04}", image.camera)
    return output


def prepare_regdb(root: Path, output: Path, trials: int = 2) -> Path:
    """Copies RegDB as other code bases do: all is of camera 1, and queries are there twice."""
    for trial in range(1, trials + 1):
        data = read_data("regdb", root, trial=trial)
        for part, images in (("train", data.train), ("test", data.test)):
            for number, image in enumerate(images):
                folder = output / ("ir_modify" if image.modality else "rgb_modify") / str(trial)
                places = [f"bounding_box_{part}", *["query"] * (part == "test" and number % 2)]
                for place in places:
                    copy(Path(image.image), folder / place, str(image.identity), 1)
    return output
