"""Checks and JSON forms that the public values share.

A check takes what the caller gave and the name it has for the caller, and
returns what is stored; what it refuses is a PlanError that says what to write
instead. Nothing here does I/O: whether a path exists is asked later, so that a
plan for another machine can be described on this one.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import numbers
import operator
import os
import reprlib
import signal as signals
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from evalbox.errors import PlanError

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

StrPath = str | os.PathLike[str]
Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]
# JSON arrives untyped; the constructors that it is handed to check every value.
JsonObject = Mapping[str, Any]

NAME_MAX = 255  # bytes of one component, include/uapi/linux/limits.h
PATH_MAX = 4096  # bytes of a path with its final NUL, the same file
MAX_ARGUMENT = 128 * 1024 - 1  # without its NUL; MAX_ARG_STRLEN, 32 pages, for pages of 4 KiB
# Nanoseconds and bytes both travel as signed 64-bit integers.
MAX_INT = 2**63 - 1
MAX_SECONDS = MAX_INT // 10**9


class FrozenMap(Mapping[str, V_co], Generic[V_co]):
    """A mapping that cannot be changed, can be hashed and can be pickled.

    types.MappingProxyType can be neither hashed (before 3.12) nor pickled.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V_co]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[type[FrozenMap[V_co]], tuple[dict[str, V_co]]]:
        return type(self), (self._items,)


def store(value: object, **fields: object) -> None:
    """Sets fields of a frozen dataclass while it is being made."""
    for name, content in fields.items():
        object.__setattr__(value, name, content)


def unchecked(made: type[V], /, **fields: object) -> V:
    """A value of which every field is given and known to be right.

    What a run reports is made by ourselves and once for each run: its checks would
    take as long as all else that is done with it.
    """
    value = object.__new__(made)
    put = object.__setattr__
    for name, content in fields.items():
        put(value, name, content)
    return value


# ---- messages ----------------------------------------------------------------


def shown(value: object) -> str:
    """A repr of bounded length."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an int of more than 4300 digits has no repr
        return f"a huge {kind(value)}"


def kind(value: object) -> str:
    return type(value).__name__


def size(count: int) -> str:
    """A number of bytes for a reader: 256 MiB."""
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{round(count / 1024**power, 1):g} {name}"
    return f"{count} bytes"


def signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def unknown(what: str, name: object, known: Collection[str]) -> PlanError:
    """The error for a name that is not in `known`, with the nearest that are."""
    written = name[:64] if isinstance(name, str) else shown(name)
    close = difflib.get_close_matches(written, known, n=3)
    if close:
        hint = f"; did you mean {' or '.join(map(repr, close))}?"
    elif len(known) <= 24:
        hint = f"; known are {', '.join(sorted(known))}"
    else:
        hint = ""
    return PlanError(f"unknown {what} {shown(name)}{hint}")


# ---- scalars -----------------------------------------------------------------


def boolean(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{what} must be True or False, not {shown(value)}")
    return value


def choice(value: object, what: str, known: Collection[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise unknown(what, value, known)
    return value


def instance(value: object, what: str, wanted: type[V], hint: str = "") -> V:
    if not isinstance(value, wanted):
        write = f"; write {hint}" if hint else ""
        raise PlanError(f"{what} must be a {wanted.__name__}, not {shown(value)}{write}")
    return value


def _number(value: object, what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        hint = "; sizes are written 256 * MiB" if isinstance(value, str) else ""
        raise PlanError(f"{what} must be a number, not {shown(value)}{hint}")
    number: Any = value  # the stubs of numbers.Real know no comparison with int and float
    if not -math.inf < number < math.inf:  # false for NaN too
        raise PlanError(f"{what} must be finite, not {number}; for no limit write None")
    if number < 0:
        raise PlanError(f"{what} must not be negative, not {shown(number)}")
    return number


def seconds(value: object, what: str) -> float:
    # What every run reports is worth a short way.
    if type(value) is float and 0.0 <= value <= MAX_SECONDS:
        return value
    number = _number(value, what)
    if number > MAX_SECONDS:
        raise PlanError(f"{what} must be at most {MAX_SECONDS} seconds; for no limit write None")
    return float(number)


def share(value: object, what: str) -> float:
    """A part of a whole, 0 to 1."""
    number = _number(value, what)
    if number > 1:
        raise PlanError(f"{what} must be at most 1, not {shown(number)}")
    return float(number)


def whole(value: object, what: str) -> int:
    """A count or a number of bytes; 0.5 * GiB is one too."""
    if type(value) is int and 0 <= value <= MAX_INT:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        result = operator.index(value)  # type: ignore[arg-type]  # its TypeError is the check
    except TypeError:
        _number(value, what)
        raise PlanError(f"{what} must be a whole number, not {shown(value)}") from None
    if isinstance(value, bool) or result < 0:
        _number(value, what)
    if result > MAX_INT:
        raise PlanError(f"{what} must be below 2**63; for no limit write None")
    return result


def positive(value: object, what: str) -> int:
    """A count of at least one; 8.0 is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{what} must be a whole number above 0, not {shown(value)}")
    return value


