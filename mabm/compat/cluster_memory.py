"""The memory of Cluster-Contrast and its descendants: stands in for their ``models.cm``.

It keeps the old contract: **it moves during backward**, and a gradient sees the memory as it is
when it is computed, with whatever an earlier backward did to it. That is what loops that call
nothing but ``loss.backward()`` need. Inputs that are not finite move nothing, where the old code's
memory became NaN. New code has :mod:`mabm.contrast.losses` and :mod:`mabm.contrast.memories`.
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
from mabm._core.partition import NOISE
from mabm._core.precision import unit_rows, without_autocast
from mabm.compat._memories import (
    MovingMemory,
    check_momentum,
    check_smooth,
    contrast,
    move_batch_by_each,
    moving_product,
    number_in,
    of_hardest_images,
)
from mabm.contrast.losses.hybrid_contrast import DEFAULT_MARGIN
from mabm.contrast.losses.multi_positive import multi_positive_of_logits
from mabm.contrast.losses.selection import DEFAULT_NUM_SELECTED
from mabm.contrast.losses.similarity import DEFAULT_TEMPERATURE
from mabm.contrast.memories.hard import move_by_hardest
from mabm.contrast.memories.hybrid import move_banks

__all__ = ["ClusterMemory", "cm", "cm_hard", "cm_hybrid"]

# PCLHD draws a cluster's images with replacement where a batch has fewer of them.
_ENOUGH_TO_DRAW_FROM: Final = 16


def cm(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5) -> Tensor:
    """Returns ``inputs @ features.T``; backward moves ``features`` by every input in turn.

    Args:
        inputs: (B, D) floating point, used as they are: callers normalize them.
        indexes: (B,) integers in [-1, K), the row of each input, -1 for none.
        features: (K, D) floating point memory, **written to by backward**; one that was made in
            inference mode cannot be, and is refused.
        momentum: What a row keeps of itself, in [0, 1]; a number or a tensor of one.

    Returns:
        (B, K) similarities, float32 under autocast too. Differentiable once, in ``inputs``; without
        a backward pass through them the memory stays.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A shape, device, index or momentum out of contract.

    Source:
        Dai et al., ACCV 2022 (Cluster-Contrast), equation 2.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm
        >>> memory, inputs = torch.eye(3), torch.eye(3)[:1].requires_grad_()
        >>> outputs = cm(inputs, torch.tensor([1]), memory, momentum=0.0)
        >>> outputs.sum().backward()
        >>> memory[1]
        tensor([1., 0., 0.])
    """
    return moving_product(inputs, indexes, features, momentum, move_batch_by_each)


def cm_hard(
    inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5
) -> Tensor:
    """Returns :func:`cm`'s similarities; backward moves a row by its least similar input.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm_hard
        >>> memory, inputs = torch.eye(2), torch.eye(2).requires_grad_()
        >>> cm_hard(inputs, torch.tensor([0, 0]), memory, momentum=0.0).sum().backward()
        >>> memory[0]
        tensor([0., 1.])
    """
    return moving_product(inputs, indexes, features, momentum, move_by_hardest)


def cm_hybrid(
    inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5
) -> Tensor:
    """Returns (B, 2K) similarities with a (2K, D) memory of two banks, the mean bank's first.

    Backward moves the mean bank by the mean of a row's inputs and the hard bank by the input least
    similar to the mean bank's row. Otherwise as :func:`cm`.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm_hybrid
        >>> cm_hybrid(torch.randn(4, 8), torch.arange(4), torch.randn(2 * 5, 8)).shape
        torch.Size([4, 10])
    """
    return moving_product(inputs, indexes, features, momentum, _move_stacked, num_banks=2)


class ClusterMemory(MovingMemory):
    """The memory of Cluster-Contrast's descendants: ``forward(f, y)`` is the loss.

    Callers assign ``memory.features`` after construction and then call nothing but
    ``loss.backward()``, which moves the memory. In several processes each moves its own, as in
    the released code. One class answers the calls of all these:

    ==============================================  ==============================================
    code base                                       what it calls
    ==============================================  ==============================================
    Cluster-Contrast, ADCA, GUR, MMM, DLLR, PGM     ``use_hard=``; ``memory(f, y)``
    CA-Jaccard                                      ``memory(f, y)``
    PGM                                             also ``memory(f, y, momentum=m)``
    SDCL, HIL                                       also ``memory(f, y, ca=w)`` and
                                                    ``training_momentum=m``
    N-ULC                                           ``memory(f, y, return_out=True)``: logits alone
    ISE                                             ``sample_type="hard"``
    RPNR                                            ``mode="CMhcl"``, ``smooth=``
    BMIL                                            ``mode="CMhybrid"``,
                                                    ``has_multi_pos_loss=True``,
                                                    ``memory.proxy_pseudo_labels = labels``
    PCLHD                                           ``mode="CMhard"``,
                                                    ``memory.features_ema = images``,
                                                    ``memory(f, y, model_name="encoder_ema")``
    ==============================================  ==============================================

    N-ULC and MPJL take ``use_hard`` and never read it: leave it out there. HHCL's modes have the
    same names and other losses: it has :class:`mabm.compat.hhcl.ClusterMemory`.

    **Modes.** ``"CM"`` is moved by every input in turn, ``"CMhard"`` by the least similar input,
    and ``"CMhybrid"`` (``"CMhcl"`` in RPNR) has two banks, see :func:`cm_hybrid`. The loss is the
    cross entropy of the similarities over ``temp``; that of two banks is
    ``hard_weight * hard + (1 - hard_weight) * relu(mean - 0.2)``.

    **PCLHD's** ``mode="CMhard"`` is another memory. It is recognized by ``features`` of
    exactly 2 ``num_samples`` rows, or by ``features_ema``; its ``forward(f, y)`` is that of
    ``"CMhybrid"``. With ``model_name="encoder_ema"`` an input is compared with ``num_instances``
    images of every cluster. Its logit is the least similarity to an image of its own cluster, and
    the greatest to an image of each other cluster. Backward replaces the images of every cluster in
    the batch by inputs of it, which ``image_generator`` draws. PCLHD computes that loss without a
    gradient, and then no image is replaced.

    Args:
        num_features: D.
        num_samples: K, the size of the memory until ``features`` are assigned.
        temp: What similarities are divided by.
        momentum: What a row keeps of itself, in [0, 1]; a number or a tensor of one.
        use_hard: Stands for ``mode="CMhard"`` with one bank.
        mode: One of those above; ``None`` is ``"CM"``, and ``"CMhybrid"`` with
            ``has_multi_pos_loss``.
        smooth: A switch, as in RPNR, PCLHD and BMIL: above 0, labels are smoothed by 0.1, whatever
            the number. With K = ``num_samples`` below 100 the target has weight 0.9 and every class
            0.1 / K more; from 100 on, only the K // 50 classes of the greatest logits get more,
            0.1 / (K // 50) each.
        hard_weight: Weight of the hard bank's loss in ``"CMhybrid"``, in [0, 1]; the mean bank's
            has the rest.
        num_instances: How many images of a cluster ``features_ema`` holds; nothing else needs it.
        has_multi_pos_loss: Whether ``y`` are prototypes whose clusters ``proxy_pseudo_labels``
            holds, and the loss is :func:`mabm.multi_positive_loss` of them, without smoothing.
            ``"CM"`` ignores it, as BMIL does.
        sample_type: ISE's word for the mode: ``"hard"`` is ``"CMhard"`` and any other ``"CM"``,
            whatever ``use_hard`` is.

    Attributes:
        features: (K, D) buffer, or (2K, D) in ``"CMhybrid"``, the mean bank first. To be assigned,
            or loaded by ``load_state_dict`` with as many rows as were saved.
        features_ema: (num_instances * K, D) buffer or ``None``; row i * K + y is image i of
            cluster y. To be assigned before ``model_name="encoder_ema"`` in ``"CMhard"``.
        image_generator: What draws the images, by default a generator of the memory's own with seed
            0. ``memory.image_generator = numpy.random`` draws from NumPy's global one, as PCLHD.
        proxy_pseudo_labels: (P,) integers, tensor or array: to be assigned with
            ``has_multi_pos_loss``, where the features are P or 2P rows, whatever K was.
        mode: The mode. It can be set, as can ``use_hard``, ``temp``, ``momentum``, ``smooth``,
            ``hard_weight``, ``num_instances``, ``num_samples`` and ``has_multi_pos_loss``; the next
            forward pass uses it.

    Raises:
        TypeError: An option of the wrong kind.
        ValueError: An option out of its range, or ``use_hard`` beside another ``mode``.

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
        self.image_generator: Any = np.random.RandomState(0)  # has NumPy's global choice

    @property
    def mode(self) -> str:
        """The mode, as it was given; ``cm_type`` is the same."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode, self._may_have_two_banks = _check_mode(mode), True

    cm_type = mode

    @property
    def use_hard(self) -> bool:
        """Whether the mode is ``"CMhard"``; set, it chooses between that and ``"CM"``."""
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
            inputs: (B, D) floating point, normalized here.
            targets: (B,) integers in [-1, K), -1 for noise.
            return_out: Whether to return logits alone and no loss, as N-ULC does. The memory moves
                when a gradient comes back through them, ``"CMhard"`` as ``"CM"``, because N-ULC
                never reads ``use_hard``.
            model_name: ``"encoder"``, or ``"encoder_ema"`` for the images of ``features_ema`` in
                PCLHD's ``"CMhard"``. Other modes ignore it, as there.
            momentum: For this batch, in place of the memory's own. As in PGM, ``None`` and 0 are
                the memory's own.
            ca: (B,) weights that the rows' losses are multiplied by before their mean (SDCL), or a
                number. For memories of one bank.
            training_momentum: As ``momentum``, but 0 is 0 (SDCL).

        Returns:
            Scalar loss; with ``return_out`` the (B, K) similarities over ``temp``, (B, 2K) of a
            memory of two banks.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A shape, device, target or option out of contract, ``features`` of an odd
                number of rows where there are two banks, or ``proxy_pseudo_labels`` or
                ``features_ema`` not assigned.
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
                f"banks, whose losses nothing weighs, got {type(ca).__name__}"
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
                return self._loss(of_hardest_images(logits, targets, self.num_instances), targets)
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
        """Takes a state with any number of rows, as an assignment does, and one with images."""
        for name in ("features", "features_ema"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if not isinstance(saved, Tensor) or saved.shape[1:] != self.features.shape[1:]:
                continue  # PyTorch refuses it
            if own is None or own.shape != saved.shape:
                setattr(self, name, self.features.new_empty(saved.shape))
        return ()

    def _mode_now(self) -> str:
        """The mode, once it is known whether a ``"CMhard"`` is PCLHD's two banks."""
        if self._mode != "CMhard":
            return self._mode
        is_of_two_banks = self._may_have_two_banks and (
            0 < len(self.features) == 2 * self.num_samples
        )
        return "CMhybrid" if is_of_two_banks or self.features_ema is not None else "CMhard"

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
        move = partial(_move_images, num_instances=count, generator=self.image_generator)
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
        each = "one a row of a bank of features"
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


def _move_stacked(features: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """:func:`mabm.contrast.memories.hybrid.move_banks` of a (2K, D) memory."""
    banks = features.reshape(2, -1, features.shape[1])
    return move_banks(banks, rows, targets, momentum).reshape(features.shape)


def _move_images(
    features: Tensor,
    rows: Tensor,
    targets: Tensor,
    momentum: float,
    num_instances: int,
    generator: Any,
) -> Tensor:
    """(num_instances * K, D) images of clusters, those of the batch's clusters drawn from it.

    One call of ``choice`` a cluster, in the order of the batch, as PCLHD's.
    """
    moved, num_clusters = features.clone(), features.shape[0] // num_instances
    enough = max(_ENOUGH_TO_DRAW_FROM, num_instances)
    for target in dict.fromkeys(targets.tolist()):
        if target == NOISE:
            continue
        own = rows[targets == target]
        drawn = generator.choice(len(own), num_instances, replace=len(own) < enough)
        moved[target::num_clusters] = own[torch.from_numpy(drawn).to(own.device)]
    return moved


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
