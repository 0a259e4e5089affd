"""What a call is, whoever carries it: its arguments, tensors and texts, its headers and bytes, when to try it again."""

from __future__ import annotations

import copy
import json
import math
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from . import tensors

MEDIA = "application/x-safetensors"

# What the kernel may hold of a request on a Unix socket; with its own 208 KiB a large one takes twice as long.
UNIX_BUFFER = 512 * 1024


class Address(NamedTuple):
    """host and port, or the path of a Unix socket; and what stands in Host."""

    secure: bool
    host: str
    port: int | None
    path: str | None
    authority: str


class Copied:
    """A client that may be copied, pickled, and handed to another process: a copy has the address and the settings, its
    key too, and makes connections of its own."""

    own: tuple[str, ...]  # the attributes that are not copied

    def _begin(self) -> None:
        """Makes them."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self.own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.copy(self)  # settings do not change, and an SSLContext cannot be copied


class ByName:
    """client.cross_entropy(logits, targets, label_smoothing=0.1): inputs in their order or by name, options and
    `outputs` by name. For whoever has `_descriptions` and `evaluate`."""

    where: str  # whose losses these are, in errors

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        description = self.describe(name)

        def call(
            *values: Any, outputs: Iterable[str] | None = None, in_place: Iterable[str] = (), **named: Any
        ) -> dict[str, Any]:
            inputs, options = arrange(description, values, named)
            return self.evaluate(name, inputs, options=options, outputs=outputs, in_place=in_place)

        return call

    def losses(self) -> list[str]:
        """The names of all losses and transforms."""
        return list(self._descriptions())

    def describe(self, loss: str) -> dict[str, Any]:
        """Inputs, outputs, options, formula and sources of a loss."""
        return known(self._descriptions(), loss, self.where)


def known(descriptions: Mapping[str, dict[str, Any]], loss: str, where: str) -> dict[str, Any]:
    """The description of a loss of theirs."""
    found = descriptions.get(loss)
    if found is None:
        raise AttributeError(f"{where} has no loss {loss!r}")
    return found


def address_of(url: str) -> Address:
    if url.startswith("unix:"):
        return Address(False, "localhost", None, url[5:], "localhost")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is not http://host:port, https://host:port or unix:/path")
    authority = parts.netloc.rpartition("@")[2]
    return Address(parts.scheme == "https", parts.hostname, parts.port, None, authority)


def authorization(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def limit(remaining: float) -> dict[str, str]:
    """So that the service does not begin what would be late."""
    return {"X-Request-Timeout": str(max(1, math.floor(remaining * 1000)))}


def is_repeatable(method: str) -> bool:
    """A connection that was kept may turn out to be closed only when a request was sent, which then is sent once more.
    To evaluate twice is no harm; what changes something takes a new connection."""
    return method not in ("PUT", "DELETE")


def prepare(
    inputs: Mapping[str, Any], options: Mapping[str, Any] | None
) -> tuple[dict[str, tensors.Tensor], dict[str, str]]:
    """The tensors of an evaluation, wide types first: then each is aligned if the first is; its options as text, and
    the names of what is resident."""
    texts = {name: tensors.option_text(value) for name, value in (options or {}).items()}
    given = []
    for name, value in inputs.items():
        if isinstance(value, tensors.Resident):
            texts[f"region.{name}"] = json.dumps({"region": value.name})
        else:
            given.append((name, _tensor_of(name, value)))
    given.sort(key=lambda item: -tensors.bits(item[1]).itemsize)
    return dict(given), texts


def _tensor_of(name: str, value: Any) -> tensors.Tensor:
    try:
        return tensors.as_tensor(value)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def say_where(error: OSError, url: str) -> None:
    """The kernel does not say who refused."""
    if error.strerror is not None:
        error.strerror += f" (lossd at {url})"


def encode(
    inputs: Mapping[str, Any], options: Mapping[str, Any] | None, outputs: Iterable[str] | None
) -> tuple[dict[str, str], list[Any]]:
    """The headers of an evaluation, and its body in pieces."""
    given, metadata = prepare(inputs, options)
    return encode_prepared(given, metadata, outputs)


def encode_prepared(
    given: Mapping[str, tensors.Tensor], metadata: dict[str, str], outputs: Iterable[str] | None
) -> tuple[dict[str, str], list[Any]]:
    if outputs is not None:
        metadata["outputs"] = ",".join(outputs)
    pieces = tensors.write(given, metadata)
    return {"Content-Type": MEDIA, "Accept": MEDIA, "Content-Length": str(sum(map(len, pieces)))}, pieces


def encode_resident(values: Mapping[str, Any]) -> tuple[dict[str, str], list[Any]]:
    """The headers of what is to be kept, and its body in pieces."""
    pieces = tensors.write({name: tensors.as_tensor(value) for name, value in values.items()}, {})
    return {"Content-Type": MEDIA, "Content-Length": str(sum(map(len, pieces)))}, pieces


def resident_path(name: str, replace: bool = False) -> str:
    return f"/v1/regions/{urllib.parse.quote(name, safe='')}" + "?replace=true" * replace


def arrange(
    description: Mapping[str, Any], values: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and options of client.loss(*values, **named). Where a loss has both of a name, numbers are the option."""
    name, names = description["name"], [one["name"] for one in description["inputs"]]
    known = [one["name"] for one in description["options"]]
    if len(values) > len(names):
        raise TypeError(f"{name} has the inputs {', '.join(names)}; {len(values)} were given")
    inputs, options = dict(zip(names, values)), {}
    for key, value in named.items():
        if key in inputs:
            raise TypeError(f"{name} got {key} twice")
        # Of a composite only the options are known: the inputs are its parts'.
        is_input = key in names or (description["made_of_parts"] and key not in known)
        if not is_input and key not in known:
            raise TypeError(f"{name} has no {key}: its inputs are {', '.join(names)}, its options {', '.join(known)}")
        is_number = key in known and not hasattr(value, "tolist")
        (inputs if is_input and not is_number else options)[key] = value
    return {key: value for key, value in inputs.items() if value is not None}, options


def retry_after(text: str | None) -> float:
    """Seconds. A date is what proxies may write."""
    return float(text) if text and text.isdigit() else 1.0
