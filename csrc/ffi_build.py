"""Describes evalbox._core to cffi: the declarations are cut out of evalbox.h.

The header is compiled by every C file and its marked part is parsed here, so
Python and C cannot disagree about a structure.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

# cffi executes this file with its path but without its folder on sys.path.
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import sources  # noqa: E402  (needs the line above)

BEGIN = "/* cffi: begin */"
END = "/* cffi: end */"


def declarations(header: str) -> str:
    """The text between the two marks; ValueError unless each stands exactly once."""
    if header.count(BEGIN) != 1 or header.count(END) != 1:
        raise ValueError(f"evalbox.h needs {BEGIN!r} and {END!r} exactly once")
    return header.partition(BEGIN)[2].partition(END)[0]


ffi = FFI()
ffi.cdef(declarations((HERE / "evalbox.h").read_text(encoding="utf-8")))
ffi.set_source(
    "evalbox._core",
    '#include "evalbox.h"',
    sources=sources.paths(sources.CORE),
    include_dirs=["csrc"],
    depends=[f"csrc/{header.name}" for header in sorted(HERE.glob("*.h"))],
    extra_compile_args=sources.core_flags(),
    extra_link_args=sources.link_flags(),
    py_limited_api=True,
)
