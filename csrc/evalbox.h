/* evalbox.h - the one boundary between Python and C.
 *
 * What stands between the two "cffi" marks is read by csrc/ffi_build.py as the
 * cdef of evalbox._core, and compiled by every C file here: the two sides
 * cannot disagree.  Mechanism only: no defaults, no paths, no policy.
 *
 * Conventions: a function returns >= 0 on success and -errno on failure;
 * sizes are bytes, times are nanoseconds of CLOCK_MONOTONIC. */
#ifndef EB_EVALBOX_H
#define EB_EVALBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* cffi: begin */

/* ---- filter.c: rules -> BPF program (pure, no system call) -------------- */

/* One test of a system call argument: (args[arg] & mask) == value, or != when
 * `negate` is set.  Arguments are 64 bits wide; the mask is not 0 and `value`
 * has no bit outside it. */
struct eb_test {
    uint8_t arg;
    uint8_t negate;
    uint64_t mask;
    uint64_t value;
};

/* `action` (a SECCOMP_RET_* word) holds when all of the `n_tests` tests from
 * `first_test` on are true.  The clauses of a rule are tried in order. */
struct eb_clause {
    uint32_t action;
    uint32_t first_test;
    uint32_t n_tests;
};

/* What one system call number gets: the first clause that is true, else
 * `action`. */
struct eb_rule {
    uint32_t nr;
    uint32_t action;
    uint32_t first_clause;
    uint32_t n_clauses;
};

struct eb_filter_spec {
    uint32_t arch;           /* AUDIT_ARCH_*: anything else is killed */
    uint32_t foreign_action; /* for another architecture, and for x32 numbers */
    uint32_t default_action; /* for a number up to `last_nr` without a rule */
    uint32_t unknown_action; /* for a number above `last_nr` */
    uint32_t last_nr;        /* below 2^30, where the numbers of x32 begin */
    const struct eb_rule *rules; /* sorted by nr, each nr once */
    size_t n_rules;
    const struct eb_clause *clauses;
    size_t n_clauses;
    const struct eb_test *tests;
    size_t n_tests;
};

/* One classic BPF instruction, laid out as struct sock_filter. */
struct eb_insn {
    uint16_t code;
    uint8_t jt;
    uint8_t jf;
    uint32_t k;
};

/* Writes the program to out[0..cap) and returns its length; -E2BIG when it is
 * longer than `cap` or EB_FILTER_MAX, -EINVAL when the spec contradicts itself.
 * Uses 64 KiB of stack. */
int eb_filter_compile(const struct eb_filter_spec *spec, struct eb_insn *out, size_t cap);

/* ---- landlock.c: rules -> ruleset descriptor ---------------------------- */

struct eb_path_rule {
    int32_t fd;      /* O_PATH descriptor of a file or a directory */
    uint64_t access; /* LANDLOCK_ACCESS_FS_*; masked by ABI and by file type */
};

struct eb_ruleset_spec {
    uint64_t handled_fs;  /* each masked to what the ABI knows */
    uint64_t handled_net;
    uint64_t scoped;
    int32_t abi;          /* 0: the running kernel's */
    const struct eb_path_rule *rules;
    size_t n_rules;
};

/* ABI of the running kernel, or -errno (-ENOSYS, -EOPNOTSUPP). */
int eb_landlock_abi(void);
/* LANDLOCK_ACCESS_FS_*, LANDLOCK_ACCESS_NET_*, LANDLOCK_SCOPE_* known to `abi`. */
uint64_t eb_landlock_fs(int abi);
uint64_t eb_landlock_net(int abi);
uint64_t eb_landlock_scopes(int abi);
/* A close-on-exec ruleset descriptor, or -errno. */
int eb_ruleset_create(const struct eb_ruleset_spec *spec);

/* ---- protocol.c: host -> launcher --------------------------------------- */

/* The launcher's inherited descriptors. */
#define EB_FD_CONTROL 3 /* SOCK_SEQPACKET to the host */
#define EB_FD_HOST 4    /* pidfd of the host */
#define EB_FD_ROOT 5    /* directory that holds the workspaces; removed at the end */
#define EB_FD_PARENT 6  /* the directory that holds EB_FD_ROOT; in namespaces unused, both */
#define EB_FD_LOCKS 7   /* keeps the uids of the runs locked while a tree may live */
#define EB_FD_END 8

