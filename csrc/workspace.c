/* workspace.c - box, home, tmp and shm, left as the next run must find them.
 *
 * Most runs write nothing: a few looks then, and not a walk.  On tmpfs the size of a
 * directory counts its entries, so that one fstat() says that a place is as it was
 * left: empty, with the same rights and times. */
#include "runtime.h"

#include <dirent.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static struct {
    struct stat left; /* since it was last made fit for a run; all 0: not known */
    bool same;        /* found so when eb_workspace_is_untouched() was called last */
} known[EB_PLACES];

static bool
is_same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool
is_as_left(const struct eb_init *init, int place)
{
    const struct stat *then = &known[place].left;
    struct stat now;
    return then->st_ino != 0 && fstat(init->places[place], &now) == 0 &&
           now.st_size == then->st_size && now.st_nlink == then->st_nlink &&
           now.st_mode == then->st_mode && now.st_uid == then->st_uid &&
           now.st_gid == then->st_gid && is_same_time(now.st_ctim, then->st_ctim) &&
           is_same_time(now.st_mtim, then->st_mtim) && is_same_time(now.st_atim, then->st_atim);
}

static bool
is_empty(int dirfd)
{
    _Alignas(8) char buffer[512];
    if (dirfd < 0)
        return true;
    if (lseek(dirfd, 0, SEEK_SET) < 0)
        return false;
    /* "." and ".." take 24 bytes each. */
    return getdents64(dirfd, buffer, sizeof buffer) <= 48;
}

bool
eb_workspace_is_untouched(const struct eb_init *init)
{
    bool empty = true;
    for (int i = 0; i < EB_PLACES; i++) {
        known[i].same = is_as_left(init, i);
        if (!init->fixed[i] && !known[i].same && !is_empty(init->places[i]))
            empty = false;
    }
    return empty && (init->n_fixtures == 0 || eb_fixtures_stand(init));
}

void
eb_workspace_unlock(const struct eb_init *init)
{
    /* Of its own uid it can chmod the two above as well, Landlock or not. */
    if (init->uid == EB_KEEP_ID) {
        (void)fchmod(init->workspace, 0700);
        (void)!fchmodat(init->workspace, "..", 0700, 0);
    }
    for (int i = 0; i < EB_PLACES; i++)
        if (init->places[i] >= 0 && !known[i].same)
            (void)fchmod(init->places[i], 0700);
}

static bool
clear_from(const struct eb_init *init, int first)
{
    bool empty = true;
    for (int i = first; i < EB_PLACES; i++) {
        int place = init->fixed[i] ? -1 : init->places[i];
        if (!is_empty(place) && eb_tree_clear(place) < 0)
            empty = false;
    }
    return empty;
}

bool
eb_workspace_clear(const struct eb_init *init)
{
    if (!EB_HAS(CLEARING))
        return true;
    return clear_from(init, 0) && (init->n_fixtures == 0 || eb_fixtures_stand(init));
}

bool
eb_workspace_clear_homes(const struct eb_init *init)
{
    return clear_from(init, 1);
}

static void
remember(int dirfd, struct stat *left)
{
    struct statfs files;
    bool counts = fstatfs(dirfd, &files) == 0 && files.f_type == TMPFS_MAGIC;
    if (!counts || !is_empty(dirfd) || fstat(dirfd, left) < 0)
        *left = (struct stat){0};
}

void
eb_workspace_renew(const struct eb_init *init)
{
    for (int i = 0; i < EB_PLACES; i++) {
        if (init->places[i] < 0 || is_as_left(init, i))
            continue;
        (void)futimens(init->places[i], NULL);
        remember(init->places[i], &known[i].left);
    }
}
