/* fuzz_packet.c - messages of any size with any descriptors, received.
 *
 * Whatever comes and however little room there is for it: a message is whole or
 * refused, and each descriptor is the receiver's or closed. */
#include "fuzz.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ROUNDS = 4,
    MOST_FDS = 64,
    FIRST_FD = 3,
    LAST_FD = 200,
    CREDENTIALS = 1,
    TWO_RIGHTS = 2
};

struct plan {
    size_t size;
    size_t capacity;
    uint32_t n_fds;
    uint8_t extra;
};

union control {
    struct cmsghdr align;
    char bytes[2 * CMSG_SPACE(MOST_FDS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

/* A new descriptor has the lowest number that is free: one that leaked moves it. */
static int
lowest_free(void)
{
    int fd = dup(0);
    REQUIRE(fd >= 0);
    close(fd);
    return fd;
}

static struct cmsghdr *
put_rights(struct msghdr *message, struct cmsghdr *at, uint32_t count)
{
    const int fd = 0;
    at->cmsg_level = SOL_SOCKET;
    at->cmsg_type = SCM_RIGHTS;
    at->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (uint32_t i = 0; i < count; i++)
        memcpy(CMSG_DATA(at) + i * sizeof fd, &fd, sizeof fd);
    return CMSG_NXTHDR(message, at);
}

static int
send_message(int sock, const struct plan *plan, void *bytes)
{
    union control control;
    memset(&control, 0, sizeof control);
    struct iovec part = {.iov_base = bytes, .iov_len = plan->size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *at = CMSG_FIRSTHDR(&message);
    if (plan->n_fds > 0)
        at = put_rights(&message, at, plan->n_fds);
    if (plan->n_fds > 0 && (plan->extra & TWO_RIGHTS))
        at = put_rights(&message, at, plan->n_fds);
    message.msg_controllen = (size_t)((char *)at - control.bytes);
    return sendmsg(sock, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* How many descriptors are in the message; the kernel joins two lots of them. */
static uint32_t
sent_fds(const struct plan *plan)
{
    return plan->extra & TWO_RIGHTS ? 2 * plan->n_fds : plan->n_fds;
}

static void
check_received(const struct plan *plan, const struct eb_packet *packet, ssize_t got,
               const void *bytes)
{
    int fits = plan->size <= plan->capacity && sent_fds(plan) <= EB_PACKET_FDS &&
               !(plan->extra & CREDENTIALS && sent_fds(plan) > 0);
    REQUIRE(got == -EBADMSG || got == (ssize_t)plan->size);
    REQUIRE(!fits || got == (ssize_t)plan->size);
    if (got < 0) {
        REQUIRE(packet->n_fds == 0 && packet->size == 0);
        return;
    }
    REQUIRE(plan->size <= plan->capacity && sent_fds(plan) <= EB_PACKET_FDS);
    REQUIRE((uint32_t)packet->n_fds == sent_fds(plan) && packet->size == plan->size);
    REQUIRE(memcmp(packet->data, bytes, plan->size) == 0);
    for (int i = 0; i < packet->n_fds; i++) {
        REQUIRE(fcntl(packet->fds[i], F_GETFD) == FD_CLOEXEC);
        close(packet->fds[i]);
    }
}

static void
exchange(const int pair[2], const struct plan *plan, uint8_t fill)
{
    int wants = plan->extra & CREDENTIALS ? 1 : 0;
    char *bytes = exact_copy("", 0);
    bytes = realloc(bytes, plan->size + (plan->size == 0));
    struct eb_packet packet = {.data = malloc(plan->capacity + (plan->capacity == 0))};
    REQUIRE(bytes && packet.data);
    memset(bytes, fill, plan->size);
    int before = lowest_free();
    REQUIRE(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &wants, sizeof wants) == 0);
    if (send_message(pair[0], plan, bytes) == 0) {
        ssize_t got = eb_packet_receive(pair[1], &packet, plan->capacity, MSG_DONTWAIT);
        check_received(plan, &packet, got, bytes);
    }
    REQUIRE(lowest_free() == before);
    free(packet.data);
    free(bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source source = {.data = data, .size = size};
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        struct plan plan = {.size = take_bytes(&source, 2), .capacity = take_bytes(&source, 2)};
        uint8_t same = take_byte(&source);
        if (same < 128)
            plan.capacity = plan.size + same / 32;
        plan.n_fds = take_below(&source, same & 1 ? MOST_FDS : EB_PACKET_FDS + 2);
        plan.extra = take_byte(&source);
        exchange(pair, &plan, same);
    }
    close(pair[0]);
    close(pair[1]);
    return 0;
}