#define EB_MESSAGE_MAX 65536 /* longer job payloads travel in a memfd */
#define EB_INLINE_OUTPUT 28672 /* per stream; longer output travels in a memfd */
#define EB_NAME_MAX 64
#define EB_MAP_MAX 128
#define EB_FILTER_MAX 4096 /* instructions */
#define EB_UNLIMITED 0xffffffffffffffffULL

/* First message on the control socket.  The launcher filter and the child
 * filter follow it as arrays of struct eb_insn in one memfd. */
struct eb_config {
    uint32_t version;
    uint32_t flags;
    uint32_t launcher_filter; /* instructions; 0: none */
    uint32_t child_filter;
    char root_name[EB_NAME_MAX]; /* empty: no workspace is on a disk */
    char host_name[EB_NAME_MAX]; /* in the UTS namespace */
    char uid_map[EB_MAP_MAX];    /* of the user namespaces, as in user_namespaces(7) */
    char gid_map[EB_MAP_MAX];
};
#define EB_PROTOCOL_VERSION 2
#define EB_PACKET_FDS 12 /* descriptors of one message */
#define EB_CONFIG_LISTEN 1      /* the child filter notifies: hand its listener to init */
#define EB_CONFIG_NAMESPACES 2  /* user, mount, UTS and cgroup; PID and IPC for each init */
#define EB_CONFIG_OWN_NETWORK 4 /* a network namespace as well */
#define EB_CONFIG_DENY_SETGROUPS 8 /* one's own id alone is mapped */

/* What an init in namespaces of its own sees as its files.  Sent with
 * EB_CONTROL_SPAWN as a memfd: this, then `n_mounts` struct eb_mount, then for
 * each two strings that end in NUL, `target` and `source`. */
struct eb_tree {
    uint32_t n_mounts;
    uint32_t strings; /* bytes */
    uint64_t ruleset_id;
    uint64_t handled_fs; /* of the Landlock ruleset, see struct eb_ruleset_spec */
    uint64_t handled_net;
    uint64_t scoped;
};
enum eb_mount_kind {
    EB_MOUNT_DIRECTORY = 1, /* made empty */
    EB_MOUNT_FILE = 2,      /* made with `source` as its content */
    EB_MOUNT_LINK = 3,      /* symbolic link to `source` */
    EB_MOUNT_BIND = 4,      /* the host's `source`, with all that is mounted below it */
    EB_MOUNT_PLACE = 5,     /* directory `source` of the workspace */
    EB_MOUNT_PROC = 6,      /* procfs of the PID namespace */
    EB_MOUNT_HIDE = 7       /* covered with something empty, if it is there */
};
#define EB_MOUNT_WRITABLE 1
#define EB_MOUNT_DEVICES 2 /* device nodes work */
struct eb_mount {
    uint32_t kind;
    uint32_t flags;
    uint64_t access; /* LANDLOCK_ACCESS_FS_*; 0: no rule */
    uint64_t dev;    /* of what is to be bound: anything else is refused */
    uint64_t ino;
};
#define EB_MOUNTS_MAX 65536

enum eb_control_type {
    EB_CONTROL_SPAWN = 1, /* + init's socket, and its workspace or a memfd with its tree */
    EB_CONTROL_KILL = 2,  /* SIGKILL this init, then its orphans */
    EB_CONTROL_GONE = 3,  /* launcher -> host: init and its tree are gone */
    EB_CONTROL_READY = 4, /* launcher -> host: confined and serving */
    EB_CONTROL_FAILED = 5, /* launcher -> host: could not confine itself */
    EB_CONTROL_CGROUP = 6 /* + its directories, in the order of the bits of `cgroup` */
};
/* Bits of `cgroup`.  The controllers that hold, and on v1 a directory for each; on
 * v2 there is one directory for all of them. */
#define EB_CGROUP_MEMORY 1
#define EB_CGROUP_PIDS 2
#define EB_CGROUP_CPU 4
#define EB_CGROUP_UNIFIED 8
#define EB_CGROUP_HOME 16 /* cgroup.procs of where the launcher goes at its end */
struct eb_control {
    uint32_t type;
    uint32_t slot;
    uint32_t stage;
    int32_t error;
    uint32_t uid; /* owner of the workspace, (uint32_t)-1: the caller */
    char name[EB_NAME_MAX]; /* of the workspace directory below EB_FD_ROOT */
    uint32_t cgroup; /* EB_CGROUP_* of the slot, or of the launcher; 0: none */
};

