/* mounts.c - the files that an init in namespaces, and its runs, have.
 *
 * A tmpfs becomes the root; everything in it stands in the list that the host
 * sent: read-only binds of what the policy grants, a few files made here, a
 * procfs of the PID namespace, and the workspace.  Then the host's tree is
 * detached: what was not granted does not even exist.
 *
 * Facts this relies on:
 *   - mounts that came with the copy of the mount namespace cannot be taken off
 *     one by one (MNT_LOCKED), but pivot_root() and one detached umount2() of the
 *     old root remove all of them;
 *   - a bind without what is mounted below it is EINVAL there (it would uncover
 *     what was hidden), so binds are recursive, and mount_setattr() (Linux 5.12)
 *     makes the whole of one read-only;
 *   - a path may lead elsewhere by now: it is opened without following links, and
 *     bound only if it still is the inode that was granted;
 *   - a tmpfs that was mounted without a limit cannot get one later, so between
 *     two runs the workspace has one that is never reached. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define OLD_ROOT "/.host"
#define WORK "/.work"
#define UNREACHED "size=1125899906842624,nr_inodes=1073741824,mode=0711"
/* A tmpfs counts whole pages. */
enum { PAGE = 4096 };

static uint64_t
attributes_of(const struct eb_mount *mount)
{
    uint64_t attributes = EB_MOUNT_ATTR_NOSUID;
    if (!(mount->flags & EB_MOUNT_WRITABLE) && EB_HAS(READ_ONLY))
        attributes |= EB_MOUNT_ATTR_RDONLY;
    if (!(mount->flags & EB_MOUNT_DEVICES))
        attributes |= EB_MOUNT_ATTR_NODEV;
    return attributes;
}

static int
make_directory(const char *path)
{
    struct stat st;
    if (mkdir(path, 0755) == 0)
        return 0;
    int error = -errno;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? 0 : error;
}

/* All directories above a path. */
static int
make_parents(const char *path)
{
    char above[PATH_MAX];
    if (snprintf(above, sizeof above, "%s", path) >= (int)sizeof above)
        return -ENAMETOOLONG;
    for (char *slash = strchr(above + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int error = make_directory(above);
        if (error < 0)
            return error;
        *slash = '/';
    }
    return 0;
}

static int
make_file(const char *path, const char *content)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    size_t size = strlen(content);
    ssize_t n = write(fd, content, size);
    int error = n == (ssize_t)size ? 0 : n < 0 ? -errno : -ENOSPC;
    close(fd);
    return error;
}

/* Attaches a copy of what `fd` refers to. */
static int
attach(int fd, const char *target, uint64_t attributes)
{
    struct eb_mount_attr set = {.attr_set = attributes};
    int copy = (int)syscall(SYS_open_tree, fd, "",
                            EB_OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | EB_AT_RECURSIVE);
    if (copy < 0)
        return -errno;
    int error = 0;
    if (syscall(SYS_mount_setattr, copy, "", AT_EMPTY_PATH | EB_AT_RECURSIVE, &set,
                sizeof set) < 0 ||
        syscall(SYS_move_mount, copy, "", AT_FDCWD, target, EB_MOVE_MOUNT_EMPTY_PATH) < 0)
        error = -errno;
    close(copy);
    return error;
}

/* The host's path, only if it is what was granted. */
static int
open_source(const struct eb_mount *mount, const char *source)
{
    struct eb_open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
                              .resolve = EB_RESOLVE_NO_SYMLINKS | EB_RESOLVE_IN_ROOT};
    struct stat st;
    int root = open(OLD_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return -errno;
    int fd = (int)syscall(SYS_openat2, root, source, &how, sizeof how);
    int error = fd < 0 ? -errno : 0;
    close(root);
    if (error < 0)
        return error;
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_dev != mount->dev ||
        (uint64_t)st.st_ino != mount->ino) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

/* Something of the same kind to mount on, unless there is something already. */
static int
make_mount_point(int fd, const char *target)
{
    struct stat source, there;
    if (fstat(fd, &source) < 0)
        return -errno;
    if (lstat(target, &there) == 0)
        return 0;
    return S_ISDIR(source.st_mode) ? make_directory(target) : make_file(target, "");
}

