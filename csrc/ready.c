/* ready.c - what the next run will need, made while nobody waits for it.
 *
 * Between two runs an init has time: the host reads a report, and writes the next
 * job.  What is the same for every run is made then. */
#include "ready.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Opening /dev/stdout again checks the owner of the pipe. */
int
eb_pipe_make(struct eb_pipe *made, bool to_program, uint32_t uid)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    made->ours = ends[to_program ? 1 : 0];
    made->theirs = ends[to_program ? 0 : 1];
    if ((uid == EB_KEEP_ID || fchown(made->theirs, uid, uid) == 0) &&
        fcntl(made->ours, F_SETFL, O_NONBLOCK) == 0)
        return 0;
    int error = -errno;
    eb_close(&made->ours);
    eb_close(&made->theirs);
    return error;
}

void
eb_ready_make(struct eb_ready *ready, uint32_t uid)
{
    ready->uid = uid;
    if (ready->null < 0)
        ready->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (ready->out.ours < 0)
        eb_pipe_make(&ready->out, false, uid);
    if (ready->err.ours < 0)
        eb_pipe_make(&ready->err, false, uid);
}

bool
eb_oom_score_raise(const struct eb_ready *ready, struct eb_oom_score *usual)
{
    ssize_t n = pread(ready->oom_score, usual->text, sizeof usual->text - 1, 0);
    usual->text[n < 0 ? 0 : n] = 0;
    return n > 0 && pwrite(ready->oom_score, "1000", 4, 0) == 4;
}

void
eb_oom_score_restore(const struct eb_ready *ready, const struct eb_oom_score *usual)
{
    (void)!pwrite(ready->oom_score, usual->text, strlen(usual->text), 0);
}

int
eb_ready_take(struct eb_ready *ready, struct eb_pipe *from, struct eb_pipe *taken, uint32_t uid)
{
    int error = 0;
    if (ready->uid != uid || from->ours < 0) {
        eb_close(&from->ours);
        eb_close(&from->theirs);
        error = eb_pipe_make(from, false, uid);
    }
    *taken = *from;
    *from = (struct eb_pipe){-1, -1};
    return error;
}
