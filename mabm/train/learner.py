"""One optimizer step, equal to a step on the whole batch for any number of parts.

The loss of a batch is not a sum over its images: a margin applies to the mean, and several
processes share the batch. So features are computed first and joined over all parts and processes.
The loss of the joined batch gives the gradient of every feature, which is backpropagated through
the encoder part by part. The gradients of the parameters are summed over the processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mabm._core.arguments import check_choice, check_integer
from mabm._core.precision import full_precision
from mabm.train import distributed
from mabm.train.config import Normalization
from mabm.train.errors import TrainingError

logger = logging.getLogger(__name__)

LossOf = Callable[[Tensor], Mapping[str, Tensor]]
"""Takes (B, D) features of the joined batch; returns scalar losses by name, which are summed."""

_DTYPES: Final = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Part(NamedTuple):
    """Images of a batch that pass through the encoder together."""

    rows: Tensor
    moves_statistics: bool


class Learner:
    """Takes optimizer steps on an encoder.

    Args:
        encoder: Takes ``(images, modality)`` and returns (N, D) features.
        optimizer: Optimizer of the encoder's parameters.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for autocast of the encoder.
            Losses are float32. ``"float16"`` scales the loss (:class:`torch.amp.GradScaler`).
        micro_batches: Number of parts in which this process's batch passes through the encoder.
            More than one part needs a second forward pass, with the same random numbers. Batch
            normalization uses the statistics of each part, and updates its running statistics once
            per part.
        normalization: The statistics of batch normalization. ``"whole"``: those of the whole
            batch. ``"halves"``: one set for the first halves of all modalities, one for the second
            halves; running statistics follow the first halves. This is how
            ``torch.nn.DataParallel`` normalizes on two GPUs, which published numbers come from:
            each visible view together with half of the infrared images. ``micro_batches`` must then
            be 1 or even; 2 gives the same numbers as 1.
        max_skipped: Number of consecutive steps that may be skipped because their loss or gradient
            is not finite.
        compile: Whether to compile the encoder.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> from mabm import cluster_contrast_loss, models, train
        >>> encoder = models.build_encoder("small")
        >>> learner = train.Learner(encoder, torch.optim.Adam(encoder.parameters()))
        >>> images, modality = torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.arange(4) % 2
        >>> prototypes, targets = torch.eye(2, encoder.num_features), torch.arange(4) // 2
        >>> def losses_of(features):
        ...     return {"contrast": cluster_contrast_loss(features, prototypes, targets)}
        >>> losses, features = learner.step(images, modality, losses_of, sections=[4])
        >>> list(losses), len(features)
        (['contrast'], 4)
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "float32",
        micro_batches: int = 1,
        normalization: Normalization = "whole",
        max_skipped: int = 10,
        compile: bool = False,
    ) -> None:
        if precision not in _DTYPES:
            raise ValueError(f"precision must be one of {tuple(_DTYPES)}, got {precision!r}")
        self.encoder = encoder
        self.optimizer = optimizer
        self.micro_batches = check_integer("micro_batches", micro_batches, at_least=1)
        check_choice("normalization", normalization, get_args(Normalization))
        if normalization == "halves":
            _check_halves(micro_batches)
        self.normalization = normalization
        self.max_skipped = check_integer("max_skipped", max_skipped, at_least=0)
        self.skipped = 0
        self._forward: Callable[..., Tensor] = torch.compile(encoder) if compile else encoder
        self._half = _DTYPES[precision]
        self.device = next(encoder.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def set_learning_rate(self, rate: float) -> None:
        """Sets the learning rate of all parameters.

        Args:
            rate: Learning rate of the next steps.

        Example:
            >>> import torch
            >>> from mabm import models, train
            >>> encoder = models.build_encoder("small")
            >>> learner = train.Learner(encoder, torch.optim.Adam(encoder.parameters()))
            >>> learner.set_learning_rate(1e-4)
            >>> learner.optimizer.param_groups[0]["lr"]
            0.0001
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """State of encoder, optimizer and loss scaling, and the number of consecutive skips."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the state of another learner and continues from it.

        Args:
            state: Entries ``"encoder"``, ``"optimizer"``, ``"scaler"`` and ``"skipped"`` of another
                learner's :meth:`state_dict`; other entries are ignored.

        Example:
            >>> import torch
            >>> from mabm import models, train
            >>> one, two = (models.build_encoder("small", seed=seed) for seed in (1, 2))
            >>> first = train.Learner(one, torch.optim.Adam(one.parameters()))
            >>> second = train.Learner(two, torch.optim.Adam(two.parameters()))
            >>> second.load_state_dict(first.state_dict())
            >>> all(a.equal(b) for a, b in zip(one.parameters(), two.parameters()))
            True
        """
        self.encoder.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]

    def step(
        self, images: Tensor, modality: Tensor, loss_of: LossOf, sections: Sequence[int]
    ) -> tuple[dict[str, float], Tensor] | None:
        """Takes one step.

        A step whose loss or gradient is not finite is skipped: parameters and running statistics
        do not change, and a warning is logged.

        Args:
            images: (B, 3, H, W) images of this process, on the encoder's device.
            modality: (B,) int64, on the encoder's device or on the CPU.
            loss_of: Returns the losses of the joined features, by name; their sum is minimized.
            sections: Sizes of consecutive parts of the batch, B in total. Each part is joined over
                the processes separately: the joined batch contains all first parts, then all
                second parts, as the batch of a single process does.

        Returns:
            The losses, and the joined (R * B, D) features that they were computed from, without
            gradient; or ``None`` if the step was skipped.

        Raises:
            TrainingError: More than ``max_skipped`` consecutive steps were skipped.
            ValueError: ``sections`` do not sum to the size of the batch.
        """
        if sum(sections) != len(images):
            raise ValueError(
                f"sections must sum to {len(images)}, the number of images, got {tuple(sections)}"
            )
        self.encoder.train()
        before = _clone_buffers(self.encoder)
        self.optimizer.zero_grad(set_to_none=True)
        features, pass_back = self._take(images, modality, sections)
        joined = distributed.join(features, sections).requires_grad_()
        losses = loss_of(joined)
        total = torch.stack(list(losses.values())).sum()
        finite = bool(torch.isfinite(total))
        if finite:
            torch.autograd.backward(self.scaler.scale(total))
            assert joined.grad is not None
            pass_back(distributed.local_rows(joined.grad, sections))
            distributed.sum_gradients(self.encoder.parameters())
            finite = self._apply()
        if not finite:
            _put_back(self.encoder, before)
            self.optimizer.zero_grad(set_to_none=True)
            self._count_skipped(losses)
            return None
        self.skipped = 0
        return {name: float(loss.detach()) for name, loss in losses.items()}, joined.detach()

    def _take(
        self, images: Tensor, modality: Tensor, sections: Sequence[int]
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Features of this process's batch, and a function that backpropagates their gradient."""
        parts = self._parts(modality, sections)
        if len(parts) == 1:
            features = self._features(images, modality)
            return features, lambda gradient: torch.autograd.backward(features, gradient)
        order = torch.argsort(torch.cat([part.rows for part in parts]))

        def pass_through() -> Iterator[tuple[_Part, Tensor]]:
            for part in parts:
                with nullcontext() if part.moves_statistics else _held_statistics(self.encoder):
                    output = self._features(images[part.rows], modality[part.rows])
                yield part, output

        if self.micro_batches == 1:
            features = torch.cat([output for _, output in pass_through()])[order]
            return features, lambda gradient: torch.autograd.backward(features, gradient)
        before = _clone_buffers(self.encoder)
        random = _random_state(self.device)
        with torch.no_grad():
            outputs = [output for _, output in pass_through()]
        _put_back(self.encoder, before)

        def pass_back(gradient: Tensor) -> None:
            with _drawing_from(random, self.device):
                for part, output in pass_through():
                    torch.autograd.backward(output, gradient[part.rows])

        return torch.cat(outputs)[order], pass_back

    def _parts(self, modality: Tensor, sections: Sequence[int]) -> list[_Part]:
        """The parts of this process's batch that are normalized separately, in order."""
        numbers = torch.arange(sum(sections))
        if self.normalization == "whole":
            sides = torch.split(numbers, list(sections))
            return [_Part(rows, True) for rows in _cut(sides, self.micro_batches)]
        groups = modality.cpu()
        halves = [numbers[groups == group].tensor_split(2) for group in torch.unique(groups)]
        return [
            _Part(rows, is_first)
            for is_first, sides in zip((True, False), zip(*halves, strict=True), strict=True)
            for rows in _cut(sides, max(1, self.micro_batches // 2))
        ]

    def _features(self, images: Tensor, modality: Tensor) -> Tensor:
        half = self._half
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            return full_precision(self._forward(images, modality))

    def _apply(self) -> bool:
        """Takes the step if every gradient is finite; returns whether it was taken."""
        self.scaler.unscale_(self.optimizer)
        finite = _gradients_are_finite(self.optimizer)
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return finite

    def _count_skipped(self, losses: Mapping[str, Tensor]) -> None:
        self.skipped += 1
        values = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
        logger.warning("skipped a step whose loss or gradient is not finite (%s)", values)
        if self.skipped > self.max_skipped:
            raise TrainingError(
                f"loss or gradient was not finite in {self.skipped} consecutive steps ({values}): "
                "lower the learning rate, or train in float32 or bfloat16"
            )


def _check_halves(micro_batches: int) -> None:
    if distributed.world_size() > 1:
        raise ValueError(
            "normalization must be 'whole' when several processes train together, got 'halves'"
        )
    if micro_batches != 1 and micro_batches % 2:
        raise ValueError(
            f"micro_batches must be 1 or even with normalization 'halves', got {micro_batches}"
        )


def _gradients_are_finite(optimizer: torch.optim.Optimizer) -> bool:
    gradients = [
        each.grad
        for group in optimizer.param_groups
        for each in group["params"]
        if each.grad is not None and each.grad.numel()
    ]
    if not gradients:
        return True
    # The largest entry of each, which is finite if all are; a sum of squares can overflow.
    greatest = torch.stack(list(torch._foreach_norm(gradients, math.inf)))
    return bool(torch.isfinite(greatest).all())


def _random_state(device: torch.device) -> list[Tensor]:
    """The random state of the CPU, and of the GPU if ``device`` is one."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextmanager
def _drawing_from(states: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Within the ``with``, draws random numbers from ``states``; restores the state afterwards."""
    with torch.random.fork_rng(devices=[device] if len(states) > 1 else []):
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield


def _cut(sides: Sequence[Tensor], count: int) -> list[Tensor]:
    """Image numbers of at most ``count`` parts of a batch, each with a share of every side."""
    shares = [rows.tensor_split(count) for rows in sides]
    parts = [torch.cat([share[part] for share in shares]) for part in range(count)]
    return [rows for rows in parts if len(rows)]


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[None]:
    """Within the ``with``, batch normalization does not update its running statistics."""
    moving = [
        each
        for each in module.modules()
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.track_running_stats
    ]
    for each in moving:
        each.track_running_stats = False
    try:
        yield
    finally:
        for each in moving:
            each.track_running_stats = True


def _clone_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def _put_back(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])
