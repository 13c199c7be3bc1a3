/* template_start.c - the interpreter of a template, started and told what to do first. */
#include "kernel.h"
#include "template.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IN_TMP = 2 };
enum { STACK = 65536, LOOK_MS = 100 };

static _Alignas(64) unsigned char stack[STACK];

/* Drops the beginning of what was said when the end does not fit. */
static void
hear(struct eb_template *template, int fd)
{
    char text[1024];
    ssize_t n = read(fd, text, sizeof text);
    size_t room = sizeof template->said - template->said_size;
    if (n <= 0)
        return;
    size_t size = (size_t)n;
    if (size > room) {
        size_t surplus = size - room;
        template->said_size -= surplus;
        memmove(template->said, template->said + surplus, template->said_size);
    }
    memcpy(template->said + template->said_size, text, size);
    template->said_size += size;
}

struct start {
    struct eb_child child;
    struct eb_job_view view;
    int errors; /* our end of what it writes */
    int pair[2];
};

/* What it may use is up to the runs: each takes away what it may not. */
static void
set_limits(struct eb_child *child)
{
    static const int resources[EB_CHILD_RLIMITS] = {RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_NPROC,
                                                    RLIMIT_STACK};
    for (int i = 0; i < EB_CHILD_RLIMITS; i++) {
        child->rlimits[i].resource = resources[i];
        getrlimit((__rlimit_resource_t)resources[i], &child->rlimits[i].value);
    }
    child->open_files.resource = RLIMIT_NOFILE;
    getrlimit(RLIMIT_NOFILE, &child->open_files.value);
    child->open_files.value.rlim_cur = child->open_files.value.rlim_max;
}

static void
describe(struct start *start, const struct eb_init *init, char **strings)
{
    const struct eb_job *job = &start->view.job;
    start->child = (struct eb_child){
        .status = init->status,
        .executable = start->view.executable,
        .argv = strings,
        .envp = strings + job->argc + 1,
        .stdio = {-1, -1, -1},
        .cwd_fd = init->places[IN_TMP],
        .ruleset_fd = init->ruleset_fd,
        .gate_fd = -1,
        .notice_fd = -1,
        .listener_fd = -1,
        .template_fds = {-1, init->template.library},
        .report_fd = -1,
        .landlock_flags = init->runtime->abi >= 7 ? EB_LANDLOCK_QUIET : 0,
        .uid = job->uid,
        .gid = job->uid,
        .parent = getpid(),
        .own_session = true,
        .cgroups = {-1, -1, -1},
    };
    eb_job_strings(&start->view, start->child.argv, start->child.envp);
    set_limits(&start->child);
}

static int
make_ends(struct start *start)
{
    int *stdio = start->child.stdio, errors[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, start->pair) < 0)
        return -errno;
    start->child.template_fds[0] = start->pair[1];
    if (pipe2(errors, O_CLOEXEC) < 0)
        return -errno;
    start->errors = errors[0];
    stdio[1] = errors[1];
    stdio[2] = fcntl(errors[1], F_DUPFD_CLOEXEC, 3);
    if (stdio[2] < 0 || fcntl(start->errors, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return stdio[0] < 0 ? -errno : 0;
}

static void
close_ends(struct start *start)
{
    for (int i = 0; i < 3; i++)
        eb_close(&start->child.stdio[i]);
    eb_close(&start->pair[1]);
}

static int
say_hello(const struct eb_init *init, const struct start *start)
{
    const struct eb_filter *filter = &init->runtime->child_filter;
    const struct eb_job *job = &start->view.job;
    struct eb_template_hello hello = {EB_PROTOCOL_VERSION, filter->n_insns,
                                      (uint32_t)job->stdin_size};
    struct iovec parts[] = {
        {.iov_base = &hello, .iov_len = sizeof hello},
        {.iov_base = (void *)(uintptr_t)filter->insns,
         .iov_len = filter->n_insns * sizeof *filter->insns},
        {.iov_base = (void *)(uintptr_t)start->view.input, .iov_len = job->stdin_size}};
    return eb_packet_send(init->template.sock, parts, 3, NULL, 0, MSG_DONTWAIT);
}

/* Until it has run its text; what it writes meanwhile is kept. */
static int
wait_for_it(const struct eb_init *init, struct eb_template *template, const struct start *start)
{
    uint64_t until = eb_now() + start->view.job.limits.wall_time;
    struct eb_template_answer answer;
    struct eb_packet packet = {.data = &answer};
    sigset_t none;
    sigemptyset(&none);
    for (;;) {
        const struct timespec look = {.tv_nsec = LOOK_MS * (long)EB_MS};
        struct pollfd fds[] = {{.fd = template->sock, .events = POLLIN},
                               {.fd = start->errors, .events = POLLIN},
                               {.fd = init->sock, .events = 0}};
        if (ppoll(fds, 3, &look, &none) < 0)
            fds[0].revents = fds[1].revents = fds[2].revents = 0;
        /* The host is gone, or gave this init up. */
        if (fds[2].revents)
            return -EINTR;
        if (fds[1].revents & POLLIN)
            hear(template, start->errors);
        else if (fds[0].revents) {
            ssize_t got = eb_packet_receive(template->sock, &packet, sizeof answer,
                                            MSG_DONTWAIT);
            return got == (ssize_t)sizeof answer ? answer.pid : -ECHILD;
        }
        if (eb_init_terminated)
            return -EINTR;
        if (eb_now() >= until)
            return -ETIMEDOUT;
    }
}

/* The parent of the template, until one of the two ends. */
static _Noreturn void
keep(struct eb_child *child)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != child->parent)
        _exit(1);
    child->parent = (pid_t)syscall(SYS_getpid);
    pid_t pid = clone(eb_child_main, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, child);
    syscall(SYS_close_range, 0, ~0U, 0);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    _exit(0);
}

static int
start_process(struct eb_init *init, struct start *start)
{
    struct eb_template *template = &init->template;
    init->status->stage = EB_STAGE_NONE;
    /* fork() without SIGCHLD. */
    pid_t pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
    if (pid < 0)
        return -errno;
    if (pid == 0)
        keep(&start->child);
    template->pid = pid;
    template->sock = start->pair[0];
    start->pair[0] = -1;
    close_ends(start);
    int error = say_hello(init, start);
    if (error == 0)
        error = wait_for_it(init, template, start);
    return init->status->stage == EB_STAGE_NONE ? error : -init->status->error;
}

/* What it left while it started is no run's; it starts in a directory that can be emptied. */
int
eb_template_start(struct eb_init *init)
{
    struct eb_template *template = &init->template;
    struct start start = {.errors = -1, .pair = {-1, -1}};
    struct eb_job job;
    memcpy(&job, template->order, sizeof job);
    template->served = 0;
    template->said_size = 0;
    int error = eb_job_decode(&job, sizeof job, template->order + sizeof job,
                              template->order_size - sizeof job, &start.view);
    char **strings = error < 0 ? NULL
                               : calloc((size_t)job.argc + job.envc + 2, sizeof *strings);
    if (!strings)
        return error < 0 ? error : -ENOMEM;
    describe(&start, init, strings);
    error = make_ends(&start);
    if (error == 0)
        error = start_process(init, &start);
    free(strings);
    close_ends(&start);
    if (error < 0)
        hear(template, start.errors);
    eb_close(&start.pair[0]);
    eb_close(&start.errors);
    if (error == 0 && !eb_workspace_clear_homes(init))
        error = -ENOTEMPTY;
    eb_workspace_renew(init);
    if (error < 0)
        eb_template_end(template);
    return error;
}
