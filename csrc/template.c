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
#include "template.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_MS = 10000, RETRY_MS = 20 };

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
        pid_t ended;
        /* Only where the scope is proved is there a template. */
        kill(-1, SIGKILL);
        while ((ended = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
            continue;
        if (ended < 0)
            return;
        ppoll(NULL, 0, &again, &none);
    } while (!eb_init_terminated);
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
    template->error = init->scoped ? eb_template_start(init) : -EPERM;
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
    template->error = eb_template_start(init);
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
send_order(const struct eb_template *template, enum eb_template_type type)
{
    struct eb_template_order order = {.type = type};
    struct iovec part = {.iov_base = &order, .iov_len = sizeof order};
    return template->pid > 0 &&
           eb_packet_send(template->sock, &part, 1, NULL, 0, MSG_DONTWAIT) == 0;
}

bool
eb_template_kill(const struct eb_template *template)
{
    return send_order(template, EB_TEMPLATE_KILL);
}

void
eb_template_park(const struct eb_template *template)
{
    send_order(template, EB_TEMPLATE_PARK);
}
