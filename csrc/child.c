/* child.c - from clone to execve.
 *
 * CONTRACT.  The child may share init's memory (CLONE_VM | CLONE_VFORK), so
 * what runs here is a fixed list of system calls on memory that already
 * exists: no allocation, no formatting, no locks, no libc function that is
 * not async-signal-safe (`make check-child` compares the undefined symbols of
 * this object file with csrc/child.symbols).  It writes to nothing but its own
 * stack and `status`, which is how it reports: a stage and an errno in memory
 * shared with init, which the program never has.
 *
 * A run of a template does the same after its fork, in a copy of the template's memory; its
 * `status` is its own then, and `report_fd` is how it reports.
 *
 * The order matters:
 *   - cgroups before all else: what follows is counted as the run's;
 *   - uid before capabilities: setresuid from 0 clears them, and it needs one;
 *   - PDEATHSIG after setresuid, which clears it, and then getppid, because
 *     the parent may have died in between;
 *   - Landlock before close_range, as the ruleset is a descriptor;
 *   - seccomp after everything that only we may do;
 *   - RLIMIT_NOFILE last: a low limit must not fail our own descriptors. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* close_range() keeps what execve closes: our last channels. */
enum { FIRST_KEPT = 3 };

static _Noreturn void
fail(const struct eb_child *child, enum eb_stage stage, int error)
{
    const uint32_t report[2] = {stage, (uint32_t)error};
    child->status->error = error;
    child->status->stage = stage;
    if (child->report_fd >= 0)
        (void)!write(child->report_fd, report, sizeof report);
    _exit(127);
}

/* The kernel asks what init, who opened the files, may do. */
static void
enter_cgroups(const struct eb_child *child)
{
    for (int i = 0; i < EB_HIERARCHIES; i++)
        if (child->cgroups[i] >= 0 && write(child->cgroups[i], "0", 1) < 0)
            fail(child, EB_STAGE_CGROUP, errno);
}

/* SIGCONT passes between all uids of a session (kill(2)): where no Landlock scope stops
 * it, each run has a session of its own.  Elsewhere that would only cost time. */
static void
enter_group(const struct eb_child *child)
{
    if ((child->own_session ? setsid() : setpgid(0, 0)) < 0)
        fail(child, EB_STAGE_PROCESS_GROUP, errno);
}

static void
set_stdio(const struct eb_child *child)
{
    for (int fd = 0; fd < 3; fd++)
        if (dup2(child->stdio[fd], fd) < 0)
            fail(child, EB_STAGE_STDIO, errno);
    if (fchdir(child->cwd_fd) < 0)
        fail(child, EB_STAGE_CHDIR, errno);
}

/* The OOM killer must prefer the program to init and launcher.  To open the file costs
 * more than all else here but the filter: so init sets it for both where it can. */
static void
offer_to_oom_killer(const struct eb_child *child)
{
    if (child->oom_score_set)
        return;
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "1000", 4);
    close(fd);
}

static void
set_rlimits(const struct eb_child *child)
{
    if (!EB_HAS(RLIMITS))
        return;
    for (int i = 0; i < EB_CHILD_RLIMITS; i++) {
        const struct eb_rlimit *limit = &child->rlimits[i];
        if (setrlimit((__rlimit_resource_t)limit->resource, &limit->value) < 0)
            fail(child, EB_STAGE_RLIMITS, errno);
    }
}

static void
change_identity(const struct eb_child *child)
{
    if (child->uid == EB_KEEP_ID || !EB_HAS(IDENTITY))
        return;
    /* Raw calls: glibc's wrappers take a lock to tell other threads. */
    if (syscall(SYS_setgroups, (size_t)0, NULL) < 0)
        fail(child, EB_STAGE_GROUPS, errno);
    if (syscall(SYS_setresgid, child->gid, child->gid, child->gid) < 0 ||
        syscall(SYS_setresuid, child->uid, child->uid, child->uid) < 0)
        fail(child, EB_STAGE_IDENTITY, errno);
}

static void
drop_capabilities(const struct eb_child *child)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}, {0}};
    if (!EB_HAS(CAPABILITIES))
        return;
    if (syscall(SYS_capset, &header, none) < 0)
        fail(child, EB_STAGE_CAPABILITIES, errno);
    struct __user_cap_data_struct held[2] = {{0}, {0}};
    if (syscall(SYS_capget, &header, held) < 0)
        fail(child, EB_STAGE_CAPABILITIES, errno);
    for (int i = 0; i < 2; i++)
        if (held[i].effective || held[i].permitted || held[i].inheritable)
            fail(child, EB_STAGE_CAPABILITIES, EPERM);
}

