/* kernel.h - what older kernel and libc headers lack. */
#ifndef EB_KERNEL_H
#define EB_KERNEL_H

#include <stdint.h>
#include <sys/syscall.h>

/* landlock_restrict_self(): nothing of the sandbox goes to the audit log, so a
 * program cannot flood it (ABI 7, Linux 6.15). */
#define EB_LANDLOCK_QUIET ((1U << 0) | (1U << 2))

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

/* struct clone_args of include/uapi/linux/sched.h as of Linux 5.7. */
struct eb_clone_args {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid;
    uint64_t set_tid_size;
    uint64_t cgroup;
};
#define EB_CLONE_INTO_CGROUP (1ULL << 33)

#ifndef SYS_clone3
#define SYS_clone3 435
#endif

/* ---- mounts: Linux 5.12, later than many libc headers ---- */

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define EB_OPEN_TREE_CLONE 1
#define EB_MOVE_MOUNT_EMPTY_PATH 0x4
#define EB_AT_RECURSIVE 0x8000
#define EB_MOUNT_ATTR_RDONLY 0x1
#define EB_MOUNT_ATTR_NOSUID 0x2
#define EB_MOUNT_ATTR_NODEV 0x4
#define EB_RESOLVE_NO_SYMLINKS 0x04
#define EB_RESOLVE_IN_ROOT 0x10

struct eb_mount_attr {
    uint64_t attr_set;
    uint64_t attr_clr;
    uint64_t propagation;
    uint64_t userns_fd;
};

struct eb_open_how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};

/* ---- Landlock: names and layouts of include/uapi/linux/landlock.h, Linux 7.2 ---- */

#define EB_RULESET_VERSION (1U << 0) /* landlock_create_ruleset(): ask for the ABI */
#define EB_RULE_PATH_BENEATH 1

/* A kernel that knows only the first fields takes the rest when it is zero. */
struct eb_ruleset_attr {
    uint64_t handled_fs;
    uint64_t handled_net;
    uint64_t scoped;
};

struct eb_path_beneath {
    uint64_t allowed_access;
    int32_t parent_fd;
} __attribute__((packed));

#define EB_FS_EXECUTE (1ULL << 0)
#define EB_FS_WRITE_FILE (1ULL << 1)
#define EB_FS_READ_FILE (1ULL << 2)
#define EB_FS_ABI_1 0x1fffULL /* these, READ_DIR, REMOVE_* and MAKE_* */
#define EB_FS_REFER (1ULL << 13)
#define EB_FS_TRUNCATE (1ULL << 14)
#define EB_FS_IOCTL_DEV (1ULL << 15)
#define EB_FS_RESOLVE_UNIX (1ULL << 16)
/* What a rule on anything but a directory may grant. */
#define EB_FS_OF_FILES                                                                         \
    (EB_FS_EXECUTE | EB_FS_WRITE_FILE | EB_FS_READ_FILE | EB_FS_TRUNCATE | EB_FS_IOCTL_DEV |   \
     EB_FS_RESOLVE_UNIX)

#define EB_NET_BIND_TCP (1ULL << 0)
#define EB_NET_CONNECT_TCP (1ULL << 1)
#define EB_NET_BIND_UDP (1ULL << 2)
#define EB_NET_CONNECT_SEND_UDP (1ULL << 3)

#define EB_SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0)
#define EB_SCOPE_SIGNAL (1ULL << 1)

#endif
