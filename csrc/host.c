/* host.c - the few calls of the host's event loop.
 *
 * Here and not in Python because select.epoll cannot carry a token, and
 * because one call per message is all that a short run can afford. */
#include "runtime.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_EVENTS = 256 };

int
eb_poll_create(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int
eb_poll_add(int poll, int fd, uint32_t events, uint64_t token)
{
    struct epoll_event event = {.events = events, .data = {.u64 = token}};
    return epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int
eb_poll_remove(int poll, int fd)
{
    return epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL) < 0 ? -errno : 0;
}

int
eb_poll_wait(int poll, uint64_t *tokens, int capacity, int timeout_ms)
{
    struct epoll_event found[MAX_EVENTS];
    int n = epoll_wait(poll, found, capacity < MAX_EVENTS ? capacity : MAX_EVENTS, timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++)
        tokens[i] = found[i].data.u64;
    return n;
}

int
eb_send(int sock, const void *head, size_t head_size, const void *body, size_t body_size,
        const int32_t *fds, int n_fds)
{
    struct iovec parts[] = {{.iov_base = (void *)(uintptr_t)head, .iov_len = head_size},
                            {.iov_base = (void *)(uintptr_t)body, .iov_len = body_size}};
    if (n_fds > EB_PACKET_FDS)
        return -EINVAL;
    return eb_packet_send(sock, parts, 2, fds, n_fds, MSG_DONTWAIT);
}

int64_t
eb_receive(int sock, void *buffer, size_t capacity, int32_t *fds, int32_t *n_fds)
{
    struct eb_packet packet = {.data = buffer};
    ssize_t got = eb_packet_receive(sock, &packet, capacity, MSG_DONTWAIT);
    for (int i = 0; i < packet.n_fds; i++)
        fds[i] = packet.fds[i];
    *n_fds = packet.n_fds;
    return got;
}

int64_t
eb_write(int fd, const void *data, size_t size)
{
    const struct timespec now = {0};
    sigset_t pipe, before, pending;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    ssize_t n = write(fd, data, size);
    int error = n < 0 ? errno : 0;
    /* The signal is for this thread, and was not there before: it is ours. */
    if (error == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&pipe, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n < 0 ? -error : n;
}

int
eb_timer_create(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int
eb_timer_set(int timer, uint64_t at)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at / 1000000000U),
                                           .tv_nsec = (long)(at % 1000000000U)}};
    return timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0 ? -errno : 0;
}
