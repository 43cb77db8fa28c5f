"""Results that ``torch.save``, pickle and copy can save; ``torch.load`` reads them safely."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from mabm._core.arguments import shown
from mabm._core.arrays import to_tensor


class Saved:
    """Base of dataclasses that ``torch.load`` reads with ``weights_only=True``, its default.

    A state contains only the fields: tensors, numbers, strings, containers of these, and other
    instances of ``Saved``. NumPy arrays are stored as tensors and restored as arrays. Cached values
    are not stored. Loading calls the constructor, with its checks; fields that are missing in the
    state get their defaults.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        torch.serialization.add_safe_globals([cls])

    def __getstate__(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in _field_names(self)}
        arrays = [name for name, value in values.items() if isinstance(value, np.ndarray)]
        for name, value in values.items():
            values[name] = (
                to_tensor(value, name) if name in arrays else _without_numpy_scalars(value)
            )
        return {"fields": values, "arrays": arrays}

    def __setstate__(self, state: Any) -> None:
        kind, known = type(self), _field_names(self)
        if not _is_state(state):
            raise ValueError(
                f"the saved state of {kind.__name__} must contain fields and arrays, got "
                f"{shown(state)}; save it again with this version of mabm"
            )
        if unknown := sorted(set(state["fields"]) - set(known)):
            raise ValueError(
                f"the saved state of {kind.__name__} must have only the fields {known}, got "
                f"{unknown}; load it with the version of mabm that saved it, or a later one"
            )
        values = {
            name: value.cpu().numpy() if name in state["arrays"] else value
            for name, value in state["fields"].items()
        }
        self.__init__(**values)  # type: ignore[misc]  # the checks of the constructor


def _is_state(state: Any) -> bool:
    """Whether ``state`` has the form of ``__getstate__``: fields, and the names of arrays."""
    if not isinstance(state, dict) or state.keys() != {"fields", "arrays"}:
        return False
    values, arrays = state["fields"], state["arrays"]
    if not (isinstance(values, dict) and isinstance(arrays, list)):
        return False
    return all(
        isinstance(name, str) and isinstance(values.get(name), torch.Tensor) for name in arrays
    )


def _field_names(value: Any) -> list[str]:
    return [field.name for field in fields(value)]


def _without_numpy_scalars(value: Any) -> Any:
    """Replaces NumPy scalars in a value by Python numbers and strings."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (tuple, list):
        return type(value)(_without_numpy_scalars(item) for item in value)
    if type(value) is dict:
        return {
            _without_numpy_scalars(key): _without_numpy_scalars(item) for key, item in value.items()
        }
    return value
