"""The report of a run: one HTML page that needs nothing beside it, on screen or on paper."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mabm._core.arguments import check_integer
from mabm._core.arrays import IntArray, to_tensor
from mabm._core.files import write_text
from mabm._core.modalities import MODALITY_NAMES
from mabm._core.version import __version__
from mabm.report.panels import draw_panels, tabulate_last_mix
from mabm.report.plots import require_matplotlib
from mabm.report.sheets import contact_sheet, show_search
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.report.spreads import MAX_SAMPLES, show_spreads
from mabm.report.tables import Entry, collect_results, name_epoch, summarize, tabulate_epochs

_TEMPLATE: Final = "report.html.jinja"


def require_packages() -> Any:
    """Returns jinja2, or raises the ImportError that names the extra which the report needs."""
    try:
        import jinja2
        import PIL  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ImportError(
            'the report needs jinja2, matplotlib and Pillow: pip install "mabm[train]"'
        ) from error
    require_matplotlib("train")
    return jinja2


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    config_toml: str,
    environment: Mapping[str, str],
    history: Sequence[Entry],
    clustering: ClusteringSnapshot | None = None,
    retrieval: Sequence[RetrievalSnapshot] = (),
    note: str = "",
    modality_names: Mapping[int, str] = MODALITY_NAMES,
    max_samples: int = MAX_SAMPLES,
) -> Path:
    """Writes one self-contained page: curves, distances, clusters, searches, and all numbers.

    The result is the last evaluated epoch; the best one is shown beside it, named as what it is.
    The page loads nothing and runs nothing, and whatever is put into it is escaped. It replaces an
    older one at once or not at all.

    Args:
        path: The file, by custom ``report.html``.
        title: What the run is called.
        config_toml: Its configuration, as text.
        environment: As :func:`mabm.train.records.environment.describe_environment` gives it.
        history: Entries of all epochs, one dictionary for each line of ``history.jsonl``.
        clustering: The clustering to show, by custom the last one.
        retrieval: Searches to show, one a task.
        note: What has to be said of the images wherever they are shown, such as that they are
            drawings, not photographs.
        modality_names: What each modality is called.
        max_samples: Samples whose pairs the distributions of distances are taken from; of more,
            evenly spaced ones.

    Returns:
        ``path``.

    Raises:
        ImportError: If jinja2, matplotlib or Pillow is missing; before any work.
        OSError: If the file cannot be written.
        ValueError: If ``max_samples`` is below 2, or images do not have the shape promised.
    """
    jinja2 = require_packages()
    check_integer("max_samples", max_samples, at_least=2)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("mabm.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template(_TEMPLATE)
    names = dict(modality_names)
    page = template.render(
        title=title,
        note=note,
        version=__version__,
        results=collect_results(history),
        facts=summarize(history),
        panels=draw_panels(history, names),
        mix=tabulate_last_mix(history, names),
        clustering=None if clustering is None else _show_clustering(clustering, names, max_samples),
        retrieval=[show_search(snapshot) for snapshot in retrieval or ()],
        epochs=tabulate_epochs(history),
        warnings=[
            (name_epoch(entry), text) for entry in history for text in entry.get("warnings") or ()
        ],
        environment=environment,
        config=config_toml,
    )
    target = Path(path)
    write_text(target, page)
    return target


def _show_clustering(
    snapshot: ClusteringSnapshot, names: Mapping[int, str], max_samples: int
) -> dict[str, Any]:
    """What the page shows of a clustering: how its distance is spread, and some of its clusters."""
    labels, modality = _numpy(snapshot.labels, "labels"), _numpy(snapshot.modality, "modality")
    identity = None if snapshot.identity is None else _numpy(snapshot.identity, "identity")
    if identity is not None and not (identity >= 0).any():
        identity = None
    return {
        **show_spreads(snapshot, modality, identity, max_samples),
        "has_identity": identity is not None,
        "sheet": contact_sheet(snapshot, labels, modality, identity, names),
    }


def _numpy(value: Any, name: str) -> IntArray:
    array: IntArray = to_tensor(value, name).cpu().numpy().astype(np.int64)
    return array
