"""``mabm assign``: labels for new samples, from the clusters of an earlier ``mabm cluster``."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mabm._core.devices import find_device
from mabm.cli.command import Command, UsageError, add_device, write
from mabm.cli.files.arrays import Source, open_arrays, suffix_of
from mabm.cli.files.inputs import STANDARD, opened, read_features, read_modality
from mabm.cli.files.labels import KINDS, Settings, read_clustering, write_labels
from mabm.cli.files.modalities import Modality
from mabm.cli.files.outputs import Recognizer, check_kind, check_output, is_labels
from mabm.cluster.prediction import predict_labels
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.distance.graph import check_max_distance


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "new",
        metavar="NEW",
        help="(M, D) features of the new samples, from the same encoder as the clustered ones: "
        ".npy, .npz, .safetensors, .pt, .pth or .csv, or - for standard input",
    )
    parser.add_argument(
        "--features",
        required=True,
        metavar="FILE",
        help="(N, D) features that were clustered, in the order of their labels (required)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .npz file that mabm cluster wrote for --features: labels, modality, core samples "
        "and settings; the same settings are used here (required)",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="file for the labels of the new samples: .npy, .csv, .npz, or - for standard output, "
        "one per line; replaces only an earlier file of labels (required)",
    )
    parser.add_argument(
        "--modality",
        metavar="FILE",
        help="(M,) modality of each new sample, as numbers or the words of the clustering, or - "
        "for standard input (default: the array or column 'modality' in the file of new features)",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="name of the array in .npz, .safetensors, .pt or .pth files; the same for both files "
        "(default: features, or the only matrix)",
    )
    parser.add_argument(
        "--eps",
        type=float,
        help="largest Jaccard distance from a core sample, in [0, 1) (default: that of "
        "the clustering)",
    )
    add_device(parser, results="Labels are the same on every device by design.")


def _execute(chosen: argparse.Namespace) -> int:
    typed = [chosen.new, chosen.features, chosen.modality]
    if typed.count(STANDARD) > 1:
        raise UsageError("only one of NEW, --features and --modality may be - (standard input)")
    if chosen.eps is not None:
        check_max_distance("eps", chosen.eps)
    found, settings = read_clustering(chosen.labels)
    if settings.center_modalities:
        raise UsageError(
            "the clustering was made with --center-modalities, and new samples change the means; "
            "cluster all samples again"
        )
    if found.modality is None and chosen.modality is not None:
        raise UsageError("leave out --modality, as the clustering had none")
    if chosen.output != STANDARD:
        reads = [Path(each) for each in typed if each not in (None, STANDARD)]
        kinds = dict.fromkeys(KINDS, _recognizer(found.num_clusters))
        check_output(Path(chosen.output), kinds, reads=[*reads, chosen.labels])
    device = find_device(chosen.device, "--device", needs_ops=True)
    with ExitStack() as stack:
        features, _ = read_features(stack.enter_context(opened(chosen.features)), chosen.key)
        new, beside = read_features(stack.enter_context(opened(chosen.new)), chosen.key)
        if chosen.modality is not None:
            beside = read_modality(stack.enter_context(opened(chosen.modality)))
        if chosen.output != STANDARD:  # again, now that the number of samples is known
            check_kind(Path(chosen.output), _recognizer(found.num_clusters, len(new)))
        modality, distance = _in_numbers_of(found, settings, beside), settings.distance
        started = time.perf_counter()
        labels = predict_labels(
            new.to(device),
            None if modality is None else modality.to(device),
            features.to(device),
            found,
            eps=settings.clusterer.eps if chosen.eps is None else chosen.eps,
            k1=distance.k1,
            k2=distance.k2,
            preset=distance.preset,
            precision=distance.precision,
        )
        column = labels.cpu().numpy()
        seconds = time.perf_counter() - started
    write_labels(
        chosen.output, column, {"modality": None if modality is None else modality.numpy()}
    )
    if chosen.output != STANDARD:
        write(f"{_summary(column, found)}\n{seconds:.2f} s\nsaved {chosen.output}")
    return 0


def _in_numbers_of(
    found: PseudoLabels[Tensor], settings: Settings, new: Modality | None
) -> Tensor | None:
    """The modality of the new samples, as the numbers that the clustering used.

    Raises:
        UsageError: The modality is missing.
        ValueError: A word is not a modality of the clustering.
    """
    if found.modality is None:
        return None
    if new is None:
        raise UsageError("give --modality FILE, the modality of the new samples")
    known = settings.modality_names
    # Without names in the settings, 'visible' and 'infrared' have the same numbers in both.
    if new.words is None or (known is None and new.names is None):
        return new.numbers
    if known is None or not set(new.words) <= set(known):
        words = "numbers" if known is None else f"of {', '.join(known)}, as in the clustering"
        raise ValueError(f"--modality must be {words}, got {', '.join(sorted(set(new.words)))}")
    place = {name: number for number, name in enumerate(known)}
    return torch.tensor([place[word] for word in new.words], dtype=torch.int64)


def _recognizer(num_clusters: int, num_new: int | None = None) -> Recognizer:
    """Recognizes files of labels, whether ``mabm cluster`` or this command wrote them."""
    return lambda path: is_labels(path) or _are_labels_of(path, num_clusters, num_new)


def _are_labels_of(path: Path, num_clusters: int, num_new: int | None) -> bool:
    """Whether a file contains labels of these clusters, as this command writes them.

    A single column could also be identities or cameras, whose numbers are as small. So it must have
    one entry per new sample, if their number is given.
    """
    arrays = open_arrays(Source.of(path))
    name = "" if suffix_of(path) == ".npy" else "labels"
    if name and not {name} <= set(arrays) <= {name, "modality"}:
        return False
    if arrays[name].dtype != "int64" or len(arrays[name].shape) != 1:
        return False
    if not name and num_new not in (None, arrays[name].shape[0]):
        return False
    numbers = np.unique(arrays[name].read())
    return not len(numbers) or bool(numbers[0] >= -1 and numbers[-1] < num_clusters)


def _summary(labels: np.ndarray, found: PseudoLabels[Tensor]) -> str:
    clustered = labels[labels >= 0]
    left_out = len(labels) - len(clustered)
    return (
        f"{len(clustered)} of {len(labels)} new samples in {len(np.unique(clustered))} of "
        f"{found.num_clusters} clusters\n"
        f"{left_out} in no cluster ({100 * left_out / max(len(labels), 1):.1f} %)"
    )


COMMAND = Command(
    name="assign",
    help="assign new samples to existing clusters",
    description=(
        "Give each new sample the label of its nearest core sample, using the distance and "
        "settings of the clustering; -1 if none is within the radius. The labels of the "
        "clustered samples do not change. If many new samples arrive at once, cluster everything "
        "again."
    ),
    examples="""
mabm assign new.npz --features old.npz --labels labels.npz --output new_labels.npy
    after: mabm cluster old.npz --output labels.npz; both files contain 'features' and 'modality'
cat new.npy | mabm assign - --modality new.csv --features old.npz --labels labels.npz --output -
    labels one per line
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
