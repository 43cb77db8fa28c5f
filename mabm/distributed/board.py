"""Notes that the processes of one call leave for each other, in the store of their group.

A store answers late or never where its host hangs. So one thread has all access to it, and whoever
asks it waits for a limited time. The same thread says about once a second that this process is
alive, and looks whether another one has given up.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent import futures
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch.distributed as dist

from mabm.distributed.errors import ProcessError

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds that a store has for one answer, which takes milliseconds."""

_LONGEST_BEAT, _BEATS_IN_LIMIT = 1.0, 10
_LEAST_GRACE, _BEATS_IN_GRACE = 2.0, 5
"""Seconds and beats; in less time, a busy machine looks like a process that hangs."""

_LONGEST_PAUSE = 0.25
"""Seconds between two looks at notes that are not there yet; each costs the host a little."""

_written: WeakKeyDictionary[dist.ProcessGroup, list[str]] = WeakKeyDictionary()
"""Keys that this process has written in the calls of a group and not yet deleted."""


class StoreError(ProcessError):
    """The store of the group does not answer."""


class Board:
    """The notes of one call.

    Notes have a kind and the rank of their writer, who writes each kind once. Kinds are ``"call"``
    and ``"done"``. The heart beats from the first of them on.

    Args:
        group: The processes.
        rank: Number of this process in the group.
        size: Number of processes.
        seconds: Time limit of the call.

    Attributes:
        grace: Seconds after which a heart that stands still has stopped.
        state: What this process does; others read it with the heartbeat.
        abort: Why the call has failed, as soon as the thread has seen it.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int, seconds: float) -> None:
        self._beat = min(_LONGEST_BEAT, seconds / _BEATS_IN_LIMIT)
        self.grace = max(_LEAST_GRACE, _BEATS_IN_GRACE * self._beat)
        self.state: dict[str, Any] = {}
        self.abort: dict[str, Any] | None = None
        self._store = store_of(group)
        self._rank, self._size = rank, size
        self._written = _written.setdefault(group, [])
        self._earlier = list(self._written)
        self._prefix: str | None = None
        self._requests: SimpleQueue[tuple[Callable[[Any], Any], futures.Future[Any]] | None]
        self._requests = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="mabm board").start()

    def _open(self) -> None:
        """Counts the call; notes of other calls have other numbers."""
        prefix = f"mabm/{self._ask(lambda store: store.add(f'mabm/calls/{self._rank}', 1))}"
        kinds = ("call", "beat", "done", "link/0")  # the last are of gloo
        self._written += [f"{prefix}/{kind}/{self._rank}" for kind in kinds]
        self._written += [f"{prefix}/abort"] * (self._rank == 0)
        self._prefix = prefix

    def close(self) -> None:
        """Ends the thread; does not wait for it, as the store may not answer it."""
        self._requests.put(None)

    def link_store(self) -> Any:
        """A part of the store for a backend of ``torch.distributed``."""
        return dist.distributed_c10d.PrefixStore(f"{self._prefix}/link", self._store)

    def write(self, kind: str, note: object) -> None:
        """Leaves a note."""
        if self._prefix is None:
            self._open()
        key, text = f"{self._prefix}/{kind}/{self._rank}", json.dumps(note)
        self._ask(lambda store: store.set(key, text))

    def read(self, kind: str) -> list[Any]:
        """Returns the notes of one kind, in the order of ranks; ``None`` where there is none."""
        keys = self._keys(kind)
        texts = self._ask(lambda store: [_text(store, key) for key in keys])
        return [None if text is None else json.loads(text) for text in texts]

    def wait_for_all(self, kind: str, seconds: float) -> bool:
        """Whether all have left a note of one kind in time, and the call has not failed."""
        keys, begun = self._keys(kind), time.monotonic()
        while not self.look_for_abort():
            if self._ask(lambda store: store.check(keys)):
                return True
            spent = time.monotonic() - begun
            if spent >= seconds:
                return False
            time.sleep(min(_LONGEST_PAUSE, 0.002 + spent / 8, seconds - spent))
        return False

    def look_for_abort(self) -> dict[str, Any] | None:
        """Looks why the call has failed, if it has."""
        if self.abort is None:
            self._ask(self._see_abort)
        return self.abort

    def claim_abort(self, cause: dict[str, Any]) -> dict[str, Any]:
        """Says why the call has failed; returns what was said first, by whomever."""
        key, text = f"{self._prefix}/abort", json.dumps(cause)
        self.abort = json.loads(self._ask(lambda store: store.compare_set(key, "", text)))
        return self.abort

    def forget_earlier_calls(self) -> None:
        """Deletes what this process wrote in earlier calls, which all processes have left."""
        keys = self._earlier
        self._ask(lambda store: [store.delete_key(key) for key in keys])
        self._written[:] = [key for key in self._written if key not in keys]
        self._earlier = []

    def _keys(self, kind: str) -> list[str]:
        return [f"{self._prefix}/{kind}/{rank}" for rank in range(self._size)]

    def _ask(self, act: Callable[[Any], T]) -> T:
        answer: futures.Future[T] = futures.Future()
        self._requests.put((act, answer))
        try:
            return answer.result(_PATIENCE)
        except (futures.TimeoutError, RuntimeError) as error:
            raise StoreError(
                "the store of the group does not answer; its host, often process 0, has ended or "
                "hangs"
            ) from error

    def _serve(self) -> None:
        """Answers requests, and between them keeps the heart beating."""
        store = _own_connection(self._store)
        num_beats, due = 0, time.monotonic()
        while True:
            try:
                request = self._requests.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                due = time.monotonic() + self._beat
                if self._prefix is not None:
                    num_beats += 1
                    self._show_life(store, num_beats)
                continue
            if request is None:
                return
            act, answer = request
            try:
                answer.set_result(act(store))
            except Exception as error:
                answer.set_exception(error)
            del request, act, answer

    def _show_life(self, store: Any, num_beats: int) -> None:
        beat = json.dumps({**self.state, "beats": num_beats})
        try:
            store.set(f"{self._prefix}/beat/{self._rank}", beat)
            self._see_abort(store)
        except RuntimeError:
            return  # whoever asks the store next is told

    def _see_abort(self, store: Any) -> None:
        text = _text(store, f"{self._prefix}/abort")
        if text is not None and self.abort is None:
            self.abort = json.loads(text)


def store_of(group: dist.ProcessGroup) -> Any:
    """The store through which the processes of a group met."""
    return dist.distributed_c10d._get_process_group_store(group)


def _own_connection(store: Any) -> Any:
    """A second connection, so that a wait of another thread holds up no heartbeat."""
    try:
        return store.clone()
    except (AttributeError, RuntimeError):  # a kind of store that has no second one
        return store


def _text(store: Any, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None
