"""Docstrings explain every parameter and have examples, which run."""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import extras
import pytest

import mabm

MODULES = [
    module.name
    for module in pkgutil.walk_packages(mabm.__path__, "mabm.")
    if module.name.rpartition(".")[2] not in {"_C", "__main__"}
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    try:
        doctest.testmod(importlib.import_module(name), raise_on_error=True)
    except doctest.UnexpectedException as error:
        raise error.exc_info[1] from None  # where an extra is missing, this test is skipped


PACKAGES = ["mabm", "mabm.data", "mabm.distributed", "mabm.evaluation", "mabm.models"]
if not extras.first_missing(("tqdm",)):
    PACKAGES.append("mabm.train")

WITHOUT_EXAMPLE = {
    "mabm._core.array_records.ArrayRecord.in_kind_of": "public functions call it on their results",
    "mabm.distance.search.protocol.NeighborSearch.find_candidates": "for searches of one's own",
    "mabm.models.encoder.Encoder.adapted": "for subclasses to override",
    "mabm.models.encoder.Encoder.load_state_dict": "as for every module",
    "mabm.models.encoder.Encoder.pretrained_name": "for subclasses to override",
    "mabm.models.agw.AgwResNet50.pretrained_name": "for subclasses to override",
    "mabm.models.timm_encoder.TimmEncoder.adapted": "for subclasses to override",
    "mabm.models.timm_encoder.TimmEncoder.pretrained_name": "for subclasses to override",
    "mabm.train.config.AugmentationConfig": "a table of Config, which has an example",
    "mabm.train.config.BatchConfig": "a table of Config, which has an example",
    "mabm.train.config.ClusteringConfig": "a table of Config, which has an example",
    "mabm.train.config.ContrastConfig": "a table of Config, which has an example",
    "mabm.train.config.DataConfig": "a table of Config, which has an example",
    "mabm.train.config.ModelConfig": "a table of Config, which has an example",
    "mabm.train.config.RunConfig": "a table of Config, which has an example",
    "mabm.train.config.StageConfig": "a table of Config, which has an example",
    "mabm.train.errors.RunInUseError": "raised, not called",
    "mabm.train.errors.TrainingError": "raised, not called",
    "mabm.train.errors.TrainingStopped": "raised, not called",
}
"""Callables that need no example, and why."""

NOT_RUN = {
    "mabm.data.data_set.DataSet.read": "needs a data set that may not be shipped",
    "mabm.data.image_list.list_images": "needs images of one's own",
    "mabm.data.image_list.read_image_list": "needs images of one's own",
    "mabm.data.llcm.read_llcm": "needs a data set that may not be shipped",
    "mabm.data.regdb.read_regdb": "needs a data set that may not be shipped",
    "mabm.data.sets.read_data": "needs a data set that may not be shipped",
    "mabm.data.sysu_mm01.read_sysu_mm01": "needs a data set that may not be shipped",
    "mabm.distance.search.certex_search.CertexSearch.find_candidates": "needs a GPU",
    "mabm.distance.search.cuvs_search.CuvsSearch.find_candidates": "needs a GPU",
    "mabm.models.timm_encoder.TimmEncoder": "needs timm",
    "mabm.train.scoring.evaluate_encoder": "needs a data set that may not be shipped",
    "mabm.train.scoring.evaluate_weights": "needs a trained run",
    "mabm.train.trainer.train": "takes minutes",
}
"""Examples that are not run, and why."""


def public_callables() -> Iterator[tuple[str, Any, Any]]:
    """Functions, classes, and methods with parameters, each method with its class."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or id(value) in seen:
                continue
            seen.add(id(value))
            yield f"{value.__module__}.{name}", value, None
            if not inspect.isclass(value):
                continue
            for method_name in dir(value):
                kind = next(kind for kind in value.__mro__ if method_name in vars(kind))
                method = getattr(vars(kind)[method_name], "__func__", vars(kind)[method_name])
                is_ours = kind.__module__.startswith("mabm.") and inspect.isfunction(method)
                if not is_ours or method_name.startswith("_") or id(method) in seen:
                    continue
                seen.add(id(method))
                if parameters(method):
                    yield f"{method.__module__}.{method.__qualname__}", method, value


def parameters(function: Any) -> list[str]:
    kinds = inspect.Parameter
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
        and parameter.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]


def section(docstring: str, *titles: str) -> str:
    """The indented text below one of these titles."""
    found = re.search(rf"^(?:{'|'.join(titles)}):\n((?:(?: .*)?\n)*)", f"{docstring}\n", re.M)
    return inspect.cleandoc(found[1]) if found else ""


def entries(docstring: str) -> dict[str, str]:
    """The text of each parameter or attribute."""
    text = section(docstring, "Args", "Attributes")
    parts = re.split(r"^(\w+(?:, \w+)*): ", text, flags=re.M)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: said for names, said in pairs for name in names.split(", ")}


def unexplained(value: Any, owner: Any) -> list[str]:
    """Parameters without a text, or with one that only refers elsewhere."""
    if inspect.isclass(value) and is_dataclass(value):
        names = [field.name for field in fields(value)]
    elif inspect.isclass(value):
        names = list(getattr(value, "_fields", None) or parameters(value.__init__))
    else:
        names = parameters(value)
    said = entries(inspect.getdoc(value) or "")
    if owner is not None and value.__name__ == "forward":
        said = {**entries(inspect.getdoc(owner) or ""), **said}
    elsewhere = r"(As|Likewise)( (of|in|for))?( :\w+:`[^`]*`)?(,? and :\w+:`[^`]*`)*[.;,]?"
    return [name for name in names if len(re.sub(elsewhere, "", said.get(name, "")).split()) < 2]


def example(value: Any, owner: Any) -> str:
    """The docstring's example; a method's may be that of its class, if that calls it."""
    of_value = section(inspect.getdoc(value) or "", "Example")
    if ">>>" in of_value or owner is None:
        return of_value
    of_class = section(inspect.getdoc(owner) or "", "Example")
    is_called = value.__name__ == "forward" or f".{value.__name__}(" in of_class
    return of_class if is_called else ""


CALLABLES = list(public_callables())
NAMES = [name for name, *_ in CALLABLES]


@pytest.mark.parametrize(("name", "value", "owner"), CALLABLES, ids=NAMES)
def test_every_parameter_is_explained_where_it_stands(name: str, value: Any, owner: Any) -> None:
    assert unexplained(value, owner) == []


@pytest.mark.parametrize(("name", "value", "owner"), CALLABLES, ids=NAMES)
def test_there_is_an_example(name: str, value: Any, owner: Any) -> None:
    text = example(value, owner)
    assert (">>>" in text) != (name in WITHOUT_EXAMPLE)
    assert ("+SKIP" in text) == (name in NOT_RUN)


@pytest.mark.needs("tqdm")
def test_exceptions_are_public_callables() -> None:
    assert {*WITHOUT_EXAMPLE, *NOT_RUN} <= set(NAMES)
