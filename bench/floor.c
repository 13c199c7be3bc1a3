/* floor.c - what a run costs at least: vfork, execve, wait4 and nothing else.
 *
 * usage: floor RUNS AT_ONCE PROGRAM [ARG...]
 * Prints the nanoseconds that all runs took together and then, one per line,
 * how long each took from vfork to being reaped.  Every figure of the
 * benchmark is a ratio to this program's, measured in the same round. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct run {
    pid_t pid;
    uint64_t started;
};

static uint64_t
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static _Noreturn void
die(const char *what)
{
    perror(what);
    exit(1);
}

static struct run
start(char **argv)
{
    struct run run = {.started = now()};
    run.pid = vfork();
    if (run.pid < 0)
        die("vfork");
    if (run.pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    return run;
}

/* Waits for any child and returns its place in `running`. */
static size_t
reap(const struct run *running, size_t n)
{
    int status;
    struct rusage usage;
    pid_t pid;
    do
        pid = wait4(-1, &status, 0, &usage);
    while (pid < 0 && errno == EINTR);
    if (pid < 0)
        die("wait4");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "the program failed: wait status %d\n", status);
        exit(1);
    }
    for (size_t i = 0; i < n; i++)
        if (running[i].pid == pid)
            return i;
    fprintf(stderr, "reaped an unknown child\n");
    exit(1);
}

int
main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: floor RUNS AT_ONCE PROGRAM [ARG...]\n");
        return 2;
    }
    size_t runs = strtoul(argv[1], NULL, 10), at_once = strtoul(argv[2], NULL, 10);
    struct run *running = calloc(at_once + 1, sizeof *running);
    uint64_t *took = calloc(runs + 1, sizeof *took);
    if (!running || !took || at_once == 0)
        die("floor");
    size_t started = 0, ended = 0, alive = 0;
    uint64_t begin = now();
    while (ended < runs) {
        while (alive < at_once && started < runs) {
            running[alive++] = start(argv + 3);
            started++;
        }
        size_t i = reap(running, alive);
        took[ended++] = now() - running[i].started;
        running[i] = running[--alive];
    }
    printf("%llu\n", (unsigned long long)(now() - begin));
    for (size_t i = 0; i < runs; i++)
        printf("%llu\n", (unsigned long long)took[i]);
    free(running);
    free(took);
    return 0;
}
