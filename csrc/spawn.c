/* spawn.c - a decoded job made into a running child.
 *
 * Everything the child will use is prepared here, in init; from clone to
 * execve only child.c runs.  An ordinary child borrows init's memory until
 * execve (CLONE_VM | CLONE_VFORK: no page table is copied, and init goes on
 * exactly when execve is done).  A held child is forked instead, because init
 * has to go on while it waits at its gate. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_STACK = 65536 };

static _Alignas(64) unsigned char child_stack[CHILD_STACK];

struct ends {
    int stdio[3]; /* what the child gets as 0, 1, 2 */
    int notice;
    int channel;  /* the child's end for the listener */
    int channel_ours;
};

void
eb_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int
take_pipe(struct eb_spawn *spawn, struct eb_pipe *ready, int *ours, int *theirs)
{
    struct eb_pipe taken;
    int error = eb_ready_take(spawn->ready, ready, &taken, spawn->view->job.uid);
    *ours = taken.ours;
    *theirs = taken.theirs;
    return error;
}

static int
make_pipe(int *ours, int *theirs, bool to_program, uint32_t uid)
{
    struct eb_pipe made = {-1, -1};
    int error = eb_pipe_make(&made, to_program, uid);
    *ours = made.ours;
    *theirs = made.theirs;
    return error;
}

static int
make_stdin(struct eb_spawn *spawn, struct ends *ends)
{
    const struct eb_job *job = &spawn->view->job;
    if (spawn->stdin_fd >= 0) {
        ends->stdio[0] = spawn->stdin_fd;
        return 0;
    }
    if (job->stdin_size == 0) {
        ends->stdio[0] = spawn->ready->null;
        spawn->ready->null = -1;
        if (ends->stdio[0] < 0)
            ends->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (ends->stdio[0] >= 0 || errno != ENOENT)
            return ends->stdio[0] < 0 ? -errno : 0;
        /* In namespaces without the system there is none: a closed pipe is as empty. */
    }
    int error = make_pipe(&spawn->pipes.in, &ends->stdio[0], true, job->uid);
    if (error < 0)
        return error;
    /* Most input fits into the pipe: then there is nothing left to feed. */
    ssize_t n = write(spawn->pipes.in, spawn->view->input, (size_t)job->stdin_size);
    spawn->fed = n < 0 ? 0 : (size_t)n;
    if (spawn->fed == job->stdin_size)
        eb_close(&spawn->pipes.in);
    return 0;
}

static int
make_pipes(struct eb_spawn *spawn, struct ends *ends)
{
    struct eb_ready *ready = spawn->ready;
    int pair[2];
    int error = make_stdin(spawn, ends);
    if (error == 0)
        error = take_pipe(spawn, &ready->out, &spawn->pipes.out, &ends->stdio[1]);
    if (error == 0)
        error = take_pipe(spawn, &ready->err, &spawn->pipes.err, &ends->stdio[2]);
    if (error == 0 && (spawn->gate_fd >= 0 || spawn->template->pid > 0))
        error = make_pipe(&spawn->pipes.notice, &ends->notice, false, EB_KEEP_ID);
    if (error < 0 || !spawn->runtime->listen)
        return error;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    ends->channel_ours = pair[0];
    ends->channel = pair[1];
    return 0;
}

static rlim_t
as_rlim(uint64_t value)
{
    return value == EB_UNLIMITED ? RLIM_INFINITY : (rlim_t)value;
}

/* Of init, which never changes its own: asked for once. */
static rlim_t
hard_limit(int resource)
{
    static struct rlimit known[RLIM_NLIMITS];
    static bool asked[RLIM_NLIMITS];
    if (!asked[resource] && getrlimit((__rlimit_resource_t)resource, &known[resource]) < 0)
        return RLIM_INFINITY;
    asked[resource] = true;
    return known[resource].rlim_max;
}

