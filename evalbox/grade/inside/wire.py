"""What judge and subject say to each other, and the judge to the host, as bytes.

Values cross as plain data and come out as exact built-in types, so nothing that
the sample defined comes with them. The reader is plain Python on purpose: it
reads what an adversary wrote, and marshal and pickle are not safe for that; json
costs a fifth of the interpreter's start. A value is a tag, a length and a body;
a message is a length and a value.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MESSAGE_LIMIT = 64 * 1024 * 1024
LINE_LIMIT = 300
SECRET_BYTES = 16
KIND_LIMIT = 80

# The causes that a judge can name; the host adds those that the sandbox names.
PASSED = "passed"
WRONG_ANSWER = "wrong_answer"
RUNTIME_ERROR = "runtime_error"
COMPILE_ERROR = "compile_error"
EARLY_EXIT = "early_exit"
FORKED = "forked"
MEMORY_LIMIT = "memory_limit"
SIGNALED = "signaled"
PROTOCOL = "protocol"
SETUP_ERROR = "setup_error"


class Opaque:
    """Stands for a result that is not plain data; it equals nothing but itself."""

    def __init__(self, kind: str) -> None:
        # A sample may send any text as the name of a type.
        self.kind = kind[:KIND_LIMIT]

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        article = "an" if self.kind[:1] in tuple("AEIOUaeiou") else "a"
        return f"{article} {self.kind}, which does not cross"


# What Python calls it when a test does more with it than compare: "unsupported
# operand type(s) for -: 'object that does not cross' and 'int'".
Opaque.__name__ = "object that does not cross"


class Malformed(Exception):  # noqa: N818  # reads as what the bytes are
    """The bytes are not what the other side writes."""


# ---- writing ------------------------------------------------------------------


def _sized(tag: bytes, body: bytes) -> bytes:
    return tag + len(body).to_bytes(4, "big") + body


def _items(tag: bytes, items: "list[Any]") -> bytes:
    return tag + len(items).to_bytes(4, "big") + b"".join([encode(item) for item in items])


def _int(value: int) -> bytes:
    return _sized(b"i", int.to_bytes(value, value.bit_length() // 8 + 1, "big", signed=True))


def _pairs(value: "dict[Any, Any]") -> bytes:
    return _items(b"d", [part for pair in dict.items(value) for part in pair])


# The order is for subclasses: bool stands before int, and a Counter or a
# namedtuple crosses as the plain type that it extends.
_WRITERS: "dict[type, Callable[[Any], bytes]]" = {
    type(None): lambda _: b"n",
    bool: lambda value: b"T" if value else b"F",
    int: _int,
    float: lambda value: _sized(b"f", float.hex(value).encode()),
    complex: lambda value: _items(b"c", [value.real, value.imag]),
    str: lambda value: _sized(b"s", str.encode(value, "utf-8", "surrogatepass")),
    bytes: lambda value: _sized(b"b", bytes(value)),
    bytearray: lambda value: _sized(b"a", bytes(value)),
    list: lambda value: _items(b"l", list(list.__iter__(value))),
    tuple: lambda value: _items(b"t", list(tuple.__iter__(value))),
    dict: _pairs,
    set: lambda value: _items(b"S", list(set.__iter__(value))),
    frozenset: lambda value: _items(b"Z", list(frozenset.__iter__(value))),
    range: lambda value: _items(b"r", [value.start, value.stop, value.step]),
}
_NUMBERS = {("decimal", "Decimal"): b"D", ("fractions", "Fraction"): b"Q"}


def _number_tag(kind: type) -> "bytes | None":
    return _NUMBERS.get((kind.__module__, kind.__name__))


def crosses(kind: type) -> bool:
    """Whether a value of exactly this type arrives as one of the same type."""
    return kind in _WRITERS or _number_tag(kind) is not None or hasattr(kind, "__next__")


def _encode_other(value: "Any") -> bytes:
    kind = type(value)
    for base, write in _WRITERS.items():
        if isinstance(value, base):
            return write(value)
    tag = _number_tag(kind)
    if tag:
        return _sized(tag, str(value).encode())
    if kind.__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return encode(value.item())
    if hasattr(kind, "__next__"):
        return _items(b"I", list(value))
    name = value.kind if kind is Opaque else kind.__name__
    return _sized(b"o", name.encode("utf-8", "surrogatepass"))


def encode(value: object) -> bytes:
    """Plain data as bytes; what is not plain data is `Opaque` at the other end.

    Raises:
        RecursionError: the value contains itself, or is nested very deeply.
    """
    write = _WRITERS.get(type(value))
    return write(value) if write else _encode_other(value)


# ---- reading ------------------------------------------------------------------


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise Malformed("a value ends early")
        body = self.data[self.at : end]
        self.at = end
        return body

    def count(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def body(self) -> bytes:
        return self.take(self.count())

    def text(self) -> str:
        return self.body().decode("utf-8", "surrogatepass")

    def value(self) -> object:
        return _READERS[self.take(1)](self)

    def items(self) -> "list[Any]":
        return [self.value() for _ in range(self.count())]

    def pairs(self) -> "dict[Any, Any]":
        items = self.items()
        return dict(zip(items[::2], items[1::2], strict=True))

    def numbers(self, kind: "type[Any]") -> "list[Any]":
        numbers = self.items()
        if any(type(number) is not kind for number in numbers):
            raise Malformed(f"a part that is no {kind.__name__}")
        return numbers

    def decimal(self) -> object:
        import decimal

        return decimal.Decimal(self.text())

    def fraction(self) -> object:
        import fractions

        return fractions.Fraction(self.text())


_READERS: "dict[bytes, Callable[[_Reader], object]]" = {
    b"n": lambda _: None,
    b"T": lambda _: True,
    b"F": lambda _: False,
    b"i": lambda reader: int.from_bytes(reader.body(), "big", signed=True),
    b"f": lambda reader: float.fromhex(reader.text()),
    b"c": lambda reader: complex(*reader.numbers(float)),
    b"s": _Reader.text,
    b"b": _Reader.body,
    b"a": lambda reader: bytearray(reader.body()),
    b"l": _Reader.items,
    b"t": lambda reader: tuple(reader.items()),
    b"d": _Reader.pairs,
    b"S": lambda reader: set(reader.items()),
    b"Z": lambda reader: frozenset(reader.items()),
    b"r": lambda reader: range(*reader.numbers(int)),
    b"D": _Reader.decimal,
    b"Q": _Reader.fraction,
    b"I": lambda reader: iter(reader.items()),
    b"o": lambda reader: Opaque(reader.text()),
}


def decode(data: bytes) -> object:
    """The reverse of `encode`; safe for bytes that an adversary wrote.

    Raises:
        Malformed: for anything that `encode` does not make.
    """
    reader = _Reader(data)
    try:
        value = reader.value()
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    if reader.at != len(data):
        raise Malformed("something follows the value")
    return value


# ---- messages -----------------------------------------------------------------


def message(value: object) -> bytes:
    body = encode(value)
    return len(body).to_bytes(4, "big") + body


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_exactly(fd: int, size: int) -> bytes:
    """That many bytes.

    Raises:
        EOFError: the stream ended before.
    """
    chunks = []
    while size:
        chunk = os.read(fd, min(size, 1 << 20))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def read_body(fd: int) -> bytes:
    """The next message, not yet decoded.

    Raises:
        EOFError: the stream ended before the message did.
        Malformed: it is larger than `MESSAGE_LIMIT`.
    """
    size = int.from_bytes(read_exactly(fd, 4), "big")
    if size > MESSAGE_LIMIT:
        raise Malformed(f"a message of {size} bytes; at most {MESSAGE_LIMIT} are read")
    return read_exactly(fd, size)


def first_line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return lines[0][:LINE_LIMIT]


def describe(error: BaseException) -> str:
    """The type and the first line of an exception, whatever its __str__ does."""
    try:
        text = first_line(str(error))
    except BaseException:  # noqa: BLE001  # __str__ may be the sample's own
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def line_in(file: str, error: BaseException) -> "int | None":
    """The innermost line of that file on the way to where it was raised."""
    line = None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == file:
            line = step.tb_lineno
        step = step.tb_next
    return line
