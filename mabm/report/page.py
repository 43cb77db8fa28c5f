"""The report of a run: one self-contained HTML page, for screen and paper."""

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
from mabm.report.folders import shorten_folders
from mabm.report.panels import draw_panels, tabulate_last_mix
from mabm.report.plots import require_matplotlib
from mabm.report.sheets import contact_sheet, show_search
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.report.spreads import MAX_SAMPLES, show_spreads
from mabm.report.story import DataFacts, tell_story
from mabm.report.tables import Entry, collect_results, name_epoch, tabulate_epochs

_MARK: Final = '<meta name="mabm-report" content="{}">'
_HEAD_BYTES: Final = 1000  # the mark of a page stands in its first lines

PARTIAL: Final = "partial"
"""Mark of a page that :func:`write_report` gave a status."""

COMPARISON: Final = "comparison"
"""Mark of a page that compares runs."""


def require_packages() -> Any:
    """Returns jinja2, or raises an ``ImportError`` that names the extra to install."""
    try:
        import jinja2
        import PIL  # noqa: F401 - checks that it is installed
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
    data: DataFacts | None = None,
    note: str = "",
    modality_names: Mapping[int, str] = MODALITY_NAMES,
    max_samples: int = MAX_SAMPLES,
    status: str = "",
    refresh: int = 0,
) -> Path:
    """Writes one self-contained page: a summary, curves, distances, clusters, searches, numbers.

    The result is the last evaluated epoch. The best epoch is shown for reference, with a note that
    the test set selected it. The page loads no file and runs no script, and all text in it is
    escaped. Of absolute paths in the configuration only the last part is shown, so that the page
    can be shared. An older page is replaced in one step or not at all.

    Args:
        path: The file to write, usually ``report.html``.
        title: Title of the run.
        config_toml: Configuration of the run, as text.
        environment: Versions and hardware of the run, as name -> text.
        history: Entries of all epochs, in order: the lines of ``history.jsonl``.
        clustering: The clustering to show, usually the last one.
        retrieval: Searches to show, one for each task.
        data: What the run trains and is tested on; ``None`` where only the history is known.
        note: Text to show wherever images are shown, such as that they are drawings.
        modality_names: Modality -> its name.
        max_samples: Samples whose pairs are counted in the histograms of distances; where there
            are more, evenly spaced ones are taken.
        status: For a page that lacks something, as that of a run that goes on: what and why. Such a
            page counts as unfinished: a run that ends, or is started again, replaces it.
        refresh: Seconds after which a browser that shows the page reads it again; 0 for never.

    Returns:
        ``path``.

    Raises:
        ImportError: If jinja2, matplotlib or Pillow is missing; raised before any work.
        OSError: If the file cannot be written.
        ValueError: If ``max_samples`` is below 2, or images are not (B, 3, H, W) uint8.
    """
    require_packages()
    check_integer("max_samples", max_samples, at_least=2)
    check_integer("refresh", refresh, at_least=0)
    names = dict(modality_names)
    config = shorten_folders(config_toml)
    page = render(
        "report.html.jinja",
        title=title,
        note=note,
        status=status,
        refresh=refresh,
        kind=PARTIAL if status else "",
        results=collect_results(history, goes_on=bool(refresh)),
        story=tell_story(history, data),
        panels=draw_panels(history, names),
        mix=tabulate_last_mix(history, names),
        clustering=None if clustering is None else _show_clustering(clustering, names, max_samples),
        retrieval=[show_search(snapshot) for snapshot in retrieval or ()],
        epochs=tabulate_epochs(history),
        warnings=[
            (name_epoch(entry), text) for entry in history for text in entry.get("warnings") or ()
        ],
        environment=environment,
        config=config,
        hides_folders=config != config_toml,
    )
    target = Path(path)
    write_text(target, page)
    return target


def render(template: str, *, kind: str, **values: Any) -> str:
    """A page from a template of this folder; all text in it is escaped.

    Args:
        template: Name of the template.
        kind: Mark by which :func:`has_mark` recognizes the page; empty for none.
        values: What the template shows.

    Raises:
        ImportError: jinja2, matplotlib or Pillow is missing.
    """
    jinja2 = require_packages()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mabm.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    mark = _MARK.format(kind) if kind else ""
    page: str = environment.get_template(template).render(version=__version__, mark=mark, **values)
    return page


def has_mark(path: Path, kind: str) -> bool:
    """Whether a file is a page that was written with a mark, :data:`PARTIAL` or another."""
    with path.open("rb") as stream:
        return _MARK.format(kind).encode() in stream.read(_HEAD_BYTES)


def is_complete(path: Path) -> bool:
    """Whether a file is there and is no page that :func:`write_report` gave a status."""
    return path.is_file() and not has_mark(path, PARTIAL)


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
