/* marks.c - linked into a launcher that tells when each of its calls began and ended.
 *
 * No source of the launcher is changed: the linker gives its calls of libc to the
 * functions here (--wrap), each of which notes the time in a file that is mapped
 * into launcher, init and child alike, and goes on to the real one.  So the steps
 * are measured where they happen, in the state in which they happen, also between
 * clone and execve: a note is a read of the clock in the vDSO and one store.
 *
 * Facts that this relies on: integer arguments and results pass through six
 * registers in the same way whatever their types (x86_64 and aarch64), and a call
 * that takes fewer, or more by `...`, does not see the others.
 *
 * steps.py builds it with -DMARKS_FILE="path" and -DMARKED(X)="X(close) X(open) ..." */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MARKS_FILE
#define MARKS_FILE "/dev/null"
#endif
#ifndef MARKED
#define MARKED(X) X(close) X(syscall)
#endif

/* Of syscall() the number is noted, from here on. */
enum { MOST = 65536, RAW = 1000 };

/* As steps.py reads it. */
struct mark {
    uint64_t at;
    uint32_t call;
    uint32_t is_end;
};
struct marks {
    _Atomic uint64_t n;
    struct mark each[MOST];
};

static struct marks *marks;

static void
note(uint32_t call, uint32_t is_end)
{
    struct timespec t;
    if (!marks)
        return;
    uint64_t n = atomic_fetch_add_explicit(&marks->n, 1, memory_order_relaxed);
    if (n >= MOST)
        return;
    clock_gettime(CLOCK_MONOTONIC, &t);
    marks->each[n] = (struct mark){
        .at = (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec,
        .call = call,
        .is_end = is_end,
    };
}

#define NUMBER(name) CALL_##name,
enum call { MARKED(NUMBER) CALLS };

static uint32_t
call_of(uint32_t call, long first)
{
    return call == CALL_syscall ? RAW + (uint32_t)first : call;
}

#define WRAP(name)                                                                             \
    long __real_##name(long, long, long, long, long, long, long);                              \
    long __wrap_##name(long, long, long, long, long, long, long);                              \
    long __wrap_##name(long a, long b, long c, long d, long e, long f, long g)                 \
    {                                                                                          \
        uint32_t call = call_of(CALL_##name, a);                                               \
        note(call, 0);                                                                         \
        long result = __real_##name(a, b, c, d, e, f, g);                                      \
        note(call, 1);                                                                         \
        return result;                                                                         \
    }
MARKED(WRAP)

/* Before main: the launcher takes all of this away from itself. */
__attribute__((constructor)) static void
map_file(void)
{
    int fd = open(MARKS_FILE, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *marks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        marks = mapped;
}
