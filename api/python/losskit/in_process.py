"""Losses evaluated in this process: what lossd.Client does with a service, done by the library."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from lossd import calls, tensors
from lossd.errors import error_of

from . import describe, parts
from .binding import MAX_RANK, Error, Tensor, encoded, lib

ALIGNMENT = 64
SHARD_ELEMENTS = 128 * 1024  # fewer elements than this are not worth a trip to another thread

DTYPES = {name.upper(): number for number, name in enumerate(describe.DTYPES)}
ARRAYS = [tensors.DTYPES[name] for name in DTYPES]
HTTP_STATUSES = {"unknown_loss": 404, "no_memory": 503, "misuse": 500}  # of lossd's replies; else 422


class Local(calls.ByName, calls.Copied):
    """Has the methods of lossd.Client and gives the same bits, without a service. May be used by many threads; a call
    is computed by the thread that makes it and, if it is large, by `threads - 1` others, and holds no lock of Python's
    meanwhile."""

    own = ("_pool", "_process", "_lock", "_held", "_described")
    where = "losskit"

    def __init__(self, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self.threads = threads
        self._begin()

    def _begin(self) -> None:
        self._pool: concurrent.futures.Executor | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._held = threading.local()
        self._described: dict[str, dict[str, Any]] | None = None

    def evaluate(
        self,
        loss: str,
        inputs: Mapping[str, Any],
        *,
        options: Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        in_place: Iterable[str] = (),
    ) -> dict[str, Any]:
        """The outputs by name: `loss` and the usual gradients, or those that `outputs` names. Raises LossdError.

        `in_place` names inputs that their gradients may overwrite, where the loss allows it (scores, mostly): the
        output is then the input's own array, which must be writable, contiguous and overlap no other. After an error
        its contents are unspecified."""
        description = calls.known(self._descriptions(), loss, self.where)
        given, texts = calls.prepare(inputs, options)
        over = frozenset(in_place)
        if not over <= given.keys():
            raise TypeError(f"in_place names {', '.join(sorted(over - given.keys()))}: no inputs of this call")
        call = _Call(description)
        call.fill(given, texts, outputs, self._descriptions())
        call.bind(inputs, given, over)
        call.compute(self)
        return call.made

    def ready(self) -> bool:
        """As lossd.Client's: always."""
        return True

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool and self._process == os.getpid():
            pool.shutdown()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _descriptions(self) -> dict[str, dict[str, Any]]:
        if self._described is None:
            self._described = describe.describe_all()
        return self._described

    def workers(self) -> concurrent.futures.Executor:
        """The other threads."""
        if self._process != os.getpid():  # forked: they, and who held the lock, are the other process's
            self._pool, self._process, self._lock = None, os.getpid(), threading.Lock()
        with self._lock:
            if self._pool is None:
                self._pool = concurrent.futures.ThreadPoolExecutor(self.threads - 1, "losskit")
            return self._pool

    def scratch(self, size: int) -> int:
        """The address of memory that this thread works in: the same at every call, so that it is still in the cache."""
        held = getattr(self._held, "scratch", None)
        if held is None or held.size < size + ALIGNMENT:
            held = self._held.scratch = np.empty(size + ALIGNMENT, np.uint8)
        return -(-_address(held) // ALIGNMENT) * ALIGNMENT


class _Call:
    """An lk_call: `fill`, `bind`, `compute`, in this order. It lives, and with it all memory that it refers to, until the
    last thread has let go of it: the one that waits for the others may be interrupted."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.call = lib.lk_call_new(lib.lk_loss_find(description["name"].encode()))
        self.error, self.made, self.held = Error(), {}, []
        self.parts = [one["name"] for one in description["options"] if one["type"] == "parts"]
        if not self.call:
            raise MemoryError

    def __del__(self) -> None:
        lib.lk_call_free(self.call)

    def do(self, function: Any, *arguments: Any) -> None:
        """A function of the library that may refuse: raises LossdError, as for lossd's reply."""
        if function(self.call, *arguments, self.error) == 0:
            return
        e = self.error
        code = lib.lk_status_name(e.status).decode()
        problem: dict[str, object] = {"code": code, "detail": e.text.decode("utf-8", "replace")}
        if e.input:
            problem["input"] = e.input.decode()
        if e.rank:
            problem["index"] = list(e.index[: e.rank])
        raise error_of(HTTP_STATUSES.get(code, 422), problem)

    def fill(
        self,
        given: Mapping[str, tensors.Tensor],
        options: Mapping[str, str],
        outputs: Iterable[str] | None,
        descriptions: Mapping[str, Any],
    ) -> None:
        """In lossd's order: of several errors the same one is told."""
        for name, text in options.items():
            if name in self.parts:
                parts.add(self, name, text, descriptions)
            else:
                self.do(lib.lk_call_option, encoded(name), encoded(text))
        for name in () if outputs is None else ",".join(outputs).split(","):
            self.do(lib.lk_call_want, encoded(name.lstrip(" ")))
        self.elements = 1
        for name, tensor in given.items():
            array = np.asarray(tensors.bits(tensor), order="C")
            self.held.append(array)
            self.elements = max(self.elements, array.size)
            if array.ndim > MAX_RANK:
                detail = f"{name} has {array.ndim} axes; tensors have at most {MAX_RANK}"
                raise error_of(413, {"code": "too_large", "detail": detail, "input": name})
            view = Tensor(_address(array), DTYPES[tensors.dtype_name(tensor)], array.ndim, array.shape)
            self.do(lib.lk_call_input, encoded(name), view)
        self.do(lib.lk_call_check)

    def bind(self, inputs: Mapping[str, Any], given: Mapping[str, tensors.Tensor], in_place: Set[str]) -> None:
        """Makes the outputs."""
        for i in range(lib.lk_call_outputs(self.call)):
            view = Tensor()
            name = lib.lk_call_output(self.call, i, view).decode()
            of = name.partition(".")[2]
            if of in in_place and lib.lk_call_in_place(self.call, i):
                self.made[name] = _overwritten(of, inputs, given)
            else:
                array = np.empty(view.shape[: view.rank], ARRAYS[view.dtype])
                self.made[name] = tensors.BF16(array) if view.dtype == DTYPES["BF16"] else array
            lib.lk_call_bind(self.call, i, _address(tensors.bits(self.made[name])))

    def compute(self, local: Local) -> None:
        self.do(lib.lk_call_plan)
        shards = max(1, min(local.threads, self.elements // SHARD_ELEMENTS))
        size = lib.lk_call_scratch(self.call)

        def run(shard: int) -> None:
            blocks = lib.lk_call_blocks(self.call)
            first, end = blocks * shard // shards, blocks * (shard + 1) // shards
            lib.lk_call_run(self.call, first, end - first, local.scratch(size))

        more = True
        while more:
            others = [local.workers().submit(run, shard) for shard in range(1, shards)]
            run(0)
            concurrent.futures.wait(others)
            more = lib.lk_call_next(self.call)
        self.do(lib.lk_call_finish)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _overwritten(name: str, inputs: Mapping[str, Any], given: Mapping[str, tensors.Tensor]) -> tensors.Tensor:
    """The caller's own array, which its gradient may overwrite."""
    value, array = inputs[name], tensors.bits(given[name])
    own = value.bits if isinstance(value, tensors.BF16) else value
    others = (tensors.bits(other) for key, other in given.items() if key != name)
    if not isinstance(own, np.ndarray) or _address(own) != _address(array):  # an empty one shares no memory
        why = "is not an array of an element type that losskit has"
    elif not array.flags.c_contiguous:
        why = "is not contiguous"
    elif not array.flags.writeable:
        why = "is read-only"
    elif any(np.may_share_memory(array, other) for other in others):
        why = "overlaps another input"
    else:
        return given[name]
    raise ValueError(f"{name} cannot be overwritten by its gradient: it {why}")
