"""Evaluation protocols of data sets: what searches compare, and what scores count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mabm._core.arguments import check_choice, check_integer
from mabm._core.saving import Saved

Side = Literal["queries", "gallery"]


@dataclass(frozen=True)
class RetrievalProtocol(Saved):
    """Which gallery samples a data set excludes, and what its CMC counts.

    Attributes:
        name: Name of this protocol in messages.
        excluded_cameras: Pairs (query camera, gallery camera): queries of the first are never
            compared with gallery samples of the second, whatever their identities.
        exclude_same_camera: Whether gallery samples with the identity and camera of the query are
            excluded. A negative camera is unknown, and differs from all cameras.
        cmc_by_identity: Whether the CMC counts identities, each at its first occurrence in the
            ranked gallery, instead of samples. mAP and mINP always count samples.

    Example:
        >>> import mabm
        >>> mabm.RetrievalProtocol("mine", exclude_same_camera=True).needs_cameras
        True
    """

    name: str
    excluded_cameras: tuple[tuple[int, int], ...] = ()
    exclude_same_camera: bool = False
    cmc_by_identity: bool = False

    @property
    def needs_cameras(self) -> bool:
        """Whether the protocol uses cameras."""
        return bool(self.excluded_cameras) or self.exclude_same_camera

    def compared(self, matches: Tensor, query_cameras: Tensor, gallery_cameras: Tensor) -> Tensor:
        """Returns which pairs of a query and a gallery sample are compared.

        Args:
            matches: (Q, G) bool, whether the two have the same identity.
            query_cameras: Integers, broadcast to (Q, G).
            gallery_cameras: Integers, broadcast to (Q, G).

        Returns:
            (Q, G) bool.

        Example:
            >>> import torch, mabm
            >>> matches, cameras = torch.tensor([[True, False]]), torch.tensor([2, 1])
            >>> protocol = mabm.RetrievalProtocol("mine", excluded_cameras=((3, 2),))
            >>> protocol.compared(matches, torch.tensor([[3]]), cameras)
            tensor([[False,  True]])
        """
        kept = torch.ones_like(matches)
        for query_camera, gallery_camera in self.excluded_cameras:
            kept &= (query_cameras != query_camera) | (gallery_cameras != gallery_camera)
        if self.exclude_same_camera:
            kept &= ~matches | (query_cameras != gallery_cameras) | (query_cameras < 0)
        return kept


@dataclass(frozen=True)
class SearchTask(Saved):
    """One evaluation task of a data set: queries of one modality, gallery of another.

    Attributes:
        data: Name of the data set.
        name: Name of the task, such as ``"infrared-to-visible"``: the queries' modality first.
        query_modality: Modality of the queries.
        gallery_modality: Modality of the gallery.
        protocol: Which gallery samples are excluded, and what the CMC counts.
        query_cameras: Cameras of the queries; ``None`` for all.
        gallery_cameras: Cameras of the gallery; ``None`` for all.
        drawn: The side that is drawn for every trial (:func:`mabm.draw_gallery`), ``"gallery"`` or
            ``"queries"``: ``num_images`` images per identity and camera, in the order of its
            cameras, which must be given. The other side contains all images. ``None``: nothing is
            drawn, and there is one trial.
        num_images: Number of images to draw per identity and camera.
        num_trials: Trials 0, 1, ... to average over.

    Example:
        >>> from mabm import RetrievalProtocol, SearchTask
        >>> protocol = RetrievalProtocol("mine")
        >>> SearchTask(
        ...     "mine", "ten-shot", 1, 0, protocol, gallery_cameras=(1, 2), drawn="gallery",
        ...     num_images=10, num_trials=5,
        ... ).num_images
        10
    """

    data: str
    name: str
    query_modality: int
    gallery_modality: int
    protocol: RetrievalProtocol
    query_cameras: tuple[int, ...] | None = None
    gallery_cameras: tuple[int, ...] | None = None
    drawn: Side | None = None
    num_images: int = 1
    num_trials: int = 1

    def __post_init__(self) -> None:
        """Rejects choices that cannot be combined."""
        check_choice("drawn", self.drawn, (*get_args(Side), None))
        for name in ("num_images", "num_trials"):
            count = check_integer(name, getattr(self, name), at_least=1)
            if self.drawn is None and count != 1:
                raise ValueError(f"{name} must be 1 if nothing is drawn, got {count}")
        cameras = {"queries": "query_cameras", "gallery": "gallery_cameras"}.get(self.drawn or "")
        if cameras is not None and getattr(self, cameras) is None:
            raise ValueError(
                f"{cameras} must be given with drawn={self.drawn!r}, since the draw follows their "
                "order; got None"
            )
        for name in ("query_cameras", "gallery_cameras"):
            cameras = getattr(self, name)
            if cameras is not None and not (cameras and len(set(cameras)) == len(cameras)):
                raise ValueError(f"{name} must be cameras without repeats, or None; got {cameras}")
        if not isinstance(self.protocol, RetrievalProtocol):
            raise TypeError(
                f"protocol must be a RetrievalProtocol, got {type(self.protocol).__name__}"
            )
