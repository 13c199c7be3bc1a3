/* disk.c - how much a directory tree holds.
 *
 * A watch, not a wall: files that are unlinked but still open are not seen.
 * It runs beside the program that changes the tree, so it climbs back through
 * ".." only after checking that it is the directory it came from, and gives
 * up (with what it counted so far) when the tree was moved meanwhile. */
#include "meter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* No path leads deeper than PATH_MAX / 2 levels. */
enum { MAX_DEPTH = 2048 };
enum { DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

struct level {
    dev_t dev;
    ino_t ino;
    off_t next;  /* directory offset to go on from */
    bool closed; /* to its owner, before we came */
    mode_t mode; /* that it had then */
};

struct walk {
    int fd;
    int depth;
    uint64_t bytes;
    uint64_t stop_at;
    struct level levels[MAX_DEPTH];
};

/* Lets its owner, which an ordinary user's init is, list a directory and look
 * at what is in it; or a program could hide what it stores there.  Never through
 * a link that took its place. */
static bool
open_up(int dirfd, const char *name)
{
    char path[32];
    int fd = openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    bool done = chmod(path, 0700) == 0;
    close(fd);
    return done;
}

static bool
go_to(struct walk *walk, int fd)
{
    struct stat st;
    if (fd < 0)
        return false;
    if (fstat(fd, &st) < 0) {
        close(fd);
        return false;
    }
    close(walk->fd);
    walk->fd = fd;
    walk->levels[walk->depth].dev = st.st_dev;
    walk->levels[walk->depth].ino = st.st_ino;
    return true;
}

static bool
descend(struct walk *walk, const char *name, mode_t mode, off_t next)
{
    if (walk->depth + 1 == MAX_DEPTH) {
        /* What lies deeper cannot be counted: it may be anything. */
        walk->bytes = walk->stop_at + 1;
        return false;
    }
    bool closed = (mode & 0500) != 0500 && faccessat(walk->fd, name, R_OK | X_OK, 0) < 0 &&
                  open_up(walk->fd, name);
    walk->levels[walk->depth++].next = next;
    walk->levels[walk->depth] = (struct level){.closed = closed, .mode = mode & 07777};
    if (go_to(walk, openat(walk->fd, name, DIRECTORY_FLAGS)))
        return true;
    walk->depth--;
    return false;
}

static bool
climb(struct walk *walk)
{
    const struct level *left = &walk->levels[walk->depth];
    struct level expected = walk->levels[walk->depth - 1];
    int above = openat(walk->fd, "..", DIRECTORY_FLAGS);
    if (left->closed)
        (void)fchmod(walk->fd, left->mode);
    walk->depth--;
    if (!go_to(walk, above))
        return false;
    const struct level *found = &walk->levels[walk->depth];
    if (found->dev != expected.dev || found->ino != expected.ino)
        return false;
    return lseek(walk->fd, expected.next, SEEK_SET) >= 0;
}

static void
count(struct walk *walk, const struct stat *st)
{
    uint64_t blocks = (uint64_t)st->st_blocks * 512;
    walk->bytes += EB_ENTRY_BYTES + (st->st_nlink > 1 && !S_ISDIR(st->st_mode)
                                         ? blocks / (uint64_t)st->st_nlink
                                         : blocks);
}

/* Counts entries of the current directory; true when it went a level down. */
static bool
scan_until_subdirectory(struct walk *walk)
{
    _Alignas(struct dirent64) char buffer[4096];
    ssize_t size;
    while ((size = getdents64(walk->fd, buffer, sizeof buffer)) > 0) {
        for (ssize_t at = 0; at < size;) {
            const void *here = buffer + at;
            const struct dirent64 *entry = here;
            struct stat st;
            at += entry->d_reclen;
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                continue;
            if (fstatat(walk->fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                continue;
            count(walk, &st);
            if (walk->bytes > walk->stop_at)
                return false;
            if (S_ISDIR(st.st_mode) && descend(walk, entry->d_name, st.st_mode, entry->d_off))
                return true;
        }
    }
    return false;
}

uint64_t
eb_disk_usage(int dirfd, uint64_t stop_at)
{
    static struct walk walk; /* 64 KiB, of which the used levels; init runs one at a time */
    walk.fd = -1;
    walk.depth = 0;
    walk.bytes = 0;
    walk.stop_at = stop_at;
    if (!go_to(&walk, openat(dirfd, ".", DIRECTORY_FLAGS)))
        return 0;
    for (;;) {
        if (scan_until_subdirectory(&walk))
            continue;
        if (walk.bytes > stop_at || walk.depth == 0 || !climb(&walk))
            break;
    }
    close(walk.fd);
    return walk.bytes;
}
