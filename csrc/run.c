/* run.c - one run, from its job to its final report.
 *
 * Everything that can end a run is seen here and recorded at once; the first
 * cause stands.  None of it waits for the host: neither its reading of the
 * output nor its taking of reports. */
#include "kernel.h"
#include "runtime.h"

#include <dirent.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ULL
#define TICK (10 * MS)         /* between two looks at the tree */
#define ANNOUNCE (20 * MS)     /* a run that ends sooner tells start and end at once */
#define MAX_DUTY 20            /* a look may take at most 1/20 of the time */
#define LOST_FLOOR (20 * MS)   /* below: rounding of cutime to clock ticks */
#define RETRY_KILL_MS 50

enum { AT_SOCK, AT_OUT, AT_ERR, AT_IN, AT_NOTICE, AT_LISTENER, AT_COUNT };

struct run {
    struct eb_init *init;
    const struct eb_job_view *view;
    struct eb_spawn spawn;
    struct eb_relay relay;
    struct eb_watch watch;
    pid_t pid;
    bool execed;
    bool announced;
    bool reaped; /* the program itself */
    int wait_status;
    enum eb_cause cause;
    int64_t denied_nr;
    uint64_t started;
    uint64_t ended;
    uint64_t next_look;
    uint64_t next_disk_look;
    uint64_t user;
    uint64_t system;
    uint64_t peak;
};

static struct eb_stream out_stream = {.file = -1};
static struct eb_stream err_stream = {.file = -1};

static uint64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static uint64_t
timeval_ns(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000000U + (uint64_t)t->tv_usec * 1000U;
}

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

/* ---- reaping and accounts ---- */

static void
account(struct run *run, pid_t pid, int status, const struct rusage *usage)
{
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    run->user += timeval_ns(&usage->ru_utime);
    run->system += timeval_ns(&usage->ru_stime);
    if (peak > run->peak)
        run->peak = peak;
    if (pid != run->pid)
        return;
    run->reaped = true;
    run->wait_status = status;
    run->ended = now_ns();
}

/* Reaps what is dead; false when there is no child left at all. */
static bool
reap(struct run *run)
{
    for (;;) {
        struct rusage usage;
        int status;
        pid_t pid = wait4(-1, &status, WNOHANG | __WALL, &usage);
        if (pid < 0)
            return false;
        if (pid == 0)
            return true;
        account(run, pid, status, &usage);
    }
}

static uint64_t
cpu_time(const struct run *run)
{
    return run->user + run->system + run->watch.lost;
}

/* ---- limits ---- */

static uint64_t
check_tree(struct run *run)
{
    const struct eb_limits *limits = &run->view->job.limits;
    struct eb_watch *watch = &run->watch;
    struct eb_sample sample;
    eb_watch_sample(watch, &sample);
    uint64_t seen = run->user + run->system + sample.cpu_time;
    if (seen + LOST_FLOOR < watch->cpu_seen)
        watch->lost += watch->cpu_seen - seen;
    watch->cpu_seen = seen;
    uint64_t used = seen + watch->lost;
    if (limits->cpu_time != EB_UNLIMITED && used >= limits->cpu_time) {
        stop(run, EB_CAUSE_CPU_TIME);
        return 0;
    }
    if (limits->memory != EB_UNLIMITED && sample.resident > limits->memory) {
        uint32_t uid = run->view->job.uid;
        if (eb_watch_memory(watch, uid) > limits->memory)
            stop(run, EB_CAUSE_MEMORY);
        if (uid != EB_KEEP_ID)
            eb_init_follow_launcher(run->init);
    }
    /* With n processors the rest of the limit can be used up n times as fast. */
    uint64_t processors = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t rest = limits->cpu_time == EB_UNLIMITED ? EB_UNLIMITED
                                                     : (limits->cpu_time - used) / processors;
    return rest < MS ? MS : rest;
}

static bool
tree_is_watched(const struct run *run)
{
    const struct eb_limits *limits = &run->view->job.limits;
    return limits->memory != EB_UNLIMITED || limits->cpu_time != EB_UNLIMITED;
}

