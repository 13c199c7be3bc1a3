/* finish.c - the end of a run: its tree, its last report, its traces.
 *
 * The order matters.  First no process of it is left, so that nothing changes any
 * more; then what it wrote and used is settled and reported; then the slot is made
 * fit for the next run. */
#include "run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#define RETRY_KILL_MS 50
enum { TEMPLATE_TRIES = 20 };

/* A template that does not do it dies with the others, and is made anew. */
static void
kill_scope(const struct eb_init *init, int waited)
{
    if (waited > TEMPLATE_TRIES || !eb_template_kill(&init->template))
        kill(-1, SIGKILL);
}

/* Returns when no process of the run is left. */
static void
end_tree(struct run *run)
{
    int waited = 0; /* times RETRY_KILL_MS without the end of anybody */
    sigset_t none;
    sigemptyset(&none);
    while (eb_run_reap(run) && EB_HAS(TREE_KILL)) {
        const struct timespec again = {.tv_nsec = RETRY_KILL_MS * (long)EB_MS};
        const struct timespec soon = {.tv_nsec = (long)EB_MS};
        if (run->init->scoped) {
            kill_scope(run->init, waited);
            if (!eb_run_reap(run))
                return;
            if (ppoll(NULL, 0, &again, &none) == 0)
                waited++;
        } else {
            if (!eb_cgroup_kill(&run->init->cgroup))
                eb_watch_kill_children(run->init->proc);
            ppoll(NULL, 0, &soon, &none);
        }
    }
}

/* The host gets both streams in the same way. */
static void
store_output(struct run *run)
{
    if (run->relay.out->file < 0 && run->relay.err->file < 0)
        return;
    int out = eb_stream_file(run->relay.out);
    int err = eb_stream_file(run->relay.err);
    if (out < 0 || err < 0)
        run->relay.error = out < 0 ? -out : -err;
}

/* What became certain only at the end: limits hold to the last byte. */
static void
settle(struct run *run, bool untouched)
{
    if (run->cause != EB_CAUSE_EXIT)
        return;
    run->cause = run->relay.excess ? EB_CAUSE_OUTPUT : eb_meter_settle(&run->meter, untouched);
    if (run->cause == EB_CAUSE_EXIT && run->relay.error) {
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
                 (run->relay.excess ? EB_REPORT_TRUNCATED : 0U) |
                 (run->dirty ? EB_REPORT_DIRTY : 0U),
        .stage = run->spawn.status->stage,
        .error = run->spawn.status->error,
        .wait_status = run->wait_status,
        .denied_nr = run->denied_nr,
        .wall_time = run->execed && run->ended > run->started ? run->ended - run->started : 0,
        .user_time = run->meter.user,
        .system_time = run->meter.system + run->meter.watch.lost,
        .peak_memory = run->meter.peak,
        .processes = run->meter.processes,
        .stdout_size = run->relay.out->stored,
        .stderr_size = run->relay.err->stored,
    };
    struct iovec parts[] = {
        {.iov_base = &report, .iov_len = sizeof report},
        {.iov_base = run->relay.out->head, .iov_len = run->relay.out->stored},
        {.iov_base = run->relay.err->head, .iov_len = run->relay.err->stored}};
    int fds[] = {run->relay.out->file, run->relay.err->file};
    bool in_fds = fds[0] >= 0 && fds[1] >= 0;
    if (in_fds)
        report.flags |= EB_REPORT_IN_FDS;
    eb_relay_report(run->init, parts, in_fds ? 1 : 3, fds, in_fds ? 2 : 0);
}

/* -EINVAL: what the host put there is more than the limit already, which the end tells. */
int
eb_run_limit_workspace(const struct run *run, uint64_t bytes)
{
    int error = run->init->runtime->namespaces ? eb_mounts_limit(run->init, bytes) : 0;
    return error == -EINVAL ? 0 : error;
}

void
eb_run_finish(struct run *run)
{
    end_tree(run);
    if (!run->ended)
        run->ended = eb_now();
    eb_relay_read(&run->relay, true);
    eb_pipes_close(&run->spawn.pipes);
    eb_relay_finish(&run->relay, run->init);
    store_output(run);
    bool untouched = eb_workspace_is_untouched(run->init);
    eb_meter_close(&run->meter);
    settle(run, untouched);
    if (eb_run_limit_workspace(run, EB_UNLIMITED) < 0)
        run->dirty = true;
    eb_workspace_unlock(run->init);
    if (!untouched && !(run->view->job.flags & EB_JOB_KEEP) && !run->dirty)
        run->dirty = !eb_workspace_clear(run->init);
    report_end(run);
    eb_workspace_renew(run->init);
    eb_cgroup_end(&run->init->cgroup, run->meter.processes);
    eb_stream_reset(run->relay.out);
    eb_stream_reset(run->relay.err);
    eb_ready_make(&run->init->ready, run->init->uid);
    eb_template_park(&run->init->template);
}
