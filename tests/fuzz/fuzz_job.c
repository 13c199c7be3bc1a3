/* fuzz_job.c - the decoder of jobs against any message.
 *
 * The input is a byte of wishes, a job's header and its payload.  The wishes ask for
 * what a random message would hardly ever have. */
#include "fuzz.h"
#include "runtime.h"

#include <errno.h>

enum {
    SIZES_ADD_UP = 1,  /* ... to the strings that are there */
    SMALL_COUNTS = 2,  /* of the size of the payload */
    SIZES_WRAP = 4,    /* add up, but only modulo 2^64 */
};

struct message {
    struct eb_job job;
    char *payload;
    size_t size;
};

static void
make_plausible(struct message *message, uint8_t wishes)
{
    struct eb_job *job = &message->job;
    if (wishes & SMALL_COUNTS) {
        job->argc %= 8;
        job->envc %= 8;
    }
    if (wishes & SIZES_WRAP)
        job->stdin_size = message->size - job->strings;
    if (!(wishes & SIZES_ADD_UP))
        return;
    uint64_t wanted = 2 + (uint64_t)job->argc + job->envc;
    size_t at = 0;
    while (at < message->size && wanted > 0)
        wanted -= message->payload[at++] == 0;
    job->strings = (uint32_t)at;
    job->stdin_size = message->size - at;
}

/* The strings of the payload follow each other without a gap, and fill it. */
static void
check_strings(const struct eb_job_view *view, const char *payload)
{
    const struct eb_job *job = &view->job;
    char **argv = calloc((size_t)job->argc + 1, sizeof *argv);
    char **envp = calloc((size_t)job->envc + 1, sizeof *envp);
    REQUIRE(argv && envp);
    eb_job_strings(view, argv, envp);
    const char *next = payload;
    REQUIRE(view->executable == next);
    next += strlen(next) + 1;
    REQUIRE(view->cwd == next);
    next += strlen(next) + 1;
    for (uint32_t i = 0; i < job->argc; next += strlen(next) + 1, i++)
        REQUIRE(argv[i] == next);
    for (uint32_t i = 0; i < job->envc; next += strlen(next) + 1, i++)
        REQUIRE(envp[i] == next);
    REQUIRE(!argv[job->argc] && !envp[job->envc]);
    REQUIRE(next == payload + job->strings);
    free(argv);
    free(envp);
}

/* What a job is, counted in the plainest way. */
static int
is_job(const struct eb_job *job, const char *payload, size_t size)
{
    uint64_t nuls = 0;
    if (job->argc < 1 || (uint64_t)job->argc + job->envc > EB_ARGS_MAX)
        return 0;
    if ((unsigned __int128)job->strings + job->stdin_size != size)
        return 0;
    for (uint32_t i = 0; i < job->strings; i++)
        nuls += payload[i] == 0;
    return nuls == 2 + (uint64_t)job->argc + job->envc && payload[job->strings - 1] == 0;
}

static void
decode(const struct message *message, size_t header_size)
{
    const struct eb_job *job = &message->job;
    size_t size = message->size;
    char *payload = exact_copy(message->payload, size);
    void *header = exact_copy(job, header_size);
    struct eb_job_view view;
    int error = eb_job_decode(header, header_size, payload, size, &view);
    REQUIRE(error == 0 || error == -EBADMSG);
    REQUIRE((error == 0) == (header_size >= sizeof *job && is_job(job, payload, size)));
    REQUIRE(memcmp(payload, message->payload, size) == 0);
    if (error == 0) {
        REQUIRE(memcmp(&view.job, job, sizeof *job) == 0);
        REQUIRE((const char *)view.input == payload + job->strings);
        check_strings(&view, payload);
    }
    free(header);
    free(payload);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message message;
    memset(&message, 0, sizeof message);
    if (size == 0)
        return 0;
    size_t header_size = size - 1 < sizeof message.job ? size - 1 : sizeof message.job;
    memcpy(&message.job, data + 1, header_size);
    message.size = size - 1 - header_size;
    message.payload = exact_copy(data + 1 + header_size, message.size);
    make_plausible(&message, data[0]);
    decode(&message, header_size);
    free(message.payload);
    return 0;
}
