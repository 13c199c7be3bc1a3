/* workspace.c - box, home, tmp and shm, left as the next run must find them.
 *
 * Most runs write nothing: a few looks then, and not a walk. */
#include "runtime.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

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
    for (int i = 0; i < EB_PLACES; i++)
        if (!init->fixed[i] && !is_empty(init->places[i]))
            return false;
    return init->n_fixtures == 0 || eb_fixtures_stand(init);
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

void
eb_workspace_renew(const int places[EB_PLACES])
{
    for (int i = 0; i < EB_PLACES; i++)
        (void)futimens(places[i], NULL);
}
