"""Finders that redirect old import paths: stand-in modules, empty packages, a stand-in faiss."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import FrameType, ModuleType
from typing import Any, Final, NoReturn

from mabm.compat._imports.families import names_of

_HERE: Final = "mabm.compat"
_FAISS: Final = "faiss"


def replace_modules(paths: Iterable[str]) -> None:
    """Redirects each path to a stand-in module, also if its module is already loaded."""
    _modules.paths.update(paths)
    if _modules not in sys.meta_path:
        sys.meta_path.insert(0, _modules)  # before the code base: its modules are replaced
        sys.meta_path.extend([_packages, _no_faiss])  # after the code base: its packages are not
    for path in paths:
        replaced = sys.modules.pop(path, None)
        real = _modules.real.get(path) if isinstance(replaced, _StandIn) else replaced
        package = path.rpartition(".")[0]
        if replaced is not None or package in sys.modules:
            importlib.import_module(path)  # updates the attribute of the package
        if real is not None:
            _modules.real[path] = real


class _StandIn(ModuleType):
    """An old module: names in the table come from mabm, all others from the real module.

    Both are loaded on first access. A name that does not occur in the real module's code raises
    AttributeError without running it, so that ``hasattr`` and ``pickle`` do not load it.
    """

    def __getattr__(self, name: str) -> Any:
        path = self.__name__
        ours = None if name.startswith("__") else _modules.our_names(path).get(name)
        if ours is not None:
            value = getattr(importlib.import_module(f"{_HERE}.{ours}"), name)
            setattr(self, name, value)
            return value
        if name == "__all__":
            return _modules.public_names(path)
        if name.startswith("__") or name not in _modules.real_names(path, name):
            raise AttributeError(f"module {path!r} has no attribute {name!r}")
        try:
            real = _modules.load_real(path)
        except Exception as error:
            file = getattr(_find_real(path), "origin", path)
            raise ImportError(
                f"cannot import name {name!r} from {path!r}: mabm does not have it, and the code "
                f"base's own module, {file}, cannot be imported: "
                f"{type(error).__name__}: {error}",
                name=path,
                path=file,
            ) from error
        return getattr(real, name)

    def __dir__(self) -> list[str]:
        path = self.__name__
        return sorted({*self.__dict__, *_modules.our_names(path), *_modules.real_names(path)})


class _Modules(MetaPathFinder, Loader):
    """Finds stand-ins for the old modules."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.real: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _FAISS:
            _no_faiss.withdraw()
        if fullname not in self.paths:
            return None
        return ModuleSpec(fullname, self, origin=_HERE)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        path = module.__name__
        self.real.pop(path, None)
        for name in self.our_names(path):
            module.__dict__.pop(name, None)  # of a module that is reloaded
        module.__doc__ = f"Replaces {path}: see {_HERE}."
        real = _find_real(path)
        if real is not None and real.has_location and real.origin is not None:
            module.__file__ = real.origin  # lets inspect find the source of real names

    def our_names(self, path: str) -> Mapping[str, str]:
        """The replaced names of a module; its own code, if any, helps to identify the family."""
        return names_of(path, self.real_names(path))

    def load_real(self, path: str) -> ModuleType:
        """Loads the code base's own module, without replacing the stand-in."""
        if path not in self.real:
            spec = _find_real(path)
            if spec is None or spec.loader is None:
                raise ModuleNotFoundError(f"No module named {path!r}", name=path)
            module = module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            finally:
                _no_faiss.withdraw()
            self.real.setdefault(path, module)  # keeps the module of a faster thread
        return self.real[path]

    def real_names(self, path: str, asked: str | None = None) -> set[str]:
        """Names in the real module, read from its code if it is not loaded.

        They include ``asked`` if the code does not tell: it imports ``*``, cannot be parsed, or has
        no source.
        """
        if path in self.real:
            return set(dir(self.real[path]))
        spec = _find_real(path)
        if spec is None:
            return set()
        unknown = set() if asked is None else {asked}
        if not isinstance(spec.loader, InspectLoader):
            return unknown
        try:
            source = spec.loader.get_source(path)
            found = _names_bound(ast.parse(source or "from nothing import *"))
        except (ImportError, SyntaxError, ValueError):
            return unknown
        return found | unknown if "*" in found else found

    def public_names(self, path: str) -> list[str]:
        """``__all__``: our names, and those of the real module if it can be imported."""
        ours = list(self.our_names(path))
        try:
            real = self.load_real(path)
        except Exception:  # its code may raise anything; our names remain
            return ours
        public = getattr(real, "__all__", [name for name in vars(real) if name[0] != "_"])
        return list(dict.fromkeys([*ours, *public]))


class _Packages(MetaPathFinder):
    """Finds an empty package for an old module if there is no real package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(module.startswith(f"{fullname}.") for module in _modules.paths):
            return None
        return ModuleSpec(fullname, None, is_package=True)


class _NoFaiss(MetaPathFinder, Loader):
    """Finds a stand-in faiss for code bases with replaced paths, if faiss is not installed.

    Their modules import faiss at the top, but most of their code does not need it. The stand-in
    stays in ``sys.modules`` only until something else is imported, since other libraries that try
    to import faiss must not find it.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Faiss] = {}

    def withdraw(self) -> None:
        """Removes the stand-ins from ``sys.modules``; modules that imported one keep it."""
        for name, module in self._made.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _FAISS or not _imported_by_code_base():
            return None
        return ModuleSpec(fullname, self, origin=_HERE, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._made.setdefault(spec.name, _Faiss(spec.name))

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = f"Replaces {module.__name__}, which is not installed: see {_HERE}."


class _Faiss(ModuleType):
    """A faiss with names that can be mentioned, for instance as defaults, but not used."""

    def __getattr__(self, name: str) -> _Unusable:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _Unusable(f"{self.__name__}.{name}")


class _Unusable:
    """A name of a faiss that is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}: faiss is not installed>"

    def __getattr__(self, name: str) -> _Unusable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable(f"{self._name}.{name}")

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ImportError(
            f"{self._name} is used, and faiss is not installed: install it "
            f"(pip install faiss-cpu), or use the functions of mabm.compat, which do not need it",
            name=_FAISS,
        )

    __call__ = __bool__ = __int__ = __index__ = __float__ = __len__ = __iter__ = _refuse
    __getitem__ = __enter__ = __mro_entries__ = _refuse


def _find_real(path: str) -> ModuleSpec | None:
    """Spec of the code base's own module, from the other finders."""
    package = path.rpartition(".")[0]
    folders = getattr(sys.modules.get(package), "__path__", None) if package else None
    if package and folders is None:
        return None
    for finder in sys.meta_path:
        if finder in (_modules, _packages):
            continue
        spec = finder.find_spec(path, folders)
        if spec is not None:
            return spec
    return None


def _names_bound(tree: ast.AST) -> set[str]:
    """Names that code binds outside functions and classes; ``"*"`` for a star import."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        found |= _names_bound(node)
    return found


def _imported_by_code_base() -> bool:
    """Whether the importing code is a script or belongs to a package with replaced paths."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        importer = str(frame.f_globals.get("__name__"))
        top = importer.partition(".")[0]
        if importer != __name__ and top not in {"importlib", "_frozen_importlib"}:
            packages = {path.partition(".")[0] for path in _modules.paths}
            return importer in {"__main__", "__mp_main__"} or top in packages
        frame = frame.f_back
    return False


_modules = _Modules()
_packages = _Packages()
_no_faiss = _NoFaiss()
