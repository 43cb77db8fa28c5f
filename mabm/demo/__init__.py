"""Naive and modality-aware clustering compared on open data: ``mabm demo``.

Images of 350 emoji that the encoder has never seen are clustered by the naive global Jaccard
distance and by the modality-aware one, with and without centering each modality first. Features and
``min_samples`` are the same, and so are the total numbers of neighbors and of averaged rows; each
method has the ``eps`` that suits it best on other emoji. Every number is computed by the run.
**The images are drawings, not photographs.**
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mabm._core.arrays import IntArray
from mabm._core.files import check_writable
from mabm.demo.comparison import (
    AWARE,
    METHODS,
    NAIVE,
    PRECISIONS,
    Method,
    MethodResult,
    Settings,
    compare,
)
from mabm.demo.examples import Gains, gains_of
from mabm.demo.features import Images, count_steps, features_of, list_images
from mabm.demo.pictures import draw_examples, draw_pairs, save_picture
from mabm.report.plots import require_matplotlib

__all__ = ["DemoResult", "Method", "MethodResult", "Settings", "format_table", "run"]

EXAMPLES_PICTURE = "before_after.png"
PAIRS_PICTURE = "pairs.png"


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo, and where its pictures are.

    Attributes:
        images: The N images, with their identities.
        settings: Parameters of all clusterings.
        methods: Naive, modality-aware, and the two after centering.
        gains: What the modality-aware method gains over the naive one on each emoji.
        pictures: Paths of the PNG files written.
        seconds: Time of the whole run.
    """

    images: Images
    settings: Settings
    methods: tuple[MethodResult, ...]
    gains: Gains
    pictures: tuple[Path, ...]
    seconds: float

    @property
    def naive(self) -> MethodResult:
        """Clustering by the distance that ignores modality."""
        return self.methods[METHODS.index(NAIVE)]

    @property
    def aware(self) -> MethodResult:
        """Clustering by the modality-aware distance."""
        return self.methods[METHODS.index(AWARE)]


def run(
    output: str | Path,
    *,
    seed: int = 0,
    identities: Sequence[int] | IntArray | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> DemoResult:
    """Clusters images of drawings by each method, and saves two pictures.

    Args:
        output: Folder for ``before_after.png`` and ``pairs.png``; created if missing.
        seed: Chooses the images made from the drawings, >= 0. No two seeds share an image. The
            features of seed 0 ship; those of others are computed, in about a minute.
        identities: Identities to use, at least two; default the 350 that the encoder has never
            seen.
        settings: Parameters of the clustering; default ``Settings()``.
        progress: Show a progress bar on standard error.

    Returns:
        What each method found, and how good it is.

    Raises:
        ImportError: If tqdm or matplotlib is missing.
        OSError: If the folder ``output`` cannot be created, or a picture not be written there.
        TypeError: If ``seed`` is no integer.
        ValueError: If ``seed`` or ``identities`` are out of range. All errors are raised before any
            work.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('the demo needs tqdm: pip install "mabm[demo]"') from error
    require_matplotlib()
    settings = settings or Settings()
    images = list_images(identities, seed)
    if (count := len(np.unique(images.identity))) < 2:
        raise ValueError(f"identities must be at least 2, one for each half, got {count}")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (folder / EXAMPLES_PICTURE, folder / PAIRS_PICTURE)
    for picture in pictures:
        check_writable(picture)
    started = time.perf_counter()
    steps = count_steps(images) + 2 * len(METHODS) + 2
    with tqdm(total=steps, disable=not progress, leave=False, unit="step") as bar:
        bar.set_description("images and features")
        features = features_of(images, bar.update)
        methods = []
        for method in METHODS:
            bar.set_description(method.name)
            methods.append(
                compare(method, features, images.identity, images.modality, settings, bar.update)
            )
        naive, aware = (methods[METHODS.index(each)] for each in (NAIVE, AWARE))
        bar.set_description("pictures")
        gains = gains_of(naive.labels, aware.labels, images.identity, images.modality)
        save_picture(draw_examples(images, naive.labels, aware.labels, gains), pictures[0])
        bar.update()
        save_picture(draw_pairs(methods), pictures[1])
        bar.update()
    seconds = time.perf_counter() - started
    return DemoResult(images, settings, tuple(methods), gains, pictures, seconds)


def format_table(result: DemoResult) -> str:
    """The comparison as tables in plain text, below a description of the data and settings."""
    images, settings = result.images, result.settings
    counts = np.bincount(images.modality, minlength=2)
    num_identities = len(np.unique(images.identity))
    half = num_identities // 2
    lines = [
        f"Emoji-XM: {len(images)} images ({counts[0]} visible, {counts[1]} infrared) of "
        f"{num_identities} emoji unseen in training.",
        "These are drawings, not photographs: color emoji are visible, monochrome ones infrared.",
        f"All methods: {settings.k1} neighbors and {settings.k2} averaged rows in total "
        f"(modality-aware: {settings.k1 // 2} and {settings.k2 // 2} per modality),",
        f"min_samples = {settings.min_samples}.",
        f"Each method has its own eps: chosen by F1 on {half} emoji, reported on the other "
        f"{num_identities - half}, then swapped.",
        "",
        f"{'':26}{'':11}   pairs across modalities     within a modality",
        f"{'':26}{'eps':>11}{'precision':>11}{'recall':>8}{'F1':>7}"
        f"{'precision':>12}{'recall':>8}{'F1':>7}{'ARI':>7}",
    ]
    for each in result.methods:
        eps = " ".join(f"{value:.2f}" for value in each.eps)
        across, within = each.across, each.within
        lines.append(
            f"{each.method.name:26}{eps:>11}"
            f"{across.precision:11.3f}{across.recall:8.3f}{across.f1:7.3f}"
            f"{within.precision:12.3f}{within.recall:8.3f}{within.f1:7.3f}{each.ari:7.3f}"
        )
    lines += [
        "",
        f"{'':26}{'':38}recall of the distance at precision",
        f"{'':26}{'clusters':>8}{'spanning':>10}{'no cluster':>11}{'':5}"
        + "".join(f"{precision:8.1f}" for precision in PRECISIONS),
    ]
    for each in result.methods:
        recalls = "".join(f"{each.distances.recall_at(value):8.3f}" for value in PRECISIONS)
        lines.append(
            f"{each.method.name:26}{each.num_clusters:8d}{each.num_spanning:10d}"
            f"{each.num_noise:11d}{'':5}{recalls}"
        )
    gains = result.gains
    naive, aware = (
        " and ".join(f"{half.f1:.3f}" for half in each.halves)
        for each in (result.naive, result.aware)
    )
    lines += [
        "",
        f"F1 of pairs, modality-aware against naive: {_against(result, 'across')} across "
        "modalities,",
        f"{_against(result, 'within')} within one. Across, for each half: {aware} against",
        f"{naive}; for each emoji: higher for {gains.num_higher}, lower for {gains.num_lower}, "
        f"the same for {gains.num_same}.",
    ]
    return "\n".join(lines)


def _against(result: DemoResult, pairs: str) -> str:
    aware, naive = (getattr(each, pairs).f1 for each in (result.aware, result.naive))
    return f"{aware:.3f} against {naive:.3f}"
