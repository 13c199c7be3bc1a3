/* cgroup_read.c - what the cgroups of a slot tell of the run in them.
 *
 * Facts this relies on:
 *   - the OOM killer counts (oom_kill) before it kills, so whoever reaps the
 *     victim sees it; a kill for want of memory elsewhere on the host is not
 *     preceded by a hit of this limit (oom);
 *   - memory.events gets POLLPRI when it changes after it was read. */
#include "cgroup.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint64_t
eb_cgroup_number(int fd, const char *key)
{
    char text[512];
    ssize_t n = fd < 0 ? -1 : pread(fd, text + 1, sizeof text - 2, 0);
    if (n < 0)
        return 0;
    text[0] = '\n';
    text[n + 1] = 0;
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static bool
is_unified(const struct eb_cgroup *cgroup)
{
    return (cgroup->kind & EB_CGROUP_UNIFIED) != 0;
}

uint64_t
eb_cgroup_cpu_time(const struct eb_cgroup *cgroup)
{
    int fd = cgroup->files[EB_CGROUP_CPU_TIME];
    uint64_t now = is_unified(cgroup) ? eb_cgroup_number(fd, "\nusage_usec ") * 1000
                                      : eb_cgroup_number(fd, "\n");
    return now > cgroup->cpu_time ? now - cgroup->cpu_time : 0;
}

bool
eb_cgroup_is_full(const struct eb_cgroup *cgroup)
{
    uint64_t peak = eb_cgroup_number(cgroup->files[EB_CGROUP_PEAK], "\n");
    return (cgroup->kind & EB_CGROUP_MEMORY) && peak >= cgroup->limit - cgroup->limit / 16;
}

/* v1 has no count of hits. */
static bool
has_hit_limit(const struct eb_cgroup *cgroup)
{
    if (!is_unified(cgroup))
        return eb_cgroup_is_full(cgroup);
    return eb_cgroup_number(cgroup->files[EB_CGROUP_EVENTS], "\noom ") > cgroup->hits;
}

bool
eb_cgroup_is_out_of_memory(const struct eb_cgroup *cgroup)
{
    uint64_t kills = eb_cgroup_number(cgroup->files[EB_CGROUP_EVENTS], "\noom_kill ");
    return kills > cgroup->kills && has_hit_limit(cgroup);
}

void
eb_cgroup_settle(const struct eb_cgroup *cgroup, struct eb_cgroup_usage *usage)
{
    usage->cpu_time = eb_cgroup_cpu_time(cgroup);
    usage->peak_memory = eb_cgroup_number(cgroup->files[EB_CGROUP_PEAK], "\n");
    usage->processes = eb_cgroup_number(cgroup->files[EB_CGROUP_PIDS_PEAK], "\n");
}

int
eb_cgroup_alarm(const struct eb_cgroup *cgroup)
{
    return is_unified(cgroup) ? cgroup->files[EB_CGROUP_EVENTS] : -1;
}

void
eb_cgroup_remember(struct eb_cgroup *cgroup)
{
    int events = cgroup->files[EB_CGROUP_EVENTS];
    cgroup->cpu_time = 0;
    cgroup->cpu_time = eb_cgroup_cpu_time(cgroup);
    cgroup->kills = eb_cgroup_number(events, "\noom_kill ");
    cgroup->hits = is_unified(cgroup) ? eb_cgroup_number(events, "\noom ") : 0;
}
