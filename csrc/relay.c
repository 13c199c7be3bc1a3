/* relay.c - between the program's pipes, the kept streams and the host.
 *
 * Output is always taken from the pipes at once, so that what the program
 * experiences does not depend on how often the host looks.  The cap is exact:
 * `limit` bytes of stdout and stderr together are kept, one more is excess. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum { CHUNK = 65536, ROUNDS = 16, RETRY_NS = 1000000, LOOK_AGAIN_NS = 20000000 };

static unsigned char chunk[CHUNK];

static uint64_t
room(const struct eb_relay *relay)
{
    if (relay->limit == EB_UNLIMITED)
        return CHUNK;
    return relay->limit - relay->out->total - relay->err->total;
}

static void
keep(struct eb_relay *relay, struct eb_stream *stream, size_t size)
{
    uint64_t left = room(relay);
    if (size > left) {
        size = (size_t)left;
        relay->excess = true;
    }
    int error = size > 0 ? eb_stream_append(stream, chunk, size) : 0;
    if (error < 0)
        relay->error = -error;
}

/* Reads at most ROUNDS chunks, so that no pipe keeps the limits waiting. */
static void
read_pipe(struct eb_relay *relay, int *fd, struct eb_stream *stream, bool until_end)
{
    for (int i = 0; *fd >= 0 && (until_end || i < ROUNDS); i++) {
        ssize_t n = read(*fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            eb_close(fd);
        else
            keep(relay, stream, (size_t)n);
        if (n < CHUNK && !until_end)
            return;
    }
}

void
eb_relay_read(struct eb_relay *relay, bool until_end)
{
    read_pipe(relay, &relay->pipes->out, relay->out, until_end);
    read_pipe(relay, &relay->pipes->err, relay->err, until_end);
}

void
eb_relay_feed(struct eb_relay *relay)
{
    int *fd = &relay->pipes->in;
    while (*fd >= 0 && relay->fed < relay->input_size) {
        ssize_t n = write(*fd, relay->input + relay->fed,
                          (size_t)(relay->input_size - relay->fed));
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            eb_close(fd); /* EPIPE: the program does not want it */
            return;
        }
        relay->fed += (uint64_t)n;
    }
    eb_close(fd);
}

void
eb_relay_announce(struct eb_relay *relay)
{
    struct eb_report report = {.type = EB_REPORT_STARTED,
                               .run_id = relay->run_id,
                               .flags = EB_REPORT_EXECED,
                               .denied_nr = -1};
    struct iovec part = {.iov_base = &report, .iov_len = sizeof report};
    relay->announced = eb_packet_send(relay->sock, &part, 1, NULL, 0, MSG_DONTWAIT) != -EAGAIN;
}

static void
flush_stream(struct eb_relay *relay, struct eb_stream *stream, uint32_t type)
{
    struct eb_report report = {.type = type, .run_id = relay->run_id, .denied_nr = -1};
    while (stream->sent < stream->stored) {
        ssize_t n = eb_stream_peek(stream, chunk, EB_INLINE_OUTPUT);
        if (n <= 0)
            return;
        struct iovec parts[] = {{.iov_base = &report, .iov_len = sizeof report},
                                {.iov_base = chunk, .iov_len = (size_t)n}};
        int error = eb_packet_send(relay->sock, parts, 2, NULL, 0, MSG_DONTWAIT);
        relay->blocked = error == -EAGAIN;
        if (error < 0)
            return;
        eb_stream_advance(stream, (size_t)n);
    }
}

void
eb_relay_flush(struct eb_relay *relay)
{
    relay->blocked = false;
    if (!relay->stream)
        return;
    /* The host drops the output of a run that has not started. */
    if (!relay->announced)
        eb_relay_announce(relay);
    flush_stream(relay, relay->out, EB_REPORT_STDOUT);
    if (!relay->blocked)
        flush_stream(relay, relay->err, EB_REPORT_STDERR);
}

/* Until the host reads.  Not in sendmsg(), where SIGTERM is blocked: the host
 * may be stopped for hours and then end everything. */
static void
wait_for_host(int sock)
{
    const struct timespec soon = {.tv_nsec = LOOK_AGAIN_NS};
    struct pollfd fd = {.fd = sock, .events = POLLOUT};
    sigset_t none;
    sigemptyset(&none);
    ppoll(&fd, 1, eb_init_terminated ? &soon : NULL, &none);
}

/* The kernel counts descriptors on their way for each user (unix(7)). */
static void
wait_for_others(void)
{
    const struct timespec soon = {.tv_nsec = RETRY_NS};
    sigset_t none;
    sigemptyset(&none);
    ppoll(NULL, 0, &soon, &none);
}

void
eb_relay_finish(struct eb_relay *relay, const struct eb_init *init)
{
    eb_relay_flush(relay);
    while (relay->blocked && eb_init_waits(init)) {
        wait_for_host(relay->sock);
        eb_relay_flush(relay);
    }
}

void
eb_relay_report(const struct eb_init *init, const struct iovec *parts, int n_parts,
                const int *fds, int n_fds)
{
    for (;;) {
        int error = eb_packet_send(init->sock, parts, n_parts, fds, n_fds, MSG_DONTWAIT);
        /* Tried in any case: what is there to be told is not lost for want of time. */
        if ((error != -EAGAIN && error != -ETOOMANYREFS) || !eb_init_waits(init))
            return;
        if (error == -EAGAIN)
            wait_for_host(init->sock);
        else
            wait_for_others();
    }
}
