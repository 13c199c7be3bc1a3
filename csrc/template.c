/* template.c - an interpreter that has started already, and the runs forked from it.
 *
 * The template is a process like a run's: it has the rights, the uid and the files of
 * the runs, and no capability.  It is asked for each run and forks it in such a way
 * that the new process is a child of ours (interpreter.c), so that limits, accounts and
 * the end of a run are what they always are.  The run enters a Landlock domain of its
 * own below that of the template, which it therefore can neither signal nor trace.
 *
 * Two things are different.  The template outlives the run, and wait4() must say ECHILD
 * when nothing of the run is left all the same.  So between it and us stands a keeper,
 * which does nothing: a child whose end is no SIGCHLD, of which wait4() without __WALL
 * does not know (the template itself cannot be one: execve makes it SIGCHLD).  What a
 * run leaves becomes our child with SIGCHLD, whatever it was before.  And kill(-1) of
 * ours would end the template as well: it is told to do that, and reaches neither
 * itself nor keeper nor us, who are not in its Landlock domain. */
#include "kernel.h"
#include "template.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IN_TMP = 2 };
enum { STACK = 65536, ANSWER_MS = 10000, LOOK_MS = 100, RETRY_MS = 20 };

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

/* Between two runs only: nobody else is killed and waited for.  Whatever came of the
 * template, its imports or a run that was on its way is ours by then, and ends here. */
void
eb_template_end(struct eb_template *template)
{
    const struct timespec again = {.tv_nsec = RETRY_MS * (long)EB_MS};
    sigset_t none;
    sigemptyset(&none);
    if (template->pid <= 0)
        return;
    template->pid = 0;
    eb_close(&template->sock);
    do {
        /* Only where the scope is proved is there a template. */
        kill(-1, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
            continue;
        if (waitpid(-1, NULL, WNOHANG | __WALL) < 0)
            return;
        ppoll(NULL, 0, &again, &none);
    } while (!eb_init_terminated);
}

/* ---- start ---- */

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
static int
start_template(struct eb_init *init)
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

void
eb_template_order(struct eb_init *init, const struct eb_job *job, const void *payload,
                  size_t size, int *library)
{
    struct eb_template *template = &init->template;
    eb_template_end(template);
    if (template->order)
        eb_close(&template->library);
    free(template->order);
    template->library = *library;
    *library = -1;
    template->order_size = sizeof *job + size;
    template->order = malloc(template->order_size);
    template->error = template->order ? 0 : -ENOMEM;
    if (!template->order)
        return;
    memcpy(template->order, job, sizeof *job);
    memcpy(template->order + sizeof *job, payload, size);
    /* It enters no cgroup itself; its runs enter as they start. */
    if (init->cgroup.clones)
        eb_cgroup_open_entrance(&init->cgroup);
    template->error = init->scoped ? start_template(init) : -EPERM;
}

int
eb_template_ready(struct eb_init *init)
{
    struct eb_template *template = &init->template;
    struct eb_job job;
    if (!template->order)
        return template->error;
    memcpy(&job, template->order, sizeof job);
    struct pollfd fd = {.fd = template->sock, .events = 0};
    bool lives = template->pid > 0 && poll(&fd, 1, 0) == 0;
    if (template->error < 0 || (lives && template->served++ < job.requests))
        return template->error;
    return eb_template_renew(init);
}

int
eb_template_renew(struct eb_init *init)
{
    struct eb_template *template = &init->template;
    eb_template_end(template);
    template->error = start_template(init);
    template->served++;
    return template->error;
}

/* ---- runs ---- */

static int
strings_in_memory(const struct iovec *strings)
{
    int fd = memfd_create("evalbox-strings", MFD_CLOEXEC);
    if (fd >= 0 && write(fd, strings->iov_base, strings->iov_len) == (ssize_t)strings->iov_len)
        return fd;
    eb_close(&fd);
    return -1;
}

/* Fills fds[] with what is there, and the bits that say what that is. */
static int
list_descriptors(const struct eb_child *child, int memory, struct eb_template_order *order,
                 int *fds)
{
    const int all[EB_TEMPLATE_FDS] = {
        child->notice_fd,  child->stdio[0],   child->stdio[1], child->stdio[2],
        child->cwd_fd,     child->ruleset_fd, child->gate_fd,  child->cgroups[0],
        child->cgroups[1], child->cgroups[2], memory};
    int n = 0;
    for (int i = 0; i < EB_TEMPLATE_FDS; i++) {
        if (all[i] < 0)
            continue;
        order->fds |= 1U << i;
        fds[n++] = all[i];
    }
    return n;
}

static pid_t
receive_pid(const struct eb_template *template)
{
    struct eb_template_answer answer;
    struct eb_packet packet = {.data = &answer};
    struct pollfd fd = {.fd = template->sock, .events = POLLIN};
    if (poll(&fd, 1, ANSWER_MS) <= 0)
        return -ETIMEDOUT;
    ssize_t got = eb_packet_receive(template->sock, &packet, sizeof answer, MSG_DONTWAIT);
    if (got != (ssize_t)sizeof answer || answer.pid == 0)
        return got < 0 ? (pid_t)got : -ECHILD;
    return answer.pid;
}

pid_t
eb_template_fork(struct eb_template *template, const struct eb_child *child,
                 const struct eb_job_view *view)
{
    const struct eb_job *job = &view->job;
    struct eb_template_order order = {.type = EB_TEMPLATE_FORK,
                                      .argc = job->argc,
                                      .landlock_flags = child->landlock_flags,
                                      .own_session = child->own_session,
                                      .parent = child->parent,
                                      .open_files = child->open_files};
    struct iovec parts[] = {
        {.iov_base = &order, .iov_len = sizeof order},
        {.iov_base = view->first_string,
         .iov_len = (size_t)(view->executable + job->strings - view->first_string)}};
    int fds[EB_TEMPLATE_FDS];
    bool many = parts[1].iov_len > EB_MESSAGE_MAX - sizeof order;
    int memory = many ? strings_in_memory(&parts[1]) : -1;
    if (many && memory < 0)
        return -ENOMEM;
    memcpy(order.rlimits, child->rlimits, sizeof order.rlimits);
    order.strings = (uint32_t)parts[1].iov_len;
    int n = list_descriptors(child, memory, &order, fds);
    int error = eb_packet_send(template->sock, parts, many ? 1 : 2, fds, n, 0);
    eb_close(&memory);
    return error < 0 ? error : receive_pid(template);
}

static bool
order(const struct eb_template *template, enum eb_template_type type)
{
    struct eb_template_order order = {.type = type};
    struct iovec part = {.iov_base = &order, .iov_len = sizeof order};
    return template->pid > 0 &&
           eb_packet_send(template->sock, &part, 1, NULL, 0, MSG_DONTWAIT) == 0;
}

bool
eb_template_kill(const struct eb_template *template)
{
    return order(template, EB_TEMPLATE_KILL);
}

void
eb_template_park(const struct eb_template *template)
{
    order(template, EB_TEMPLATE_PARK);
}