static int
attach_at(int fd, const char *target, uint64_t attributes)
{
    if (fd < 0)
        return fd;
    int error = make_mount_point(fd, target);
    if (error == 0)
        error = attach(fd, target, attributes);
    close(fd);
    return error;
}

static int
attach_place(const struct eb_init *init, const struct eb_mount *mount, const char *target,
             const char *name)
{
    int work = open(WORK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = work < 0 ? -errno : 0;
    if (error == 0 && mkdirat(work, name, 0700) < 0)
        error = -errno;
    int fd = error < 0 ? -1 : openat(work, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (error == 0 && fd < 0)
        error = -errno;
    if (error == 0 && init->uid != EB_KEEP_ID && fchown(fd, init->uid, init->uid) < 0)
        error = -errno;
    eb_close(&work);
    if (error == 0)
        return attach_at(fd, target, attributes_of(mount));
    eb_close(&fd);
    return error;
}

static int
hide(const char *target)
{
    struct stat st;
    if (!EB_HAS(HIDDEN_PROC) || lstat(target, &st) < 0)
        return 0;
    if (S_ISDIR(st.st_mode))
        return mount("evalbox", target, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                     "size=4k,mode=0555") < 0
                   ? -errno
                   : 0;
    return attach_at(open(OLD_ROOT "/dev/null", O_PATH | O_CLOEXEC), target,
                     EB_MOUNT_ATTR_NOSUID | EB_MOUNT_ATTR_RDONLY);
}

static int
attach_proc(const char *target)
{
    /* The kernel mounts none for a PID namespace that is not ours. */
    if (!EB_HAS(PID_NAMESPACE))
        return attach_at(open(OLD_ROOT "/proc", O_PATH | O_CLOEXEC), target, 0);
    int error = make_directory(target);
    if (error == 0 && mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        error = -errno;
    return error;
}

static int
make_mount(const struct eb_init *init, const struct eb_mount *item, const char *target,
           const char *source)
{
    int error = make_parents(target);
    if (error < 0)
        return error;
    switch (item->kind) {
    case EB_MOUNT_DIRECTORY:
        return make_directory(target);
    case EB_MOUNT_FILE:
        return make_file(target, source);
    case EB_MOUNT_LINK:
        return symlink(source, target) < 0 && errno != EEXIST ? -errno : 0;
    case EB_MOUNT_BIND:
        return attach_at(open_source(item, source), target, attributes_of(item));
    case EB_MOUNT_PLACE:
        return attach_place(init, item, target, source);
    case EB_MOUNT_PROC:
        return attach_proc(target);
    case EB_MOUNT_HIDE:
        return hide(target);
    default:
        return -EBADMSG;
    }
}

/* The next of the strings of a tree, which stand one after the other. */
static const char *
next_string(const char **at)
{
    const char *found = *at;
    *at += strlen(found) + 1;
    return found;
}

/* The new root, with the host's below it for the time being. */
static int
enter_root(void)
{
    /* On /proc, which is there: it is moved away at once. */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("evalbox", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") < 0 ||
        chdir("/proc") < 0 || mkdir(&OLD_ROOT[1], 0700) < 0 ||
        syscall(SYS_pivot_root, ".", &OLD_ROOT[1]) < 0 || chdir("/") < 0)
        return -errno;
    return 0;
}

static int
make_work(void)
{
    if (mkdir(WORK, 0700) < 0 ||
        mount("evalbox", WORK, "tmpfs", MS_NOSUID | MS_NODEV, UNREACHED) < 0)
        return -errno;
    return 0;
}

static int
leave_host(struct eb_init *init)
{
    struct eb_mount_attr set = {.attr_set = EB_MOUNT_ATTR_RDONLY | EB_MOUNT_ATTR_NOSUID |
                                            EB_MOUNT_ATTR_NODEV};
    struct statfs work;
    init->workspace = open(WORK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (init->workspace < 0 || fstatfs(init->workspace, &work) < 0)
        return -errno;
    init->base_inodes = (uint64_t)(work.f_files - work.f_ffree);
    if (umount2(WORK, MNT_DETACH) < 0 || rmdir(WORK) < 0)
        return -errno;
    if (EB_HAS(OLD_ROOT) && (umount2(OLD_ROOT, MNT_DETACH) < 0 || rmdir(OLD_ROOT) < 0))
        return -errno;
    if (EB_HAS(READ_ONLY) && syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &set, sizeof set) < 0)
        return -errno;
    return 0;
}

/* One rule for each item that has rights, on what its target is now. */
static int
make_ruleset(struct eb_init *init, const struct eb_tree_view *view)
{
    const struct eb_tree *tree = &view->tree;
    struct eb_path_rule *rules = calloc(tree->n_mounts + 1U, sizeof *rules);
    struct eb_ruleset_spec spec = {.handled_fs = tree->handled_fs,
                                   .handled_net = tree->handled_net,
                                   .scoped = tree->scoped,
                                   .rules = rules};
    const char *at = view->strings;
    if (!rules)
        return -ENOMEM;
    for (uint32_t i = 0; i < tree->n_mounts; i++) {
        const char *target = next_string(&at);
        next_string(&at);
        if (view->mounts[i].access == 0)
            continue;
        int fd = open(target, O_PATH | O_CLOEXEC);
        if (fd >= 0)
            rules[spec.n_rules++] = (struct eb_path_rule){.fd = fd,
                                                          .access = view->mounts[i].access};
    }
    init->ruleset_fd = eb_ruleset_create(&spec);
    init->ruleset_id = tree->ruleset_id;
    for (size_t i = 0; i < spec.n_rules; i++)
        close(rules[i].fd);
    free(rules);
    return init->ruleset_fd < 0 ? init->ruleset_fd : 0;
}

/* Places come before what may lie in them; the first is where programs start. */
static int
note(struct eb_init *init, const char *tops[EB_PLACES], const struct eb_mount *item,
     const char *target)
{
    int n = 0, error = 0;
    while (n < EB_PLACES && tops[n])
        n++;
    if (item->kind == EB_MOUNT_PLACE && n == EB_PLACES)
        return -EBADMSG;
    if (item->kind == EB_MOUNT_PLACE)
        tops[n] = target;
    if (item->kind == EB_MOUNT_PLACE && n == 0)
        snprintf(init->start, sizeof init->start, "%s", target);
    for (int i = 0; error == 0 && i < n; i++)
        error = eb_fixtures_note(init, i, tops[i], target);
    return error;
}

int
eb_mounts_make(struct eb_init *init, const struct eb_tree_view *view,
               struct eb_failure *failure)
{
    const char *at = view->strings, *tops[EB_PLACES] = {0};
    failure->stage = EB_STAGE_PIVOT_ROOT;
    int error = enter_root();
    if (error < 0)
        return error;
    error = make_work();
    failure->stage = error < 0 ? EB_STAGE_WORKSPACE : EB_STAGE_MOUNT;
    for (uint32_t i = 0; error == 0 && i < view->tree.n_mounts; i++) {
        const char *target = next_string(&at);
        const char *source = next_string(&at);
        failure->item = i;
        error = make_mount(init, &view->mounts[i], target, source);
        if (error == 0)
            error = note(init, tops, &view->mounts[i], target);
    }
    if (error < 0)
        return error;
    failure->item = -1;
    failure->stage = EB_STAGE_LANDLOCK;
    error = make_ruleset(init, view);
    if (error < 0)
        return error;
    failure->stage = EB_STAGE_WORKSPACE;
    return leave_host(init);
}

int
eb_mounts_limit(const struct eb_init *init, uint64_t bytes)
{
    char options[96];
    uint64_t inodes = init->base_inodes + bytes / EB_ENTRY_BYTES + 1;
    if (bytes == EB_UNLIMITED || !EB_HAS(DISK))
        snprintf(options, sizeof options, "%s", UNREACHED);
    else
        snprintf(options, sizeof options, "size=%llu,nr_inodes=%llu",
                 (unsigned long long)((bytes + PAGE - 1) / PAGE + 1) * PAGE,
                 (unsigned long long)inodes);
    return mount(NULL, init->start, NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV, options) < 0
               ? -errno
               : 0;
}

bool
eb_mounts_hold_more(const struct eb_init *init, uint64_t bytes)
{
    struct statfs work;
    if (fstatfs(init->workspace, &work) < 0)
        return false;
    uint64_t pages = (uint64_t)(work.f_blocks - work.f_bfree);
    uint64_t inodes = (uint64_t)(work.f_files - work.f_ffree) - init->base_inodes;
    return pages > (bytes + PAGE - 1) / PAGE || inodes > bytes / EB_ENTRY_BYTES;
}
