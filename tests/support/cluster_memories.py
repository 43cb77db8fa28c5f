"""Cluster memories that the tests fill, and their logits and losses computed by hand."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from contrast_cases import Batch
from torch import Tensor

from mabm.compat.clustercontrast import ClusterMemory

TEMP = 0.05


def fill(memory: ClusterMemory, batch: Batch, banks: int = 1) -> ClusterMemory:
    memory.features = batch.prototypes.repeat(banks, 1)
    return memory


def expected_logits(batch: Batch, features: Tensor | None = None) -> Tensor:
    rows = F.normalize(batch.features)
    return rows @ (batch.prototypes if features is None else features).T / TEMP


def after_backward(
    memory: ClusterMemory, batch: Batch, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The value, the gradient and the features after one backward pass of the value's sum."""
    inputs = batch.features.clone().requires_grad_()
    value = memory(inputs, batch.targets, **options)
    value.sum().backward()
    assert inputs.grad is not None
    return value.detach(), inputs.grad, memory.features.clone()


def smoothed_by_loops(logits: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Targets keep 0.9; 0.1 goes to all classes, or to the K // 50 greatest from K = 100 on."""
    total = 0.0
    for row, target in zip(logits.double(), targets.tolist(), strict=True):
        labels = [0.0] * len(row)
        labels[target] += 0.9
        if num_classes < 100:
            for c in range(len(row)):
                labels[c] += 0.1 / num_classes
        else:
            greatest = sorted(range(len(row)), key=lambda c: -float(row[c]))
            for c in greatest[: num_classes // 50]:
                labels[c] += 0.1 / (num_classes // 50)
        log_sum = math.log(sum(math.exp(float(x)) for x in row))
        total -= sum(w * (float(x) - log_sum) for w, x in zip(labels, row, strict=True))
    return torch.tensor(total / len(targets), dtype=logits.dtype)
