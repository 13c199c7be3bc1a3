/* limits.c - what a run uses against what it may use.
 *
 * CPU time, memory and disk have no kernel limit that holds for a tree of
 * processes without a cgroup: they are looked at, often enough to matter and
 * seldom enough to cost little.  CPU time is exact again at the end, when
 * everything was waited for; so is what lies in the workspace. */
#include "meter.h"

#include <time.h>
#include <unistd.h>

#define TICK (10 * EB_MS)       /* between two looks */
#define MAX_DUTY 20             /* a look may take at most 1/20 of the time */
#define MAX_LOAD 8              /* on a busy host: up to so many ticks */
#define MAX_LOAD_COUNTED 32     /* the same where the kernel holds the memory */
#define LOST_FLOOR (20 * EB_MS) /* below: rounding of cutime to clock ticks */

static uint64_t
clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

uint64_t
eb_now(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* Of this thread: what a look costs.  The monotonic clock would count the time in
 * which a program that keeps all processors busy makes it wait, so that it looks less
 * often just where it matters. */
static uint64_t
own_cpu_time(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static uint64_t
timeval_ns(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000000U + (uint64_t)t->tv_usec * 1000U;
}

uint64_t
eb_smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void
eb_meter_start(struct eb_meter *meter, uint64_t now)
{
    meter->next_look = meter->next_disk_look = now + TICK;
}

void
eb_meter_add(struct eb_meter *meter, const struct rusage *usage)
{
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    meter->user += timeval_ns(&usage->ru_utime);
    meter->system += timeval_ns(&usage->ru_stime);
    if (peak > meter->peak)
        meter->peak = peak;
}

static bool
has(const struct eb_meter *meter, uint32_t controller)
{
    return (meter->init->cgroup.kind & controller) != 0;
}

/* A cgroup of v2 tells by itself when memory runs out. */
static bool
watches_tree(const struct eb_meter *meter)
{
    const struct eb_limits *limits = &meter->job->limits;
    bool told = has(meter, EB_CGROUP_MEMORY) && eb_cgroup_alarm(&meter->init->cgroup) >= 0;
    return (limits->memory != EB_UNLIMITED && !told) || limits->cpu_time != EB_UNLIMITED;
}

uint64_t
eb_meter_due(const struct eb_meter *meter)
{
    const struct eb_limits *limits = &meter->job->limits;
    uint64_t tree = watches_tree(meter) ? meter->next_look : EB_UNLIMITED;
    uint64_t disk = limits->disk != EB_UNLIMITED ? meter->next_disk_look : EB_UNLIMITED;
    return eb_smaller(tree, disk);
}

/* The CPU time of the whole tree; a fall of the sum is what nobody waited for. */
static uint64_t
cpu_used(struct eb_meter *meter, const struct eb_sample *sample)
{
    struct eb_watch *watch = &meter->watch;
    uint64_t seen = meter->user + meter->system + sample->cpu_time;
    if (seen + LOST_FLOOR < watch->cpu_seen)
        watch->lost += watch->cpu_seen - seen;
    watch->cpu_seen = seen;
    return seen + watch->lost;
}

static bool
memory_is_passed(struct eb_meter *meter, const struct eb_sample *sample)
{
    uint64_t limit = meter->job->limits.memory;
    uint32_t uid = meter->job->uid;
    /* The sum of resident sets is cheap and never too small. */
    if (limit == EB_UNLIMITED || !EB_HAS(MEMORY_WATCH) || sample->resident <= limit)
        return false;
    uint64_t used = eb_watch_memory(&meter->watch, uid);
    if (uid != EB_KEEP_ID)
        eb_init_follow_launcher(meter->init);
    return used > limit;
}

/* Asked for once: it is read from a file. */
static uint64_t
processors(void)
{
    static uint64_t count;
    if (!count)
        count = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    return count;
}

enum eb_cause
eb_meter_memory(const struct eb_meter *meter)
{
    bool passed = has(meter, EB_CGROUP_MEMORY) &&
                  eb_cgroup_is_out_of_memory(&meter->init->cgroup);
    return passed ? EB_CAUSE_MEMORY : EB_CAUSE_EXIT;
}

/* `rest`: how long the CPU time that is left lasts at least. */
static enum eb_cause
check_tree(struct eb_meter *meter, uint64_t *rest)
{
    uint64_t limit = meter->job->limits.cpu_time;
    struct eb_sample sample;
    bool counted = has(meter, EB_CGROUP_CPU);
    if (!counted || !has(meter, EB_CGROUP_MEMORY))
        eb_watch_sample(&meter->watch, &sample);
    uint64_t used = counted ? eb_cgroup_cpu_time(&meter->init->cgroup)
                            : cpu_used(meter, &sample);
    *rest = EB_UNLIMITED;
    if (limit != EB_UNLIMITED && EB_HAS(CPU_WATCH)) {
        if (used >= limit)
            return EB_CAUSE_CPU_TIME;
        /* With n processors it can be used up n times as fast. */
        *rest = (limit - used) / processors();
    }
    if (has(meter, EB_CGROUP_MEMORY))
        return eb_meter_memory(meter);
    return memory_is_passed(meter, &sample) ? EB_CAUSE_MEMORY : EB_CAUSE_EXIT;
}

/* Where n threads share a processor, each grows n times as slowly; hundreds of
 * runs that look 100 times a second would be the load themselves. */
static uint64_t
usual_pause(const struct eb_meter *meter)
{
    uint64_t load = eb_watch_runnable(meter->watch.proc) / processors();
    uint64_t most = has(meter, EB_CGROUP_MEMORY) ? MAX_LOAD_COUNTED : MAX_LOAD;
    return TICK * (load < 1 ? 1 : eb_smaller(load, most));
}

static uint64_t
pause_after(uint64_t cost, uint64_t usual)
{
    return cost * MAX_DUTY > usual ? cost * MAX_DUTY : usual;
}

static bool
disk_is_passed(const struct eb_meter *meter)
{
    uint64_t limit = EB_HAS(DISK) ? meter->job->limits.disk : EB_UNLIMITED;
    if (limit != EB_UNLIMITED && meter->init->runtime->namespaces)
        return eb_mounts_hold_more(meter->init, limit);
    /* Most runs leave the workspace empty: that is seen at once, and needs no walk. */
    if (eb_workspace_is_untouched(meter->init))
        return false;
    return limit != EB_UNLIMITED && eb_disk_usage(meter->init->workspace, limit) > limit;
}

static enum eb_cause
look_at_tree(struct eb_meter *meter, uint64_t now, uint64_t usual)
{
    uint64_t rest, begun = own_cpu_time();
    enum eb_cause cause = check_tree(meter, &rest);
    uint64_t pause = eb_smaller(pause_after(own_cpu_time() - begun, usual), rest);
    meter->next_look = now + (pause < EB_MS ? EB_MS : pause);
    return cause;
}

static enum eb_cause
look_at_disk(struct eb_meter *meter, uint64_t now, uint64_t usual)
{
    uint64_t begun = own_cpu_time();
    bool passed = disk_is_passed(meter);
    meter->next_disk_look = now + pause_after(own_cpu_time() - begun, usual);
    return passed ? EB_CAUSE_DISK : EB_CAUSE_EXIT;
}

enum eb_cause
eb_meter_look(struct eb_meter *meter, uint64_t now)
{
    if (now < eb_meter_due(meter))
        return EB_CAUSE_EXIT;
    enum eb_cause cause = EB_CAUSE_EXIT;
    uint64_t usual = usual_pause(meter);
    if (watches_tree(meter) && now >= meter->next_look)
        cause = look_at_tree(meter, now, usual);
    if (cause == EB_CAUSE_EXIT && meter->job->limits.disk != EB_UNLIMITED &&
        now >= meter->next_disk_look)
        cause = look_at_disk(meter, now, usual);
    return cause;
}

void
eb_meter_close(struct eb_meter *meter)
{
    struct eb_cgroup_usage usage = {0};
    /* What was seen of those that nobody waited for, and is gone since the last look. */
    const struct eb_sample nobody = {0};
    (void)cpu_used(meter, &nobody);
    if (!meter->init->cgroup.kind)
        return;
    eb_cgroup_settle(&meter->init->cgroup, &usage);
    meter->processes = usage.processes;
    if (usage.peak_memory)
        meter->peak = usage.peak_memory;
    if (!has(meter, EB_CGROUP_CPU))
        return;
    /* The sum is the cgroup's; what was waited for says how much of it is which. */
    meter->user = eb_smaller(meter->user, usage.cpu_time);
    meter->system = usage.cpu_time - meter->user;
    meter->watch.lost = 0;
}

enum eb_cause
eb_meter_settle(const struct eb_meter *meter, bool untouched)
{
    const struct eb_limits *limits = &meter->job->limits;
    uint64_t used = meter->user + meter->system + meter->watch.lost;
    if (eb_meter_memory(meter) == EB_CAUSE_MEMORY)
        return EB_CAUSE_MEMORY;
    if (EB_HAS(CPU_WATCH) && limits->cpu_time != EB_UNLIMITED && used > limits->cpu_time)
        return EB_CAUSE_CPU_TIME;
    if (!untouched && disk_is_passed(meter))
        return EB_CAUSE_DISK;
    return EB_CAUSE_EXIT;
}
