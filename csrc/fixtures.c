/* fixtures.c - what a policy puts into directories of the workspace.
 *
 * A path that is granted below /tmp, say, has its mount point and the directories
 * above it, or a link, in the workspace itself.  They cannot be emptied away, so
 * after a run they are looked at instead: nothing else may be there, and each must
 * be the inode that it was.  The count of inodes tells the first (every file, link
 * and directory has one), the numbers of the inodes the second. */
#include "runtime.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

static int
add(struct eb_init *init, const char *path, bool is_granted)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return -errno;
    struct eb_fixture *grown = realloc(init->fixtures,
                                       (init->n_fixtures + 1) * sizeof *init->fixtures);
    if (!grown)
        return -ENOMEM;
    init->fixtures = grown;
    grown[init->n_fixtures] = (struct eb_fixture){
        .path = strdup(path),
        .dev = st.st_dev,
        .ino = st.st_ino,
        /* The rights of what is granted are its owner's to change. */
        .mode = is_granted ? 0 : st.st_mode};
    if (!grown[init->n_fixtures].path)
        return -ENOMEM;
    init->n_fixtures++;
    return 0;
}

static bool
is_below(const char *path, const char *place)
{
    size_t length = strlen(place);
    return strncmp(path, place, length) == 0 && path[length] == '/';
}

int
eb_fixtures_note(struct eb_init *init, int place, const char *top, const char *path)
{
    char part[PATH_MAX];
    if (!is_below(path, top))
        return 0;
    init->fixed[place] = true;
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return -ENAMETOOLONG;
    for (char *slash = strchr(part + strlen(top) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int error = add(init, part, false);
        if (error < 0)
            return error;
        *slash = '/';
    }
    return add(init, path, true);
}

static bool
stands(const struct eb_fixture *fixture)
{
    struct stat st;
    return lstat(fixture->path, &st) == 0 && st.st_dev == fixture->dev &&
           st.st_ino == fixture->ino && (fixture->mode == 0 || st.st_mode == fixture->mode);
}

bool
eb_fixtures_stand(const struct eb_init *init)
{
    struct statfs work;
    if (fstatfs(init->workspace, &work) < 0 ||
        (uint64_t)(work.f_files - work.f_ffree) != init->base_inodes)
        return false;
    for (size_t i = 0; i < init->n_fixtures; i++)
        if (!stands(&init->fixtures[i]))
            return false;
    return true;
}
