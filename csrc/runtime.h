/* runtime.h - what the files of the launcher program share; its messages, with
 * host.c as well.
 *
 *   layers.h    what a test build can leave out
 *   launcher.c  confines itself, keeps inits, reaps, cleans up
 *   confine.c   capabilities, limits and calls taken away
 *   namespaces.c  those of the launcher and of each init
 *   mounts.c    the files of an init in namespaces
 *   fixtures.c  those of them that lie in the workspace
 *   init.c      persistent supervisor of one run at a time: relay, limits, report
 *   run.c       one run from its job on: what ends it
 *   finish.c    its end: tree, report, traces
 *   limits.c    CPU time, memory and disk against their limits; accounts (meter.h)
 *   relay.c     the program's pipes, to and from the host
 *   capture.c   output kept whether or not the host reads
 *   ready.c     what the next run will need (ready.h)
 *   spawn.c     a job made into a child
 *   child.c     between clone and execve: a fixed list of system calls
 *   template.c  an interpreter from which runs are forked (template.h)
 *   template_start.c  its start
 *   interpreter.c, script.c  inside that interpreter (cpython.h)
 *   landlock.c  rules made into a ruleset (evalbox.h)
 *   cgroup.c    the cgroups of a slot (cgroup.h)
 *   cgroup_read.c  what they tell
 *   cgroups.c   those of a launcher (cgroup.h)
 *   clone.c     a child made inside a cgroup (cgroup.h)
 *   protocol.c  messages: encode, decode, descriptors
 *   watch.c     memory and CPU time of a process tree, from /proc (meter.h)
 *   disk.c      bytes used by a directory tree (meter.h)
 *   tree.c      directories removed through descriptors (evalbox.h)
 *   workspace.c the directories of a workspace between two runs */
#ifndef EB_RUNTIME_H
#define EB_RUNTIME_H

#include "cgroup.h"
#include "evalbox.h"
#include "layers.h"
#include "ready.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define EB_KEEP_ID 0xffffffffU /* uid of a job: stay who you are */
#define EB_ARGS_MAX 65536      /* argc + envc */
#define EB_PLACES 4            /* directories of a workspace */
#define EB_ENTRY_BYTES 1024    /* what an inode costs on tmpfs, about, whatever it holds */
#define EB_MS 1000000ULL       /* in nanoseconds */

struct eb_filter {
    const struct eb_insn *insns;
    uint16_t n_insns;
};

/* What the launcher was told once and every init inherits. */
struct eb_runtime {
    struct eb_filter launcher_filter;
    struct eb_filter child_filter;
    bool listen;     /* the child filter has a listener, handed to init */
    bool scoped;     /* Landlock can confine signals (ABI 6) */
    bool namespaces; /* each init has its own */
    bool deny_setgroups; /* in their user namespaces */
    int abi;
    int self;        /* pidfd of the launcher */
    char root_name[EB_NAME_MAX];
    struct eb_cgroups cgroups;
    char uid_map[EB_MAP_MAX];
    char gid_map[EB_MAP_MAX];
};

/* How far a set-up came. */
struct eb_failure {
    enum eb_stage stage;
    int64_t item; /* of a tree, -1: none */
};

/* ---- confine.c: each returns -errno ---- */

void eb_confine_limits(void);
/* Keeps what runs need; in namespaces of one's own, what those need too. */
int eb_confine_capabilities(bool namespaces);
int eb_confine_calls(const struct eb_filter *filter);

/* ---- namespaces.c ---- */

/* The launcher's own; failure says where it went wrong. */
int eb_namespaces_enter(const struct eb_runtime *runtime, const struct eb_config *config,
                        struct eb_failure *failure);
/* fork() into a user, a PID and a mount namespace. */
pid_t eb_namespaces_fork(const struct eb_runtime *runtime, struct eb_failure *failure);

/* ---- protocol.c ---- */

