"""The clustering as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mabm._core.arguments import shown
from mabm._core.arrays import Array, IntArray, check_features, is_integer
from mabm._core.columns import Column, check_samples
from mabm.cluster.dbscan import DBSCAN
from mabm.cluster.prediction import assign
from mabm.cluster.pseudo_labels import cluster_samples, watch_sizes
from mabm.distance.graph import DEFAULT_EPS, DEFAULT_MIN_SAMPLES, check_max_distance
from mabm.distance.jaccard import resolve_options
from mabm.distance.options import Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset


class ModalityDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """DBSCAN on the modality-aware Jaccard distance, for scikit-learn pipelines and searches.

    ``fit`` and ``predict`` take ``modality`` beside ``X``. In a pipeline, route it as metadata:
    ``ModalityDBSCAN().set_fit_request(modality=True).set_predict_request(modality=True)`` under
    ``sklearn.set_config(enable_metadata_routing=True)``, or ``modalitydbscan__modality=...`` to
    the pipeline's ``fit`` and ``modality=...`` to its ``predict`` without routing.

    Args:
        eps: Greatest distance of neighbors, in [0, 1).
        min_samples: Neighbors within ``eps``, itself among them, that make a sample core.
        k1: Neighbors of a sample, shared evenly by the groups; at most 1024.
        k2: Rows averaged around a sample, in [1, k1]: per group with ``"bmil"``, else in total.
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: Of the ranking: ``"exact"``, or ``"fast"`` as in :func:`mabm.rank_neighbors`.

    Attributes:
        labels_: (N,) int64 NumPy labels after ``fit``; noise is -1.
        core_sample_indices_: (C,) int64 rows of the core samples, ascending.
        n_features_in_: Number of feature columns seen by ``fit``.

    Example:
        >>> import numpy as np, mabm
        >>> features = np.eye(8, dtype=np.float32).repeat(10, axis=0)
        >>> mabm.ModalityDBSCAN(k1=10, k2=2).fit_predict(features)[::10].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
        >>> estimator = mabm.ModalityDBSCAN(k1=10, k2=2)
        >>> estimator.fit(features, modality=np.arange(80) % 2).core_sample_indices_.shape
        (80,)
    """

    def __init__(
        self,
        eps: float = DEFAULT_EPS,
        *,
        min_samples: int = DEFAULT_MIN_SAMPLES,
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
        """Clusters the rows of ``X``, and keeps a reference to them for :meth:`predict`.

        Args:
            X: (N, D) features: a tensor, an array, lists of rows or a data frame of numbers; never
                normalized here.
            y: Ignored; scikit-learn passes it.
            modality: (N,) integers >= 0, bool or words, the group of each row, or ``None``.

        Returns:
            The estimator itself.

        Raises:
            TypeError: A parameter or argument of the wrong kind.
            ValueError: One out of its range; the message names it, the range and the value.
        """
        clusterer = DBSCAN(self.eps, self.min_samples)
        samples = check_samples(_read(X), modality, "X")
        features = samples.features
        options = resolve_options(samples.groups, **self._distance())
        found = cluster_samples(samples, options, clusterer)
        watch_sizes(found, clusterer)
        self.labels_: IntArray = found.labels.cpu().numpy()
        core: Any = found.core
        self.core_sample_indices_: IntArray = np.flatnonzero(core.cpu().numpy())
        self.n_features_in_ = features.shape[1]
        self._features, self._found = features, found
        return self

    def predict(self, X: Array, modality: Column | None = None) -> IntArray:
        """Gives each row of ``X`` the cluster of its nearest core sample, or -1 for noise.

        The parameters are those of the estimator, the rest is :func:`mabm.predict_labels`: rows of
        one call share their neighborhoods. The rows of ``fit`` keep ``labels_``, which a border
        sample among them need not get again here.

        Args:
            X: (M, D) features of new samples.
            modality: (M,) integers >= 0, the group of each row; ``None`` where ``fit`` had none.

        Returns:
            (M,) int64 labels.

        Raises:
            sklearn.exceptions.NotFittedError: ``fit`` was not called.
            TypeError: A parameter or argument of the wrong kind.
            ValueError: One out of its range, another number of columns than in ``fit``, or a
                modality in only one of the two.

        Example:
            >>> import numpy as np, mabm
            >>> features = np.eye(8, dtype=np.float32).repeat(10, axis=0)
            >>> estimator = mabm.ModalityDBSCAN(k1=10, k2=2).fit(features)
            >>> estimator.predict(features[[75, 0]]).tolist()
            [7, 0]
        """
        check_is_fitted(self)
        features = check_features(_read(X), "X").to(self._features.device)
        if features.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must have {self.n_features_in_} columns, as in fit, got {features.shape[1]}"
            )
        eps = check_max_distance("eps", self.eps)
        found = self._found
        labels = assign(features, modality, self._features, found, eps, **self._distance())
        return labels.cpu().numpy()

    def fit_predict(self, X: Array, y: object = None, **metadata: Any) -> IntArray:
        """Clusters the rows of ``X`` and returns ``labels_``.

        ``ClusterMixin`` has the same; here it is annotated.

        Args:
            X: (N, D) features, as :meth:`fit` takes them.
            y: Ignored; scikit-learn passes it.
            metadata: ``modality`` for :meth:`fit`.

        Returns:
            (N,) int64 labels.
        """
        return self.fit(X, y, **metadata).labels_

    def _distance(self) -> dict[str, Any]:
        names = "k1", "k2", "preset", "precision"
        return {name: getattr(self, name) for name in names}


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
