"""The clustering as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from torch import Tensor

from mabm._arrays import Array, check_features, is_integer, shown
from mabm._columns import Column
from mabm.clustering import pseudo_labels
from mabm.presets import DEFAULT_K1, DEFAULT_K2, Preset
from mabm.ranking import Precision


class ModalityDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """DBSCAN on the modality-aware Jaccard distance, for scikit-learn pipelines and searches.

    ``fit`` takes ``modality`` beside ``X``. In a pipeline, route it as fit metadata:
    ``ModalityDBSCAN().set_fit_request(modality=True)`` under
    ``sklearn.set_config(enable_metadata_routing=True)``, or ``modalitydbscan__modality=...``
    without routing.

    Args:
        eps: As :func:`mabm.pseudo_labels`.
        min_samples: As :func:`mabm.pseudo_labels`.
        k1: As :func:`mabm.pseudo_labels`.
        k2: As :func:`mabm.pseudo_labels`: of each group with ``"bmil"``, else in all.
        preset: As :func:`mabm.pseudo_labels`.
        precision: As :func:`mabm.pseudo_labels`.

    Attributes:
        labels_: (N,) int64 NumPy labels after ``fit``; noise is -1.
        n_features_in_: Number of feature columns seen by ``fit``.

    Example:
        >>> import numpy as np, mabm
        >>> features = np.eye(8, dtype=np.float32).repeat(10, axis=0)
        >>> mabm.ModalityDBSCAN(k1=10, k2=2).fit_predict(features)[::10].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    def __init__(
        self,
        eps: float = 0.6,
        *,
        min_samples: int = 4,
        k1: int = DEFAULT_K1,
        k2: int = DEFAULT_K2,
        preset: str | Preset | None = None,
        precision: Precision = "exact",
    ) -> None:
        self.eps = eps
        self.min_samples = min_samples
        self.k1 = k1
        self.k2 = k2
        self.preset = preset
        self.precision = precision

    def fit(self, X: Array, y: object = None, modality: Column | None = None) -> ModalityDBSCAN:
        """Clusters the rows of ``X`` (N, D); ``y`` is ignored, ``modality`` (N,) may be ``None``.

        ``X`` may be a tensor, an array, a list or a data frame of numbers.

        Raises:
            TypeError: As :func:`mabm.pseudo_labels`.
            ValueError: As :func:`mabm.pseudo_labels`.
        """
        features = check_features(_read(X), "X")
        found = pseudo_labels(
            features,
            modality,
            eps=self.eps,
            min_samples=self.min_samples,
            k1=self.k1,
            k2=self.k2,
            preset=self.preset,
            precision=self.precision,
        )
        self.labels_: NDArray[np.int64] = found.labels.cpu().numpy()
        self.n_features_in_ = features.shape[1]
        return self

    def fit_predict(self, X: Array, y: object = None, **metadata: Any) -> NDArray[np.int64]:
        """Clusters the rows of ``X`` and returns ``labels_``; ``modality`` goes to ``fit``.

        ``ClusterMixin`` has the same; here it is annotated.
        """
        return self.fit(X, y, **metadata).labels_


def _read(value: object) -> Tensor | NDArray[Any]:
    """Rows as scikit-learn takes them: lists, frames, integers; a mask stays, to be refused."""
    if isinstance(value, Tensor):
        return value.double() if is_integer(value) else value
    if hasattr(value, "toarray"):
        raise TypeError(f"X must be dense, got {type(value).__name__}; use X.toarray()")
    try:
        rows = np.asanyarray(value)
        if rows.dtype.kind in "iubO" and not isinstance(rows, np.ma.MaskedArray):
            rows = rows.astype(np.float64)
    except (TypeError, ValueError) as error:  # rows of unequal length, or of words
        kind = type(value).__name__
        raise type(error)(f"X must be (N, D) numbers, got {kind}: {shown(error)}") from None
    return rows