/* Never above the hard limit: raising it needs CAP_SYS_RESOURCE. */
static struct eb_rlimit
lowered(int resource, uint64_t value)
{
    rlim_t wanted = as_rlim(value), most = hard_limit(resource);
    if (wanted > most)
        wanted = most;
    return (struct eb_rlimit){.resource = resource, .value = {wanted, wanted}};
}

/* In a user namespace of one's own, init is one of those that are counted, and so is a
 * template, which has the uid of its runs, with its keeper.  Where a
 * cgroup counts, what else the caller's uid runs must not count as well. */
static uint64_t
counted_processes(const struct eb_spawn *spawn)
{
    uint64_t processes = spawn->view->job.limits.processes;
    bool shared = spawn->view->job.uid == EB_KEEP_ID;
    if (shared && (spawn->cgroup->kind & EB_CGROUP_PIDS))
        return EB_UNLIMITED;
    uint64_t ours = spawn->runtime->namespaces && shared ? 1 : 0;
    if (spawn->template->pid > 0)
        ours += shared ? 2 : 1;
    return processes != EB_UNLIMITED ? processes + ours : processes;
}

static void
set_limits(struct eb_child *child, const struct eb_spawn *spawn)
{
    const struct eb_limits *limits = &spawn->view->job.limits;
    child->rlimits[0] = lowered(RLIMIT_DATA, limits->data);
    child->rlimits[1] = lowered(RLIMIT_FSIZE, limits->file_size);
    child->rlimits[2] = lowered(RLIMIT_NPROC, counted_processes(spawn));
    child->rlimits[3] = lowered(RLIMIT_STACK, limits->stack);
    child->open_files = lowered(RLIMIT_NOFILE, limits->open_files);
}

/* Into the cgroup of v2; -ENOSYS where the child has to enter by itself. */
static pid_t
start_inside(const struct eb_spawn *spawn, struct eb_child *child)
{
    uint64_t flags = spawn->gate_fd >= 0 ? 0 : CLONE_VM | CLONE_VFORK;
    if (!spawn->cgroup->clones)
        return -ENOSYS;
    return eb_cgroup_clone(spawn->cgroup, child, child_stack, CHILD_STACK, flags);
}

static pid_t
start_outside(const struct eb_spawn *spawn, struct eb_child *child)
{
    memcpy(child->cgroups, spawn->cgroup->enter, sizeof child->cgroups);
    if (spawn->gate_fd < 0)
        return clone(eb_child_main, child_stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD,
                     child);
    pid_t pid = fork();
    if (pid == 0)
        eb_child_main(child);
    return pid;
}

/* From an interpreter that has started already. */
static pid_t
start_forked(const struct eb_spawn *spawn, struct eb_child *child)
{
    memcpy(child->cgroups, spawn->cgroup->enter, sizeof child->cgroups);
    return eb_template_fork(spawn->template, child, spawn->view);
}

static pid_t
start_child(const struct eb_spawn *spawn, struct eb_child *child)
{
    struct eb_oom_score usual;
    bool forked = spawn->template->pid > 0;
    child->oom_score_set = !forked && eb_oom_score_raise(spawn->ready, &usual);
    pid_t pid = forked ? start_forked(spawn, child) : start_inside(spawn, child);
    errno = pid < 0 ? -pid : 0;
    if (pid == -ENOSYS && !forked)
        pid = start_outside(spawn, child);
    if (pid < 0) {
        spawn->status->stage = forked ? EB_STAGE_TEMPLATE : EB_STAGE_CLONE;
        spawn->status->error = errno;
    }
    if (child->oom_score_set)
        eb_oom_score_restore(spawn->ready, &usual);
    return pid;
}

int
eb_spawn_listener(int channel)
{
    char byte;
    struct eb_packet packet = {.data = &byte};
    ssize_t got = eb_packet_receive(channel, &packet, sizeof byte, MSG_DONTWAIT);
    return got == 1 && packet.n_fds == 1 ? packet.fds[0] : -1;
}

