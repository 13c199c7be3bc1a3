/* capture.c - the output of a run, kept whether or not the host reads.
 *
 * Init reads the program's pipes itself, so that a host that is stopped or
 * slow changes no verdict.  Little output stays in memory and travels inside
 * the final report; more goes to a memfd that the host gets in the end. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void
eb_stream_reset(struct eb_stream *stream)
{
    if (stream->file >= 0)
        close(stream->file);
    stream->file = -1;
    stream->stored = stream->sent = stream->total = 0;
}

static int
write_all(int fd, const unsigned char *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t n = pwrite(fd, data, size, (off_t)offset);
        if (n < 0)
            return -errno;
        data += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int
eb_stream_file(struct eb_stream *stream)
{
    if (stream->file >= 0)
        return stream->file;
    int fd = memfd_create("evalbox-output", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = write_all(fd, stream->head, (size_t)stream->stored, 0);
    if (error < 0) {
        close(fd);
        return error;
    }
    stream->file = fd;
    return fd;
}

int
eb_stream_append(struct eb_stream *stream, const unsigned char *data, size_t size)
{
    if (stream->file < 0 && stream->stored + size <= sizeof stream->head) {
        memcpy(stream->head + stream->stored, data, size);
    } else {
        int fd = eb_stream_file(stream);
        int error = fd < 0 ? fd : write_all(fd, data, size, stream->stored);
        if (error < 0)
            return error;
    }
    stream->stored += size;
    stream->total += size;
    return 0;
}

ssize_t
eb_stream_peek(const struct eb_stream *stream, unsigned char *out, size_t capacity)
{
    uint64_t left = stream->stored - stream->sent;
    size_t size = left < capacity ? (size_t)left : capacity;
    if (stream->file < 0) {
        memcpy(out, stream->head + stream->sent, size);
        return (ssize_t)size;
    }
    ssize_t n = pread(stream->file, out, size, (off_t)stream->sent);
    return n < 0 ? -errno : n;
}

/* What was sent needs no room any more. */
void
eb_stream_advance(struct eb_stream *stream, size_t size)
{
    stream->sent += size;
    if (stream->sent < stream->stored)
        return;
    if (stream->file >= 0 && ftruncate(stream->file, 0) < 0)
        return;
    stream->stored = stream->sent = 0;
}
