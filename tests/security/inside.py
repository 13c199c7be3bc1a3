"""The program that makes an act, in a sandbox or outside, and says what it met.

It needs nothing but the Python of the system. An act that comes to its end prints
"OK"; an OSError is printed as the name of its errno.

Names that an act has:
    DIR                  a directory outside: secret (a file), program, empty (a directory)
    call(name, *args)    a system call by its name; arguments are integers, bytes or
                         buffers; returns the result or raises OSError
    N                    numbers of the system calls, by name
    held(word)           ends the act with this answer; in a child, with exit code 99,
                         as does an OSError there
    room(n)              n writable bytes; room(n) is what `call` takes as a buffer
    read_all(fd)         what comes until the end
    here(path)           whether a path exists, without raising
and the modules in the list below.
"""

from __future__ import annotations

ANSWER = "@answer "

PRELUDE = r"""
import errno, os, sys
# A literal of Python: json with what it imports would take as long as all the rest.
_given = eval(sys.argv[1], {})
_act, N = _given["act"], _given["calls"]
# Only what the act names: imports are most of the time that a short act takes.
for _name in ("ctypes fcntl glob json mmap re resource select shutil signal socket stat struct"
              " subprocess threading time").split():
    if _name in _act:
        globals()[_name] = __import__(_name)

class Held(Exception):
    pass

def held(word):
    raise Held(word)

def room(size):
    import ctypes
    return ctypes.create_string_buffer(size)

_libc = None

def _load():
    global _libc, ctypes
    import ctypes
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.syscall.restype = ctypes.c_long

def _argument(value):
    if isinstance(value, int):
        return ctypes.c_ulong(value & 2**64 - 1)
    return ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.byref(value)

def call(name, *args):
    _libc or _load()
    number = name if isinstance(name, int) else N[name]
    result = _libc.syscall(ctypes.c_long(number), *map(_argument, args))
    if result < 0:
        raise OSError(ctypes.get_errno(), str(name))
    return result

def read_all(fd):
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    return b"".join(parts)

def here(path):
    try:
        os.lstat(path)
    except OSError:
        return False
    return True

def _tell(word):
    # In one write, and past what an act may have done to sys.stdout.
    os.write(1, f"\n@answer {word}\n".encode())

globals().update(_given["names"])
_pid = os.getpid()
try:
    exec(_act, globals())
    _word = "OK"
except Held as error:
    _word = str(error)
except OSError as error:
    _word = errno.errorcode.get(error.errno, repr(error))
# A child that an act has forked and that fell out of it says nothing.
if os.getpid() == _pid:
    _tell(_word)
os._exit(0 if _word == "OK" or os.getpid() == _pid else 99)
"""
