"""Software and hardware of a run, for reproducing it; nothing identifies a person or a machine."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mabm._core.extension import build_info

# Packages whose version can change a result or a picture, by their distribution names.
_PACKAGES = (
    "numpy",
    "scikit-learn",
    "pillow",
    "torchvision",
    "timm",
    "matplotlib",
    "safetensors",
    "tensorboard",
)
_CPU_FACTS = Path("/proc/cpuinfo")  # Linux; elsewhere the platform module is used


def describe_environment() -> dict[str, str]:
    """Describes software and hardware in words, most important first.

    These are versions (mabm and how its ops were built, PyTorch, Python, installed packages that
    can change a result), devices, threads, and the switches of PyTorch that change arithmetic.
    Host name, user name, paths and environment variables are left out.

    Returns:
        Descriptions by name, both for people to read; equal on every call unless a setting changed.
    """
    info = build_info()
    facts = {
        "mabm": info.version,
        "compiled ops": f"for {' and '.join(info.backends)}; built with torch "
        f"{info.built_with_torch}"
        + (f", CUDA {info.cuda} for {' '.join(info.architectures)}" if info.cuda else ""),
        "torch": info.torch,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
    }
    for package in _PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    facts["system"] = f"{platform.system()} {platform.machine()}".strip()
    facts["CPU"] = f"{_cpu_name()}, {os.cpu_count()} logical cores"
    facts["threads"] = (
        f"{torch.get_num_threads()} within an op, {torch.get_num_interop_threads()} between ops"
    )
    facts.update(_describe_gpus())
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        facts["processes"] = (
            f"{torch.distributed.get_world_size()}, by {torch.distributed.get_backend()}"
        )
    facts["float32 products"] = torch.get_float32_matmul_precision()
    facts["deterministic algorithms"] = (
        "required" if torch.are_deterministic_algorithms_enabled() else "not required"
    )
    return facts


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", _CPU_FACTS.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or "unknown processor"


def _describe_gpus() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"GPU": "none"}
    facts = {}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        facts[f"GPU {index}"] = (
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB, "
            f"compute capability {device.major}.{device.minor}"
        )
    facts["CUDA of torch"] = str(torch.version.cuda)
    cudnn: Any = torch.backends.cudnn  # torch declares no types for it
    if cudnn.is_available():
        facts["cuDNN"] = str(cudnn.version())
    return facts
