"""The cffi module: the one place where types end (only evalbox._native imports it)."""

from typing import Any

ffi: Any
lib: Any