static uint64_t
smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* At most 1 / MAX_DUTY of the time goes into looking. */
static uint64_t
rest_after(uint64_t cost)
{
    return cost * MAX_DUTY > TICK ? cost * MAX_DUTY : TICK;
}

static void
look(struct run *run, uint64_t now)
{
    const struct eb_limits *limits = &run->view->job.limits;
    if (tree_is_watched(run) && now >= run->next_look) {
        uint64_t rest = check_tree(run);
        run->next_look = now + smaller(rest_after(now_ns() - now), rest);
    }
    if (limits->disk != EB_UNLIMITED && now >= run->next_disk_look) {
        uint64_t begun = now_ns();
        if (eb_disk_usage(run->init->workspace, limits->disk) > limits->disk)
            stop(run, EB_CAUSE_DISK);
        run->next_disk_look = now + rest_after(now_ns() - begun);
    }
}

static uint64_t
deadline(const struct run *run)
{
    uint64_t wall = run->view->job.limits.wall_time;
    return wall == EB_UNLIMITED || !run->execed ? EB_UNLIMITED : run->started + wall;
}

static void
announce(struct run *run)
{
    struct eb_report report = {.type = EB_REPORT_STARTED,
                               .run_id = run->view->job.run_id,
                               .flags = EB_REPORT_EXECED,
                               .denied_nr = -1};
    struct iovec part = {.iov_base = &report, .iov_len = sizeof report};
    int error = eb_packet_send(run->init->sock, &part, 1, NULL, 0, MSG_DONTWAIT);
    run->announced = error != -EAGAIN;
}

static bool
announces_at_once(const struct run *run)
{
    return run->relay.stream || run->spawn.gate_fd >= 0 || run->spawn.stdin_fd >= 0;
}

static void
check_time(struct run *run)
{
    uint64_t now = now_ns();
    if (!run->execed || run->reaped)
        return;
    if (now >= deadline(run))
        stop(run, EB_CAUSE_WALL_TIME);
    if (!run->announced && (announces_at_once(run) || now >= run->started + ANNOUNCE))
        announce(run);
    if (!is_over(run))
        look(run, now);
}

static void
on_execve(struct run *run)
{
    run->execed = true;
    run->started = now_ns();
    run->next_look = run->next_disk_look = run->started + TICK;
}

/* ---- one turn of the loop ---- */

