/* cgroup.c - the cgroups of one slot: made fit for each run.
 *
 * Init itself is never inside.  On v2 the kernel puts the child in as it makes
 * it (CLONE_INTO_CGROUP, Linux 5.7), on v1 the child writes itself into the
 * `tasks` files first thing: a thread that moves itself needs no lock that stops
 * the forks of the whole host (Linux 5.17; before, some milliseconds).
 *
 * Facts this relies on:
 *   - memory.peak is set back by writing to it since Linux 6.12, and then tells
 *     the peak since that write through that descriptor only; v1 always could;
 *   - pids.peak (Linux 6.1) cannot be set back, and is 1 after a run that never
 *     forked: only a run that did makes a new cgroup necessary;
 *   - page cache stays charged to the cgroup that read it first, and would be in
 *     the peak of every later run. */
#include "cgroup.h"
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEFTOVER (1024 * 1024UL) /* bytes that may stay charged from one run to the next */
enum { REMOVE_TRIES = 500 };

/* Where a file lies. */
enum place { IN_MEMORY, IN_RUN, IN_CPU };

static const struct {
    const char *v1;
    const char *v2;
    enum place place;
    int flags;
    uint32_t needed; /* by these controllers; without it they hold nothing */
} files[EB_CGROUP_FILES] = {
    [EB_CGROUP_LIMIT] = {"memory.limit_in_bytes", "memory.max", IN_MEMORY, O_WRONLY,
                         EB_CGROUP_MEMORY},
    [EB_CGROUP_SWAP_LIMIT] = {"memory.memsw.limit_in_bytes", "memory.swap.max", IN_MEMORY,
                              O_WRONLY, 0},
    [EB_CGROUP_PEAK] = {"memory.max_usage_in_bytes", "memory.peak", IN_MEMORY, O_RDWR, 0},
    [EB_CGROUP_CURRENT] = {"memory.usage_in_bytes", "memory.current", IN_MEMORY, O_RDONLY, 0},
    [EB_CGROUP_EVENTS] = {"memory.oom_control", "memory.events", IN_MEMORY, O_RDONLY,
                          EB_CGROUP_MEMORY},
    [EB_CGROUP_CPU_TIME] = {"cpuacct.usage", "cpu.stat", IN_CPU, O_RDONLY, EB_CGROUP_CPU},
    [EB_CGROUP_KILL] = {NULL, "cgroup.kill", IN_MEMORY, O_WRONLY, 0},
    [EB_CGROUP_PIDS_MAX] = {"pids.max", "pids.max", IN_RUN, O_WRONLY, EB_CGROUP_PIDS},
    [EB_CGROUP_PIDS_PEAK] = {"pids.peak", "pids.peak", IN_RUN, O_RDONLY, 0},
};

static bool
is_unified(const struct eb_cgroup *cgroup)
{
    return (cgroup->kind & EB_CGROUP_UNIFIED) != 0;
}

/* ---- files ---- */

static int
write_text(int fd, const char *text)
{
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int
write_number(int fd, uint64_t value, const char *unlimited)
{
    char text[32];
    if (fd < 0)
        return 0;
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return write_text(fd, value == EB_UNLIMITED ? unlimited : text);
}

static int
write_in(int dir, const char *name, const char *text)
{
    int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = write_text(fd, text);
    close(fd);
    return error;
}

/* ---- directories ---- */

int
eb_cgroup_remove(int parent, const char *name)
{
    const struct timespec soon = {.tv_nsec = (long)EB_MS};
    /* What was reaped a moment ago may still be on its way out. */
    for (int i = 0; i < REMOVE_TRIES; i++) {
        if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
            return 0;
        if (errno != EBUSY)
            return -errno;
        ppoll(NULL, 0, &soon, NULL);
    }
    return -EBUSY;
}

static int
directory_of(const struct eb_cgroup *cgroup, enum place place)
{
    if (place == IN_RUN)
        return cgroup->run;
    if (place == IN_MEMORY || is_unified(cgroup))
        return cgroup->memory;
    return cgroup->slots[EB_HIERARCHY_CPU];
}

static int
open_files(struct eb_cgroup *cgroup, enum place place)
{
    int dir = directory_of(cgroup, place);
    for (int i = 0; i < EB_CGROUP_FILES; i++) {
        const char *name = is_unified(cgroup) ? files[i].v2 : files[i].v1;
        if (files[i].place != place || !name || dir < 0)
            continue;
        int fd = openat(dir, name, files[i].flags | O_CLOEXEC);
        /* A kernel that cannot set it back can still tell it. */
        if (fd < 0 && files[i].flags == O_RDWR)
            fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && (files[i].needed & cgroup->kind))
            return -errno;
        cgroup->files[i] = fd;
    }
    return 0;
}

