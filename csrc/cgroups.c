/* cgroups.c - the cgroups of a launcher: opened for an init, emptied, removed.
 *
 * The host makes them and tells the launcher where they are, once (an order of
 * its own, after the start) and for each slot.  All paths here are relative to
 * the descriptors that came with that order.
 *
 * On v2 the launcher and its inits live in L/launcher, so that a cgroup
 * namespace made before has L as its root.  At the end it leaves through a
 * descriptor of the host: the kernel asks what the one who opened it may do. */
#include "cgroup.h"
#include "runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FLAGS = O_RDONLY | O_DIRECTORY | O_CLOEXEC };

/* The bits of a kind that have a descriptor, in the order of the hierarchies. */
static uint32_t
hierarchy_bit(uint32_t kind, int hierarchy)
{
    static const uint32_t bits[EB_HIERARCHIES] = {EB_CGROUP_MEMORY, EB_CGROUP_PIDS,
                                                  EB_CGROUP_CPU};
    if (kind & EB_CGROUP_UNIFIED)
        return hierarchy == EB_HIERARCHY_MEMORY ? EB_CGROUP_UNIFIED : 0;
    return kind & bits[hierarchy];
}

void
eb_cgroups_take(struct eb_cgroups *cgroups, const struct eb_control *order, int *fds, int n_fds)
{
    int used = 0;
    eb_cgroups_forget(cgroups);
    for (int i = 0; i < EB_HIERARCHIES; i++) {
        if (!hierarchy_bit(order->cgroup, i) || used >= n_fds)
            continue;
        cgroups->fds[i] = fds[used];
        fds[used++] = -1;
    }
    if ((order->cgroup & EB_CGROUP_HOME) && used < n_fds) {
        cgroups->home = fds[used];
        fds[used] = -1;
    }
    memcpy(cgroups->name, order->name, sizeof cgroups->name);
    cgroups->name[EB_NAME_MAX - 1] = 0;
}

int
eb_cgroups_open(const struct eb_cgroups *cgroups, const char *slot, uint32_t kind,
                struct eb_cgroup *cgroup)
{
    *cgroup = (struct eb_cgroup){
        .clones = (kind & EB_CGROUP_UNIFIED) != 0, .memory = -1, .run = -1};
    memset(cgroup->slots, -1, sizeof cgroup->slots);
    memset(cgroup->files, -1, sizeof cgroup->files);
    memset(cgroup->enter, -1, sizeof cgroup->enter);
    for (int i = 0; i < EB_HIERARCHIES; i++) {
        if (!hierarchy_bit(kind, i))
            continue;
        cgroup->slots[i] = openat(cgroups->fds[i], slot, FLAGS);
        if (cgroup->slots[i] < 0)
            return -errno;
    }
    cgroup->kind = kind;
    return 0;
}

void
eb_cgroups_close(struct eb_cgroup *cgroup)
{
    for (int i = 0; i < EB_HIERARCHIES; i++)
        eb_close(&cgroup->slots[i]);
}

void
eb_cgroups_forget(struct eb_cgroups *cgroups)
{
    for (int i = 0; i < EB_HIERARCHIES; i++)
        eb_close(&cgroups->fds[i]);
    eb_close(&cgroups->home);
}

/* ---- the end of a slot ---- */

/* Whatever is below it, forks that are under way included (Linux 5.14). */
static void
kill_all(int dir)
{
    int fd = openat(dir, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "1", 1);
    close(fd);
}

void
eb_cgroups_kill(const struct eb_cgroups *cgroups, const char *slot)
{
    for (int i = 0; i < EB_HIERARCHIES; i++) {
        int dir = cgroups->fds[i] < 0 ? -1 : openat(cgroups->fds[i], slot, FLAGS);
        if (dir < 0)
            continue;
        kill_all(dir);
        close(dir);
    }
}

void
eb_cgroups_bury(const struct eb_cgroups *cgroups, const char *slot)
{
    static const char *const below[] = {"/memory/run", "/memory", "/run", ""};
    for (int i = 0; i < EB_HIERARCHIES; i++) {
        for (size_t k = 0; cgroups->fds[i] >= 0 && k < sizeof below / sizeof *below; k++) {
            char path[EB_NAME_MAX + 16];
            snprintf(path, sizeof path, "%s%s", slot, below[k]);
            eb_cgroup_remove(cgroups->fds[i], path);
        }
    }
}

/* The host makes those of a slot before it orders the init: it may have died between. */
static void
bury_all(const struct eb_cgroups *cgroups, int dir)
{
    int copy = openat(dir, ".", FLAGS);
    DIR *entries = copy < 0 ? NULL : fdopendir(copy);
    if (!entries) {
        eb_close(&copy);
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(entries)))
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            eb_cgroups_bury(cgroups, entry->d_name);
    closedir(entries);
}

void
eb_cgroups_remove(struct eb_cgroups *cgroups)
{
    if (cgroups->home >= 0)
        (void)!write(cgroups->home, "0", 1);
    for (int i = 0; i < EB_HIERARCHIES; i++) {
        int above = cgroups->fds[i] < 0 ? -1 : openat(cgroups->fds[i], "..", FLAGS);
        if (above < 0)
            continue;
        bury_all(cgroups, cgroups->fds[i]);
        eb_cgroup_remove(above, cgroups->name);
        close(above);
    }
    eb_cgroups_forget(cgroups);
}
