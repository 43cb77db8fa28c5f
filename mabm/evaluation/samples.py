"""Samples from which a search selects its queries and galleries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabm._core.arrays import Array, check_features
from mabm._core.columns import Column, check_categories, check_column, check_visible_infrared
from mabm._core.protocols import SearchTask
from mabm.evaluation.galleries import draw_gallery


@dataclass(frozen=True, eq=False)
class SearchSamples:
    """N samples of a search: features, identities, cameras and modality.

    Attributes:
        features: (N, D) floating point, on their original device.
        identity: (N,) int64 on the CPU.
        camera: (N,) int64 on the CPU.
        modality: (N,) int64 on the CPU, 0 visible and 1 infrared.
    """

    features: Tensor
    identity: Tensor
    camera: Tensor
    modality: Tensor

    @classmethod
    def check(
        cls, features: Array, identity: Column, camera: Column, modality: Column
    ) -> SearchSamples:
        """Checks and converts the arguments of a search.

        Args:
            features: (N, D) floating point, finite.
            identity: (N,) integers or words, one per row of features.
            camera: (N,) integers, one per row of features.
            modality: (N,) integers, 0 visible and 1 infrared, or these two words, or bool.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: Shapes do not fit, or values are not finite.
        """
        x = check_features(features)
        count, each = len(x), "one per row of features"
        return cls(
            x,
            check_categories(identity, count, "identity", each).columns[0].cpu(),
            check_column(camera, count, "camera", each).cpu(),
            check_visible_infrared(modality, count, "modality", each).cpu(),
        )

    def query_candidates(self, task: SearchTask) -> Tensor:
        """(C,) int64 indices of a task's possible queries, ascending; may be empty."""
        return self._rows(task.query_modality, task.query_cameras)

    def gallery_candidates(self, task: SearchTask) -> Tensor:
        """(C,) int64 indices of a task's possible gallery samples, ascending; may be empty."""
        return self._rows(task.gallery_modality, task.gallery_cameras)

    def queries(self, task: SearchTask, trial: int) -> Tensor:
        """(Q,) int64 indices of the queries of one trial: those drawn for it, or all candidates."""
        candidates = self.query_candidates(task)
        if task.drawn != "queries":
            return candidates
        return self._draw(candidates, task.query_cameras, task.num_images, trial)

    def gallery(self, task: SearchTask, trial: int) -> Tensor:
        """(G,) int64 indices of the gallery of one trial: those drawn for it, or all candidates."""
        candidates = self.gallery_candidates(task)
        if task.drawn != "gallery":
            return candidates
        return self._draw(candidates, task.gallery_cameras, task.num_images, trial)

    def _draw(
        self, candidates: Tensor, cameras: tuple[int, ...] | None, num_images: int, trial: int
    ) -> Tensor:
        assert cameras is not None  # a task that draws has them
        drawn = draw_gallery(
            self.identity[candidates],
            self.camera[candidates],
            cameras=cameras,
            trial=trial,
            num_images=num_images,
        )
        return candidates[drawn]

    def features_at(self, rows: Tensor) -> Tensor:
        """(B, D) features of the given indices, on their original device."""
        return self.features[rows.to(self.features.device)]

    def _rows(self, modality: int, cameras: tuple[int, ...] | None) -> Tensor:
        chosen = self.modality == modality
        if cameras is not None:
            chosen &= torch.isin(self.camera, torch.tensor(cameras, device="cpu"))
        return torch.nonzero(chosen).flatten()
