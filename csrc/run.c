/* run.c - one run, from its job to its final report.
 *
 * Everything that can end a run is seen here and recorded at once; the first
 * cause stands.  None of it waits for the host: neither its reading of the
 * output nor its taking of reports. */
#include "kernel.h"
#include "run.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ANNOUNCE (20 * EB_MS) /* a run that ends sooner tells start and end at once */
#define LATEST (8 * ANNOUNCE)
#define END_TOGETHER EB_MS

enum { AT_SOCK, AT_OUT, AT_ERR, AT_IN, AT_NOTICE, AT_LISTENER, AT_MEMORY, AT_COUNT };

static struct eb_stream out_stream = {.file = -1};
static struct eb_stream err_stream = {.file = -1};

static void
stop(struct run *run, enum eb_cause cause)
{
    if (run->cause == EB_CAUSE_EXIT && !run->reaped)
        run->cause = cause;
}

static bool
is_over(const struct run *run)
{
    return run->reaped || run->cause != EB_CAUSE_EXIT;
}

/* ---- reaping ---- */

static void
account(struct run *run, pid_t pid, int status, const struct rusage *usage)
{
    eb_meter_add(&run->meter, usage);
    if (pid != run->pid)
        return;
    run->reaped = true;
    run->wait_status = status;
    run->ended = eb_now();
}

/* Where ptrace is allowed, a child of ours can make us its tracer: wait4() then tells of
 * each stop as well, which is no end of anything.  So we let it go. */
static void
let_go(pid_t pid, int status)
{
    int signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    ptrace(PTRACE_DETACH, pid, NULL, (void *)(uintptr_t)signal);
}

bool
eb_run_reap(struct run *run)
{
    /* A template is nobody of the run, and what the run leaves has SIGCHLD (template.c). */
    int who = run->init->template.pid > 0 ? 0 : __WALL;
    for (;;) {
        struct rusage usage;
        int status;
        pid_t pid = wait4(-1, &status, WNOHANG | who, &usage);
        if (pid < 0)
            return false;
        if (pid == 0)
            return true;
        if (WIFSTOPPED(status))
            let_go(pid, status);
        else
            account(run, pid, status, &usage);
    }
}

/* ---- time ---- */

static uint64_t
deadline(const struct run *run)
{
    uint64_t wall = run->view->job.limits.wall_time;
    return wall == EB_UNLIMITED || !run->execed ? EB_UNLIMITED : run->started + wall;
}

static bool
announces_at_once(const struct run *run)
{
    return run->relay.stream || run->spawn.gate_fd >= 0 || run->spawn.stdin_fd >= 0;
}

/* With the next look: on a busy host both come later, and one wake-up serves both. */
static uint64_t
announcement(const struct run *run)
{
    uint64_t look = eb_smaller(eb_meter_due(&run->meter), run->started + LATEST);
    uint64_t usual = run->started + ANNOUNCE;
    return look > usual && !announces_at_once(run) ? look : usual;
}

static void
check_time(struct run *run)
{
    uint64_t now = eb_now();
    if (!run->execed || run->reaped)
        return;
    if (now >= deadline(run))
        stop(run, EB_CAUSE_WALL_TIME);
    if (!run->relay.announced && (announces_at_once(run) || now >= announcement(run)))
        eb_relay_announce(&run->relay);
    if (!is_over(run))
        stop(run, eb_meter_look(&run->meter, now));
}

static void
on_execve(struct run *run, uint64_t begun)
{
    run->execed = true;
    run->started = begun;
    eb_meter_start(&run->meter, run->started);
}

/* ---- one turn of the loop ---- */

