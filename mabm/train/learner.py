"""One optimiser step, exact for the whole batch however it is cut up.

The loss of a batch is no sum over its images: a margin is taken of its mean, and several processes
share it. So features are taken first, joined over all parts and processes, and the loss of the
joined batch gives the gradient of every feature; that gradient then runs back through the encoder,
part by part, and the parameters' gradients are summed over the processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mabm._batch import full_precision
from mabm.train import distributed
from mabm.train.errors import TrainingError

logger = logging.getLogger(__name__)

LossOf = Callable[[Tensor], Mapping[str, Tensor]]
"""From the joined features to named scalar losses, whose sum is descended."""

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner:
    """An encoder, its optimiser, and how a step is taken.

    Args:
        encoder: Takes ``(images, modality)`` and gives (N, D) features.
        optimizer: Of its parameters.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for autocast of the encoder.
            Losses are float32. ``"float16"`` scales the loss (:class:`torch.amp.GradScaler`).
        micro_batches: Parts that this process's batch goes through the encoder in.
        max_skipped: Steps in a row that may be left out, their loss or gradient not being finite.
        compile: Whether to compile the encoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "float32",
        micro_batches: int = 1,
        max_skipped: int = 10,
        compile: bool = False,
    ) -> None:
        self.encoder = encoder
        self.optimizer = optimizer
        self.micro_batches = micro_batches
        self.max_skipped = max_skipped
        self.skipped = 0
        self._forward: Callable[..., Tensor] = torch.compile(encoder) if compile else encoder
        self._half = _HALF.get(precision)
        self.device = next(encoder.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def step(
        self, images: Tensor, modality: Tensor, loss_of: LossOf, sections: Sequence[int]
    ) -> tuple[dict[str, float], Tensor] | None:
        """Takes one step.

        A step whose loss or gradient is not finite is left out as if it had not been, running
        statistics included, and said so in the log.

        Args:
            images: (B, 3, H, W) of this process, on the encoder's device.
            modality: (B,) int64.
            loss_of: Gives the losses of the joined features.
            sections: Sizes of the consecutive parts of the batch, which are joined over the
                processes each for itself (see :func:`mabm.train.distributed.join`).

        Returns:
            The losses, and the joined (R * B, D) features that gave them, without gradient; or
            ``None`` if the step was left out.

        Raises:
            TrainingError: More than ``max_skipped`` steps in a row were left out.
        """
        self.encoder.train()
        kept = [(buffer, buffer.clone()) for buffer in self.encoder.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        parts = _cut(sections, self.micro_batches, images.shape[0])
        with nullcontext() if len(parts) == 1 else self._unrecorded():
            outputs = [self._features(images[rows], modality[rows]) for rows in parts]
        order = torch.cat(parts) if len(parts) > 1 else None
        features = torch.cat(outputs) if order is not None else outputs[0]
        if order is not None:
            features = features[torch.argsort(order)]
        joined = distributed.join(features, sections).requires_grad_()
        losses = loss_of(joined)
        total = torch.stack(list(losses.values())).sum()
        finite = bool(torch.isfinite(total))
        if finite:
            torch.autograd.backward(self.scaler.scale(total))
            assert joined.grad is not None
            gradient = distributed.own(joined.grad, sections)
            for rows, output in zip(parts, outputs, strict=True):
                if len(parts) > 1:
                    output = self._features(images[rows], modality[rows])  # noqa: PLW2901
                torch.autograd.backward(output, gradient[rows] if len(parts) > 1 else gradient)
            distributed.sum_gradients(self.encoder.parameters())
            finite = self._apply()
        if not finite:
            for buffer, value in kept:
                buffer.copy_(value)
            self.optimizer.zero_grad(set_to_none=True)
            self._count_skipped(losses)
            return None
        self.skipped = 0
        return {name: float(loss.detach()) for name, loss in losses.items()}, joined.detach()

    def _features(self, images: Tensor, modality: Tensor) -> Tensor:
        with self._autocast():
            return full_precision(self._forward(images, modality))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._half is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._half)

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Features without a graph, running statistics unmoved, the same random numbers after."""
        buffers = [(buffer, buffer.clone()) for buffer in self.encoder.buffers()]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
        for buffer, value in buffers:
            buffer.copy_(value)

    def _apply(self) -> bool:
        """Steps if every gradient is finite."""
        self.scaler.unscale_(self.optimizer)
        gradients = [
            each.grad
            for group in self.optimizer.param_groups
            for each in group["params"]
            if each.grad is not None
        ]
        norms = list(torch._foreach_norm(gradients)) if gradients else []
        finite = not norms or bool(torch.isfinite(torch.stack(norms)).all())
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return finite

    def _count_skipped(self, losses: Mapping[str, Tensor]) -> None:
        self.skipped += 1
        values = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
        logger.warning("left out a step whose loss or gradient is not finite (%s)", values)
        if self.skipped > self.max_skipped:
            raise TrainingError(
                f"loss or gradient was not finite in {self.skipped} steps in a row ({values}): "
                "lower the learning rate, or train in float32 or bfloat16"
            )


def _cut(sections: Sequence[int], count: int, size: int) -> list[Tensor]:
    """Rows of ``count`` parts of a batch, each with its share of every section."""
    if count == 1:
        return [torch.arange(size)]
    sides = torch.split(torch.arange(size), list(sections))
    shares = [rows.tensor_split(count) for rows in sides]
    return [torch.cat([share[part] for share in shares]) for part in range(count)]
