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
from mabm._core.work import Work
from mabm.cluster.dbscan import DBSCAN
from mabm.cluster.prediction import assign
from mabm.cluster.pseudo_labels import cluster_samples, watch_sizes
from mabm.distance.graph import DEFAULT_EPS, DEFAULT_MIN_SAMPLES, check_max_distance
from mabm.distance.jaccard import resolve_options
from mabm.distance.options import Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset


class ModalityDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """DBSCAN on the modality-aware Jaccard distance, for scikit-learn pipelines and searches.

    ``fit`` and ``predict`` take ``modality`` in addition to ``X``. In a pipeline, route it as
    metadata:
    ``ModalityDBSCAN().set_fit_request(modality=True).set_predict_request(modality=True)`` under
    ``sklearn.set_config(enable_metadata_routing=True)``, or ``modalitydbscan__modality=...`` to
    the pipeline's ``fit`` and ``modality=...`` to its ``predict`` without routing.

    Args:
        eps: Largest distance between neighbors, in [0, 1).
        min_samples: Number of neighbors within ``eps``, including itself, that make a sample a core
            sample.
        k1: Number of neighbors per sample, split evenly between the groups; at most 1024.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.
        max_memory: Most memory to allocate beyond the features in float32, on their device: a
            number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no limit. The
            ranking works in smaller parts to keep it; results are the same.

    Attributes:
        labels_: (N,) int64 NumPy labels after ``fit``; noise is -1.
        core_sample_indices_: (C,) int64 indices of the core samples, ascending.
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
        max_memory: int | str | None = None,
    ) -> None:
        self.eps = eps
        self.min_samples = min_samples
        self.k1 = k1
        self.k2 = k2
        self.preset = preset
        self.precision = precision
        self.max_memory = max_memory

    def fit(self, X: Array, y: object = None, modality: Column | None = None) -> ModalityDBSCAN:
        """Clusters the samples in ``X``, and keeps a reference to them for :meth:`predict`.

        Args:
            X: (N, D) features: a tensor, an array, a list of lists or a data frame of numbers; not
                normalized here.
            y: Ignored; scikit-learn passes it.
            modality: (N,) integers >= 0, bool or words, the group of each sample, or ``None``.

        Returns:
            The estimator itself.

        Raises:
            TypeError: A parameter or argument has the wrong type.
            ValueError: One is out of range; the message names it, the range and the value.
            MemoryError: ``max_memory`` is too small; the message names the bytes.
        """
        clusterer, work = DBSCAN(self.eps, self.min_samples), Work.of(self.max_memory)
        samples = check_samples(_read(X), modality, "X")
        features = samples.features
        options = resolve_options(samples.groups, **self._distance())
        found = cluster_samples(samples, options, clusterer, work)
        watch_sizes(found, clusterer)
        self.labels_: IntArray = found.labels.cpu().numpy()
        core: Any = found.core
        self.core_sample_indices_: IntArray = np.flatnonzero(core.cpu().numpy())
        self.n_features_in_ = features.shape[1]
        self._features, self._found = features, found
        return self

    def predict(self, X: Array, modality: Column | None = None) -> IntArray:
        """Returns the cluster of each sample's nearest core sample, or -1 for noise.

        Calls :func:`mabm.predict_labels` with the parameters of the estimator: all samples of a
        call affect each other's neighborhoods. A border sample of ``fit`` need not get its label in
        ``labels_`` again.

        Args:
            X: (M, D) features of new samples.
            modality: (M,) integers >= 0, the group of each sample; ``None`` if ``fit`` had none.

        Returns:
            (M,) int64 labels.

        Raises:
            sklearn.exceptions.NotFittedError: ``fit`` was not called.
            TypeError: A parameter or argument has the wrong type.
            ValueError: One is out of range, ``X`` has another number of columns than in ``fit``, or
                only one of ``fit`` and ``predict`` got a modality.
            MemoryError: ``max_memory`` is too small; the message names the bytes.

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
        found, work = self._found, Work.of(self.max_memory)
        options = self._distance()
        labels = assign(features, modality, self._features, found, eps, work, **options)
        return labels.cpu().numpy()

    def fit_predict(self, X: Array, y: object = None, **metadata: Any) -> IntArray:
        """Clusters the samples in ``X`` and returns ``labels_``.

        The method of ``ClusterMixin``, with type annotations.

        Args:
            X: (N, D) features, as for :meth:`fit`.
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
    """Samples in the forms that scikit-learn accepts: lists, frames, integers; masks are kept."""
    if isinstance(value, Tensor):
        return value.double() if is_integer(value) else value
    if hasattr(value, "toarray"):
        raise TypeError(f"X must be dense, got {type(value).__name__}; use X.toarray()")
    try:
        rows = np.asanyarray(value)
        if rows.dtype.kind in "iubO" and not isinstance(rows, np.ma.MaskedArray):
            rows = rows.astype(np.float64)
    except (TypeError, ValueError) as error:  # rows of unequal length, or not numbers
        kind = type(value).__name__
        raise type(error)(f"X must be (N, D) numbers, got {kind}: {shown(error)}") from None
    return rows