def optional(check: Callable[[object, str], V]) -> Callable[[object, str], V | None]:
    """The same check with None allowed."""
    return lambda value, what: None if value is None else check(value, what)


# ---- text and paths ----------------------------------------------------------


def encoded(value: str, what: str) -> bytes:
    """The bytes that the kernel will see."""
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        raise PlanError(f"{what} cannot be encoded: {shown(value)}") from None


def text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{what} must be a str, not {kind(value)}")
    if "\0" in value:
        raise PlanError(f"{what} contains a NUL byte: {shown(value)}")
    encoded(value, what)
    return value


def fits_execve(data: bytes, what: str) -> None:
    if len(data) > MAX_ARGUMENT:
        raise PlanError(
            f"{what} has {len(data)} bytes and the kernel takes {MAX_ARGUMENT}; use stdin or files"
        )


def argument(value: object, what: str) -> str | bytes:
    """One string of an argument list: str, bytes or a path."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise PlanError(f"{what} must be str, bytes or a path, not {kind(value)}")
    plain: str | bytes = os.fspath(value)
    data = encoded(plain, what) if isinstance(plain, str) else plain
    if b"\0" in data:
        raise PlanError(f"{what} contains a NUL byte: {shown(plain)}")
    fits_execve(data, what)
    return plain


def _parts(value: object, what: str) -> tuple[str, list[str]]:
    if not isinstance(value, str | os.PathLike):
        raise PlanError(f"{what} must be a str or a path, not {kind(value)}")
    path = text(os.fspath(value), what)
    if not path:
        raise PlanError(f"{what} is empty")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if any(len(encoded(part, what)) > NAME_MAX for part in parts):
        raise PlanError(f"{what} has a component of more than {NAME_MAX} bytes: {shown(path)}")
    if len(encoded(path, what)) >= PATH_MAX:
        raise PlanError(f"{what} is longer than {PATH_MAX - 1} bytes")
    return path, parts


def absolute_path(value: object, what: str) -> str:
    """Slashes are tidied; `..` stays, for only the kernel knows where it leads."""
    path, parts = _parts(value, what)
    if not path.startswith("/"):
        remedy = f"write Path({shown(path)}).resolve()"
        raise PlanError(f"{what} must be an absolute path, not {shown(path)}; {remedy}")
    return "/" + "/".join(parts)


def relative_path(value: object, what: str) -> str:
    """A path inside the workspace, tidied; the workspace itself is "."."""
    path, parts = _parts(value, what)
    if path.startswith("/"):
        raise PlanError(f"{what} must be relative to the workspace, not absolute: {shown(path)}")
    if ".." in parts:
        raise PlanError(f"{what} must not leave the workspace through '..': {shown(path)}")
    return "/".join(parts) or "."


# ---- collections -------------------------------------------------------------


def several(value: object, what: str) -> Iterable[object]:
    """A collection; one string is the mistake that this catches."""
    if isinstance(value, str | bytes | os.PathLike):
        raise PlanError(f"{what} must be a list; write [{shown(value)}]")
    if not isinstance(value, Iterable):
        raise PlanError(f"{what} must be a list, not {shown(value)}")
    return value


def mapping(value: object, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise PlanError(f"{what} must be a mapping, not {shown(value)}")
    return value


# ---- JSON --------------------------------------------------------------------


def json_fields(data: object, what: str, known: Collection[str]) -> dict[str, Any]:
    """The entries of a JSON object whose keys must all be known."""
    entries = mapping(data, what)
    for key in entries:
        if not isinstance(key, str) or key not in known:
            raise unknown(f"key of {what}", key, known)
    return {str(key): value for key, value in entries.items()}


def needed(fields: Mapping[str, object], what: str, names: Iterable[str]) -> None:
    missing = [name for name in names if name not in fields]
    if missing:
        raise PlanError(f"{what} lacks {', '.join(missing)}")


def bytes_to_json(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode("ascii")}


def bytes_from_json(data: object, what: str) -> bytes:
    fields = json_fields(data, what, ("base64",))
    needed(fields, what, ("base64",))
    try:
        return base64.b64decode(text(fields["base64"], what), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PlanError(f"{what} is not base64: {error}") from None


def text_to_json(value: str | bytes) -> str | dict[str, str]:
    return value if isinstance(value, str) else bytes_to_json(value)


def text_from_json(value: object, what: str) -> str | bytes:
    return value if isinstance(value, str) else bytes_from_json(value, what)
