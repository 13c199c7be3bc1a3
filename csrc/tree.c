/* tree.c - directories removed through descriptors.
 *
 * Never follows a link, needs two descriptors whatever the depth, and copes
 * with what a program leaves on purpose: directories without rights, names of
 * 255 bytes, trees deeper than PATH_MAX.  Instead of descending, it lifts the
 * subdirectories of a directory up to the top under fresh names and removes
 * the emptied one; every directory moves at most once.
 *
 * To be called when no program can change the tree any more. */
#include "evalbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct entries {
    int fd;
    ssize_t size;
    ssize_t at;
    _Alignas(struct dirent64) char bytes[16384];
};

/* What one pass over a directory did. */
struct pass {
    int top;
    unsigned seen;
    unsigned removed;
    int error;
};

/* The next entry but "." and "..", NULL at the end. */
static const struct dirent64 *
next_entry(struct entries *entries)
{
    for (;;) {
        if (entries->at >= entries->size) {
            entries->size = getdents64(entries->fd, entries->bytes, sizeof entries->bytes);
            entries->at = 0;
            if (entries->size <= 0)
                return NULL;
        }
        const void *here = entries->bytes + entries->at;
        const struct dirent64 *entry = here;
        entries->at += entry->d_reclen;
        const char *name = entry->d_name;
        if (name[0] != '.' || (name[1] != 0 && (name[1] != '.' || name[2] != 0)))
            return entry;
    }
}

static bool
is_directory(int dirfd, const struct dirent64 *entry)
{
    struct stat st;
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    return fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* A directory that its owner made unreadable gets its rights back first. */
static int
open_directory(int dirfd, const char *name)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dirfd, name, flags);
    if (fd < 0 && errno == EACCES && fchmodat(dirfd, name, 0700, 0) == 0)
        fd = openat(dirfd, name, flags);
    if (fd < 0)
        return -errno;
    if (faccessat(fd, ".", W_OK | X_OK, 0) < 0)
        (void)fchmod(fd, 0700);
    return fd;
}

/* Moves a directory to the top: its depth there is one. */
static void
lift(int top, int from, const char *name)
{
    static unsigned long long counter;
    char fresh[40];
    /* The kernel rewrites ".." in a moved directory: it must be writable. */
    (void)!fchmodat(from, name, 0700, 0);
    do
        snprintf(fresh, sizeof fresh, ".evalbox-%llx", ++counter);
    while (renameat2(from, name, top, fresh, RENAME_NOREPLACE) < 0 && errno == EEXIST);
}

static void
empty_directory(struct pass *pass, int fd)
{
    struct entries entries = {.fd = fd};
    const struct dirent64 *entry;
    while ((entry = next_entry(&entries))) {
        if (is_directory(fd, entry))
            lift(pass->top, fd, entry->d_name);
        else if (unlinkat(fd, entry->d_name, 0) < 0)
            pass->error = -errno;
    }
}

static void
remove_entry(struct pass *pass, const struct dirent64 *entry)
{
    bool directory = is_directory(pass->top, entry);
    pass->seen++;
    if (directory) {
        int fd = open_directory(pass->top, entry->d_name);
        if (fd >= 0) {
            empty_directory(pass, fd);
            close(fd);
        }
    }
    if (unlinkat(pass->top, entry->d_name, directory ? AT_REMOVEDIR : 0) < 0)
        pass->error = -errno;
    else
        pass->removed++;
}

int
eb_tree_clear(int dirfd)
{
    for (;;) {
        struct pass pass = {.top = dirfd};
        struct entries entries = {.fd = dirfd};
        const struct dirent64 *entry;
        if (lseek(dirfd, 0, SEEK_SET) < 0)
            return -errno;
        while ((entry = next_entry(&entries)))
            remove_entry(&pass, entry);
        if (entries.size < 0)
            return -errno;
        if (pass.seen == 0)
            return 0;
        if (pass.removed == 0)
            return pass.error;
    }
}

bool
eb_tree_is_entry(const char *name)
{
    return name[0] != 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           !strchr(name, '/');
}

int
eb_tree_remove(int parentfd, const char *name)
{
    if (!eb_tree_is_entry(name))
        return -EINVAL;
    int fd = open_directory(parentfd, name);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    int error = eb_tree_clear(fd);
    close(fd);
    if (error < 0)
        return error;
    return unlinkat(parentfd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}
