/* test_protocol.c - the decoder of jobs trusts nothing that arrives. */
#include "check.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROUNDS = 200000, SIZE_MAX_TRIED = 96 };

static const char strings[] = "/bin/echo\0.\0echo\0hi\0A=1";
static const char input[] = "stdin";

static struct eb_job
valid_job(void)
{
    struct eb_job job = {.type = EB_ORDER_RUN, .argc = 2, .envc = 1};
    job.strings = sizeof strings;
    job.stdin_size = sizeof input;
    return job;
}

static int
decode(const struct eb_job *job, const void *payload, size_t size, struct eb_job_view *view)
{
    /* Exactly as large as said, so that the sanitizer sees one byte too many. */
    char *copy = malloc(size + (size == 0));
    CHECK(copy);
    memcpy(copy, payload, size);
    int error = eb_job_decode(job, sizeof *job, copy, size, view);
    if (error == 0) {
        char **argv = calloc(job->argc + 1, sizeof *argv);
        char **envp = calloc(job->envc + 1, sizeof *envp);
        CHECK(argv && envp);
        eb_job_strings(view, argv, envp);
        size_t length = 0;
        for (uint32_t i = 0; argv[i]; i++)
            length += strlen(argv[i]) + 1;
        for (uint32_t i = 0; envp[i]; i++)
            length += strlen(envp[i]) + 1;
        CHECK(length <= size);
        free(argv);
        free(envp);
    }
    free(copy);
    return error;
}

static void
a_valid_job_comes_back_as_it_was(void)
{
    char payload[sizeof strings + sizeof input];
    memcpy(payload, strings, sizeof strings);
    memcpy(payload + sizeof strings, input, sizeof input);
    struct eb_job job = valid_job();
    struct eb_job_view view;
    CHECK(eb_job_decode(&job, sizeof job, payload, sizeof payload, &view) == 0);
    char *argv[3], *envp[2];
    eb_job_strings(&view, argv, envp);
    CHECK(strcmp(view.executable, "/bin/echo") == 0 && strcmp(view.cwd, ".") == 0);
    CHECK(strcmp(argv[0], "echo") == 0 && strcmp(argv[1], "hi") == 0 && !argv[2]);
    CHECK(strcmp(envp[0], "A=1") == 0 && !envp[1]);
    CHECK(memcmp(view.input, input, sizeof input) == 0);
}

static void
sizes_that_do_not_add_up_are_refused(void)
{
    struct eb_job_view view;
    char payload[sizeof strings + sizeof input] = {0};
    struct eb_job job = valid_job();
    CHECK(decode(&job, payload, sizeof payload - 1, &view) == -EBADMSG);
    CHECK(eb_job_decode(&job, sizeof job - 1, payload, sizeof payload, &view) == -EBADMSG);
    job.argc = 0;
    CHECK(decode(&job, payload, sizeof payload, &view) == -EBADMSG);
    job = valid_job();
    job.argc = UINT32_MAX;
    CHECK(decode(&job, payload, sizeof payload, &view) == -EBADMSG);
    job = valid_job();
    job.envc = UINT32_MAX;
    CHECK(decode(&job, payload, sizeof payload, &view) == -EBADMSG);
    job = valid_job();
    job.stdin_size = UINT64_MAX;
    CHECK(decode(&job, payload, sizeof payload, &view) == -EBADMSG);
}

static void
as_many_strings_as_there_may_be_and_no_more(void)
{
    static const char empty[2 + EB_ARGS_MAX + 1];
    struct eb_job_view view;
    struct eb_job job = {.argc = 1, .envc = EB_ARGS_MAX - 1, .strings = 2 + EB_ARGS_MAX};
    CHECK(decode(&job, empty, job.strings, &view) == 0);
    job.envc++;
    job.strings++;
    CHECK(decode(&job, empty, job.strings, &view) == -EBADMSG);
}

/* Random payloads below headers that are nearly right: most are refused, none
 * makes the decoder look outside. */
static void
random_jobs_stay_inside_their_message(void)
{
    uint64_t state = 0x9e3779b97f4a7c15U;
    unsigned accepted = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char payload[SIZE_MAX_TRIED];
        size_t size = random_number(&state) % sizeof payload;
        for (size_t i = 0; i < size; i++)
            payload[i] = random_number(&state) % 3 ? 'x' : 0;
        struct eb_job job = {.argc = (uint32_t)(random_number(&state) % 6)};
        job.envc = (uint32_t)(random_number(&state) % 6);
        job.strings = (uint32_t)(size ? random_number(&state) % (size + 2) : 0);
        job.stdin_size = size - job.strings;
        struct eb_job_view view;
        accepted += decode(&job, payload, size, &view) == 0;
    }
    CHECK(accepted > 0 && accepted < ROUNDS);
}

static void
a_tree_of_as_many_mounts_as_there_may_be_and_no_more(void)
{
    struct eb_tree_view view;
    for (uint32_t more = 0; more < 2; more++) {
        struct eb_tree tree = {.n_mounts = EB_MOUNTS_MAX + more};
        tree.strings = 2 * tree.n_mounts;
        size_t size = sizeof tree + tree.n_mounts * sizeof(struct eb_mount) + tree.strings;
        char *message = calloc(1, size);
        CHECK(message);
        memcpy(message, &tree, sizeof tree);
        CHECK(eb_tree_decode(message, size, &view) == (more ? -EBADMSG : 0));
        CHECK(eb_tree_decode(message, size - 1, &view) == -EBADMSG);
        free(message);
    }
}

static int
open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void
descriptors_arrive_and_a_long_message_leaves_none_behind(void)
{
    int pair[2], fds[EB_JOB_FDS] = {0, 1, 2, 0};
    char data[16] = {0};
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    const struct iovec part = {.iov_base = data, .iov_len = sizeof data};
    struct eb_packet packet = {.data = data};
    int before = open_descriptors();

    CHECK(eb_packet_send(pair[0], &part, 1, fds, EB_JOB_FDS, 0) == 0);
    CHECK(eb_packet_receive(pair[1], &packet, sizeof data, 0) == sizeof data);
    CHECK(packet.n_fds == EB_JOB_FDS);
    CHECK(open_descriptors() == before + EB_JOB_FDS);
    for (int i = 0; i < packet.n_fds; i++) {
        CHECK(fcntl(packet.fds[i], F_GETFD) == FD_CLOEXEC);
        close(packet.fds[i]);
    }

    CHECK(eb_packet_send(pair[0], &part, 1, fds, EB_JOB_FDS, 0) == 0);
    CHECK(eb_packet_receive(pair[1], &packet, sizeof data - 1, 0) == -EBADMSG);
    CHECK(open_descriptors() == before);

    close(pair[0]);
    CHECK(eb_packet_receive(pair[1], &packet, sizeof data, 0) == 0);
    close(pair[1]);
}

static void
every_stage_has_a_name(void)
{
    for (unsigned stage = 0; stage < EB_STAGE_COUNT; stage++)
        CHECK(eb_stage_name(stage) && *eb_stage_name(stage));
    CHECK(!eb_stage_name(EB_STAGE_COUNT) && !eb_stage_name(UINT32_MAX));
}

int
main(void)
{
    a_valid_job_comes_back_as_it_was();
    sizes_that_do_not_add_up_are_refused();
    as_many_strings_as_there_may_be_and_no_more();
    random_jobs_stay_inside_their_message();
    a_tree_of_as_many_mounts_as_there_may_be_and_no_more();
    descriptors_arrive_and_a_long_message_leaves_none_behind();
    every_stage_has_a_name();
    puts("protocol: ok");
    return 0;
}
