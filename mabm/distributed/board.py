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

_PATIENCE = 20.0
"""Seconds that a store has for one answer. It takes milliseconds, but a store that looks up the
name of each host that connects may answer nobody for some seconds."""

_LONGEST_BEAT, _BEATS_IN_LIMIT = 1.0, 10
_LEAST_GRACE, _BEATS_IN_GRACE = 2.0, 5
"""Seconds and beats; in less time, a process of a busy machine looks like one that hangs."""

_LONGEST_PAUSE = 0.25
"""Seconds between two looks at notes that are not there yet; each costs the host a bit."""

_WATCHING_PAUSE = 0.05
"""Seconds between two looks at an abort while hearts are watched."""

LONGEST_END = 1.0
"""Seconds that a call waits for its threads to end. A thread that is left must not be the last to
hold a process group: Python ends, and PyTorch then aborts the process."""

_written: WeakKeyDictionary[dist.ProcessGroup, list[str]] = WeakKeyDictionary()
"""Keys that this process has written in the calls of a group and not yet deleted."""

_connections: WeakKeyDictionary[dist.ProcessGroup, Any] = WeakKeyDictionary()
"""Connections to the stores of groups, apart from those that the groups use."""

_link_connections: WeakKeyDictionary[dist.ProcessGroup, Any] = WeakKeyDictionary()
"""The same for backends, which may wait for an answer long after a call has failed."""


class StoreError(ProcessError):
    """The store of the group does not answer."""


class Board:
    """The notes of one call.

    Notes have a kind and the rank of their writer, who writes each kind once. Kinds are ``"call"``
    and ``"done"``. The heart beats from the first of them on.

    Args:
        name: Name of the function, for messages.
        group: The processes.
        seconds: Time limit of the call.

    Attributes:
        state: What this process does; others read it with the heartbeat.
        abort: Why the call has failed, as soon as the thread has seen it.
    """

    def __init__(self, name: str, group: dist.ProcessGroup, seconds: float) -> None:
        self._name, self._rank, self._size = name, group.rank(), group.size()
        self._beat = min(_LONGEST_BEAT, seconds / _BEATS_IN_LIMIT)
        self._num_beats = 0
        self.state: dict[str, Any] = {}
        self.abort: dict[str, Any] | None = None
        self._group, self._store = group, store_of(group)
        self._written = _written.setdefault(group, [])
        self._earlier = list(self._written)
        self._prefix: str | None = None
        self._requests: SimpleQueue[tuple[Callable[[Any], Any], futures.Future[Any]] | None]
        self._requests = SimpleQueue()
        self._thread = start_thread(self._serve, "mabm board")

    def _open(self) -> None:
        """Counts the call; notes of other calls have other numbers."""
        prefix = f"mabm/{self._ask(lambda store: store.add(f'mabm/calls/{self._rank}', 1))}"
        kinds = ("call", "beat", "done", "link/0")  # the last are of gloo
        self._written += [f"{prefix}/{kind}/{self._rank}" for kind in kinds]
        self._written += [f"{prefix}/abort"] * (self._rank == 0)
        self._prefix = prefix

    def close(self) -> None:
        """Ends the thread, unless the store does not answer it."""
        self._requests.put(None)
        self._thread.join(LONGEST_END)

    def link_store(self) -> Any:
        """A part of the store for a backend of ``torch.distributed``."""
        store = self._connection(_link_connections)
        return dist.distributed_c10d.PrefixStore(f"{self._prefix}/link", store)

    def leave_link_store(self) -> None:
        """Leaves the connection to a backend that may still wait; the next call makes another."""
        _link_connections.pop(self._group, None)

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

    def absent(self, kind: str) -> list[int]:
        """Returns the ranks of those who have left no note of one kind."""
        return [rank for rank, note in enumerate(self.read(kind)) if note is None]

    def watch_hearts(self) -> tuple[list[int], list[dict[str, Any]]] | None:
        """Watches who is alive, unless it turns out meanwhile why the call has failed.

        A beat of another process is missing only where one of this process has arrived, so a slow
        store looks like no death.

        Returns:
            The ranks of the hearts that stand still, and what every process did last.
        """
        before = self.read("beat")
        until, num_beats = time.monotonic() + _LEAST_GRACE, self._num_beats + _BEATS_IN_GRACE
        while time.monotonic() < until or self._num_beats < num_beats:
            if self.look_for_abort() is not None:
                return None
            time.sleep(_WATCHING_PAUSE)
        after = self.read("beat")
        still = [rank for rank in range(self._size) if before[rank] == after[rank]]
        return still, [beat or {} for beat in after]

    def look_for_abort(self) -> dict[str, Any] | None:
        """Looks why the call has failed, if it has."""
        if self.abort is None:
            self._ask(self._see_abort)
        return self.abort

    def claim_abort(self, abort: dict[str, Any]) -> dict[str, Any]:
        """Says why the call has failed; returns what was said first, by whomever."""
        text = self._ask(lambda store: self._claim(store, abort))
        self.abort = json.loads(text)
        return self.abort

    def leave_abort(self, abort: dict[str, Any]) -> None:
        """Says why the call has failed, as soon as the store answers again."""
        self._requests.put((lambda store: self._claim(store, abort), futures.Future()))

    def _claim(self, store: Any, abort: dict[str, Any]) -> str:
        first: bytes = store.compare_set(f"{self._prefix}/abort", "", json.dumps(abort))
        return first.decode()

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
                f"{self._name} has no result: the store of the group does not answer; its host, "
                "often process 0, has ended or hangs"
            ) from error

    def _serve(self) -> None:
        """Answers requests, and between them keeps the heart beating."""
        store = self._connection(_connections)
        due = time.monotonic()
        while True:
            try:
                request = self._requests.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                due = time.monotonic() + self._beat
                if self._prefix is not None:
                    self._show_life(store)
                continue
            if request is None:
                return
            act, answer = request
            try:
                answer.set_result(act(store))
            except Exception as error:
                answer.set_exception(error)
            del request, act, answer

    def _connection(self, known: WeakKeyDictionary[dist.ProcessGroup, Any]) -> Any:
        """A connection apart from the group's, whose waits would hold up the heartbeat."""
        store = known.get(self._group)
        if store is None:
            try:
                store = self._store.clone()
            except (AttributeError, RuntimeError):  # a kind of store that has no second one
                store = self._store
            known[self._group] = store
        return store

    def _show_life(self, store: Any) -> None:
        beat = json.dumps({**self.state, "beats": self._num_beats + 1})
        try:
            store.set(f"{self._prefix}/beat/{self._rank}", beat)
            self._num_beats += 1
            self._see_abort(store)
        except RuntimeError:
            return  # whoever asks the store next is told

    def _see_abort(self, store: Any) -> None:
        text = _text(store, f"{self._prefix}/abort")
        if text is not None and self.abort is None:
            self.abort = json.loads(text)


def start_thread(act: Callable[[], None], name: str) -> threading.Thread:
    """Starts a thread that does not keep Python from ending."""
    thread = threading.Thread(target=act, daemon=True, name=name)
    thread.start()
    return thread


def store_of(group: dist.ProcessGroup) -> Any:
    """The store through which the processes of a group met."""
    return dist.distributed_c10d._get_process_group_store(group)


def _text(store: Any, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None
