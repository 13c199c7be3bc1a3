"""Ordinary programs under the default policy: the rows of docs/programs.md.

tests/test_programs.py runs them and writes the page. A row that fails says what
its program prints then, why it fails, and what to do instead.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import evalbox


@dataclass(frozen=True, kw_only=True)
class Row:
    """One command under the default policy.

    Attributes:
        program: as the page calls it.
        does: what the command makes of it.
        needs: programs that must be installed; "python:x" is a module.
        prints: its whole standard output.
        error: what is on its standard error when it fails; "" when it works.
        note: why it fails and what to do instead, or what there is to know.
        memory: the least limit with which it works; the default one if that is enough.
        only: the tier in which it is so; "" where that makes no difference.
    """

    program: str
    does: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    prints: str = ""
    error: str = ""
    note: str = ""
    memory: int | None = evalbox.Limits().memory
    only: str = ""

    @property
    def id(self) -> str:
        return f"{self.program}: {self.does} {self.only}".strip()


def shell(program: str, does: str, script: str, **others: object) -> Row:
    needs = (program,)
    fields = {"needs": needs, **others}
    return Row(program=program, does=does, command=("bash", "-c", script), **fields)  # type: ignore[arg-type]


def python(does: str, script: str, **others: object) -> Row:
    return Row(
        program="Python",
        does=does,
        command=(sys.executable, "main.py"),
        files={"main.py": script},
        **others,  # type: ignore[arg-type]
    )


NO_SHM = "named semaphores live in /dev/shm, which all programs share; "
NO_SOCKET = "needs a socket; "
NO_TRACE = "tracing is denied; "
HELLO_C = '#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n'
NO_LEAKS = 'const char *__asan_default_options(void) { return "detect_leaks=0"; }\n'
HELLO_CC = '#include <iostream>\nint main() { std::cout << "hello\\n"; }\n'
HELLO_JAVA = """
import java.nio.file.*;
import java.util.concurrent.*;
public class Main {
    public static void main(String[] args) throws Exception {
        Path made = Files.createTempFile("a", "b");
        Files.copy(made, Path.of("copy"), StandardCopyOption.COPY_ATTRIBUTES);
        ExecutorService threads = Executors.newFixedThreadPool(4);
        System.out.println(threads.submit(() -> 42).get());
        threads.shutdown();
        Process echo = new ProcessBuilder("echo", "hello").start();
        System.out.write(echo.getInputStream().readAllBytes());
    }
}
"""

ROWS = (
    # ---- shell and tools
    shell(
        "ls",
        "`ls -l`, `mkdir -p`, `cp -p`, `cp -a`, `ln`, `mv` between directories, `stat`",
        "mkdir -p a/b && touch a/f && cp -p a/f a/b/g && ln -s f a/l && cp -a a c && mv c/f a/b/h"
        " && ls -l a >/dev/null && ls a a/b c && stat -c %s a/f",
        prints="a:\nb\nf\nl\n\na/b:\ng\nh\n\nc:\nb\nl\n0\n",
        note="without namespaces owners are shown as numbers: /etc/passwd is not readable",
    ),
    shell(
        "sort",
        "`sort`, `uniq`, `wc`, `head`, `tee`, `xargs -P`, `find`",
        "printf 'b\\na\\nb\\n' | sort | uniq -c | tee log | wc -l;"
        " find . -name log | xargs -P 2 -n 1 head -n 1",
        needs=("sort", "xargs", "find"),
        prints="2\n      1 a\n",
    ),
    shell(
        "timeout",
        "`timeout`, `nohup`, `nice`, `setsid`, `flock`, `mktemp`, `dd`",
        "timeout 60 echo one && nohup nice -n 5 setsid -w echo two 2>/dev/null"
        ' && flock lock echo three && test -f "$(mktemp)"'
        " && dd if=/dev/zero of=z bs=1k count=2 2>/dev/null && wc -c < z",
        prints="one\ntwo\nthree\n2048\n",
    ),
    shell(
        "tar",
        "`tar -p` there and back, `gzip`, `sha256sum`",
        "mkdir d && echo x > d/f && chmod 640 d/f && tar cpzf d.tgz d && rm -r d"
        " && tar xpzf d.tgz && stat -c %a d/f && gzip -t d.tgz && sha256sum d/f | cut -c 1-8",
        needs=("tar", "gzip"),
        prints="640\n73cb3858\n",
    ),
    shell(
        "bash",
        "pipes, here-documents, process substitution, FIFOs, traps, job control off",
        "tr a-z A-Z <<EOF\nhello\nEOF\n"
        "diff <(echo a) <(echo a) && mkfifo p && (echo fifo > p & cat p; wait)\n"
        "trap 'echo trapped' USR1; kill -USR1 $$\n"
        "mapfile -t lines < <(printf '1\\n2\\n'); echo ${#lines[@]}; ulimit -c 0; umask 077\n"
        "echo end > /dev/stdout",
        prints="HELLO\nfifo\ntrapped\n2\nend\n",
    ),
    shell(
        "awk",
        "`awk` and `sed -i`",
        "printf 'a 1\\nb 2\\n' > f && awk '{ n += $2 } END { print n }' f"
        " && sed -i s/a/x/ f && cat f",
        needs=("awk", "sed"),
        prints="3\nx 1\nb 2\n",
    ),
    shell(
        "git",
        "`init`, `add`, `commit`, `log`, `clone` of a local repository, `gc`, `fsck`",
        "git init -q one && cd one && git config user.name n && git config user.email n@example.org"
        " && echo x > f && git add f && git commit -q -m first && git log --format=%s"
        " && git gc -q && git fsck 2>/dev/null && cd .. && git clone -q one two && cat two/f"
        " && git -C two status --short",
        prints="first\nx\n",
        note="set `user.name` and `user.email`: the user has no full name that git could take",
    ),
    shell(
        "make",
        "`make -j2`",
        "make -s -j2 && cat a b",
        files={"Makefile": "all: a b\na b:\n\techo $@ > $@\n"},
        prints="a\nb\n",
    ),
    shell(
        "file",
        "`file`",
        "file -b main.c",
        files={"main.c": HELLO_C},
        prints="C source, ASCII text\n",
    ),
    # ---- compiled languages
    shell(
        "gcc",
        "compile, link and run; also `-static`, `-flto` and a shared library",
        "gcc -O2 -Wall main.c -o a && ./a && gcc -static main.c -o b && ./b"
        " && gcc -O2 -flto main.c -o c && ./c && gcc -shared -fPIC main.c -o libmain.so",
        files={"main.c": HELLO_C},
        prints="hello\n" * 3,
    ),
    shell(
        "gcc",
        "`-fsanitize=address,undefined`",
        "gcc -g -fsanitize=address,undefined main.c -o a && ./a",
        files={"main.c": HELLO_C + NO_LEAKS},
        prints="hello\n",
        memory=None,
        note="it reserves terabytes; the search for leaks needs ptrace, and `ASAN_OPTIONS` is read"
        ' from /proc: define `__asan_default_options()` as `"detect_leaks=0"`',
    ),
    shell(
        "g++",
        "compile, link and run",
        "g++ -O2 -Wall main.cc -o a && ./a",
        files={"main.cc": HELLO_CC},
        prints="hello\n",
    ),
    shell(
        "java",
        "`java Main.java`: threads, a process, a temporary file",
        "java -Djava.io.tmpdir=$TMPDIR Main.java",
        files={"Main.java": HELLO_JAVA},
        prints="42\nhello\n",
        note="without namespaces it puts temporary files into a closed /tmp unless told:"
        " `-Djava.io.tmpdir=$TMPDIR`",
    ),
    # ---- interpreters
    shell(
        "perl",
        "a pipe from a command, `fork`, `socketpair`, `alarm`",
        "perl -MSocket -e '"
        'open(P, "-|", "echo", "piped") or die; print <P>; $| = 1;'
        "socketpair(A, B, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die;"
        'unless (fork) { syswrite B, "child\\n"; exit } wait; sysread A, $_, 9; print;'
        '$SIG{ALRM} = sub { print "alarm\\n"; exit }; alarm 1; sleep 60 while 1\'',
        prints="piped\nchild\nalarm\n",
    ),
    shell(
        "node",
        "timers, files, worker threads, a child process",
        "node main.js",
        files={
            "main.js": """
