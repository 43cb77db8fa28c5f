"""``mabm info``: versions, devices and extras, for bug reports."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata
from typing import Any, Final

import torch

from mabm._core.extension import build_info, find_misfit
from mabm.cli.command import Command, write

_NEEDED: Final = ("numpy", "scikit-learn")
_TOML_READER: Final = ("tomli",) if sys.version_info < (3, 11) else ()  # later in Python itself
_EXTRAS: Final = {
    "demo": ("matplotlib", "tqdm"),
    "train": ("jinja2", "pillow", "pydantic", "safetensors", *_TOML_READER, "tomli-w"),
    "tensorboard": ("tensorboard",),
    "infomap": ("infomap",),
    "faiss": ("faiss-cpu",),
    "cuvs": ("cuvs-cu12",),
    "certex": ("certex",),
    "timm": ("timm",),
    "completion": ("shtab",),
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def _execute(chosen: argparse.Namespace) -> int:
    facts = _facts()
    write(json.dumps(facts, indent=2) if chosen.json else _in_lines(facts))
    return 0


def _facts() -> dict[str, Any]:
    build = build_info()
    return {
        "mabm": build.version,
        "python": platform.python_version(),
        "torch": build.torch,
        "torch_cuda": torch.version.cuda,
        "built_with": {
            "torch": build.built_with_torch,
            "cuda": build.cuda,
            "architectures": list(build.architectures),
        },
        "backends": list(build.backends),
        "advice": _advise(build.cuda, build.torch, torch.version.cuda),
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in _NEEDED},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()
        },
    }


def _advise(built_cuda: str | None, torch_version: str, torch_cuda: str | None) -> str | None:
    misfit = find_misfit(built_cuda, torch_version, torch_cuda)
    if misfit is None and built_cuda is None and torch_cuda is not None:
        return (
            f"the ops are built for the CPU only, but this torch has CUDA {torch_cuda}: "
            "for GPU ops, rebuild with `FORCE_CUDA=1 pip install --no-build-isolation .`"
        )
    return misfit


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            found.append(
                f"cuda:{number} {properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
                f"sm_{properties.major}{properties.minor}"
            )
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _in_lines(facts: dict[str, Any]) -> str:
    built = facts["built_with"]
    cuda = "no CUDA"
    if built["cuda"] is not None:
        cuda = f"CUDA {built['cuda']} for {' '.join(built['architectures'])}"
    lines = [
        ("mabm", facts["mabm"]),
        ("Python", facts["python"]),
        ("torch", f"{facts['torch']} (ops built with {built['torch']} and {cuda})"),
        ("ops for", ", ".join(facts["backends"])),
        *([("advice", facts["advice"])] if facts["advice"] is not None else []),
        ("devices", "; ".join(facts["devices"])),
        ("threads", str(facts["threads"])),
        *((name, version or "missing") for name, version in facts["packages"].items()),
    ]
    for extra, packages in facts["extras"].items():
        missing = [name for name, version in packages.items() if version is None]
        words = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        if missing:
            remedy = f'{", ".join(missing)} missing: pip install "mabm[{extra}]"'
            words = f"{words}; {remedy}" if words else remedy
        lines.append((f"extra {extra}", words))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


COMMAND = Command(
    name="info",
    help="print versions, devices and extras",
    description=(
        "Print how this mabm was built and what it runs on: versions, the device types that it has "
        "ops for, the devices of this machine, and the optional packages that are installed. "
        "Include the output in bug reports."
    ),
    examples="""
mabm info            for people
mabm info --json     for programs
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