static void
die_with_parent(const struct eb_child *child)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        fail(child, EB_STAGE_PARENT, errno);
    if (getppid() != child->parent)
        fail(child, EB_STAGE_PARENT, ESRCH);
}

/* A template's own are not closed by its execve. */
static void
keep_those_of_template(const struct eb_child *child)
{
    int library = fcntl(child->template_fds[1], F_DUPFD_CLOEXEC, 64);
    if (dup2(child->template_fds[0], FIRST_KEPT) < 0 || dup2(library, FIRST_KEPT + 1) < 0 ||
        syscall(SYS_close_range, FIRST_KEPT + 2, ~0U, 0) < 0)
        fail(child, EB_STAGE_CLOSE_RANGE, errno);
}

static void
restrict_files(const struct eb_child *child)
{
    if (!EB_HAS(LANDLOCK))
        return;
    if (syscall(SYS_landlock_restrict_self, child->ruleset_fd, child->landlock_flags) < 0)
        fail(child, EB_STAGE_LANDLOCK, errno);
}

static void
wait_at_gate(const struct eb_child *child)
{
    uint64_t count;
    if (child->gate_fd < 0)
        return;
    while (read(child->gate_fd, &count, sizeof count) < 0)
        if (errno != EINTR)
            fail(child, EB_STAGE_GATE, errno);
}

/* Leaves stdio and, until execve closes them, the notice pipe and the socket
 * for the listener.  Returns the number of that socket. */
static int
close_descriptors(const struct eb_child *child)
{
    int kept = FIRST_KEPT;
    int listener = -1;
    int notice = child->notice_fd < 0 ? -1 : fcntl(child->notice_fd, F_DUPFD_CLOEXEC, 64);
    int channel = child->listener_fd < 0 ? -1 : fcntl(child->listener_fd, F_DUPFD_CLOEXEC, 64);
    if (notice >= 0 && dup3(notice, kept++, O_CLOEXEC) < 0)
        fail(child, EB_STAGE_CLOSE_RANGE, errno);
    if (channel >= 0 && (listener = dup3(channel, kept++, O_CLOEXEC)) < 0)
        fail(child, EB_STAGE_CLOSE_RANGE, errno);
    if (EB_HAS(CLOSE_RANGE) && syscall(SYS_close_range, kept, ~0U, 0) < 0)
        fail(child, EB_STAGE_CLOSE_RANGE, errno);
    return listener;
}

static void
hand_over_listener(const struct eb_child *child, int channel, int listener)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte = 0;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    control.align = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                     .cmsg_type = SCM_RIGHTS,
                                     .cmsg_len = CMSG_LEN(sizeof listener)};
    *(int *)(void *)CMSG_DATA(&control.align) = listener;
    if (sendmsg(channel, &message, MSG_NOSIGNAL) != 1)
        fail(child, EB_STAGE_LISTENER, errno);
}

static void
filter_calls(const struct eb_child *child, int channel)
{
    struct {
        unsigned short len;
        const struct eb_insn *filter;
    } program = {.len = child->filter.n_insns, .filter = child->filter.insns};
    unsigned flags = child->listen ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
    if (child->filter.n_insns == 0 || !EB_HAS(CALLS) || !EB_HAS(CHILD_CALLS))
        return;
    long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (listener < 0)
        fail(child, EB_STAGE_SECCOMP, errno);
    if (child->listen)
        hand_over_listener(child, channel, (int)listener);
}

static void
limit_open_files(const struct eb_child *child)
{
    const struct eb_rlimit *limit = &child->open_files;
    if (!EB_HAS(OPEN_FILES))
        return;
    if (setrlimit((__rlimit_resource_t)limit->resource, &limit->value) < 0)
        fail(child, EB_STAGE_OPEN_FILES, errno);
}

void
eb_child_confine(const struct eb_child *child)
{
    enter_cgroups(child);
    enter_group(child);
    set_stdio(child);
    offer_to_oom_killer(child);
    set_rlimits(child);
    change_identity(child);
    drop_capabilities(child);
    die_with_parent(child);
    restrict_files(child);
    wait_at_gate(child);
    int channel = -1;
    if (child->template_fds[0] >= 0)
        keep_those_of_template(child);
    else
        channel = close_descriptors(child);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    filter_calls(child, channel);
    limit_open_files(child);
}

int
eb_child_main(void *argument)
{
    const struct eb_child *child = argument;
    eb_child_confine(child);
    execve(child->executable, child->argv, child->envp);
    fail(child, EB_STAGE_EXECVE, errno);
}
