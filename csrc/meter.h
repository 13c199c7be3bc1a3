/* meter.h - what a run uses: looked at in /proc and on disk, and held against its limits. */
#ifndef EB_METER_H
#define EB_METER_H

#include "runtime.h"

/* ---- watch.c ---- */

/* CPU time and memory of a process tree.  `lost` keeps the CPU time of
 * children that nobody waited for (SIGCHLD ignored): it vanishes from /proc
 * without ever reaching a parent. */
struct eb_watch {
    int proc; /* descriptor of /proc */
    pid_t template; /* keeper of the template, which is no part of the run; 0: none */
    uint64_t cpu_seen;
    uint64_t lost;
};
struct eb_sample {
    uint64_t cpu_time; /* of live processes and what they waited for, ns */
    uint64_t resident; /* sum of resident sets, bytes; counts shared pages often */
};
void eb_watch_sample(const struct eb_watch *watch, struct eb_sample *sample);
/* Proportional anonymous and shared memory of the tree that was sampled last, in
 * bytes, each page once; read as `uid`. */
uint64_t eb_watch_memory(const struct eb_watch *watch, uint32_t uid);
/* Threads that run or could run now, on the whole host. */
uint64_t eb_watch_runnable(int proc);
/* The children of this process, zombies included. */
size_t eb_watch_children(int proc, pid_t *pids, size_t capacity);
/* Without a scope: our children, and theirs as they become ours. */
void eb_watch_kill_children(int proc);

/* ---- disk.c ---- */

/* Bytes held by the directory tree, at least 1 KiB for each entry. */
uint64_t eb_disk_usage(int dirfd, uint64_t stop_at);

/* ---- limits.c ---- */

/* What one run uses. */
struct eb_meter {
    const struct eb_init *init;
    const struct eb_job *job;
    struct eb_watch watch;
    uint64_t user; /* of processes that were waited for */
    uint64_t system;
    uint64_t peak;
    uint64_t processes; /* 0: not counted */
    uint64_t next_look;
    uint64_t next_disk_look;
};
/* The program runs since `now`. */
void eb_meter_start(struct eb_meter *meter, uint64_t now);
/* A process was waited for. */
void eb_meter_add(struct eb_meter *meter, const struct rusage *usage);
/* When to look next. */
uint64_t eb_meter_due(const struct eb_meter *meter);
/* The OOM killer may have been there. */
enum eb_cause eb_meter_memory(const struct eb_meter *meter);
/* The limit that is passed, or EB_CAUSE_EXIT. */
enum eb_cause eb_meter_look(struct eb_meter *meter, uint64_t now);
/* No process is left: to be called once, before settling. */
void eb_meter_close(struct eb_meter *meter);
/* The same as a look when no process is left: to the last byte and nanosecond. */
enum eb_cause eb_meter_settle(const struct eb_meter *meter, bool untouched);

#endif
