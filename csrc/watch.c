/* watch.c - CPU time and memory of a process tree, from /proc.
 *
 * Facts this relies on:
 *   - init is a child subreaper, so every process of the run is below it, and
 *     /proc/PID/task/TID/children (Linux 3.5, CONFIG_PROC_CHILDREN) leads to
 *     each of them;
 *   - clock_gettime() on a process' CPU clock has nanosecond resolution and
 *     asks no permission; what a process waited for is in its stat file
 *     (cutime, cstime) with clock-tick resolution;
 *   - a child whose parent ignores SIGCHLD is reaped without being added to
 *     anybody's cutime: the sum then falls, and the fall is what was lost;
 *   - from vfork to execve a child has the memory of its parent, not a share of it:
 *     both show all of it, and the thread that waits is in state D. */
#include "meter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A run with more live processes than this is watched in part. */
enum { MAX_PROCESSES = 4096 };
enum { SAME_BYTES = 256 * 1024 };

struct tree {
    int proc; /* descriptor of /proc */
    uint32_t n_pids;
    pid_t pids[MAX_PROCESSES];
    pid_t speakers[MAX_PROCESSES]; /* for each the thread to read its memory through */
    pid_t parents[MAX_PROCESSES];
    unsigned waiting[MAX_PROCESSES]; /* threads that wait for what the kernel does */
    struct memory {
        uint64_t bytes;
        uint64_t from, to; /* addresses of the first and behind the last mapping */
    } memory[MAX_PROCESSES];
};

static ssize_t
read_text(int proc, const char *path, char *text, size_t capacity)
{
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, capacity - 1);
    close(fd);
    if (n < 0)
        return -errno;
    text[n] = 0;
    return n;
}

