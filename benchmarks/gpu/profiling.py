"""The kernels of a call, longest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from stages import STAGES, WHOLE, Prepared
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_MOST_OF_WHOLE = 20
_MOST_OF_STAGE = 6
_NAME_WIDTH = 96


def profile_call(call: Callable[[], object], device: torch.device, most: int) -> dict[str, Any]:
    """Kernels of one call by their total time; operators of PyTorch on the CPU."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    call()
    with profile(activities=activities) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == wanted]
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3
        for event in events
    ]
    ranked = sorted(zip(times, events, strict=True), key=lambda pair: -pair[0])
    return {
        "busy_ms": sum(times),
        "calls": sum(event.count for event in events),
        "kernels": [
            {"name": event.key, "calls": event.count, "ms": taken} for taken, event in ranked[:most]
        ],
    }


def profile_stages(given: Prepared, device: torch.device) -> dict[str, Any]:
    """Kernels of each stage that is not dense, by the name of the stage."""
    found = {}
    for stage in STAGES:
        if not stage.dense:
            most = _MOST_OF_WHOLE if stage.name == WHOLE else _MOST_OF_STAGE
            found[stage.name] = profile_call(partial(stage.run, given), device, most)
    return found


def profile_table(size: Mapping[str, Any]) -> list[str]:
    """Lines of text with the kernels of each stage, next to its time without a profiler."""
    lines = [
        "## Kernels",
        f"N = {size['samples']:,}, D = {size['dim']}, warm; times of kernels by the profiler.",
    ]
    for stage, figures in size["profile"].items():
        timed = size["stages"].get(stage)
        whole = f" of {timed['median_ms']:.3f} ms" if timed else " ms"
        lines += [
            "",
            f"{stage}: {figures['calls']} kernels, busy for {figures['busy_ms']:.3f}{whole}",
            f"{'ms':>10}{'calls':>8}  kernel",
        ]
        for kernel in figures["kernels"]:
            name = kernel["name"][:_NAME_WIDTH]
            lines.append(f"{kernel['ms']:10.3f}{kernel['calls']:8d}  {name}")
    return lines