static void
close_files(struct eb_cgroup *cgroup, enum place place)
{
    for (int i = 0; i < EB_CGROUP_FILES; i++)
        if (files[i].place == place)
            eb_close(&cgroup->files[i]);
}

/* The directory `name`, made if it is not there. */
static int
make_directory(int parent, const char *name)
{
    if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
        return -errno;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* On v1 by the thread that is written; on v2 only where it is not cloned into it. */
static int
open_entrance(struct eb_cgroup *cgroup, int hierarchy, int dir)
{
    const char *name = is_unified(cgroup) ? "cgroup.procs" : "tasks";
    if (is_unified(cgroup) && cgroup->clones)
        return 0;
    cgroup->enter[hierarchy] = openat(dir, name, O_WRONLY | O_CLOEXEC);
    return cgroup->enter[hierarchy] < 0 ? -errno : 0;
}

static void
close_memory(struct eb_cgroup *cgroup)
{
    close_files(cgroup, IN_MEMORY);
    if (is_unified(cgroup))
        close_files(cgroup, IN_CPU);
    eb_close(&cgroup->enter[EB_HIERARCHY_MEMORY]);
    eb_close(&cgroup->memory);
}

static int
make_memory(struct eb_cgroup *cgroup)
{
    bool unified = is_unified(cgroup);
    if (cgroup->memory >= 0 || !(cgroup->kind & (EB_CGROUP_MEMORY | EB_CGROUP_UNIFIED)))
        return 0;
    cgroup->limited = false;
    cgroup->memory = make_directory(cgroup->slots[EB_HIERARCHY_MEMORY], "memory");
    if (cgroup->memory < 0)
        return cgroup->memory;
    int error = open_files(cgroup, IN_MEMORY);
    if (error == 0 && unified && (cgroup->kind & EB_CGROUP_PIDS))
        error = write_in(cgroup->memory, "cgroup.subtree_control", "+pids");
    if (error == 0 && unified && (cgroup->kind & EB_CGROUP_MEMORY))
        error = write_in(cgroup->memory, "memory.oom.group", "1");
    if (error == 0 && unified && (cgroup->kind & EB_CGROUP_CPU))
        error = open_files(cgroup, IN_CPU);
    if (error == 0 && !(unified && (cgroup->kind & EB_CGROUP_PIDS)))
        error = open_entrance(cgroup, EB_HIERARCHY_MEMORY, cgroup->memory);
    if (error < 0)
        close_memory(cgroup);
    cgroup->resets = write_number(cgroup->files[EB_CGROUP_PEAK], 0, "") == 0;
    eb_cgroup_remember(cgroup);
    return error;
}

static int
run_hierarchy(const struct eb_cgroup *cgroup)
{
    return is_unified(cgroup) ? EB_HIERARCHY_MEMORY : EB_HIERARCHY_PIDS;
}

static int
run_parent(const struct eb_cgroup *cgroup)
{
    return is_unified(cgroup) ? cgroup->memory : cgroup->slots[EB_HIERARCHY_PIDS];
}

static void
close_run(struct eb_cgroup *cgroup)
{
    close_files(cgroup, IN_RUN);
    eb_close(&cgroup->enter[run_hierarchy(cgroup)]);
    eb_close(&cgroup->run);
}

static int
make_run(struct eb_cgroup *cgroup)
{
    if (cgroup->run >= 0 || !(cgroup->kind & EB_CGROUP_PIDS))
        return 0;
    cgroup->limited = false;
    cgroup->run = make_directory(run_parent(cgroup), "run");
    if (cgroup->run < 0)
        return cgroup->run;
    int error = open_files(cgroup, IN_RUN);
    if (error == 0)
        error = open_entrance(cgroup, run_hierarchy(cgroup), cgroup->run);
    if (error < 0)
        close_run(cgroup);
    return error;
}

/* On v1 CPU time has a directory that lasts as long as the slot. */
static int
make_cpu(struct eb_cgroup *cgroup)
{
    if (is_unified(cgroup) || !(cgroup->kind & EB_CGROUP_CPU) ||
        cgroup->enter[EB_HIERARCHY_CPU] >= 0)
        return 0;
    close_files(cgroup, IN_CPU);
    int error = open_files(cgroup, IN_CPU);
    eb_cgroup_remember(cgroup);
    return error < 0 ? error
                     : open_entrance(cgroup, EB_HIERARCHY_CPU, cgroup->slots[EB_HIERARCHY_CPU]);
}

int
eb_cgroup_open_entrance(struct eb_cgroup *cgroup)
{
    cgroup->clones = false;
    return open_entrance(cgroup, EB_HIERARCHY_MEMORY,
                         cgroup->run >= 0 ? cgroup->run : cgroup->memory);
}

static int
make(struct eb_cgroup *cgroup)
{
    int error = make_memory(cgroup);
    if (error == 0)
        error = make_run(cgroup);
    return error < 0 ? error : make_cpu(cgroup);
}

static int
drop_run(struct eb_cgroup *cgroup)
{
    if (cgroup->run < 0)
        return 0;
    close_run(cgroup);
    return eb_cgroup_remove(run_parent(cgroup), "run");
}

static int
drop_memory(struct eb_cgroup *cgroup)
{
    int error = is_unified(cgroup) ? drop_run(cgroup) : 0;
    if (error < 0)
        return error;
    close_memory(cgroup);
    return eb_cgroup_remove(cgroup->slots[EB_HIERARCHY_MEMORY], "memory");
}

/* ---- limits ---- */

/* On v1 the limit with swap may never be the lower of the two. */
static int
limit_memory(const struct eb_cgroup *cgroup, uint64_t limit)
{
    const char *none = is_unified(cgroup) ? "max" : "-1";
    int plain = cgroup->files[EB_CGROUP_LIMIT], swap = cgroup->files[EB_CGROUP_SWAP_LIMIT];
    int error = write_number(plain, limit, none);
    if (error < 0 && error != -EINVAL)
        return error;
    int swap_error = write_number(swap, is_unified(cgroup) ? 0 : limit, none);
    if (error == 0 || swap_error < 0)
        return swap_error;
    return write_number(plain, limit, none);
}

static int
limit_processes(const struct eb_cgroup *cgroup, uint64_t limit)
{
    uint64_t most = EB_HAS(PROCESS_CGROUP) ? limit : EB_UNLIMITED;
    return write_number(cgroup->files[EB_CGROUP_PIDS_MAX], most, "max");
}

static int
set_limits(struct eb_cgroup *cgroup, uint64_t memory, uint64_t processes)
{
    if (cgroup->limited && cgroup->limit == memory && cgroup->processes == processes)
        return 0;
    int error = limit_memory(cgroup, EB_HAS(MEMORY_CGROUP) ? memory : EB_UNLIMITED);
    /* The program itself is a process, as with RLIMIT_NPROC. */
    if (error == 0)
        error = limit_processes(cgroup, processes ? processes : 1);
    cgroup->limited = error == 0;
    cgroup->limit = memory;
    cgroup->processes = processes;
    return error;
}

int
eb_cgroup_begin(struct eb_cgroup *cgroup, uint64_t memory, uint64_t processes)
{
    if (!cgroup->kind)
        return 0;
    int error = cgroup->stale ? -EBUSY : make(cgroup);
    if (error == 0)
        error = set_limits(cgroup, memory, processes);
    /* Below what an earlier run has left charged. */
    if (error == -EBUSY && !cgroup->stale && drop_memory(cgroup) == 0) {
        error = make(cgroup);
        if (error == 0)
            error = set_limits(cgroup, memory, processes);
    }
    if (error == 0 && cgroup->resets)
        error = write_number(cgroup->files[EB_CGROUP_PEAK], 0, "");
    return error;
}

/* ---- after a run ---- */

bool
eb_cgroup_kill(const struct eb_cgroup *cgroup)
{
    int fd = cgroup->files[EB_CGROUP_KILL];
    return fd >= 0 && write_text(fd, "1") == 0;
}

void
eb_cgroup_end(struct eb_cgroup *cgroup, uint64_t processes)
{
    if (!cgroup->kind)
        return;
    int error = 0;
    bool peaked = cgroup->files[EB_CGROUP_PEAK] >= 0 && !cgroup->resets;
    if (peaked || eb_cgroup_number(cgroup->files[EB_CGROUP_CURRENT], "\n") > LEFTOVER)
        error = drop_memory(cgroup);
    if (error == 0 && processes > 1)
        error = drop_run(cgroup);
    cgroup->stale = error < 0;
    /* What fails now fails again when the next run begins, and is reported. */
    if (!cgroup->stale)
        make(cgroup);
    eb_cgroup_remember(cgroup);
}