static void
wait_for_facts(struct run *run, struct pollfd *fds)
{
    const struct eb_pipes *pipes = &run->spawn.pipes;
    uint64_t now = eb_now();
    short out = run->relay.blocked ? POLLIN | POLLOUT : POLLIN;
    fds[AT_SOCK] = (struct pollfd){.fd = run->init->sock, .events = out};
    fds[AT_OUT] = (struct pollfd){.fd = pipes->out, .events = POLLIN};
    fds[AT_ERR] = (struct pollfd){.fd = pipes->err, .events = POLLIN};
    fds[AT_IN] = (struct pollfd){.fd = pipes->in, .events = POLLOUT};
    fds[AT_NOTICE] = (struct pollfd){.fd = pipes->notice, .events = POLLIN};
    fds[AT_LISTENER] = (struct pollfd){.fd = pipes->listener, .events = POLLIN};
    fds[AT_MEMORY] = (struct pollfd){.fd = eb_cgroup_alarm(&run->init->cgroup),
                                     .events = POLLPRI};
    uint64_t wake = run->ending > now ? run->ending : EB_UNLIMITED;
    if (run->ending > now)
        fds[AT_OUT].fd = fds[AT_ERR].fd = -1;
    if (run->execed) {
        wake = eb_smaller(wake, eb_smaller(deadline(run), eb_meter_due(&run->meter)));
        if (!run->relay.announced)
            wake = eb_smaller(wake, announcement(run));
    }
    uint64_t left = wake > now ? wake - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000U),
                               .tv_nsec = (long)(left % 1000000000U)};
    sigset_t none;
    sigemptyset(&none);
    if (ppoll(fds, AT_COUNT, wake == EB_UNLIMITED ? NULL : &timeout, &none) < 0)
        for (int i = 0; i < AT_COUNT; i++)
            fds[i].revents = 0;
}

static void
take_order(struct run *run)
{
    static unsigned char buffer[sizeof(struct eb_job)];
    struct eb_packet packet = {.data = buffer};
    struct eb_job order;
    ssize_t got = eb_packet_receive(run->init->sock, &packet, sizeof buffer, MSG_DONTWAIT);
    if (got == -EAGAIN)
        return;
    for (int i = 0; i < packet.n_fds; i++)
        close(packet.fds[i]);
    if (got == 0) { /* the host is gone, or gave this init up */
        eb_init_terminated = 1;
        return;
    }
    if (got != (ssize_t)sizeof order)
        return;
    memcpy(&order, buffer, sizeof order);
    if (order.type == EB_ORDER_KILL && order.run_id == run->view->job.run_id)
        stop(run, EB_CAUSE_KILLED);
}

/* A denied call waits in the kernel for our answer and never gets one: the
 * tree is killed.  The program can neither send nor take this notification.
 * When who made it was killed meanwhile, only its number is lost. */
static void
take_denial(struct run *run)
{
    struct seccomp_notif notification = {0};
    int got = ioctl(run->spawn.pipes.listener, SECCOMP_IOCTL_NOTIF_RECV, &notification);
    if (got == 0 && run->cause == EB_CAUSE_EXIT && !run->reaped)
        run->denied_nr = notification.data.nr;
    stop(run, EB_CAUSE_DENIED);
}

/* A run of a template shares no memory with us: it says where it failed, or when it began. */
static uint64_t
read_notice(struct run *run)
{
    union {
        uint32_t failure[2];
        uint64_t begun[2]; /* zero, and the time */
    } said;
    ssize_t n = read(run->spawn.pipes.notice, &said, sizeof said);
    if (n == (ssize_t)sizeof said.failure && said.failure[0] < EB_STAGE_COUNT) {
        run->spawn.status->stage = said.failure[0];
        run->spawn.status->error = (int32_t)said.failure[1];
    }
    return n == (ssize_t)sizeof said.begun ? eb_smaller(said.begun[1], eb_now()) : eb_now();
}

/* End of file on the notice pipe: execve closed it, or the child died before. */
static void
take_notice(struct run *run)
{
    struct eb_pipes *pipes = &run->spawn.pipes;
    uint64_t begun = run->init->template.pid > 0 ? read_notice(run) : eb_now();
    eb_close(&pipes->notice);
    if (pipes->channel >= 0)
        pipes->listener = eb_spawn_listener(pipes->channel);
    if (run->spawn.status->stage == EB_STAGE_NONE)
        on_execve(run, begun);
}

/* One end of file is followed by the other and by the end of the program for the most
 * part: all of that in one turn, instead of a turn for each. */
static void
read_output(struct run *run)
{
    int out = run->spawn.pipes.out, err = run->spawn.pipes.err;
    eb_relay_read(&run->relay, false);
    if (run->spawn.pipes.out != out || run->spawn.pipes.err != err)
        run->ending = eb_now() + END_TOGETHER;
}

