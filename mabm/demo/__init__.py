"""Naive and modality-aware clustering compared on open data: ``python -m mabm demo``.

Images of 350 emoji that the encoder has never seen are clustered twice, by the naive global Jaccard
distance and by the modality-aware one. Features, ``eps`` and ``min_samples`` are the same, and so
are the total numbers of neighbors and of averaged rows. Every number is computed by the run, in
about half a minute. **The images are drawings, not photographs.**
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mabm._core.arguments import check_integer
from mabm._core.arrays import IntArray
from mabm.cluster.pseudo_labels import pseudo_labels
from mabm.cluster.quality import (
    PairQuality,
    adjusted_rand_index,
    cross_modality_pairs,
    normalized_mutual_information,
)
from mabm.data import Frames, identity_splits, render_identities
from mabm.demo.pictures import draw_clusters, draw_distances, save_picture
from mabm.distance.graph import DEFAULT_MIN_SAMPLES, check_max_distance, check_min_samples
from mabm.distance.jaccard import modality_jaccard
from mabm.distance.presets import PRESETS, check_k1
from mabm.models import extract, load_pretrained
from mabm.report.plots import PairHistogram, pair_histogram, require_matplotlib

__all__ = ["DemoResult", "MethodResult", "Settings", "format_table", "run"]

FloatArray = npt.NDArray[np.float32]

CLUSTERS_PICTURE = "clusters.png"
DISTANCES_PICTURE = "distances.png"
_IDENTITIES_PER_STEP = 25  # one tick of the progress bar, about half a second
# Later seeds must not repeat frames of earlier ones: no camera has more frames than this.
_FRAMES_PER_SEED = 3
_MAX_SEED = 2**20


@dataclass(frozen=True)
class Settings:
    """Parameters of the clustering, the same for both methods.

    Attributes:
        k1: Neighbors of a sample in total. The modality-aware distance takes half of them from each
            modality, the naive one takes the nearest of any modality. An identity has 8 to 12
            images in each modality, so 12 of each can hold all of them; the 30 of the paper suits
            data with 30 to 50 images of an identity.
        k2: Rows that local query expansion averages in total. The modality-aware distance takes
            half of them from each modality.
        eps: Radius of DBSCAN, between the two of the paper (0.6 on SYSU-MM01, 0.3 on RegDB).
        min_samples: Samples within ``eps``, itself included, that make a core sample; as in the
            paper.
    """

    k1: int = 24
    k2: int = 6
    eps: float = 0.5
    min_samples: int = DEFAULT_MIN_SAMPLES

    def __post_init__(self) -> None:
        """Refuses what the clustering would refuse, before any image is rendered."""
        k1 = check_k1(PRESETS["bmil"], self.k1, num_groups=2)
        check_integer("k2", self.k2, at_least=1, at_most=k1, reason=", which ends at k1")
        check_integer("k2", self.k2, at_least=2, reason=", a row of each modality")
        check_max_distance("eps", self.eps)
        check_min_samples(self.min_samples)


@dataclass(frozen=True)
class MethodResult:
    """One clustering and how good it is.

    Attributes:
        name: Name of the method in the table.
        labels: (N,) int64 cluster of each frame, -1 for noise.
        num_clusters: Clusters clustering.
        num_spanning: Clusters with members of both modalities.
        num_noise: Frames in no cluster.
        ari: Adjusted Rand index against the identities, noise as singletons.
        nmi: Normalized mutual information with the identities, noise as singletons.
        pairs: Precision and recall of the pairs of frames across modalities.
        distances: Histogram of the distance over all pairs of frames.
        seconds: Time from features to labels.
    """

    name: str
    labels: IntArray
    num_clusters: int
    num_spanning: int
    num_noise: int
    ari: float
    nmi: float
    pairs: PairQuality
    distances: PairHistogram
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo, and where its pictures are.

    Attributes:
        frames: The N rendered frames, with their identities.
        features: (N, D) float32, the features that were clustered.
        settings: Parameters of both clusterings.
        naive: Global clustering that ignores the modality.
        aware: Modality-aware clustering.
        pictures: Paths of the PNG files written.
        seconds: Time of the whole run.
    """

    frames: Frames
    features: FloatArray
    settings: Settings
    naive: MethodResult
    aware: MethodResult
    pictures: tuple[Path, ...]
    seconds: float