/* A decoded job: pointers into the message, nothing copied. */
struct eb_job_view {
    struct eb_job job;
    const char *executable;
    const char *cwd;
    char *first_string; /* argv[0]; argc + envc strings follow each other */
    const unsigned char *input;
};

/* A decoded tree: the same. */
struct eb_tree_view {
    struct eb_tree tree;
    const struct eb_mount *mounts;
    const char *strings;
};

struct eb_packet {
    void *data;
    size_t size;
    int fds[EB_PACKET_FDS];
    int n_fds;
};

/* Validates `size` bytes; -EBADMSG when they are no job. */
int eb_job_decode(const void *header, size_t header_size, void *payload, size_t payload_size,
                  struct eb_job_view *view);
/* Fills argv and envp (NULL-terminated, argc + 1 and envc + 1 long). */
void eb_job_strings(const struct eb_job_view *view, char **argv, char **envp);
int eb_tree_decode(const void *data, size_t size, struct eb_tree_view *view);
/* Receives one message; 0 at end of file, -EBADMSG when truncated. */
ssize_t eb_packet_receive(int sock, struct eb_packet *packet, size_t capacity, int flags);
/* The descriptors of a message, each in the place of its bit, -1 where there is none;
 * those of which `bits` does not speak are closed. */
void eb_packet_sort(const struct eb_packet *packet, uint32_t bits, int *places, int n_places);
/* Sends `parts` and descriptors as one message. */
int eb_packet_send(int sock, const struct iovec *parts, int n_parts, const int *fds, int n_fds,
                   int flags);

/* ---- child.c ---- */

struct eb_rlimit {
    int resource;
    struct rlimit value;
};
#define EB_CHILD_RLIMITS 4

/* Where the child says how far it came; lies in memory shared with init. */
struct eb_child_status {
    volatile uint32_t stage;
    volatile int32_t error;
};

/* Everything the child uses, made before clone. */
struct eb_child {
    struct eb_child_status *status;
    const char *executable;
    char **argv;
    char **envp;
    int stdio[3];
    int cwd_fd;
    int ruleset_fd;
    int gate_fd;     /* -1, or an eventfd to wait for */
    int notice_fd;   /* -1, or close-on-exec: its end of file tells of execve */
    int listener_fd; /* -1, or the socket that takes the seccomp listener */
    int template_fds[2]; /* -1, or what a template has as its descriptors 3 and 4 */
    int report_fd;   /* -1, or where stage and errno of a failure are written as well */
    uint32_t landlock_flags;
    uint32_t uid;
    uint32_t gid;
    pid_t parent;
    struct eb_rlimit rlimits[EB_CHILD_RLIMITS];
    struct eb_rlimit open_files;
    struct eb_filter filter;
    bool listen;
    bool own_session;
    bool oom_score_set; /* inherited from init */
    int cgroups[EB_HIERARCHIES]; /* files to enter cgroups by; -1: it is inside */
};

/* All but execve; returns only when it succeeded. */
void eb_child_confine(const struct eb_child *child);
/* Entry point for clone(); never returns. */
int eb_child_main(void *child);

/* ---- template.c: an interpreter that runs are forked from ---- */

struct eb_template {
    pid_t pid; /* of its keeper; 0: there is none */
    int sock;
    uint32_t served;
    unsigned char *order; /* the job that started it, to start it anew; NULL: none */
    int library;          /* and what came with it */
    size_t order_size;
    int error; /* why there is none */
    char said[4096]; /* the last that it wrote, without a NUL */
    size_t said_size;
};

struct eb_init;
/* Takes an EB_ORDER_TEMPLATE and `library`, and starts it; what fails is told with the
 * next run. */
void eb_template_order(struct eb_init *init, const struct eb_job *job, const void *payload,
                       size_t size, int *library);
/* Makes sure that there is one that answers; -errno when there cannot be. */
int eb_template_ready(struct eb_init *init);
/* Ends it, and starts it anew. */
int eb_template_renew(struct eb_init *init);
/* Forks the child of a run; its pid or -errno. */
pid_t eb_template_fork(struct eb_template *template, const struct eb_child *child,
                       const struct eb_job_view *view);
