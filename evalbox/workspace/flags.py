"""How directories are opened wherever a program may have put something else."""

from __future__ import annotations

import os
from typing import Final

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
