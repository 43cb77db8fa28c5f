"""The memory of Cluster-Contrast and its descendants: replaces their ``models.cm``.

It keeps the old behavior: **backward updates the memory**, and a gradient uses the memory as it is
at that time, after the updates of earlier backward passes. Loops that only call ``loss.backward()``
need this. Inputs that are not finite are ignored; in the old code they made the memory NaN. New
code should use :mod:`mabm.contrast.losses` and :mod:`mabm.contrast.memories`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mabm._core.arguments import check_integer, check_real, shown
from mabm._core.arrays import Array
from mabm._core.batch_checks import check_rows, widen_targets
from mabm._core.columns import check_column
from mabm._core.precision import unit_rows, without_autocast
from mabm.compat._adapters.memories import (
    MovingMemory,
    check_momentum,
    check_smooth,
    contrast,
    hardest_image_logits,
    moving_product,
    number_in,
)
from mabm.compat.clustercontrast.products import cm, cm_hard, cm_hybrid, move_images
from mabm.contrast.losses.hybrid_contrast import DEFAULT_MARGIN
from mabm.contrast.losses.multi_positive import multi_positive_of_logits
from mabm.contrast.losses.selection import DEFAULT_NUM_SELECTED
from mabm.contrast.losses.similarity import DEFAULT_TEMPERATURE

__all__ = ["ClusterMemory"]


class ClusterMemory(MovingMemory):
    """The memory of Cluster-Contrast's descendants: ``forward(f, y)`` is the loss.

    Callers assign ``memory.features`` after construction and then only call ``loss.backward()``,
    which updates the memory. Each process updates its own memory, as in the released code. One
    class supports the calls of all these code bases:

    ==============================================  ==============================================
    code base                                       calls
    ==============================================  ==============================================
    Cluster-Contrast, ADCA, GUR, MMM, DLLR, PGM     ``use_hard=``; ``memory(f, y)``
    CA-Jaccard                                      ``memory(f, y)``
    PGM                                             also ``memory(f, y, momentum=m)``
    SDCL, HIL                                       also ``memory(f, y, ca=w)`` and
                                                    ``training_momentum=m``
    N-ULC                                           ``memory(f, y, return_out=True)``: logits only
    ISE                                             ``sample_type="hard"``
    RPNR                                            ``mode="CMhcl"``, ``smooth=``
    BMIL                                            ``mode="CMhybrid"``,
                                                    ``has_multi_pos_loss=True``,
                                                    ``memory.proxy_pseudo_labels = labels``
    PCLHD                                           ``mode="CMhard"``,
                                                    ``memory.features_ema = images``,
                                                    ``memory(f, y, model_name="encoder_ema")``
    ==============================================  ==============================================

    N-ULC and MPJL have ``use_hard`` but never read it: omit it for them. HHCL's modes have the same
    names but other losses; use :class:`mabm.compat.hhcl.ClusterMemory` for it.

    **Modes.** ``"CM"`` is updated with each input in turn, ``"CMhard"`` with the least similar
    input, and ``"CMhybrid"`` (``"CMhcl"`` in RPNR) has two banks, see :func:`cm_hybrid`. The loss
    is the cross entropy of the similarities divided by ``temp``. The loss of two banks is
    ``hard_weight * hard + (1 - hard_weight) * relu(mean - 0.2)``.

    **PCLHD's** ``mode="CMhard"`` is a different memory. It is recognized by ``features`` of
    exactly 2 ``num_samples`` rows, or by ``features_ema``; its ``forward(f, y)`` is that of
    ``"CMhybrid"``. With ``model_name="encoder_ema"`` an input is compared with ``num_instances``
    images of each cluster. Its logit is the least similarity to the images of its own cluster, and
    the greatest similarity to the images of each other cluster. Backward replaces the images of the
    batch's clusters by their inputs, drawn by ``image_generator``. PCLHD computes this loss without
    a gradient, so no image is replaced.

    Args:
        num_features: Dimension D of the features.
        num_samples: K, the number of rows of a bank until ``features`` are assigned.
        temp: Divisor of the similarities.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.
        use_hard: Whether the mode is ``"CMhard"`` with one bank.
        mode: One of the modes above; ``None`` is ``"CMhybrid"`` with ``has_multi_pos_loss``,
            otherwise ``"CM"``.
        smooth: Whether to smooth labels by 0.1: any number above 0 does, as in RPNR, PCLHD and
            BMIL. The target has weight 0.9. With K = ``num_samples`` below 100, each class gets
            0.1 / K in addition; from 100 on, each of the K // 50 greatest logits gets
            0.1 / (K // 50).
        hard_weight: Weight of the hard bank's loss in ``"CMhybrid"``, in [0, 1]; the mean bank's
            loss has the rest.
        num_instances: Number of images per cluster in ``features_ema``; not needed otherwise.
        has_multi_pos_loss: Whether the loss is :func:`mabm.multi_positive_loss`, without smoothing.
            Targets are then prototypes, and ``proxy_pseudo_labels`` are their clusters. ``"CM"``
            ignores it, as in BMIL.
        sample_type: ISE's name of the mode: ``"hard"`` is ``"CMhard"``, any other is ``"CM"``, and
            ``use_hard`` is ignored.

    Attributes:
        features: (K, D) buffer, or (2K, D) in ``"CMhybrid"``, the mean bank first. Callers
            assign it, or load it by ``load_state_dict``, with any number of rows.
        features_ema: (num_instances * K, D) buffer or ``None``; row i * K + y is image i of
            cluster y. Callers assign it before ``model_name="encoder_ema"`` in ``"CMhard"``.
        image_generator: Generator that draws the images; by default the memory's own, with seed 0.
            Assign ``numpy.random`` to draw from NumPy's global generator, as PCLHD does.
        proxy_pseudo_labels: (P,) integers, tensor or array. Callers assign them for
            ``has_multi_pos_loss``; the features then have P or 2P rows, independently of K.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range, or ``use_hard`` contradicts ``mode``.

    Source:
        Dai et al., ACCV 2022 (Cluster-Contrast); Shi et al., arXiv:2402.19026 (PCLHD); Yin et al.,
        arXiv:2405.05613 (RPNR); Wang et al., AAAI 2026 (BMIL), as released.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import ClusterMemory
        >>> memory = ClusterMemory(16, 5, temp=0.05, momentum=0.2, use_hard=True)
        >>> memory.features = torch.nn.functional.normalize(torch.randn(5, 16), dim=1)
        >>> loss = memory(torch.randn(8, 16, requires_grad=True), torch.arange(8) % 5)
        >>> loss.backward()
        >>> memory(torch.randn(8, 16), torch.arange(8) % 5, return_out=True).shape
        torch.Size([8, 5])
    """

    features_ema: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_samples: int,
        temp: float = DEFAULT_TEMPERATURE,
        momentum: float | Tensor = 0.2,
        *,
        use_hard: bool = False,
        mode: str | None = None,
        smooth: float = 0.0,
        hard_weight: float = 0.5,
        num_instances: int = 16,
        has_multi_pos_loss: bool = False,
        sample_type: str | None = None,
    ) -> None:
        stored = _read_mode(mode, bool(use_hard), bool(has_multi_pos_loss), sample_type)
        super().__init__(num_features, num_samples, temp, momentum, _NUM_BANKS[stored])
        self.smooth = check_smooth(smooth)
        self.hard_weight = check_real("hard_weight", hard_weight, 0.0, 1.0)
        self.num_instances = check_integer("num_instances", num_instances, at_least=0)
        self.has_multi_pos_loss = bool(has_multi_pos_loss)
        self._mode = stored
        self._may_have_two_banks = mode is not None and not use_hard
        self.proxy_pseudo_labels: Array | None = None
        self.register_buffer("features_ema", None)
        self.image_generator: Any = np.random.RandomState(0)  # same interface as numpy.random

    @property
    def mode(self) -> str:
        """The mode; ``cm_type`` is the same.

        It can be assigned, as can ``use_hard``, ``temp``, ``momentum``, ``smooth``,
        ``hard_weight``, ``num_instances``, ``num_samples`` and ``has_multi_pos_loss``; the next
        forward pass uses the new value.
        """
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode, self._may_have_two_banks = _check_mode(mode), True

    cm_type = mode

    @property
    def use_hard(self) -> bool:
        """Whether the mode is ``"CMhard"``; assign it to switch between that and ``"CM"``."""
        return self._mode == "CMhard"

    @use_hard.setter
    def use_hard(self, use_hard: bool) -> None:
        if self._mode in _HYBRID:
            raise ValueError(
                f"use_hard must not be set in mode {self._mode!r}, which has a hard bank as "
                f"well as its mean bank, got {use_hard}"
            )
        self._mode, self._may_have_two_banks = "CMhard" if use_hard else "CM", False

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        return_out: bool = False,
        model_name: str = "encoder",
        momentum: float | Tensor | None = None,
        ca: Array | None = None,
        training_momentum: float | Tensor | None = None,
    ) -> Tensor:
        """Computes the loss of (B, D) inputs and their targets.

        Args:
            inputs: (B, D) floating point; normalized by the memory.
            targets: (B,) integers in [-1, K); -1 is noise.
            return_out: Whether to return logits instead of a loss, as in N-ULC. A backward pass
                through them updates the memory; ``"CMhard"`` is then updated as ``"CM"``, because
                N-ULC never reads ``use_hard``.
            model_name: ``"encoder"``, or ``"encoder_ema"`` for the images of ``features_ema`` in
                PCLHD's ``"CMhard"``. Other modes ignore it, as in PCLHD.
            momentum: Momentum of this batch instead of the memory's; ``None`` and 0 keep the
                memory's, as in PGM.
            ca: (B,) weights of the rows' losses in their mean (SDCL), or a number. Only for
                memories of one bank.
            training_momentum: Momentum of this batch, which may be 0 (SDCL); ``None`` keeps the
                memory's.

        Returns:
            Scalar loss; with ``return_out`` the logits, similarities divided by ``temp``: (B, K),
            or (B, 2K) for a memory of two banks.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A shape, a device, a target or an option violates the contract, two banks
                have an odd number of rows, or ``proxy_pseudo_labels`` or ``features_ema`` are not
                assigned.
        """
        if model_name not in _MODEL_NAMES:
            raise ValueError(f"model_name must be one of {_MODEL_NAMES}, got {shown(model_name)}")
        self._make_writable()
        moved_by = self._momentum_now(momentum, training_momentum)
        temperature = self._temperature_now()
        by_images = model_name == "encoder_ema" and self._mode == "CMhard"
        mode = self._mode_now()
        if ca is not None and (return_out or by_images or mode in _HYBRID):
            raise ValueError(
                "ca must be None with return_out, model_name='encoder_ema' or a memory of two "
                f"banks, whose losses have no weights, got {type(ca).__name__}"
            )
        inputs = check_rows(inputs, "inputs")
        with without_autocast(inputs.device):
            rows = unit_rows(inputs)
            if by_images:
                outputs = self._similarities_of_images(rows, targets, moved_by)
            else:
                product = cm if return_out and mode == "CMhard" else _PRODUCTS[mode]
                outputs = product(rows, targets, self.features, moved_by)
            logits = outputs / temperature
            if return_out:
                return logits
            targets = widen_targets(targets, "targets")
            if by_images:
                return self._loss(
                    hardest_image_logits(logits, targets, self.num_instances), targets
                )
            banks = logits.chunk(_NUM_BANKS[mode], dim=1)
            if self.has_multi_pos_loss and mode != "CM":
                return self._multi_positive(torch.stack(banks), targets)
            losses = [self._loss(bank, targets, ca) for bank in banks]
        if mode not in _HYBRID:
            return losses[0]
        mean, hard = losses
        weight = check_real("hard_weight", number_in(self.hard_weight), 0.0, 1.0)
        return weight * hard + (1 - weight) * F.relu(mean - DEFAULT_MARGIN)

    def _prepare_for(self, state_dict: dict[str, Any], prefix: str) -> tuple[()]:
        """Resizes the buffers for a state with another number of rows, or with images."""
        for name in ("features", "features_ema"):
            saved, current = state_dict.get(prefix + name), getattr(self, name)
            if not isinstance(saved, Tensor) or saved.shape[1:] != self.features.shape[1:]:
                continue  # PyTorch rejects it
            if current is None or current.shape != saved.shape:
                setattr(self, name, self.features.new_empty(saved.shape))
        return ()

    def _mode_now(self) -> str:
        """The mode, with PCLHD's ``"CMhard"`` of two banks replaced by ``"CMhybrid"``."""
        if self._mode != "CMhard":
            return self._mode
        has_two_banks = self._may_have_two_banks and (
            0 < len(self.features) == 2 * self.num_samples
        )
        return "CMhybrid" if has_two_banks or self.features_ema is not None else "CMhard"

    def _momentum_now(
        self, momentum: float | Tensor | None, training_momentum: float | Tensor | None
    ) -> float:
        if training_momentum is None:
            return check_momentum(momentum if momentum else self.momentum)
        if momentum is not None:
            raise ValueError(f"momentum must be None with training_momentum, got {shown(momentum)}")
        return check_momentum(training_momentum, "training_momentum")

    def _similarities_of_images(self, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
        count = check_integer("num_instances", self.num_instances, at_least=1)
        if self.features_ema is None:
            raise ValueError(
                "features_ema must be assigned before model_name='encoder_ema' in mode 'CMhard', "
                f"({count} * K, D) images of clusters, got None"
            )
        move = partial(move_images, num_instances=count, generator=self.image_generator)
        each = f"num_instances = {count} rows for every cluster"
        return moving_product(
            rows, targets, self.features_ema, momentum, move, count, "features_ema", each
        )

    def _loss(self, logits: Tensor, targets: Tensor, ca: Array | None = None) -> Tensor:
        return contrast(logits, targets, self.num_samples if self.smooth > 0 else None, ca)

    def _multi_positive(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.proxy_pseudo_labels is None:
            raise ValueError(
                "proxy_pseudo_labels must be assigned before a loss with has_multi_pos_loss, "
                "got None"
            )
        each = "one per row of a bank of features"
        clusters = check_column(
            self.proxy_pseudo_labels, logits.shape[-1], "proxy_pseudo_labels", each
        ).to(logits.device)
        return multi_positive_of_logits(
            logits, targets, clusters, DEFAULT_NUM_SELECTED, positive_weights=None, select=None
        )


_NUM_BANKS: Final = {"CM": 1, "CMhard": 1, "CMhybrid": 2, "CMhcl": 2}
_HYBRID: Final = ("CMhybrid", "CMhcl")
_PRODUCTS: Final = {"CM": cm, "CMhard": cm_hard, "CMhybrid": cm_hybrid, "CMhcl": cm_hybrid}
_MODEL_NAMES: Final = ("encoder", "encoder_ema")


def _check_mode(mode: object) -> str:
    if not isinstance(mode, str) or mode not in _NUM_BANKS:
        raise ValueError(f"mode must be one of {tuple(_NUM_BANKS)} or None, got {shown(mode)}")
    return mode


def _read_mode(
    mode: object, use_hard: bool, has_multi_pos_loss: bool, sample_type: str | None
) -> str:
    if sample_type is not None:
        if mode is not None:
            raise ValueError(f"mode must be None with sample_type, got {shown(mode)}")
        return "CMhard" if sample_type == "hard" else "CM"
    if mode is None:
        return "CMhard" if use_hard else "CMhybrid" if has_multi_pos_loss else "CM"
    if _check_mode(mode) != "CMhard" and use_hard:
        raise ValueError(f"mode must be 'CMhard' or None with use_hard, got {mode!r}")
    return str(mode)