static pid_t
run_child(struct eb_spawn *spawn, struct ends *ends, int cwd_fd)
{
    const struct eb_job_view *view = spawn->view;
    const struct eb_job *job = &view->job;
    char **strings = calloc((size_t)job->argc + job->envc + 2, sizeof *strings);
    struct eb_child child = {
        .status = spawn->status,
        .executable = view->executable,
        .argv = strings,
        .envp = strings + job->argc + 1,
        .stdio = {ends->stdio[0], ends->stdio[1], ends->stdio[2]},
        .cwd_fd = cwd_fd,
        .ruleset_fd = spawn->ruleset_fd,
        .gate_fd = spawn->gate_fd,
        .notice_fd = ends->notice,
        .listener_fd = ends->channel,
        .template_fds = {-1, -1},
        .report_fd = -1,
        .landlock_flags = spawn->runtime->abi >= 7 ? EB_LANDLOCK_QUIET : 0,
        .uid = job->uid,
        .gid = job->uid,
        .parent = getpid(),
        .filter = spawn->runtime->child_filter,
        .listen = spawn->runtime->listen,
        /* Nor may it move a process into the group of its template, and so end that. */
        .own_session = !spawn->runtime->scoped || spawn->template->pid > 0,
        .cgroups = {-1, -1, -1},
    };
    int error = eb_cgroup_begin(spawn->cgroup, job->limits.memory, job->limits.processes);
    if (!strings || error < 0) {
        spawn->status->stage = strings ? EB_STAGE_CGROUP : EB_STAGE_JOB;
        spawn->status->error = strings ? -error : ENOMEM;
        free(strings);
        return -1;
    }
    eb_job_strings(view, child.argv, child.envp);
    set_limits(&child, spawn);
    pid_t pid = start_child(spawn, &child);
    free(strings);
    return pid;
}

static void
close_ends(struct eb_spawn *spawn, struct ends *ends)
{
    for (int i = 0; i < 3; i++)
        if (ends->stdio[i] != spawn->stdin_fd)
            eb_close(&ends->stdio[i]);
    eb_close(&ends->notice);
    eb_close(&ends->channel);
}

/* Where the program starts: in the box itself but for a few. */
static int
open_cwd(const struct eb_spawn *spawn)
{
    const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    if (strcmp(spawn->view->cwd, ".") == 0)
        return spawn->box_fd;
    return openat(spawn->box_fd, spawn->view->cwd, flags);
}

pid_t
eb_spawn(struct eb_spawn *spawn)
{
    struct ends ends = {{-1, -1, -1}, -1, -1, -1};
    spawn->pipes = (struct eb_pipes){-1, -1, -1, -1, -1, -1};
    spawn->status->stage = EB_STAGE_NONE;
    spawn->status->error = 0;
    pid_t pid = -1;
    int cwd = open_cwd(spawn);
    int error = cwd < 0 ? -errno : make_pipes(spawn, &ends);
    if (error < 0) {
        spawn->status->stage = cwd < 0 ? EB_STAGE_CHDIR : EB_STAGE_PIPES;
        spawn->status->error = -error;
    } else {
        pid = run_child(spawn, &ends, cwd);
    }
    if (cwd != spawn->box_fd)
        eb_close(&cwd);
    close_ends(spawn, &ends);
    spawn->pipes.channel = ends.channel_ours;
    if (ends.channel_ours >= 0 && spawn->gate_fd < 0) {
        spawn->pipes.listener = eb_spawn_listener(ends.channel_ours);
        eb_close(&spawn->pipes.channel);
    }
    return pid;
}

void
eb_pipes_close(struct eb_pipes *pipes)
{
    int *const all[] = {&pipes->out,    &pipes->err,     &pipes->in,
                        &pipes->notice, &pipes->channel, &pipes->listener};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        eb_close(all[i]);
}