def run(
    output: str | Path,
    *,
    seed: int = 0,
    identities: Sequence[int] | IntArray | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> DemoResult:
    """Renders images, extracts features, clusters both ways, and saves two pictures.

    Args:
        output: Folder for ``clusters.png`` and ``distances.png``; created if missing.
        seed: Chooses the frames rendered from the drawings, >= 0. No two seeds share a frame.
        identities: Identities to use; default the 350 that the encoder has never seen.
        settings: Parameters of the clustering; default ``Settings()``.
        progress: Show a progress bar on standard error.

    Returns:
        Frames, features, both clusterings and their quality.

    Raises:
        ImportError: If tqdm or matplotlib is missing.
        OSError: If the folder ``output`` cannot be created.
        ValueError: If ``seed`` or ``identities`` are out of range. All errors are raised before any
            work.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('the demo needs tqdm: pip install "mabm[demo]"') from error
    require_matplotlib()
    check_integer("seed", seed, at_least=0, at_most=_MAX_SEED)
    settings = settings or Settings()
    wanted = np.asarray(
        identity_splits().unlabeled if identities is None else identities, dtype=np.int64
    )
    if not wanted.size:
        raise ValueError("identities must not be empty, got 0 of them")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    steps = [
        wanted[i : i + _IDENTITIES_PER_STEP] for i in range(0, len(wanted), _IDENTITIES_PER_STEP)
    ]
    with tqdm(total=len(steps) + 6, disable=not progress, leave=False, unit="step") as bar:
        bar.set_description("frames and features")
        encoder = load_pretrained("emoji_xm")
        parts: list[Frames] = []
        features_of: list[torch.Tensor] = []
        for step in steps:
            frames = render_identities(step, first_frame=seed * _FRAMES_PER_SEED)
            parts.append(frames)
            features_of.append(
                extract(encoder, torch.from_numpy(frames.images), torch.from_numpy(frames.modality))
            )
            bar.update()
        frames, features = _joined(parts), torch.cat(features_of).numpy()

        methods = []
        for name, preset in (("naive global", "spcl"), ("modality-aware", "bmil")):
            bar.set_description(f"{name} clustering")
            methods.append(
                _cluster(name, preset, frames, features, settings=settings, tick=bar.update)
            )
        naive, aware = methods

        bar.set_description("pictures")
        pictures = (folder / CLUSTERS_PICTURE, folder / DISTANCES_PICTURE)
        save_picture(draw_clusters(frames, aware.labels, naive.labels), pictures[0])
        bar.update()
        histograms = {method.name: method.distances for method in methods}
        save_picture(draw_distances(histograms), pictures[1])
        bar.update()
    seconds = time.perf_counter() - started
    return DemoResult(frames, features, settings, naive, aware, pictures, seconds)


def format_table(result: DemoResult) -> str:
    """The comparison as a table in plain text, below a description of the data and settings."""
    frames, settings = result.frames, result.settings
    counts = np.bincount(frames.modality, minlength=2)
    lines = [
        f"Emoji-XM: {len(frames)} frames ({counts[0]} visible, {counts[1]} infrared) of "
        f"{len(np.unique(frames.identity))} identities unseen in training.",
        "These are drawings, not photographs: color emoji are visible, monochrome ones infrared.",
        f"Both: {settings.k1} neighbors and {settings.k2} averaged rows in all (modality-aware: "
        f"{settings.k1 // 2} and {settings.k2 // 2} a modality),",
        f"DBSCAN with eps = {settings.eps}, min_samples = {settings.min_samples}.",
        "",
        f"{'':16}{'':14}   pairs across modalities",
        f"{'':16}{'ARI':>7}{'NMI':>7}{'precision':>13}{'recall':>10}"
        f"{'clusters':>12}{'spanning':>10}{'noise':>8}{'seconds':>9}",
    ]
    for method in (result.naive, result.aware):
        lines.append(
            f"{method.name:16}{method.ari:7.3f}{method.nmi:7.3f}"
            f"{method.pairs.precision:13.3f}{method.pairs.recall:10.3f}"
            f"{method.num_clusters:12d}{method.num_spanning:10d}"
            f"{method.num_noise:8d}{method.seconds:9.2f}"
        )
    naive, aware = result.naive.pairs, result.aware.pairs
    if naive.num_right:
        lines += [
            "",
            f"Right pairs across modalities: {naive.num_right} naive, {aware.num_right} "
            f"modality-aware ({aware.num_right / naive.num_right:.1f} times), "
            f"of {aware.num_true} there are.",
        ]
    return "\n".join(lines)


def _joined(parts: list[Frames]) -> Frames:
    return Frames(
        images=np.concatenate([part.images for part in parts]),
        identity=np.concatenate([part.identity for part in parts]),
        camera=np.concatenate([part.camera for part in parts]),
        modality=np.concatenate([part.modality for part in parts]),
    )


def _cluster(
    name: str,
    preset: str,
    frames: Frames,
    features: FloatArray,
    *,
    settings: Settings,
    tick: Callable[[], object],
) -> MethodResult:
    k2 = settings.k2 // 2 if preset == "bmil" else settings.k2  # bmil's is for each modality
    started = time.perf_counter()
    clustering = pseudo_labels(
        features,
        frames.modality,
        eps=settings.eps,
        min_samples=settings.min_samples,
        k1=settings.k1,
        k2=k2,
        preset=preset,
    )
    seconds = time.perf_counter() - started
    tick()
    labels: IntArray = clustering.labels
    distance = modality_jaccard(features, frames.modality, k1=settings.k1, k2=k2, preset=preset)
    distances = pair_histogram(distance, frames.identity, frames.modality, eps=settings.eps)
    tick()
    return MethodResult(
        name=name,
        labels=labels,
        num_clusters=clustering.num_clusters,
        num_spanning=clustering.num_spanning or 0,
        num_noise=clustering.num_noise,
        ari=adjusted_rand_index(labels, frames.identity),
        nmi=normalized_mutual_information(labels, frames.identity),
        pairs=cross_modality_pairs(labels, frames.identity, frames.modality),
        distances=distances,
        seconds=seconds,
    )