/* ---- protocol.c: host -> init -------------------------------------------- */

/* A template is a job that starts an interpreter from which later runs are forked; its
 * stdin is what the interpreter is told first, its wall time how long that may take. */
enum eb_order_type { EB_ORDER_RUN = 1, EB_ORDER_KILL = 2, EB_ORDER_TEMPLATE = 12 };

#define EB_JOB_STREAM 1 /* send output as it comes */
#define EB_JOB_HOLD 2   /* stop before execve until EB_JOB_FD_GATE is written */
#define EB_JOB_KEEP 4   /* leave the workspace as it is at the end */

/* Descriptors attached to a job, in the order of their bits. */
#define EB_JOB_FD_RULESET 1
#define EB_JOB_FD_STDIN 2
#define EB_JOB_FD_GATE 4
#define EB_JOB_FD_PAYLOAD 8 /* memfd with the strings and stdin */
#define EB_JOB_FD_LIBRARY 16 /* memfd with what a template is made with: its descriptor 4 */
#define EB_JOB_FDS 5

/* Sizes in bytes, times in ns; EB_UNLIMITED: no limit. */
struct eb_limits {
    uint64_t wall_time;
    uint64_t cpu_time;
    uint64_t memory;
    uint64_t output;
    uint64_t disk;
    uint64_t processes;
    uint64_t open_files;
    uint64_t file_size;
    uint64_t stack;
    uint64_t data;
};

/* Followed by `strings` bytes (executable, cwd, argv, envp: each ends in NUL)
 * and `stdin_size` bytes for the program's stdin. */
struct eb_job {
    uint32_t type;
    uint32_t flags;
    uint64_t run_id;
    uint64_t ruleset_id; /* init keeps the last ruleset: sent again only when it changes */
    uint32_t fds;
    uint32_t uid; /* (uint32_t)-1: keep the caller's */
    uint32_t argc;
    uint32_t envc;
    uint32_t strings;
    uint32_t requests; /* of a template: how many runs before it is made anew */
    uint64_t stdin_size;
    struct eb_limits limits;
};

/* ---- protocol.c: init -> host -------------------------------------------- */

enum eb_report_type {
    EB_REPORT_STARTED = 1,
    EB_REPORT_STDOUT = 2, /* payload: bytes */
    EB_REPORT_STDERR = 3,
    EB_REPORT_ENDED = 4, /* payload: stdout, stderr; or both in memfds */
    EB_REPORT_READY = 5  /* an init in namespaces has its files: + the workspace; or stage
                            and error, and in denied_nr which mount it was, -1 for none */
};

/* Why init ended a run.  First cause wins. */
enum eb_cause {
    EB_CAUSE_EXIT = 0,
    EB_CAUSE_WALL_TIME = 1,
    EB_CAUSE_CPU_TIME = 2,
    EB_CAUSE_MEMORY = 3,
    EB_CAUSE_OUTPUT = 4,
    EB_CAUSE_DISK = 5,
    EB_CAUSE_DENIED = 6,
    EB_CAUSE_KILLED = 7,
    EB_CAUSE_SETUP = 8
};

#define EB_REPORT_EXECED 1    /* execve succeeded */
#define EB_REPORT_TRUNCATED 2 /* output beyond the limit was dropped */
#define EB_REPORT_IN_FDS 4    /* stdout and stderr are in two attached memfds */
#define EB_REPORT_DIRTY 8     /* the workspace could not be emptied */

struct eb_report {
    uint32_t type;
    uint32_t cause;
    uint64_t run_id;
    uint32_t flags;
    uint32_t stage; /* enum eb_stage, when cause is EB_CAUSE_SETUP */
    int32_t error;
    int32_t wait_status;
    int64_t denied_nr; /* system call number, -1: none */
    uint64_t wall_time;
    uint64_t user_time;
    uint64_t system_time;
    uint64_t peak_memory; /* of the tree with a cgroup, else of the largest process */
    uint64_t stdout_size;
    uint64_t stderr_size;
    uint64_t processes; /* the most alive at once; 0: not counted */
};

/* Name of a stage of the set-up, NULL past the last one. */
const char *eb_stage_name(unsigned stage);

