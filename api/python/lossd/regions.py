"""Memory that this process and lossd share, so that a request names it instead of carrying it: on a Unix socket."""

from __future__ import annotations

import collections
import fcntl
import json
import math
import mmap
import os
import socket
import struct
import threading
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import calls, tensors
from .errors import LossdError

PROTOCOL = "losskit-region/1"
HUGE, SMALL = 2 << 20, 64 << 10
KEPT = 8  # blocks that nobody uses, at most

# fcntl and mmap have no names for these in every Python.
ADD_SEALS, SEAL_SEAL, SEAL_SHRINK = 1033, 1, 2
HUGE_PAGES, POPULATE = 14, 23


class Block:
    """A sealed memfd, mapped here and by lossd, which forgets it when `line` is closed."""

    def __init__(self, size: int, dial: Any) -> None:
        self.size = size
        self.line: socket.socket | None = None
        self.file = os.memfd_create("lossd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.file, size)
            fcntl.fcntl(self.file, ADD_SEALS, SEAL_SHRINK | SEAL_SEAL)
            self.memory = mmap.mmap(self.file, size)
            for advice in (HUGE_PAGES, POPULATE):
                try:
                    self.memory.madvise(advice)
                except (AttributeError, OSError):
                    pass  # hints; pages come when they are first used
            self.begin = np.frombuffer(self.memory, np.uint8).ctypes.data
            self.name = ""
            self.hand_over(dial)
        except BaseException:
            self.close()
            raise

    def hand_over(self, dial: Any) -> None:
        """To the lossd that answers now."""
        if self.line:
            self.line.close()
        self.line = dial()
        message = struct.pack("<QQ", self.size, 0)
        self.line.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", self.file))])
        answer = b""
        while not answer.endswith(b"\n"):
            part = self.line.recv(4096)
            if not part:
                raise ConnectionError("lossd closed the connection on which memory was handed over")
            answer += part
        said = json.loads(answer)
        if "region" not in said:
            raise Unavailable(said.get("detail", "lossd did not take the memory"))
        self.name = said["region"]

    def is_known(self) -> bool:
        """Does the lossd that took it still live?"""
        if self.line is None:
            return False
        timeout = self.line.gettimeout()
        self.line.settimeout(0)
        try:
            return self.line.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.line.settimeout(timeout)

    def close(self) -> None:
        """What is still a view of it stays valid memory, of this process alone."""
        if self.line:
            self.line.close()
            self.line = None
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


class Unavailable(Exception):
    """There are no regions: another system, an older lossd, or its budget is used up."""


class Pool:
    """The blocks of a client. Those that nobody uses are kept for the next ones of about their size."""

    def __init__(self, address: calls.Address, headers: Mapping[str, str], timeout: float) -> None:
        self._address, self._headers, self._timeout = address, headers, timeout
        self._lock = threading.Lock()
        self._used: dict[int, Block] = {}  # by the address where they begin
        self._free: list[Block] = []
        self._returned: collections.deque[Block] = collections.deque()
        self._why = "" if address.path is not None else "they are for unix: URLs"
        if not hasattr(os, "memfd_create"):
            self._why = "this system has no memfd_create"
        self._told = False
        _pools.add(self)

    def take(self, size: int) -> np.ndarray | None:
        """Bytes of shared memory; None, and a warning the first time, where there is none."""
        with self._lock:
            if self._why:
                self._tell()
                return None
            self._collect()
            fitting = [block for block in self._free if size <= block.size <= 2 * max(size, HUGE)]
            block = min(fitting, key=lambda one: one.size, default=None)
            if block:
                self._free.remove(block)
        try:
            block = block or Block(_rounded(size), self._dial)
        except (Unavailable, OSError) as error:
            with self._lock:
                if isinstance(error, Refused):
                    self._why = str(error)
                self._tell(str(error))
            return None
        root = np.frombuffer(block.memory, np.uint8)
        with self._lock:
            self._used[block.begin] = block
        weakref.finalize(root, _give_back, weakref.ref(self), block, os.getpid())
        return root[:size]

    def block_of(self, array: np.ndarray) -> Block | None:
        """The block that an array lies in, dense."""
        if not self._used or not array.flags.c_contiguous:
            return None
        at = array.__array_interface__["data"][0]  # ctypes.data takes ten times as long
        with self._lock:
            for begin, block in self._used.items():
                if begin <= at and at + array.nbytes <= begin + block.size:
                    return block
        return None

    def renew(self) -> bool:
        """After lossd did not know a region: hand over anew what it forgot. False: it forgot nothing."""
        with self._lock:
            lost = [block for block in (*self._used.values(), *self._free) if not block.is_known()]
        for block in lost:
            try:
                block.hand_over(self._dial)
            except (Unavailable, OSError):
                return False
        return bool(lost)

    def close(self) -> None:
        with self._lock:
            blocks = [*self._used.values(), *self._free]
            self._used.clear()
            self._free.clear()
        for block in blocks:
            block.close()

    def forked(self) -> None:
        """In a new process: the memory stays mapped, and is carried like any other."""
        self._lock = threading.Lock()
        self.close()

    def give_back(self, block: Block) -> None:
        """From a finalizer, which may run in the middle of anything: takes no lock."""
        self._returned.append(block)

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            if self._used.pop(block.begin, None):  # else closed meanwhile
                self._free.append(block)
        while len(self._free) > KEPT:
            self._free.pop(0).close()

    @property
    def is_offered(self) -> bool:
        return not self._why

    def _tell(self, why: str = "") -> None:
        if not self._told:
            self._told = True
            warnings.warn(f"tensors are sent to lossd, not shared with it: {why or self._why}", stacklevel=4)

    def _dial(self) -> socket.socket:
        lines = {"Host": "localhost", "Connection": "Upgrade", "Upgrade": PROTOCOL, **self._headers}
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(self._timeout)
            line.connect(self._address.path)
            text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            line.sendall(f"GET /v1/regions HTTP/1.1\r\n{text}\r\n".encode("latin-1"))
            head = b""
            while b"\r\n\r\n" not in head:
                part = line.recv(4096)
                if not part:
                    raise Refused("lossd closed the connection")
                head += part
            if head.split(b" ", 2)[1] != b"101":
                raise Refused("this lossd does not offer it")
            return line
        except BaseException:
            line.close()
            raise


def _rounded(size: int) -> int:
    step = HUGE if size > HUGE // 2 else SMALL
    return -(-max(size, 1) // step) * step


class Refused(Unavailable):
    """And will be each time."""


def _give_back(pool: weakref.ref[Pool], block: Block, process: int) -> None:
    there = pool()
    if there and process == os.getpid():
        there.give_back(block)
    else:
        block.close()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forked() -> None:
    for pool in list(_pools):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Shared:
    """What of one call lies in shared memory: `carried` are the other inputs."""

    def __init__(
        self,
        pool: Pool,
        description: Mapping[str, Any],
        given: Mapping[str, tensors.Tensor],
        wanted: list[str] | None,
        in_place: frozenset[str],
    ) -> None:
        self._pool, self._wanted = pool, wanted
        self.carried: dict[str, tensors.Tensor] = dict(given)
        self._inputs: dict[str, tuple[Block, tensors.Tensor]] = {}
        self._memory: dict[str, np.ndarray] = {}  # where outputs shall lie
        if not in_place <= given.keys():
            raise TypeError(f"in_place names {', '.join(sorted(in_place - given.keys()))}: no inputs of this call")
        for name, tensor in given.items():
            block = pool.block_of(tensors.bits(tensor))
            if block:
                self._inputs[name] = block, self.carried.pop(name)
        described = {one["name"]: one for one in description["inputs"]}
        for name, (_, tensor) in self._inputs.items():
            known = described.get(name, {})
            if not self._has_gradient(name, known, tensor):
                continue
            array = tensors.bits(tensor)
            # A part of a composite says by itself what it may overwrite; that is not described.
            over = name in in_place and known.get("in_place", False)
            memory = array if over else pool.take(array.nbytes)
            if memory is not None:
                self._memory[f"grad.{name}"] = memory

    def _has_gradient(self, name: str, known: Mapping[str, Any], tensor: tensors.Tensor) -> bool:
        is_float = isinstance(tensor, tensors.BF16) or tensor.dtype.kind == "f"
        if self._wanted is None:
            return is_float and bool(known.get("default_gradient", False))
        return any(_output(one) == f"grad.{name}" for one in self._wanted)

    def places(self) -> dict[str, str]:
        """As metadata of the request."""
        texts = {}
        for name, (block, tensor) in self._inputs.items():
            texts[f"region.{name}"] = _place(block, tensors.bits(tensor), tensors.dtype_name(tensor))
        for name, memory in self._memory.items():
            block = self._pool.block_of(memory)
            if block:
                texts[f"region.{name}"] = _place(block, memory)
        return texts

    def may_try_again(self, error: LossdError) -> bool:
        """After a refusal: with regions handed over anew to a lossd that was started since; or without memory for a
        gradient that the loss does not have by default, whatever is described."""
        if error.code == "unknown_output" and self._wanted is None and self._memory:
            self._memory.clear()
            return True
        return error.code == "region_invalid" and bool(self._inputs) and self._pool.renew()

    def outputs(self, carried: dict[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
        if not self._memory:
            return carried
        found = dict(carried)
        for name, memory in self._memory.items():
            text = metadata.get(f"region.{name}")
            if text is not None:
                found[name] = _view(memory, text)
        if self._wanted is not None:
            found = {name: found[name] for name in map(_output, self._wanted)}
        return found


def _output(wanted: str) -> str:
    """The name in `name:dtype`; the names of a composite's tensors may have colons, too."""
    name, _, dtype = wanted.rpartition(":")
    return name if dtype.upper() in tensors.DTYPES else wanted


def _place(block: Block, array: np.ndarray, dtype: str = "") -> str:
    """The text that names an input in a block, or with no type the place of an output."""
    said: dict[str, Any] = {"region": block.name, "offset": array.__array_interface__["data"][0] - block.begin}
    if dtype:
        said.update(dtype=dtype.lower(), shape=list(array.shape))
    return json.dumps(said, separators=(",", ":"))


def _view(memory: np.ndarray, text: str) -> tensors.Tensor:
    """The output that lossd wrote at the beginning of `memory`, by what its reply says."""
    said = json.loads(text)
    name = said["dtype"].upper()
    dtype = tensors.DTYPES[name]
    bytes_ = memory.reshape(-1).view(np.uint8)
    array = bytes_[: math.prod(said["shape"]) * dtype.itemsize].view(dtype).reshape(said["shape"])
    return tensors.BF16(array) if name == "BF16" else array