static void
wait_for_facts(struct run *run, struct pollfd *fds)
{
    const struct eb_pipes *pipes = &run->spawn.pipes;
    const struct eb_limits *limits = &run->view->job.limits;
    short out = run->relay.blocked ? POLLIN | POLLOUT : POLLIN;
    fds[AT_SOCK] = (struct pollfd){.fd = run->init->sock, .events = out};
    fds[AT_OUT] = (struct pollfd){.fd = pipes->out, .events = POLLIN};
    fds[AT_ERR] = (struct pollfd){.fd = pipes->err, .events = POLLIN};
    fds[AT_IN] = (struct pollfd){.fd = pipes->in, .events = POLLOUT};
    fds[AT_NOTICE] = (struct pollfd){.fd = pipes->notice, .events = POLLIN};
    fds[AT_LISTENER] = (struct pollfd){.fd = pipes->listener, .events = POLLIN};
    uint64_t wake = EB_UNLIMITED;
    if (run->execed) {
        wake = deadline(run);
        if (!run->announced)
            wake = smaller(wake, run->started + ANNOUNCE);
        if (tree_is_watched(run))
            wake = smaller(wake, run->next_look);
        if (limits->disk != EB_UNLIMITED)
            wake = smaller(wake, run->next_disk_look);
    }
    uint64_t now = now_ns();
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
 * tree is killed.  The program can neither send nor take this notification. */
static void
take_denial(struct run *run)
{
    struct seccomp_notif notification;
    memset(&notification, 0, sizeof notification);
    if (ioctl(run->spawn.pipes.listener, SECCOMP_IOCTL_NOTIF_RECV, &notification) < 0)
        return;
    if (run->cause == EB_CAUSE_EXIT && !run->reaped)
        run->denied_nr = notification.data.nr;
    stop(run, EB_CAUSE_DENIED);
}

/* End of file on the notice pipe: execve closed it, or the child died before. */
static void
take_notice(struct run *run)
{
    struct eb_pipes *pipes = &run->spawn.pipes;
    close(pipes->notice);
    pipes->notice = -1;
    if (pipes->channel >= 0)
        pipes->listener = eb_spawn_listener(pipes->channel);
    if (run->spawn.status->stage == EB_STAGE_NONE)
        on_execve(run);
}

static void
take_turn(struct run *run)
{
    struct pollfd fds[AT_COUNT];
    wait_for_facts(run, fds);
    if (fds[AT_LISTENER].revents & POLLIN)
        take_denial(run);
    if (fds[AT_NOTICE].revents)
        take_notice(run);
    reap(run);
    check_time(run);
    if (fds[AT_OUT].revents || fds[AT_ERR].revents)
        eb_relay_read(&run->relay, false);
    if (run->relay.excess)
        stop(run, EB_CAUSE_OUTPUT);
    if (fds[AT_IN].revents)
        eb_relay_feed(&run->relay);
    eb_relay_flush(&run->relay, MSG_DONTWAIT);
    if (fds[AT_SOCK].revents & (POLLIN | POLLHUP | POLLERR))
        take_order(run);
    if (eb_init_terminated)
        stop(run, EB_CAUSE_KILLED);
}

/* ---- the end ---- */

/* Without a scope: our children, and theirs as they become ours. */
static void
kill_children(const struct eb_init *init)
{
    static pid_t pids[1024];
    size_t n = eb_watch_children(init->proc, pids, sizeof pids / sizeof *pids);
    for (size_t i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
}

/* Returns when no process of the run is left. */
static void
end_tree(struct run *run)
{
    sigset_t none;
    sigemptyset(&none);
    while (reap(run)) {
        const struct timespec again = {.tv_nsec = RETRY_KILL_MS * (long)MS};
        const struct timespec soon = {.tv_nsec = (long)MS};
        if (run->init->scoped) {
            kill(-1, SIGKILL);
            if (!reap(run))
                return;
            ppoll(NULL, 0, &again, &none);
        } else {
            kill_children(run->init);
            ppoll(NULL, 0, &soon, &none);
        }
    }
}

static bool
is_empty(int dirfd)
{
    _Alignas(8) char buffer[512];
    if (lseek(dirfd, 0, SEEK_SET) < 0)
        return false;
    /* "." and ".." take 24 bytes each. */
    return getdents64(dirfd, buffer, sizeof buffer) <= 48;
}

/* Leaves box, home and tmp as the next run must find them. */
static void
clear_workspace(const struct eb_init *init)
{
    for (int i = 0; i < 3; i++) {
        if (!is_empty(init->places[i]))
            (void)eb_tree_clear(init->places[i]);
        (void)fchmod(init->places[i], 0700);
        (void)futimens(init->places[i], NULL);
    }
}

static bool
is_untouched(const struct eb_init *init)
{
    return is_empty(init->places[0]) && is_empty(init->places[1]) && is_empty(init->places[2]);
}

/* What became certain only at the end: limits hold to the last byte. */
static void
settle(struct run *run)
{
    const struct eb_limits *limits = &run->view->job.limits;
    if (run->cause != EB_CAUSE_EXIT)
        return;
    if (run->relay.excess)
        run->cause = EB_CAUSE_OUTPUT;
    else if (limits->cpu_time != EB_UNLIMITED && cpu_time(run) > limits->cpu_time)
        run->cause = EB_CAUSE_CPU_TIME;
    else if (limits->disk != EB_UNLIMITED && !is_untouched(run->init) &&
             eb_disk_usage(run->init->workspace, limits->disk) > limits->disk)
        run->cause = EB_CAUSE_DISK;
    else if (run->relay.error) {
        run->cause = EB_CAUSE_SETUP;
        run->spawn.status->stage = EB_STAGE_PIPES;
        run->spawn.status->error = run->relay.error;
    }
}

static void
report_end(struct run *run)
{
    struct eb_report report = {
        .type = EB_REPORT_ENDED,
        .cause = run->cause,
        .run_id = run->view->job.run_id,
        .flags = (run->execed ? EB_REPORT_EXECED : 0U) |
                 (run->relay.excess ? EB_REPORT_TRUNCATED : 0U),
        .stage = run->spawn.status->stage,
        .error = run->spawn.status->error,
        .wait_status = run->wait_status,
        .denied_nr = run->denied_nr,
        .wall_time = run->execed && run->ended > run->started ? run->ended - run->started : 0,
        .user_time = run->user,
        .system_time = run->system + run->watch.lost,
        .peak_memory = run->peak,
        .stdout_size = out_stream.stored,
        .stderr_size = err_stream.stored,
    };
    struct iovec parts[] = {{.iov_base = &report, .iov_len = sizeof report},
                            {.iov_base = out_stream.head, .iov_len = out_stream.stored},
                            {.iov_base = err_stream.head, .iov_len = err_stream.stored}};
    int fds[2];
    int n_fds = 0;
    if (out_stream.file >= 0 || err_stream.file >= 0) {
        report.flags |= EB_REPORT_IN_FDS;
        fds[0] = eb_stream_file(&out_stream);
        fds[1] = eb_stream_file(&err_stream);
        n_fds = 2;
        parts[1].iov_len = parts[2].iov_len = 0;
    }
    eb_packet_send(run->init->sock, parts, 3, fds, n_fds, 0);
}

static void
close_pipes(struct eb_pipes *pipes)
{
    int *const all[] = {&pipes->out,    &pipes->err,     &pipes->in,
                        &pipes->notice, &pipes->channel, &pipes->listener};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (*all[i] >= 0)
            close(*all[i]);
        *all[i] = -1;
    }
}

static void
finish(struct run *run)
{
    end_tree(run);
    if (!run->ended)
        run->ended = now_ns();
    eb_relay_read(&run->relay, true);
    settle(run);
    close_pipes(&run->spawn.pipes);
    eb_relay_flush(&run->relay, 0);
    if (!(run->view->job.flags & EB_JOB_KEEP))
        clear_workspace(run->init);
    report_end(run);
    eb_stream_reset(&out_stream);
    eb_stream_reset(&err_stream);
}

static void
start(struct run *run)
{
    run->pid = eb_spawn(&run->spawn);
    run->relay.fed = run->spawn.fed;
    if (run->pid < 0) {
        run->cause = EB_CAUSE_SETUP;
        return;
    }
    if (run->spawn.gate_fd >= 0)
        return;
    if (run->spawn.status->stage == EB_STAGE_NONE)
        on_execve(run);
}

/* The child never reached its program: that is ours to report, not its exit. */
static void
check_setup(struct run *run)
{
    if (run->spawn.status->stage != EB_STAGE_NONE && run->cause == EB_CAUSE_EXIT)
        run->cause = EB_CAUSE_SETUP;
}

void
eb_run_serve(struct eb_init *init, const struct eb_job_view *view, struct eb_job_fds *fds)
{
    const struct eb_job *job = &view->job;
    struct run run = {.init = init,
                      .view = view,
                      .denied_nr = -1,
                      .watch = {.proc = init->proc},
                      .spawn = {.runtime = init->runtime,
                                .view = view,
                                .ruleset_fd = init->ruleset_fd,
                                .stdin_fd = fds->input,
                                .gate_fd = fds->gate,
                                .box_fd = init->places[0],
                                .status = init->status}};
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
    if (fds->input >= 0)
        close(fds->input);
    fds->input = -1;
    check_setup(&run);
    while (!is_over(&run))
        take_turn(&run);
    check_setup(&run);
    finish(&run);
}
