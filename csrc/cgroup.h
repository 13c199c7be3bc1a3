/* cgroup.h - the cgroups of a launcher and of its slots.
 *
 *   v2   L/<slot>/memory/run   in the one hierarchy
 *   v1   L/<slot>/memory       in that of the memory controller
 *        L/<slot>/run          in that of pids
 *        L/<slot>              in that of cpuacct
 *
 * L is the launcher's directory; the host makes and removes it.  `memory` holds
 * the limit and the accounts of memory, `run` those of processes.  What counts
 * only upwards cannot be set back everywhere, so init makes the two anew when
 * what is counted there is no longer that of one run. */
#ifndef EB_CGROUP_H
#define EB_CGROUP_H

#include "evalbox.h"

#include <stdbool.h>

/* Of v1; v2 has one for all, which stands first. */
enum { EB_HIERARCHY_MEMORY, EB_HIERARCHY_PIDS, EB_HIERARCHY_CPU, EB_HIERARCHIES };

/* The files that init reads and writes, open as long as their cgroup lasts. */
enum eb_cgroup_file {
    EB_CGROUP_LIMIT,
    EB_CGROUP_SWAP_LIMIT,
    EB_CGROUP_PEAK,
    EB_CGROUP_CURRENT,
    EB_CGROUP_EVENTS,
    EB_CGROUP_CPU_TIME,
    EB_CGROUP_KILL,
    EB_CGROUP_PIDS_MAX,
    EB_CGROUP_PIDS_PEAK,
    EB_CGROUP_FILES
};

/* ---- cgroup.c: the cgroups of one slot, in init ---- */

struct eb_cgroup {
    uint32_t kind;             /* EB_CGROUP_* of evalbox.h; 0: none */
    int slots[EB_HIERARCHIES]; /* directory of the slot in each hierarchy, else -1 */
    int memory;                /* directories, -1 until they are made */
    int run;
    int files[EB_CGROUP_FILES];
    int enter[EB_HIERARCHIES]; /* files by which a child enters; -1: it is cloned into `run` */
    bool clones; /* v2: clone3() puts the child in */
    bool resets; /* the peak of memory can be set back */
    bool limited; /* the limits below are those in force */
    bool stale; /* what an earlier run was in could not be removed */
    uint64_t limit;
    uint64_t processes;
    uint64_t cpu_time; /* counted before this run, ns */
    uint64_t kills; /* of the OOM killer before this run */
    uint64_t hits; /* of the limit before this run */
};

/* What a run has used; 0 where it is not counted. */
struct eb_cgroup_usage {
    uint64_t cpu_time;
    uint64_t peak_memory;
    uint64_t processes;
};

/* Makes the cgroups fit for a run; nothing of an earlier one counts any more. */
int eb_cgroup_begin(struct eb_cgroup *cgroup, uint64_t memory, uint64_t processes);
/* After the report: what takes time before the next run.  `processes`: how many the
 * last one had at once. */
void eb_cgroup_end(struct eb_cgroup *cgroup, uint64_t processes);
/* Kills all of them at once; false where the kernel cannot. */
bool eb_cgroup_kill(const struct eb_cgroup *cgroup);
/* Outside seccomp rules may deny clone3(): then the children of v2 move themselves. */
int eb_cgroup_open_entrance(struct eb_cgroup *cgroup);
/* Removes an empty one; waits a moment for the last of it. */
int eb_cgroup_remove(int parent, const char *name);

/* ---- cgroup_read.c: what they tell ---- */

/* When no process of the run is left. */
void eb_cgroup_settle(const struct eb_cgroup *cgroup, struct eb_cgroup_usage *usage);
uint64_t eb_cgroup_cpu_time(const struct eb_cgroup *cgroup);
/* Whether the OOM killer ended a process of this run at the limit of the run. */
bool eb_cgroup_is_out_of_memory(const struct eb_cgroup *cgroup);
/* Whether its memory has come to the limit. */
bool eb_cgroup_is_full(const struct eb_cgroup *cgroup);
/* Gets POLLPRI when memory runs out (v2), else -1. */
int eb_cgroup_alarm(const struct eb_cgroup *cgroup);
/* The number behind `key`, which begins with a newline as if the file did; 0 without. */
uint64_t eb_cgroup_number(int fd, const char *key);
/* What was counted so far is not the next run's. */
void eb_cgroup_remember(struct eb_cgroup *cgroup);

/* ---- clone.c ---- */

/* Runs eb_child_main(child) inside it, v2 only; its pid or -errno.  After -ENOSYS
 * the child has to enter through `enter`, now and in all later runs. */
struct eb_child;
pid_t eb_cgroup_clone(struct eb_cgroup *cgroup, struct eb_child *child, void *stack,
                      size_t stack_size, uint64_t flags);

/* ---- cgroups.c: those of all slots, in the launcher ---- */

struct eb_cgroups {
    int fds[EB_HIERARCHIES]; /* the launcher's directory in each hierarchy, else -1 */
    int home; /* cgroup.procs of where the launcher belongs at its end, or -1 */
    char name[EB_NAME_MAX];
};

/* Takes the descriptors of an EB_CONTROL_CGROUP order. */
void eb_cgroups_take(struct eb_cgroups *cgroups, const struct eb_control *order, int *fds,
                     int n_fds);
/* Opens what the host has made for a slot; `kind` says which controllers. */
int eb_cgroups_open(const struct eb_cgroups *cgroups, const char *slot, uint32_t kind,
                    struct eb_cgroup *cgroup);
void eb_cgroups_close(struct eb_cgroup *cgroup);
/* In init: the cgroups of others are none of its business. */
void eb_cgroups_forget(struct eb_cgroups *cgroups);
/* Kills what is left of a slot, where the kernel can (v2). */
void eb_cgroups_kill(const struct eb_cgroups *cgroups, const char *slot);
/* Removes the cgroups of a slot in which no process is left. */
void eb_cgroups_bury(const struct eb_cgroups *cgroups, const char *slot);
/* At the end: the launcher leaves its cgroups and removes them. */
void eb_cgroups_remove(struct eb_cgroups *cgroups);

#endif
