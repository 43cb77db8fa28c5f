"""What importing the package does and does not do, each in a fresh interpreter."""

import ast
import importlib

import pytest
from devices import Device
from fresh_interpreter import run_program


def test_import_loads_neither_scikit_learn_nor_what_lies_downstream() -> None:
    result = run_program(
        "import sys, mabm\n"
        "dir(mabm)\n"
        "late = ('sklearn', 'scipy', 'pandas', 'matplotlib', 'PIL', 'pydantic', 'faiss', 'cuvs',\n"
        "        'certex', 'mabm.data',\n"
        "        'mabm.models', 'mabm.train', 'mabm.compat', 'mabm.demo', 'mabm.report.plots',\n"
        "        'mabm.distributed',\n"
        "        'mabm.cluster.estimator', 'mabm.reference')\n"
        "print([name for name in late if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_import_and_use_touch_nothing_global() -> None:
    result = run_program(
        "import random, warnings, numpy as np, torch\n"
        "def state():\n"
        "    return (random.getstate(), torch.get_num_threads(), torch.get_default_dtype(),\n"
        "            torch.random.get_rng_state().tolist(), str(np.random.get_state()),\n"
        "            torch.is_grad_enabled(), len(warnings.filters))\n"
        "before = state()\n"
        "import mabm\n"
        "mabm.pseudo_labels(torch.ones(20, 3), torch.arange(20) % 2, k1=10)\n"
        "print(state() == before)"
    )
    assert result.stdout.strip() == "True", result.stderr
    assert result.stderr == ""


def test_defaults_of_the_process_change_nothing(device: Device) -> None:
    result = run_program(
        "import torch, mabm\n"
        "torch.manual_seed(0)\n"
        f"device = {device.torch.type!r}\n"
        "from mabm.distance import rung_choice\n"
        "rung_choice._LITTLE_WORK = 0\n"  # few samples choose, too
        "x = (torch.randn(9, 80).repeat(10, 1) + 0.2 * torch.randn(90, 80)).to(device)\n"
        "modality = (torch.arange(90) // 9 % 3).to(device)\n"
        "presets = list(mabm.PRESETS)\n"
        "def labels():\n"
        "    return [mabm.pseudo_labels(x, modality, eps=0.7, preset=p).labels for p in presets]\n"
        "expected = labels()\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.use_deterministic_algorithms(True)\n"
        "torch.set_flush_denormal(True)\n"
        "with torch.device('meta'), torch.autocast(device), torch.inference_mode():\n"
        "    found = labels()\n"
        "print(all(a.equal(b) for a, b in zip(found, expected)), len(set(expected[0].tolist())))",
        CUBLAS_WORKSPACE_CONFIG=":4096:8",  # PyTorch asks for it beside deterministic algorithms
    )
    assert result.stdout.split()[0] == "True", result.stderr
    assert int(result.stdout.split()[1]) > 1


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    import mabm

    for name in mabm.__all__:
        assert getattr(mabm, name).__doc__ if not name.isupper() else getattr(mabm, name)
    with pytest.raises(AttributeError, match="module 'mabm' has no attribute 'nothing'"):
        mabm.nothing  # noqa: B018 - the access is tested


LATE = ("compat", "data", "demo", "distributed", "evaluation", "models", "reference", "report")
SUBPACKAGES = ("compat", "data", "distributed", "evaluation", "models")
TRAIN = pytest.param("train", marks=pytest.mark.needs("pydantic"))


@pytest.mark.parametrize("name", [*LATE, TRAIN])
def test_submodules_are_there_after_the_import(name: str) -> None:
    result = run_program(f"import mabm; print(mabm.{name}.__name__, {name!r} in dir(mabm))")
    assert result.stdout.strip() == f"mabm.{name} True", result.stderr


def test_a_submodule_without_its_extra_names_it() -> None:
    result = run_program("import sys; sys.modules['tqdm'] = None; import mabm; mabm.train")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        'ImportError: training needs tqdm and more: pip install "mabm[train]"'
    )


def test_only_public_names_are_shown() -> None:
    import mabm

    shown = set(dir(mabm))
    assert shown - {*LATE, "train"} == {*mabm.__all__, "__version__"}
    result = run_program(
        "from mabm import *; print([name for name in globals() if name[0] != '_'])"
    )
    assert set(ast.literal_eval(result.stdout)) == set(mabm.__all__)


@pytest.mark.parametrize("name", [*SUBPACKAGES, TRAIN])
def test_subpackages_show_their_public_names(name: str) -> None:
    module = importlib.import_module(f"mabm.{name}")
    assert dir(module) == sorted(module.__all__)
    for public in module.__all__:
        getattr(module, public)


def test_missing_ops_tell_what_to_type() -> None:
    result = run_program("import sys; sys.modules['mabm._C'] = None; import mabm")
    assert result.returncode == 1
    assert "pip install --no-build-isolation ." in result.stderr
    assert "torch >= 2.10" in result.stderr


def test_a_build_tells_its_backends() -> None:
    import mabm

    assert mabm.backends()[0] == "cpu"
    assert "ModalityDBSCAN" in dir(mabm)


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    import mabm

    assert mabm.__version__ == version("mabm")