/* ---- start.c: host side --------------------------------------------------- */

/* Starts the launcher with vfork + execve: fds[i] becomes descriptor 3 + i.
 * Returns its pid. */
int eb_launcher_start(const char *path, const int32_t *fds, uint32_t n_fds);

/* ---- host.c: what the host's event loop calls ------------------------------ */

/* epoll with a token of the caller's instead of the descriptor, so that a late
 * event of something closed is recognised even when its number was reused. */
int eb_poll_create(void);
int eb_poll_add(int poll, int fd, uint32_t events, uint64_t token);
int eb_poll_remove(int poll, int fd);
/* Fills tokens[]; milliseconds, -1: no limit.  0 when interrupted. */
int eb_poll_wait(int poll, uint64_t *tokens, int capacity, int timeout_ms);
/* One message made of two parts, with descriptors; never blocks. */
int eb_send(int sock, const void *head, size_t head_size, const void *body, size_t body_size,
            const int32_t *fds, int n_fds);
/* One message; descriptors that came with it, at most EB_PACKET_FDS, go to fds[].
 * Returns its size, 0 at end of file.  Never blocks. */
int64_t eb_receive(int sock, void *buffer, size_t capacity, int32_t *fds, int32_t *n_fds);
/* write() that answers -EPIPE without SIGPIPE, which the host may not ignore. */
int64_t eb_write(int fd, const void *data, size_t size);
/* timerfd that is readable from `at` on, in ns; 0: never. */
int eb_timer_create(void);
int eb_timer_set(int timer, uint64_t at);

/* ---- tree.c: directories removed through descriptors --------------------- */

/* Removes everything below `dirfd`, never through a link, whatever its depth. */
int eb_tree_clear(int dirfd);
/* eb_tree_clear(), then removes the directory itself. */
int eb_tree_remove(int parentfd, const char *name);

/* cffi: end */

/* tree.c: a name in a directory; not the directory itself, not the one above it, and
 * nothing further away. */
bool eb_tree_is_entry(const char *name);

/* Stages of the set-up: one list for the enum and for the names that Python asks for.
 * A failure is reported as (stage, errno). */
#define EB_STAGES(X)                                                                           \
    X(NONE, none)                                                                              \
    X(CONFIG, config)                                                                          \
    X(SUBREAPER, subreaper)                                                                    \
    X(NO_NEW_PRIVS, no_new_privs)                                                              \
    X(LAUNCHER_CAPABILITIES, launcher_capabilities)                                            \
    X(LAUNCHER_SECCOMP, launcher_seccomp)                                                      \
    X(USER_NAMESPACE, user_namespace)                                                          \
    X(ID_MAP, id_map)                                                                          \
    X(NAMESPACES, namespaces)                                                                  \
    X(HOST_NAME, host_name)                                                                    \
    X(FORK, fork)                                                                              \
    X(TREE, tree)                                                                              \
    X(PIVOT_ROOT, pivot_root)                                                                  \
    X(MOUNT, mount)                                                                            \
    X(WORKSPACE, workspace)                                                                    \
    X(SCOPE, scope)                                                                            \
    X(JOB, job)                                                                                \
    X(PIPES, pipes)                                                                            \
    X(CLONE, clone)                                                                            \
    X(TEMPLATE, template)                                                                      \
    X(CGROUP, cgroup)                                                                          \
    X(PROCESS_GROUP, process_group)                                                            \
    X(STDIO, stdio)                                                                            \
    X(CHDIR, chdir)                                                                            \
    X(RLIMITS, rlimits)                                                                        \
    X(GROUPS, groups)                                                                          \
    X(IDENTITY, identity)                                                                      \
    X(CAPABILITIES, capabilities)                                                              \
    X(PARENT, parent)                                                                          \
    X(LANDLOCK, landlock)                                                                      \
    X(GATE, gate)                                                                              \
    X(CLOSE_RANGE, close_range)                                                                \
    X(SECCOMP, seccomp)                                                                        \
    X(LISTENER, listener)                                                                      \
    X(OPEN_FILES, open_files)                                                                  \
    X(EXECVE, execve)

#define EB_STAGE_ENUM(upper, lower) EB_STAGE_##upper,
enum eb_stage { EB_STAGES(EB_STAGE_ENUM) EB_STAGE_COUNT };
#undef EB_STAGE_ENUM

#endif
