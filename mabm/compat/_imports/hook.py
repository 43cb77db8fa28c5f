"""How old import paths come to resolve here: finders, stand-in modules, and a stand-in faiss."""

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
    """Makes each of the paths resolve to a stand-in, those that are loaded already too."""
    _modules.paths.update(paths)
    if _modules not in sys.meta_path:
        sys.meta_path.insert(0, _modules)  # before the code base, whose modules are replaced
        sys.meta_path.extend([_packages, _no_faiss])  # after it, whose packages are not
    for path in paths:
        replaced = sys.modules.pop(path, None)
        real = _modules.real.get(path) if isinstance(replaced, _StandIn) else replaced
        package = path.rpartition(".")[0]
        if replaced is not None or package in sys.modules:
            importlib.import_module(path)  # so that the package's attribute is the new one
        if real is not None:
            _modules.real[path] = real


class _StandIn(ModuleType):
    """An old module: the names of the table are ours, all others those of the real one.

    Either is loaded when it is asked for. Names that the real module's code does not hold are
    refused without running it, so that ``hasattr`` and the search of ``pickle`` cost nothing.
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
                f"cannot import name {name!r} from {path!r}: mabm has nothing that stands in for "
                f"it, and the real module, {file}, cannot be imported: "
                f"{type(error).__name__}: {error}",
                name=path,
                path=file,
            ) from error
        return getattr(real, name)

    def __dir__(self) -> list[str]:
        path = self.__name__
        return sorted({*self.__dict__, *_modules.our_names(path), *_modules.real_names(path)})


class _Modules(MetaPathFinder, Loader):
    """Finds the old modules here."""

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
            module.__dict__.pop(name, None)  # of a module that is loaded anew
        module.__doc__ = f"Stands in for {path}: see {_HERE}."
        real = _find_real(path)
        if real is not None and real.has_location and real.origin is not None:
            module.__file__ = real.origin  # where inspect finds the source of the real names

    def our_names(self, path: str) -> Mapping[str, str]:
        """What stands in for a module, chosen by the names in its own code where there is any."""
        return names_of(path, self.real_names(path))

    def load_real(self, path: str) -> ModuleType:
        """The code base's own module; it never takes the place of the stand-in."""
        if path not in self.real:
            spec = _find_real(path)
            if spec is None or spec.loader is None:
                raise ModuleNotFoundError(f"No module named {path!r}", name=path)
            module = module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            finally:
                _no_faiss.withdraw()
            self.real.setdefault(path, module)  # another thread's, if it was there first
        return self.real[path]

    def real_names(self, path: str, asked: str | None = None) -> set[str]:
        """Names that the real module holds, read from its code where it is not loaded.

        ``asked`` is among them where the code does not tell: it imports ``*``, is no Python that
        can be read, or has no source.
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
        """``__all__``: our names, and the real module's where it can be imported."""
        ours = list(self.our_names(path))
        try:
            real = self.load_real(path)
        except Exception:  # whatever its code raises: ours are there all the same
            return ours
        public = getattr(real, "__all__", [name for name in vars(real) if name[0] != "_"])
        return list(dict.fromkeys([*ours, *public]))


class _Packages(MetaPathFinder):
    """Finds an empty package where an old module's own is nowhere else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(module.startswith(f"{fullname}.") for module in _modules.paths):
            return None
        return ModuleSpec(fullname, None, is_package=True)


class _NoFaiss(MetaPathFinder, Loader):
    """Finds a stand-in faiss for code bases whose paths are replaced, where there is no real one.

    Their modules import faiss at the top, and most of what they hold does without it. The stand-in
    stays in ``sys.modules`` only until something else is imported: a library that tries faiss later
    must not find it.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Faiss] = {}

    def withdraw(self) -> None:
        """Takes the stand-ins out of ``sys.modules``; who has imported one keeps it."""
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
        module.__doc__ = f"Stands in for {module.__name__}, which is not installed: see {_HERE}."


class _Faiss(ModuleType):
    """A faiss whose names may be written down, as a default argument for one, but not used."""

    def __getattr__(self, name: str) -> _Unusable:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _Unusable(f"{self.__name__}.{name}")


class _Unusable:
    """A name of a faiss that is not there."""

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
            f"(pip install faiss-cpu), or call a function of mabm.compat, which needs none",
            name=_FAISS,
        )

    __call__ = __bool__ = __int__ = __index__ = __float__ = __len__ = __iter__ = _refuse
    __getitem__ = __enter__ = __mro_entries__ = _refuse


def _find_real(path: str) -> ModuleSpec | None:
    """The spec of the code base's own module, by the finders beside ours."""
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
    """Names that a module's code binds outside of functions and classes; ``"*"`` for an import."""
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
    """Whether the code that imports right now is a script or in a package of replaced paths."""
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
