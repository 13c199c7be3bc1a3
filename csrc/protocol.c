/* protocol.c - messages between host, launcher and init.
 *
 * One SOCK_SEQPACKET message is one order or report.  The decoder trusts
 * nothing: every size is checked against what arrived before it is used.  It
 * makes no system call and is fuzzed. */
#include "runtime.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *const stage_names[] = {
#define EB_STAGE_NAME(upper, lower) #lower,
    EB_STAGES(EB_STAGE_NAME)
#undef EB_STAGE_NAME
};

const char *
eb_stage_name(unsigned stage)
{
    return stage < EB_STAGE_COUNT ? stage_names[stage] : NULL;
}

/* The end of `count` NUL-terminated strings, NULL when they do not fit. */
static const char *
skip_strings(const char *at, const char *end, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const char *nul = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        if (!nul)
            return NULL;
        at = nul + 1;
    }
    return at;
}

int
eb_job_decode(const void *header, size_t header_size, void *payload, size_t payload_size,
              struct eb_job_view *view)
{
    if (header_size < sizeof view->job)
        return -EBADMSG;
    memcpy(&view->job, header, sizeof view->job);
    const struct eb_job *job = &view->job;
    if (job->argc == 0 || job->argc > EB_ARGS_MAX || job->envc > EB_ARGS_MAX - job->argc)
        return -EBADMSG;
    if (job->strings > payload_size || job->stdin_size != payload_size - job->strings)
        return -EBADMSG;
    char *start = payload;
    char *end = start + job->strings;
    const char *first = skip_strings(start, end, 2);
    if (!first || skip_strings(first, end, job->argc + job->envc) != end)
        return -EBADMSG;
    view->executable = start;
    view->cwd = skip_strings(start, end, 1);
    view->first_string = start + (first - start);
    view->input = (const unsigned char *)end;
    return 0;
}

void
eb_job_strings(const struct eb_job_view *view, char **argv, char **envp)
{
    char *at = view->first_string;
    for (uint32_t i = 0; i < view->job.argc; i++, at += strlen(at) + 1)
        argv[i] = at;
    argv[view->job.argc] = NULL;
    for (uint32_t i = 0; i < view->job.envc; i++, at += strlen(at) + 1)
        envp[i] = at;
    envp[view->job.envc] = NULL;
}

int
eb_tree_decode(const void *data, size_t size, struct eb_tree_view *view)
{
    const char *start = data;
    if (size < sizeof view->tree)
        return -EBADMSG;
    memcpy(&view->tree, data, sizeof view->tree);
    size_t n = view->tree.n_mounts, rest = size - sizeof view->tree;
    if (n > EB_MOUNTS_MAX || n * sizeof *view->mounts > rest ||
        view->tree.strings != rest - n * sizeof *view->mounts)
        return -EBADMSG;
    const void *mounts = start + sizeof view->tree;
    view->mounts = mounts;
    view->strings = start + sizeof view->tree + n * sizeof *view->mounts;
    const char *end = start + size;
    return skip_strings(view->strings, end, (uint32_t)(2 * n)) == end ? 0 : -EBADMSG;
}

union control_buffer {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(EB_PACKET_FDS * sizeof(int))];
};

/* Takes the descriptors out of a message; closes what is more than fits. */
static void
take_descriptors(struct msghdr *message, struct eb_packet *packet)
{
    packet->n_fds = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (packet->n_fds < EB_PACKET_FDS)
                packet->fds[packet->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

ssize_t
eb_packet_receive(int sock, struct eb_packet *packet, size_t capacity, int flags)
{
    union control_buffer control;
    struct iovec part = {.iov_base = packet->data, .iov_len = capacity};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    packet->n_fds = 0;
    packet->size = 0;
    ssize_t got = recvmsg(sock, &message, flags | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return -errno;
    take_descriptors(&message, packet);
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (int i = 0; i < packet->n_fds; i++)
            close(packet->fds[i]);
        packet->n_fds = 0;
        return -EBADMSG;
    }
    packet->size = (size_t)got;
    return got;
}

void
eb_packet_sort(const struct eb_packet *packet, uint32_t bits, int *places, int n_places)
{
    int used = 0;
    for (int i = 0; i < n_places; i++)
        places[i] = (bits & (1U << i)) && used < packet->n_fds ? packet->fds[used++] : -1;
    for (int i = used; i < packet->n_fds; i++)
        close(packet->fds[i]);
}

int
eb_packet_send(int sock, const struct iovec *parts, int n_parts, const int *fds, int n_fds,
               int flags)
{
    union control_buffer control;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts,
                             .msg_iovlen = (size_t)n_parts};
    if (n_fds > 0) {
        size_t bytes = (size_t)n_fds * sizeof(int);
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(c), fds, bytes);
    }
    ssize_t sent;
    do
        sent = sendmsg(sock, &message, flags | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}