const fs = require("fs");
fs.writeFileSync("a", "x");
fs.copyFileSync("a", "b");
console.log(require("child_process").execSync("cat b").toString());
const { Worker } = require("worker_threads");
new Worker('require("worker_threads").parentPort.postMessage(42)', { eval: true })
    .on("message", (told) => setTimeout(() => console.log(told), 1));
""",
        },
        prints="x\n42\n",
    ),
    python(
        "`subprocess`",
        "import subprocess\n"
        "done = subprocess.run(['sh', '-c', 'cat; exit 3'], input=b'x', capture_output=True)\n"
        "print(done.stdout, done.returncode)\n",
        prints="b'x' 3\n",
    ),
    python(
        "`threading` and `concurrent.futures` with threads",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(sum(pool.map(lambda n: n * n, range(10))))\n",
        prints="285\n",
    ),
    python(
        "`asyncio`, with a child process",
        "import asyncio\n"
        "async def main():\n"
        "    pipe = asyncio.subprocess.PIPE\n"
        "    child = await asyncio.create_subprocess_exec('echo', 'child', stdout=pipe)\n"
        "    print((await child.communicate())[0])\n"
        "    print(await asyncio.gather(*(asyncio.sleep(0, n) for n in range(3))))\n"
        "asyncio.run(main())\n",
        prints="b'child\\n'\n[0, 1, 2]\n",
    ),
    python(
        "`multiprocessing`: Process and Pipe, by fork and by spawn",
        "import multiprocessing\n"
        "def work(pipe):\n"
        "    pipe.send(42)\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        context = multiprocessing.get_context(method)\n"
        "        ours, theirs = context.Pipe()\n"
        "        process = context.Process(target=work, args=(theirs,))\n"
        "        process.start()\n"
        "        print(method, ours.recv())\n"
        "        process.join()\n",
        prints="fork 42\nspawn 42\n",
    ),
    python(
        "`multiprocessing.Lock`, `Queue`, `Pool`, `ProcessPoolExecutor`",
        "import multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.Lock(), multiprocessing.Pool(2) as pool:\n"
        "        print(pool.map(abs, [-1, -2]))\n"
        "    queue = multiprocessing.Queue()\n"
        "    child = multiprocessing.Process(target=queue.put, args=(42,))\n"
        "    child.start()\n"
        "    print(queue.get())\n"
        "    child.join()\n"
        "    with ProcessPoolExecutor(2) as pool:\n"
        "        print(list(pool.map(abs, [-3])))\n",
        prints="[1, 2]\n42\n[3]\n",
        note="each run has a /dev/shm of its own, where named semaphores live",
        only="namespace",
    ),
    python(
        "`multiprocessing.Lock`, `Queue`, `Pool`, `ProcessPoolExecutor`",
        "import multiprocessing\nmultiprocessing.Lock()\n",
        error="PermissionError",
        only="process",
        note=f"{NO_SHM}use Process and Pipe, or threads",
    ),
    python(
        "`multiprocessing.shared_memory`",
        "import os\n"
        "from multiprocessing import shared_memory\n"
        "made = shared_memory.SharedMemory(create=True, size=1)\n"
        "if os.fork() == 0:\n"
        "    found = shared_memory.SharedMemory(made.name)\n"
        "    found.buf[0] = 42\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(made.buf[0])\n"
        "made.close()\n"
        "made.unlink()\n",
        prints="42\n",
        only="namespace",
    ),
    python(
        "`multiprocessing.shared_memory`",
        "from multiprocessing import shared_memory\n"
        "shared_memory.SharedMemory(create=True, size=1)\n",
        error="PermissionError",
        only="process",
        note="shared memory with a name lives in /dev/shm; use `mmap.mmap(-1, size)` and fork",
    ),
    python(
        "`multiprocessing` by forkserver",
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    context.Process(target=print).start()\n",
        error="PermissionError",
        note=f"{NO_SOCKET}use `get_context('fork')` or `'spawn'` (forkserver is the default"
        " from Python 3.14 on)",
    ),
    python(
        "`sqlite3`, with a write-ahead log",
        "import sqlite3\n"
        "base = sqlite3.connect('base')\n"
        "base.execute('pragma journal_mode=wal')\n"
        "base.execute('create table t (n)')\n"
        "base.execute('insert into t values (42)')\n"
        "base.commit()\n"
        "print(base.execute('select n from t').fetchall())\n",
        prints="[(42,)]\n",
    ),
    python(
        "`tempfile`, `shutil.copy2`, `copytree`, `make_archive`",
        "import os, shutil, tempfile\n"
        "with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:\n"
        "    file.write(b'x')\n"
        "    shutil.copy2('main.py', folder)\n"
        "    shutil.copytree(folder, 'copy')\n"
        "shutil.make_archive('all', 'gztar', 'copy')\n"
        "print(sorted(os.listdir()))\n",
        prints="['all.tar.gz', 'copy', 'main.py']\n",
    ),
    python(
        "`signal.alarm` and `setitimer`",
        "import signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('alarm'))\n"
        "signal.alarm(1)\n"
        "signal.pause()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001)\n"
        "signal.pause()\n",
        prints="alarm\nalarm\n",
    ),
    python(
        "`socket.socketpair`, `select`, `mmap`, `fcntl.flock`",
        "import fcntl, mmap, os, selectors, socket\n"
        "one, two = socket.socketpair()\n"
        "with selectors.DefaultSelector() as selector:\n"
        "    selector.register(two, selectors.EVENT_READ)\n"
        "    one.sendall(b'x')\n"
        "    print(len(selector.select()), two.recv(1))\n"
        "shared = mmap.mmap(-1, 4096)\n"
        "if os.fork() == 0:\n"
        "    shared[0] = 42\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "fcntl.flock(open('lock', 'w'), fcntl.LOCK_EX)\n"
        "print(shared[0])\n",
        prints="1 b'x'\n42\n",
    ),
    python(
        "`python -m venv` with pip, offline",
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'venv', 'v'], check=True)\n"
        "pip = ['v/bin/python', '-m', 'pip', 'list', '--format=freeze']\n"
        "told = subprocess.run(pip, check=True, capture_output=True, text=True).stdout\n"
        "print(told.partition('=')[0])\n",
        prints="pip\n",
    ),
    python(
        "a server or a client over TCP",
        "import socket\nsocket.create_server(('127.0.0.1', 0))\n",
        error="PermissionError",
        note=f"{NO_SOCKET}grant the host's network with `Network.host()`",
    ),
    python(
        "`pwd.getpwuid(os.getuid())`",
        "import os, pwd\n"
        "print(pwd.getpwuid(os.getuid()).pw_dir, pwd.getpwnam('sandbox').pw_uid == os.getuid())\n",
        prints="/home/sandbox True\n",
        note="the user is called sandbox, and no other has a name but root",
        only="namespace",
    ),
    python(
        "`pwd.getpwuid(os.getuid())`",
        "import os, pwd\npwd.getpwuid(os.getuid())\n",
        error="KeyError",
        only="process",
        note="the user has no name; `getpass.getuser()` and `os.path.expanduser('~')` work",
    ),
    python(
        "NumPy: linear algebra",
        "import numpy\nprint(numpy.linalg.inv(numpy.eye(3)).sum())\n",
        needs=("python:numpy",),
        prints="3.0\n",
        note="OpenBLAS starts a thread for each processor, which `limits.processes` counts;"
        " `OPENBLAS_NUM_THREADS=1` starts none",
    ),
    # ---- what looks at other processes
    shell(
        "ps",
        "`ps`, `top`, `pgrep`",
        # Nobody is a copy of the shell any more when the list is made.
        "sleep 1000 & until pgrep sleep >/dev/null; do :; done; ps -e -o comm= >list;"
        " sort list; pgrep sleep >/dev/null && echo found;"
        " top -b -n 1 | grep -q sleep && echo seen",
        needs=("ps", "top", "pgrep"),
        prints="_launcher\nbash\nps\nsleep\nfound\nseen\n",
        note="they see the processes of the run and its supervisor",
        only="namespace",
    ),
    shell(
        "ps",
        "`ps`, `top`, `pgrep`",
        "ps",
        error="proc",
        only="process",
        note="/proc is closed, so that no program sees the others",
    ),
    shell(
        "strace",
        "`strace`, `gdb`, `valgrind`",
        "strace -o log true",
        error="not permitted",
        note=f"{NO_TRACE}`Syscalls().allow('ptrace')` lets a program trace its own children",
    ),
)