/* Has it fork the next run already.  No process of the last one may be left. */
void eb_template_park(const struct eb_template *template);
/* SIGKILL for all that was forked from it; false when it does not take the order. */
bool eb_template_kill(const struct eb_template *template);
/* Ends it, and waits for its end. */
void eb_template_end(struct eb_template *template);

/* ---- init.c ---- */

/* Something in the workspace that every run must find as it was. */
struct eb_fixture {
    char *path;
    dev_t dev;
    ino_t ino;
    mode_t mode; /* 0: whatever it is */
};

struct eb_init {
    const struct eb_runtime *runtime;
    int sock;          /* orders in, reports out */
    int tree;          /* memfd with the files it will have, in namespaces; else -1 */
    int workspace;     /* directory with box, home, tmp and, in namespaces, shm */
    uint32_t uid;      /* owner of the workspace, or EB_KEEP_ID */
    pid_t launcher;
    int places[EB_PLACES]; /* box, home, tmp, shm; -1: there is none */
    int box;           /* as the program sees it: where it starts */
    char start[256];   /* in namespaces: its path */
    uint64_t base_inodes; /* of an empty workspace there */
    struct eb_fixture *fixtures;
    size_t n_fixtures;
    bool fixed[EB_PLACES]; /* places that have some, and so cannot be emptied */
    int proc;
    bool scoped;       /* proved: kill(-1) reaches our own tree only */
    uint64_t ruleset_id;
    int ruleset_fd;    /* the last one, kept for the next run */
    struct eb_child_status *status;
    struct eb_cgroup cgroup;
    struct eb_ready ready;
    struct eb_template template;
};
_Noreturn void eb_init_main(struct eb_init *init);
/* Tells the host that an init in namespaces has its files (error 0), or why not. */
void eb_init_say_ready(const struct eb_init *init, const struct eb_failure *failure, int error);
/* Set by SIGTERM: end the run, then init itself. */
extern volatile sig_atomic_t eb_init_terminated;
/* Whether to wait until the host reads, be it after SIGTERM. */
bool eb_init_waits(const struct eb_init *init);
/* Dies with the launcher; to be repeated after every change of identity. */
void eb_init_follow_launcher(const struct eb_init *init);

/* ---- mounts.c ---- */

/* Builds the tree and moves into it; failure says where it went wrong. */
int eb_mounts_make(struct eb_init *init, const struct eb_tree_view *view,
                   struct eb_failure *failure);
/* Limits what the workspace can hold; EB_UNLIMITED: more than there is. */
int eb_mounts_limit(const struct eb_init *init, uint64_t bytes);
/* Whether it holds more, an entry counted as 1 KiB and a file as whole pages. */
bool eb_mounts_hold_more(const struct eb_init *init, uint64_t bytes);

/* ---- fixtures.c ---- */

/* Remembers what lies on the way from the place `top` to `path`, and that itself. */
int eb_fixtures_note(struct eb_init *init, int place, const char *top, const char *path);
/* Whether all are there and nothing else is in the workspace. */
bool eb_fixtures_stand(const struct eb_init *init);

/* ---- run.c ---- */

struct eb_job_fds {
    int ruleset; /* each -1 when absent */
    int input;
    int gate;
    int payload;
    int library;
};
/* One run from job to final report; `input` is closed as soon as the program has it. */
void eb_run_serve(struct eb_init *init, const struct eb_job_view *view, struct eb_job_fds *fds);

/* ---- spawn.c: a job made into a child ---- */

struct eb_pipes {
    int out;     /* our ends, non-blocking */
    int err;
    int in;      /* -1: nothing (more) to feed */
    int notice;   /* -1, or end of file at execve of a held child, or when a run of a
                     template begins; before it, stage and errno if that failed */
    int channel;  /* -1, or where a held child will send its listener */
    int listener; /* -1, or the seccomp listener */
};

