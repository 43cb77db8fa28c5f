"""Time and memory of the published batch: a step of AGW-ResNet50 on 2 x 8 identities x 16 images.

    python benchmarks/gpu/train_batch.py [--device cuda] [--seconds 15]

Forward, the losses within both modalities, backward, Adam, and the update of the memories, on
random images on the device. No configuration is read, so tqdm is the only extra package that it
needs. Prints one line per precision.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from measure import Budget, OutOfTimeError, Timer
from torch import Tensor

import mabm
from mabm.models import build_encoder
from mabm.train import Learner, contrast_within

_CLUSTERS = 400  # per modality, about as many as SYSU-MM01 has
_PUBLISHED = (8, 16, 288, 144)  # identities, images of each, height, width
_SMALL = (2, 2, 32, 16)


class Step:
    """One step of training as stage 1 takes it, on the same images every time."""

    def __init__(self, precision: str, device: torch.device) -> None:
        published = device.type == "cuda"
        identities, instances, height, width = _PUBLISHED if published else _SMALL
        encoder = build_encoder("agw-resnet50" if published else "small").to(device)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=3.5e-4)
        self.learner = Learner(encoder, optimizer, precision=precision)
        self.half = identities * instances
        generator = torch.Generator(device).manual_seed(0)
        self.images = torch.randn(
            2 * self.half, 3, height, width, generator=generator, device=device
        )
        self.modality = torch.arange(2, device=device).repeat_interleave(self.half)
        self.targets = torch.arange(identities, device=device).repeat_interleave(instances)
        with torch.no_grad():
            dim = encoder(self.images[:2], self.modality[:2]).shape[1]
        drawn = torch.randn(_CLUSTERS, dim, generator=generator, device=device)
        prototypes = torch.nn.functional.normalize(drawn, dim=1)
        self.memories = [mabm.HybridMemory(prototypes) for _ in range(2)]

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """The losses within either modality, by its name."""
        parts = zip(("visible", "infrared"), features.split(self.half), self.memories, strict=True)
        return {name: contrast_within(part, self.targets, memory) for name, part, memory in parts}

    def __call__(self, _: None) -> None:
        """Takes the step."""
        sections = (self.half, self.half)
        taken = self.learner.step(self.images, self.modality, self.losses, sections)
        if taken is not None:
            for part, memory in zip(taken[1].split(self.half), self.memories, strict=True):
                memory.update(part, self.targets)


def main() -> int:
    """Times a step in each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=15, help="for everything together")
    options = parser.parse_args()
    device = torch.device(options.device)
    timer = Timer(device, Budget(options.seconds), seconds=1.0 if device.type == "cuda" else 0.1)
    failed = 0
    for precision in ("float32", "bfloat16", "float16"):
        try:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            start, step = time.perf_counter(), Step(precision, device)
            step(None)
            first = time.perf_counter() - start
            figures = timer.time(f"step {precision}", step, [None], 1.0).figures()
        except OutOfTimeError as late:
            print(f"step, {precision}: not timed: no time left ({late})")
            continue
        except Exception as error:  # the other precisions may work
            print(f"ERROR in {precision}: {type(error).__name__}: {' '.join(str(error).split())}")
            failed += 1
            continue
        peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
        images = len(step.images)
        print(
            f"step of {images} images, {precision}: {figures['median_ms']:.1f} ms "
            f"({figures['least_ms']:.1f} to {figures['most_ms']:.1f}), "
            f"{images / figures['median_ms'] * 1e3:.0f} images/s, peak {peak:.1f} GB, "
            f"first {first:.1f} s, {step.learner.skipped} left out",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
