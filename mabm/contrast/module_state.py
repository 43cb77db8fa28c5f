"""Modules that load a state completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class WholeState(nn.Module):
    """A module of buffers that keeps them unchanged if loading a state fails.

    As a submodule this covers errors in its own part of the state. PyTorch reports unexpected keys
    only at the end, after this part is loaded.
    """

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Loads a state as ``torch.nn.Module`` does; an error changes nothing and names the key."""
        put_back = _keep_buffers(self)
        try:
            return super().load_state_dict(*args, **options)
        except BaseException:
            put_back()
            raise

    def _prepare_for(self, state_dict: dict[str, Any], prefix: str) -> Iterable[str]:
        """Resizes buffers for a state; yields the errors in it that PyTorch does not detect."""
        return ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        *_, errors = args
        before = len(errors)
        put_back = _keep_buffers(self)
        with torch.inference_mode(False), torch.no_grad():
            errors.extend(self._prepare_for(state_dict, prefix))
            if len(errors) == before:
                super()._load_from_state_dict(state_dict, prefix, *args)
        if len(errors) > before:
            put_back()


def _keep_buffers(module: nn.Module) -> Callable[[], None]:
    kept = [(name, b, b if b is None else b.clone()) for name, b in module._buffers.items()]

    def put_back() -> None:
        with torch.no_grad():
            for name, buffer, values in kept:
                if buffer is not None and values is not None:
                    buffer.copy_(values)
                setattr(module, name, buffer)

    return put_back
