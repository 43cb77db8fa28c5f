"""One optimizer step, exact for the whole batch however it is cut up.

The loss of a batch is no sum over its images: a margin is taken of its mean, and several processes
share it. So features are taken first, joined over all parts and processes, and the loss of the
joined batch gives the gradient of every feature; that gradient then runs back through the encoder,
part by part, and the parameters' gradients are summed over the processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from mabm._core.arguments import check_integer
from mabm._core.precision import full_precision
from mabm.train import distributed
from mabm.train.errors import TrainingError

logger = logging.getLogger(__name__)

LossOf = Callable[[Tensor], Mapping[str, Tensor]]
"""From the joined features to named scalar losses, whose sum is descended."""

_DTYPES: Final = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner:
    """An encoder, its optimizer, and how a step is taken.

    Args:
        encoder: Takes ``(images, modality)`` and gives (N, D) features.
        optimizer: Of its parameters.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for autocast of the encoder.
            Losses are float32. ``"float16"`` scales the loss (:class:`torch.amp.GradScaler`).
        micro_batches: Parts that this process's batch goes through the encoder in, which takes
            another forward pass. Both draw the same random numbers; batch normalization sees the
            parts, and moves its running statistics once with each.
        max_skipped: Steps in a row that may be left out, their loss or gradient not being finite.
        compile: Whether to compile the encoder.

    Raises:
        ValueError: An argument out of its range.

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
        max_skipped: int = 10,
        compile: bool = False,
    ) -> None:
        if precision not in _DTYPES:
            raise ValueError(f"precision must be one of {tuple(_DTYPES)}, got {precision!r}")
        self.encoder = encoder
        self.optimizer = optimizer
        self.micro_batches = check_integer("micro_batches", micro_batches, at_least=1)
        self.max_skipped = check_integer("max_skipped", max_skipped, at_least=0)
        self.skipped = 0
        self._forward: Callable[..., Tensor] = torch.compile(encoder) if compile else encoder
        self._half = _DTYPES[precision]
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
            modality: (B,) int64, on the encoder's device or on the CPU.
            loss_of: Gives the losses of the joined features.
            sections: Sizes of the consecutive parts of the batch, B in all, which are joined over
                the processes each for itself (see :func:`mabm.train.distributed.join`).

        Returns:
            The losses, and the joined (R * B, D) features that gave them, without gradient; or
            ``None`` if the step was left out.

        Raises:
            TrainingError: More than ``max_skipped`` steps in a row were left out.
            ValueError: ``sections`` do not make up the batch.
        """
        if sum(sections) != len(images):
            raise ValueError(
                f"sections must make up the {len(images)} images, got {tuple(sections)}"
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
            pass_back(distributed.own(joined.grad, sections))
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
        """Features of this process's batch, and what takes their gradient back to the encoder."""
        if self.micro_batches == 1:
            features = self._features(images, modality)
            return features, lambda gradient: torch.autograd.backward(features, gradient)
        parts = _cut(sections, self.micro_batches)
        before = _clone_buffers(self.encoder)
        random = self._random_state()
        with torch.no_grad():
            outputs = [self._features(images[rows], modality[rows]) for rows in parts]
        _put_back(self.encoder, before)

        def pass_back(gradient: Tensor) -> None:
            with self._drawing_from(random):
                for rows in parts:
                    output = self._features(images[rows], modality[rows])
                    torch.autograd.backward(output, gradient[rows])

        return torch.cat(outputs)[torch.argsort(torch.cat(parts))], pass_back

    def _features(self, images: Tensor, modality: Tensor) -> Tensor:
        half = self._half
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            return full_precision(self._forward(images, modality))

    def _random_state(self) -> list[Tensor]:
        """That of the CPU, and of the encoder's GPU."""
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    @contextmanager
    def _drawing_from(self, states: Sequence[Tensor]) -> Iterator[None]:
        """Random numbers as they follow ``states``; afterwards as they would have followed."""
        with torch.random.fork_rng(devices=[self.device] if len(states) > 1 else []):
            torch.set_rng_state(states[0])
            for state in states[1:]:
                torch.cuda.set_rng_state(state, self.device)
            yield

    def _apply(self) -> bool:
        """Steps if every gradient is finite."""
        self.scaler.unscale_(self.optimizer)
        gradients = [
            each.grad
            for group in self.optimizer.param_groups
            for each in group["params"]
            if each.grad is not None and each.grad.numel()
        ]
        # The greatest entry, which is finite where all are; a sum of squares can overflow.
        greatest = list(torch._foreach_norm(gradients, math.inf)) if gradients else []
        finite = not greatest or bool(torch.isfinite(torch.stack(greatest)).all())
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


def _cut(sections: Sequence[int], count: int) -> list[Tensor]:
    """Rows of at most ``count`` parts of a batch, each with its share of every section."""
    sides = torch.split(torch.arange(sum(sections)), list(sections))
    shares = [rows.tensor_split(count) for rows in sides]
    parts = [torch.cat([share[part] for share in shares]) for part in range(count)]
    return [rows for rows in parts if len(rows)]


def _clone_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def _put_back(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])