static void
take_turn(struct run *run)
{
    struct pollfd fds[AT_COUNT];
    wait_for_facts(run, fds);
    if (fds[AT_LISTENER].revents & POLLIN)
        take_denial(run);
    if (fds[AT_MEMORY].revents)
        stop(run, eb_meter_memory(&run->meter));
    if (fds[AT_NOTICE].revents)
        take_notice(run);
    eb_run_reap(run);
    /* It may have come to execve and to its end since the look at the pipe. */
    if (run->reaped && run->spawn.pipes.notice >= 0)
        take_notice(run);
    check_time(run);
    if (fds[AT_OUT].revents || fds[AT_ERR].revents)
        read_output(run);
    if (run->relay.excess)
        stop(run, EB_CAUSE_OUTPUT);
    if (fds[AT_IN].revents)
        eb_relay_feed(&run->relay);
    eb_relay_flush(&run->relay);
    if (fds[AT_SOCK].revents & (POLLIN | POLLHUP | POLLERR))
        take_order(run);
    if (eb_init_terminated)
        stop(run, EB_CAUSE_KILLED);
}

/* A template that has died before it got the order has forked nothing: the next one does.
 * Where only the answer is missing, the run may have begun.  It is ended, not repeated. */
static void
start_again(struct run *run)
{
    int error = run->spawn.status->error;
    eb_pipes_close(&run->spawn.pipes);
    if (eb_template_renew(run->init) == 0 && (error == EPIPE || error == ECONNRESET))
        run->pid = eb_spawn(&run->spawn);
}

static void
start(struct run *run)
{
    int error = eb_run_limit_workspace(run, run->view->job.limits.disk);
    run->pid = error < 0 ? -1 : eb_spawn(&run->spawn);
    if (error < 0) {
        run->spawn.pipes = (struct eb_pipes){-1, -1, -1, -1, -1, -1};
        run->spawn.status->stage = EB_STAGE_WORKSPACE;
        run->spawn.status->error = -error;
    }
    if (run->pid < 0 && run->spawn.status->stage == EB_STAGE_TEMPLATE)
        start_again(run);
    run->relay.fed = run->spawn.fed;
    if (run->pid < 0) {
        run->cause = EB_CAUSE_SETUP;
        run->dirty = run->spawn.status->stage == EB_STAGE_CGROUP;
        return;
    }
    if (run->spawn.pipes.notice >= 0)
        return;
    if (run->spawn.status->stage == EB_STAGE_NONE)
        on_execve(run, eb_now());
}

/* The child never reached its program: that is ours to report, not its exit, unless
 * the limit leaves no memory even for that. */
static void
check_setup(struct run *run)
{
    const struct eb_child_status *status = run->spawn.status;
    if (status->stage == EB_STAGE_NONE || run->cause != EB_CAUSE_EXIT)
        return;
    bool is_full = status->error == ENOMEM && eb_cgroup_is_full(&run->init->cgroup);
    run->cause = is_full ? EB_CAUSE_MEMORY : EB_CAUSE_SETUP;
}

void
eb_run_serve(struct eb_init *init, const struct eb_job_view *view, struct eb_job_fds *fds)
{
    const struct eb_job *job = &view->job;
    struct run run = {.init = init,
                      .view = view,
                      .denied_nr = -1,
                      .meter = {.init = init,
                                .job = job,
                                .watch = {.proc = init->proc, .template = init->template.pid}},
                      .spawn = {.runtime = init->runtime,
                                .view = view,
                                .ruleset_fd = init->ruleset_fd,
                                .stdin_fd = fds->input,
                                .gate_fd = fds->gate,
                                .box_fd = init->box,
                                .template = &init->template,
                                .status = init->status,
                                .cgroup = &init->cgroup,
                                .ready = &init->ready}};
    run.relay = (struct eb_relay){.sock = init->sock,
                                  .run_id = job->run_id,
                                  .limit = job->limits.output,
                                  .stream = (job->flags & EB_JOB_STREAM) != 0,
                                  .pipes = &run.spawn.pipes,
                                  .input = view->input,
                                  .input_size = job->stdin_size,
                                  .out = &out_stream,
                                  .err = &err_stream};
    start(&run);
    /* As long as init holds it, the host does not see the program close it. */
    eb_close(&fds->input);
    check_setup(&run);
    while (!is_over(&run))
        take_turn(&run);
    check_setup(&run);
    eb_run_finish(&run);
}
