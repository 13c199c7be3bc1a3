/* test_capture.c - captured output comes back byte for byte, in memory or not. */
#include "check.h"
#include "runtime.h"

#include <string.h>
#include <unistd.h>

enum { TOTAL = 5 * EB_INLINE_OUTPUT, CHUNK_MAX = 5000 };

static unsigned char written[TOTAL];
static unsigned char seen[TOTAL];

static void
fill(uint64_t *state)
{
    for (size_t i = 0; i < sizeof written; i++)
        written[i] = (unsigned char)random_number(state);
}

/* Everything is kept, first in memory and then in the file. */
static void
nothing_is_lost_at_the_border_to_the_file(void)
{
    uint64_t state = 1;
    struct eb_stream stream = {.file = -1};
    fill(&state);
    for (size_t at = 0, size; at < TOTAL; at += size) {
        size = 1 + random_number(&state) % CHUNK_MAX;
        size = size < TOTAL - at ? size : TOTAL - at;
        CHECK(eb_stream_append(&stream, written + at, size) == 0);
        CHECK(stream.stored == at + size && stream.total == at + size);
        CHECK((stream.file >= 0) == (stream.stored > EB_INLINE_OUTPUT));
    }
    CHECK(eb_stream_peek(&stream, seen, TOTAL) == TOTAL);
    CHECK(memcmp(seen, written, TOTAL) == 0);
    eb_stream_reset(&stream);
    CHECK(stream.file == -1 && stream.stored == 0 && stream.total == 0);
}

/* A reader that takes what it can, now and then, sees the same bytes. */
static void
a_slow_reader_sees_every_byte_once(void)
{
    uint64_t state = 2;
    struct eb_stream stream = {.file = -1};
    size_t put = 0, got = 0;
    fill(&state);
    while (got < TOTAL) {
        size_t size = 1 + random_number(&state) % CHUNK_MAX;
        size = size < TOTAL - put ? size : TOTAL - put;
        CHECK(eb_stream_append(&stream, written + put, size) == 0);
        put += size;
        if (random_number(&state) % 3 && put < TOTAL)
            continue;
        ssize_t n = eb_stream_peek(&stream, seen + got,
                                   random_number(&state) % (3 * CHUNK_MAX));
        CHECK(n >= 0);
        eb_stream_advance(&stream, (size_t)n);
        got += (size_t)n;
    }
    CHECK(memcmp(seen, written, TOTAL) == 0);
    CHECK(stream.total == TOTAL && stream.stored == 0);
    eb_stream_reset(&stream);
}

int
main(void)
{
    nothing_is_lost_at_the_border_to_the_file();
    a_slow_reader_sees_every_byte_once();
    puts("capture: ok");
    return 0;
}
