/* fuzz.h - what the fuzz targets share: a check that ends the process, and bytes
 * that never run out. */
#ifndef EB_FUZZ_H
#define EB_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAIL(message)                                                                          \
    do {                                                                                       \
        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, message);                           \
        abort();                                                                               \
    } while (0)

#define REQUIRE(condition)                                                                     \
    do {                                                                                       \
        if (!(condition))                                                                      \
            FAIL(#condition);                                                                  \
    } while (0)

/* What libFuzzer, or replay.c, calls with each input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input, read again and again: each time around its bytes are others, so that
 * a short input describes something long. */
struct source {
    const uint8_t *data;
    size_t size;
    size_t at;
    uint32_t round;
};

static inline uint8_t
take_byte(struct source *source)
{
    if (source->size == 0)
        return 0;
    if (source->at == source->size) {
        source->at = 0;
        source->round++;
    }
    return (uint8_t)(source->data[source->at++] ^ (source->round * 0x9dU));
}

static inline uint64_t
take_bytes(struct source *source, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++)
        value |= (uint64_t)take_byte(source) << (8 * i);
    return value;
}

/* A number below `limit`. */
static inline uint32_t
take_below(struct source *source, uint32_t limit)
{
    return limit == 0 ? 0 : (uint32_t)take_bytes(source, limit > 256 ? 4 : 1) % limit;
}

/* A copy exactly as large as said, so that the sanitizer sees one byte too many. */
static inline void *
exact_copy(const void *data, size_t size)
{
    void *copy = calloc(1, size + (size == 0));
    REQUIRE(copy);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

#endif