/* Appends the children of one thread; `path` names its children file. */
static void
add_children(struct tree *tree, const char *path)
{
    char text[4096];
    size_t kept = 0;
    int fd = openat(tree->proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    for (;;) {
        ssize_t n = read(fd, text + kept, sizeof text - 1 - kept);
        if (n <= 0)
            break;
        text[kept + (size_t)n] = 0;
        char *at = text;
        for (char *space; (space = strchr(at, ' ')); at = space + 1)
            if (tree->n_pids < MAX_PROCESSES)
                tree->pids[tree->n_pids++] = (pid_t)strtol(at, NULL, 10);
        kept = strlen(at);
        memmove(text, at, kept);
    }
    close(fd);
}

static void
add_children_of_threads(struct tree *tree, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "%d/task", pid);
    int fd = openat(tree->proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    _Alignas(8) char buffer[4096];
    long size;
    while ((size = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
        /* struct linux_dirent64: reclen at 16, name at 19 */
        for (long at = 0; at < size;) {
            unsigned short length;
            memcpy(&length, buffer + at + 16, sizeof length);
            const char *name = buffer + at + 19;
            at += length;
            if (name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%d/task/%.16s/children", pid, name);
            add_children(tree, path);
        }
    }
    close(fd);
}

struct process {
    pid_t speaker;
    pid_t parent;
    uint64_t waited_ticks;
    uint64_t threads;
    uint64_t resident_pages;
};

/* A thread that is not the first; 0 when there is none. */
static pid_t
other_thread(int proc, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "%d/task", pid);
    int fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *tasks = fd < 0 ? NULL : fdopendir(fd);
    pid_t found = 0;
    if (!tasks && fd >= 0)
        close(fd);
    for (struct dirent *entry; tasks && !found && (entry = readdir(tasks));) {
        pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (tid != 0 && tid != pid)
            found = tid;
    }
    if (tasks)
        closedir(tasks);
    return found;
}

/* Fields of a stat file behind the name, which may hold anything. */
static int
read_stat(int proc, const char *path, char *state, uint64_t field[25])
{
    char text[1024];
    ssize_t n = read_text(proc, path, text, sizeof text);
    char *at = n < 0 ? NULL : strrchr(text, ')');
    if (!at || strlen(at) < 3)
        return -ESRCH;
    *state = at[2];
    at += 3; /* ") S" */
    for (int i = 4; i < 25; i++)
        field[i] = strtoull(at, &at, 10);
    return 0;
}

static int
read_process(int proc, pid_t pid, struct process *process)
{
    char path[64], state;
    uint64_t field[25] = {0};
    snprintf(path, sizeof path, "%d/stat", pid);
    if (read_stat(proc, path, &state, field) < 0)
        return -ESRCH;
    *process = (struct process){.speaker = pid,
                                .parent = (pid_t)field[4],
                                .waited_ticks = field[16] + field[17],
                                .threads = field[20],
                                .resident_pages = field[24]};
    /* A first thread that has ended shows no memory, and the others go on. */
    pid_t other = state == 'Z' && process->threads > 1 ? other_thread(proc, pid) : 0;
    if (other == 0)
        return 0;
    snprintf(path, sizeof path, "%d/task/%d/stat", pid, other);
    if (read_stat(proc, path, &state, field) == 0) {
        process->speaker = other;
        process->resident_pages = field[24];
    }
    return 0;
}

/* CPU clock of a whole process, as in the kernel's MAKE_PROCESS_CPUCLOCK. */
static uint64_t
process_cpu_time(pid_t pid)
{
    struct timespec t;
    clockid_t clock = (clockid_t)((~(unsigned)pid << 3) | 2);
    if (clock_gettime(clock, &t) < 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static void
collect_tree(const struct eb_watch *watch, struct tree *tree, struct eb_sample *sample)
{
    static long tick, page;
    if (!tick) {
        tick = sysconf(_SC_CLK_TCK);
        page = sysconf(_SC_PAGESIZE);
    }
    *sample = (struct eb_sample){0};
    tree->proc = watch->proc;
    tree->n_pids = 0;
    add_children(tree, "thread-self/children");
    for (uint32_t i = 0; i < tree->n_pids; i++) {
        struct process process;
        char path[64];
        pid_t pid = tree->pids[i];
        tree->speakers[i] = pid;
        tree->parents[i] = 0;
        if (pid == watch->template || read_process(watch->proc, pid, &process) < 0)
            continue;
        tree->speakers[i] = process.speaker;
        tree->parents[i] = process.parent;
        sample->resident += process.resident_pages * (uint64_t)page;
        sample->cpu_time += process_cpu_time(pid);
        sample->cpu_time += process.waited_ticks * (1000000000U / (uint64_t)tick);
        if (process.threads > 1) {
            add_children_of_threads(tree, pid);
            continue;
        }
        snprintf(path, sizeof path, "%d/task/%d/children", pid, pid);
        add_children(tree, path);
    }
}

/* "0.20 0.18 0.12 3/80 11206": the number before the slash.  The file stays open: every
 * look of every run reads it. */
uint64_t
eb_watch_runnable(int proc)
{
    static int file = -1;
    char text[128];
    if (file < 0)
        file = openat(proc, "loadavg", O_RDONLY | O_CLOEXEC);
    ssize_t n = pread(file, text, sizeof text - 1, 0);
    text[n < 0 ? 0 : n] = 0;
    const char *slash = strchr(text, '/');
    if (!slash)
        return 1;
    while (slash > text && slash[-1] != ' ')
        slash--;
    return strtoull(slash, NULL, 10);
}

static struct tree current; /* 160 KiB, of which the used part; one watch at a time */

void
eb_watch_sample(const struct eb_watch *watch, struct eb_sample *sample)
{
    collect_tree(watch, &current, sample);
}

static uint64_t
field_kib(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* smaps_rollup asks for ptrace access, which goes by fsuid and fsgid. */
static void
borrow_identity(uint32_t uid)
{
    syscall(SYS_setfsgid, uid);
    syscall(SYS_setfsuid, uid);
}

static struct memory
read_memory(int proc, pid_t pid, pid_t tid)
{
    char path[64], text[4096];
    struct memory memory = {0};
    snprintf(path, sizeof path, "%d/task/%d/smaps_rollup", pid, tid);
    if (read_text(proc, path, text, sizeof text) > 0) {
        char *dash;
        memory.bytes = field_kib(text, "Pss_Anon:") + field_kib(text, "Pss_Shmem:") +
                       field_kib(text, "SwapPss:");
        memory.from = strtoull(text, &dash, 16);
        memory.to = *dash == '-' ? strtoull(dash + 1, NULL, 16) : 0;
        return memory;
    }
    snprintf(path, sizeof path, "%d/task/%d/status", pid, tid);
    if (read_text(proc, path, text, sizeof text) > 0)
        memory.bytes = field_kib(text, "RssAnon:") + field_kib(text, "RssShmem:") +
                       field_kib(text, "VmSwap:");
    return memory;
}

/* Threads in state D: they wait for the execve of a child, or for a disk. */
static unsigned
waiting_threads(int proc, pid_t pid)
{
    char path[64], state;
    uint64_t field[25];
    unsigned n = 0;
    snprintf(path, sizeof path, "%d/task", pid);
    int fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *tasks = fd < 0 ? NULL : fdopendir(fd);
    if (!tasks && fd >= 0)
        close(fd);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%d/task/%.16s/stat", pid, entry->d_name);
        if (read_stat(proc, path, &state, field) == 0 && state == 'D')
            n++;
    }
    if (tasks)
        closedir(tasks);
    return n;
}

/* What a child runs in until execve changes little. */
static bool
is_same_memory(const struct memory *a, const struct memory *b)
{
    uint64_t more = a->bytes > b->bytes ? a->bytes - b->bytes : b->bytes - a->bytes;
    return a->to != 0 && a->from == b->from && a->to == b->to && more <= SAME_BYTES;
}

static bool
has_child(const struct tree *tree, pid_t pid)
{
    for (uint32_t i = 0; i < tree->n_pids; i++)
        if (tree->parents[i] == pid)
            return true;
    return false;
}

/* What is in the sum twice because a child still runs in its parent's memory.  One child
 * for each thread that waits and not one more, or a program could hide processes behind
 * a child that waits: that child's own memory then counts instead. */
static uint64_t
counted_twice(const struct tree *tree)
{
    uint64_t twice = 0;
    for (uint32_t parent = 0; parent < tree->n_pids; parent++) {
        unsigned left = tree->waiting[parent];
        for (uint32_t child = 0; child < tree->n_pids && left > 0; child++) {
            if (tree->parents[child] != tree->pids[parent] ||
                !is_same_memory(&tree->memory[child], &tree->memory[parent]))
                continue;
            twice += tree->memory[child].bytes;
            left--;
        }
    }
    return twice;
}

uint64_t
eb_watch_memory(const struct eb_watch *watch, uint32_t uid)
{
    uint64_t sum = 0;
    /* Before anything is read: a child of the tree whose parent does not wait any more
     * has a memory of its own by then. */
    for (uint32_t i = 0; i < current.n_pids; i++) {
        bool may_wait = has_child(&current, current.pids[i]);
        current.waiting[i] = may_wait ? waiting_threads(watch->proc, current.pids[i]) : 0;
    }
    if (uid != EB_KEEP_ID)
        borrow_identity(uid);
    for (uint32_t i = 0; i < current.n_pids; i++) {
        current.memory[i] = read_memory(watch->proc, current.pids[i], current.speakers[i]);
        sum += current.memory[i].bytes;
    }
    if (uid != EB_KEEP_ID)
        borrow_identity(0);
    return sum - counted_twice(&current);
}

size_t
eb_watch_children(int proc, pid_t *pids, size_t capacity)
{
    current.proc = proc;
    current.n_pids = 0;
    add_children(&current, "thread-self/children");
    size_t n = current.n_pids < capacity ? current.n_pids : capacity;
    memcpy(pids, current.pids, n * sizeof *pids);
    return n;
}

void
eb_watch_kill_children(int proc)
{
    static pid_t pids[1024];
    size_t n = eb_watch_children(proc, pids, sizeof pids / sizeof *pids);
    for (size_t i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
}
