"""Results of the stages: dataclasses of tensors, or of NumPy arrays if the inputs were arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mabm._core.arrays import Array, like, to_tensor
from mabm._core.saving import Saved

if TYPE_CHECKING:
    from typing_extensions import Self


class ArrayRecord(Saved):
    """Base of frozen dataclasses whose fields are tensors or NumPy arrays, and plain values.

    Public functions convert a record to tensors once, on entry (:meth:`in_tensors`), and their
    result to the caller's kind once, on return (:meth:`in_kind_of`). In between, stages pass on
    records of tensors.
    """

    @classmethod
    def unchecked(cls, *values: Any) -> Self:
        """Wraps results of ops without checks, which would wait for a GPU.

        Args:
            values: The fields, in their order.
        """
        record = object.__new__(cls)
        members = fields(cls)  # type: ignore[arg-type]  # subclasses are dataclasses
        for field, value in zip(members, values, strict=True):
            object.__setattr__(record, field.name, value)
        return record

    def in_tensors(self) -> Any:
        """The same record with contiguous tensors instead of arrays, sharing memory."""
        return self.unchecked(
            *(
                to_tensor(value, name).contiguous()
                if isinstance(value, Tensor | np.ndarray)
                else value
                for name, value in self._values_by_name()
            )
        )

    def in_kind_of(self, model: Array) -> Any:
        """This record of tensors, converted to NumPy arrays if ``model`` is one.

        Args:
            model: A tensor or an array from the caller.
        """
        if isinstance(model, Tensor):
            return self
        return self.unchecked(
            *(
                like(value, model) if isinstance(value, Tensor) else value
                for _, value in self._values_by_name()
            )
        )

    def _values_by_name(self) -> list[tuple[str, Any]]:
        names = (field.name for field in fields(self))  # type: ignore[arg-type]  # as above
        return [(name, getattr(self, name)) for name in names]