struct eb_spawn {
    const struct eb_runtime *runtime;
    const struct eb_job_view *view;
    int ruleset_fd;
    int stdin_fd; /* -1, or the host's pipe */
    int gate_fd;
    int box_fd;
    struct eb_template *template; /* pid 0: there is none */
    size_t fed; /* bytes of view->input already in the pipe */
    struct eb_pipes pipes;
    struct eb_child_status *status;
    struct eb_cgroup *cgroup;
    struct eb_ready *ready;
};

/* Starts the child; returns its pid.  On failure status says where. */
pid_t eb_spawn(struct eb_spawn *spawn);
/* The listener that a child sent before its execve, or -1. */
int eb_spawn_listener(int channel);
void eb_pipes_close(struct eb_pipes *pipes);
/* Closes a descriptor unless it is -1, which it is from then on. */
void eb_close(int *fd);

/* ---- capture.c: the output of a run, whether or not the host reads ---- */

struct eb_stream {
    unsigned char head[EB_INLINE_OUTPUT];
    uint64_t stored; /* bytes held in head or file */
    uint64_t sent;   /* of those, already sent as STDOUT / STDERR reports */
    uint64_t total;  /* bytes kept since the start of the run */
    int file;        /* -1, or a memfd with everything stored */
};

void eb_stream_reset(struct eb_stream *stream);
int eb_stream_append(struct eb_stream *stream, const unsigned char *data, size_t size);
/* Copies stored bytes from `sent` on; returns their number. */
ssize_t eb_stream_peek(const struct eb_stream *stream, unsigned char *out, size_t capacity);
void eb_stream_advance(struct eb_stream *stream, size_t size);
/* A memfd with everything stored. */
int eb_stream_file(struct eb_stream *stream);

/* ---- relay.c: pipes of the program <-> streams and the host ---- */

struct eb_relay {
    int sock;
    uint64_t run_id;
    uint64_t limit;  /* of both streams together */
    bool stream;     /* send output as it comes */
    bool announced;  /* the host knows of the start */
    bool excess;     /* the program wrote more than the limit */
    bool blocked;    /* the host does not read: wait until it does */
    int error;
    struct eb_pipes *pipes;
    const unsigned char *input;
    uint64_t input_size;
    uint64_t fed;
    struct eb_stream *out;
    struct eb_stream *err;
};

/* Takes what the program wrote; `until_end`: all of it (when it is dead). */
void eb_relay_read(struct eb_relay *relay, bool until_end);
/* Gives the program more of its input; closes the pipe after the last byte. */
void eb_relay_feed(struct eb_relay *relay);
/* Tells the host that execve succeeded. */
void eb_relay_announce(struct eb_relay *relay);
/* Sends what is stored, if streaming and as far as the host takes it. */
void eb_relay_flush(struct eb_relay *relay);
/* The same until all is sent, or init does not wait any more. */
void eb_relay_finish(struct eb_relay *relay, const struct eb_init *init);
/* Sends the last report; waits for the host as long as init does. */
void eb_relay_report(const struct eb_init *init, const struct iovec *parts, int n_parts,
                     const int *fds, int n_fds);

/* ---- limits.c ---- */

/* Nanoseconds of the monotonic clock. */
uint64_t eb_now(void);
uint64_t eb_smaller(uint64_t a, uint64_t b);

/* ---- workspace.c ---- */

bool eb_workspace_is_untouched(const struct eb_init *init);
/* A program may have taken the rights away that clearing and collecting need. */
void eb_workspace_unlock(const struct eb_init *init);
/* False when something of the run is still there. */
bool eb_workspace_clear(const struct eb_init *init);
/* The same of all but the box, in which the files of the next run may lie already. */
bool eb_workspace_clear_homes(const struct eb_init *init);
/* When the last run changed them is nothing that the next one should read. */
void eb_workspace_renew(const struct eb_init *init);

#endif
