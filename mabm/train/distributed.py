"""Distributed training: each process handles its part of one joined batch.

The processes are started by ``torchrun``. The joined batch is the batch that a single process would
have. Every process computes the losses of the whole joined batch, so gradients are summed over the
processes, not averaged. In a single process, nothing here has any effect.

All processes agree bit for bit: they share the gathered features, the clusters, which each of them
helps to find, and the summed gradients. In the same features one process finds the same clusters.
With a single-process run they agree up to the rounding of sums, which are computed in a different
order. These differences grow: Adam divides a gradient by its magnitude, so an entry that is only
rounding error moves as far as any other, and a pair of samples at a distance close to ``eps`` may
join two clusters in one run and not in the other, which changes the batches. On a tiny run in
float32 with a high learning rate, two processes and one found the same clusters in the first epoch
and ended it with encoders 1e-5 apart (relative norm of the difference). In the second epoch 4 % of
the visible labels differed, and from then on the two were different runs: 0.12 apart after seven
epochs. In float64 they stay within 1e-9 of each other while clusters change
(``tests/train/test_distributed.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mabm._core.precision import full_precision
from mabm._core.processes import gather, join_rows, rows_of


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _is_on() else 1


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if _is_on() else 0


def barrier() -> None:
    """Waits for all processes."""
    if _is_on():
        dist.barrier()


def join(part: Tensor, sections: Sequence[int] | None = None) -> Tensor:
    """Joins the rows of all processes, which all have the same number of rows.

    Args:
        part: (B, ...) rows of this process.
        sections: Sizes of consecutive parts of ``part``, which are joined separately: the result
            is all first parts, then all second parts, as in a single process.

    Returns:
        (R * B, ...) rows of all R processes, without gradient.
    """
    if world_size() == 1:
        return part.detach()
    parts = gather(part)
    if sections is None:
        return torch.cat(parts)
    split = [torch.split(rows, list(sections)) for rows in parts]
    return torch.cat([rows[place] for place in range(len(sections)) for rows in split])


def local_rows(joined: Tensor, sections: Sequence[int]) -> Tensor:
    """This process's rows of the result of :func:`join` for these ``sections``."""
    if world_size() == 1:
        return joined
    parts = torch.split(joined, [size * world_size() for size in sections])
    return torch.cat(
        [
            part[rank() * size : (rank() + 1) * size]
            for part, size in zip(parts, sections, strict=True)
        ]
    )


def own_rows(count: int) -> slice:
    """The share of this process in rows that all processes have: all of them in one process."""
    return rows_of(rank(), world_size(), count)


def join_ragged(part: Tensor) -> Tensor:
    """Joins the rows of all processes, whose numbers of rows may differ."""
    return part if world_size() == 1 else join_rows(part)[0]


def share(value: Any) -> Any:
    """Returns the first process's value in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process; ``device`` is the one that this process trains on."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(flag, dtype=torch.int32, device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sums each gradient over the processes; a parameter without a gradient anywhere keeps none."""
    if world_size() == 1:
        return
    with_gradient = [each for each in parameters if each.requires_grad]
    if not with_gradient:
        return
    has = torch.tensor(
        [each.grad is not None for each in with_gradient],
        dtype=torch.int32,
        device=with_gradient[0].device,
    )
    dist.all_reduce(has, dist.ReduceOp.MAX)
    for each, wanted in zip(with_gradient, has.tolist(), strict=True):
        if wanted and each.grad is None:
            each.grad = torch.zeros_like(each)
    gradients = [each.grad for each in with_gradient if each.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        stop = start + gradient.numel()
        gradient.copy_(flat[start:stop].view_as(gradient))
        start = stop


def copy_from_first(module: nn.Module) -> None:
    """Copies the parameters and buffers of the first process to all others."""
    if world_size() == 1:
        return
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, 0)


def join_batch_norm(module: nn.Module) -> nn.Module:
    """Makes batch normalization use the statistics of the joined batch, in place.

    On a GPU the layers become :class:`torch.nn.SyncBatchNorm`, which works on GPUs only; elsewhere
    layers of this module. Names in the state dict stay the same. timm's ``BatchNormAct2d`` keeps
    its dropout and activation.

    Raises:
        ValueError: A layer is of a subclass whose extra computation would be lost.
    """
    if world_size() == 1:
        return module
    on_gpu = any(each.is_cuda for each in module.parameters())
    return _with_joined_batch_norm(
        module, nn.SyncBatchNorm.convert_sync_batchnorm if on_gpu else _JoinedBatchNorm
    )


def _with_joined_batch_norm(module: nn.Module, join: Callable[..., nn.Module]) -> nn.Module:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        for name, child in module.named_children():
            setattr(module, name, _with_joined_batch_norm(child, join))
        return module
    joined = join(module)
    if type(module) not in _PLAIN:
        if set(dict(module.named_children())) != {"drop", "act"}:
            raise ValueError(
                "encoder must use PyTorch's batch normalization when several processes join their "
                f"batches, got {type(module).__name__}"
            )
        joined.drop, joined.act = module.drop, module.act
        joined.register_forward_hook(_activate)
    return joined


def _activate(norm: nn.Module, _: object, normalized: Tensor) -> Tensor:
    dropped = norm.get_submodule("drop")(normalized)
    activated: Tensor = norm.get_submodule("act")(dropped)
    return activated


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _JoinedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization of any shape with the statistics of the joined batch.

    It takes over the parameters and buffers of ``module``, with the same names in the state dict.
    """

    def __init__(self, module: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        self.weight, self.bias = module.weight, module.bias
        for name, buffer in module.named_buffers():
            setattr(self, name, buffer)
        self.train(module.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input must be (N, C, ...), got shape {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes (N, C, ...) like PyTorch's batch normalization of the joined batch."""
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = full_precision(x)
        count = wide.new_full((1,), x.numel() // x.shape[1])
        sums = _summed(torch.cat([wide.sum(dims), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centered = wide - mean.view(shape)
        variance = _summed(centered.square().sum(dims)) / total
        if self.running_mean is not None and self.running_var is not None:
            self._move_statistics(mean.detach(), variance.detach() * total / (total - 1))
        result = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(x.dtype)

    def _move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]  # as torch declares it
    return total


class _SumOverProcesses(torch.autograd.Function):
    """Sum over the processes. Its gradient is summed too, since every loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()
