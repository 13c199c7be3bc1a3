/* syscall_args.h - arguments that a system call may take for real: descriptors that
 * are open, pointers to structures that fit together, names of files that exist. */
#ifndef EB_SYSCALL_ARGS_H
#define EB_SYSCALL_ARGS_H

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    POOL_PAGES = 32,
    NAMES_PAGE = 8, /* four pages of names, one every NAME_SIZE bytes */
    NAME_SIZE = 256,
    MOST_NAMES = 64,
    MOST_PIDS = 16,
    OPENED = 40, /* about as many descriptors are open at first */
};

/* What the driver told: files and processes of the host worth attacking. */
struct told {
    char names[MOST_NAMES][NAME_SIZE];
    uint32_t n_names;
    int pids[MOST_PIDS];
    uint32_t n_pids;
};

struct dice {
    uint64_t state;
    char *pool;
    const struct told *told;
};

static inline uint64_t
roll(struct dice *dice)
{
    dice->state ^= dice->state << 13;
    dice->state ^= dice->state >> 7;
    dice->state ^= dice->state << 17;
    return dice->state;
}

static inline uint32_t
below(struct dice *dice, uint32_t limit)
{
    return (uint32_t)(roll(dice) >> 20) % limit;
}

/* ---- one argument of each kind ---- */

static inline uint64_t
any_number(struct dice *dice)
{
    static const uint64_t edges[] = {
        0,          1,          2,          7,          0xff,        4095,
        4096,       0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ULL << 47,
        1ULL << 62, ~0ULL >> 1, 1ULL << 63, ~0ULL,      ~0ULL - 99,  ~0ULL - 4095,
    };
    uint32_t pick = below(dice, 8);
    if (pick < 4)
        return edges[below(dice, sizeof edges / sizeof *edges)];
    if (pick < 6)
        return below(dice, 64);
    return roll(dice) >> below(dice, 64);
}

static inline uint64_t
descriptor(struct dice *dice)
{
    uint32_t pick = below(dice, 16);
    if (pick < 13)
        return below(dice, OPENED);
    return pick == 13 ? below(dice, 256) : pick == 14 ? (uint64_t)AT_FDCWD : any_number(dice);
}

/* Few bits of a word; the lower ones are flags more often. */
static inline uint64_t
flags(struct dice *dice)
{
    uint64_t value = 0;
    for (uint32_t bits = below(dice, 4); bits > 0; bits--)
        value |= 1ULL << below(dice, 1U << (2 + below(dice, 4)));
    return value;
}

static inline uint64_t
pointer(struct dice *dice)
{
    uint32_t pick = below(dice, 32);
    if (pick == 0)
        return any_number(dice);
    if (pick == 2)
        return 0;
    /* To its last bytes, and the page behind is not there. */
    uint32_t offset = pick == 1 ? PAGE - 1 - below(dice, 16) : 64 * below(dice, 8);
    return (uint64_t)(uintptr_t)(dice->pool + PAGE * below(dice, POOL_PAGES) + offset);
}

static inline uint64_t
page_of(struct dice *dice, uint32_t page, uint32_t step, uint32_t count)
{
    return (uint64_t)(uintptr_t)(dice->pool + PAGE * page + step * below(dice, count));
}

static inline uint64_t
name(struct dice *dice)
{
    return page_of(dice, NAMES_PAGE, NAME_SIZE, dice->told->n_names);
}

static inline uint64_t
length(struct dice *dice)
{
    uint32_t pick = below(dice, 64);
    if (pick < 32)
        return 1ULL << below(dice, 14);
    return pick < 62 ? below(dice, 300) : any_number(dice);
}

static inline uint64_t
process(struct dice *dice)
{
    uint32_t pick = below(dice, 8);
    if (pick < 3 && dice->told->n_pids > 0)
        return (uint64_t)dice->told->pids[below(dice, dice->told->n_pids)];
    const int others[] = {0, getpid(), getppid(), 1, -1};
    return pick < 7 ? (uint64_t)others[below(dice, 5)] : below(dice, 40000);
}

/* Those of prctl and fcntl, of terminals and files, of fcntl, of arch_prctl. */
static inline uint64_t
command(struct dice *dice)
{
    static const uint32_t ranges[][2] = {{0, 80}, {0x5400, 0x60}, {1024, 20}, {0x1000, 0x20}};
    uint32_t pick = below(dice, 8);
    if (pick == 7)
        return roll(dice);
    pick = pick < 4 ? 0 : pick - 3;
    return ranges[pick][0] + below(dice, ranges[pick][1]);
}

static inline uint64_t
user(struct dice *dice)
{
    const uint64_t ids[] = {getuid(), getuid(), 0, ~0ULL, 65534};
    return ids[below(dice, 5)];
}

/* The letters of tests/syscall_fuzz.py. */
static inline uint64_t
argument(struct dice *dice, char kind)
{
    if (kind >= '0' && kind <= '9')
        return below(dice, 1U + (uint32_t)(kind - '0'));
    switch (kind) {
    case 'z':
        return 8;
    case 'f':
        return descriptor(dice);
    case 'd':
        return below(dice, 4) ? (uint64_t)AT_FDCWD : below(dice, OPENED);
    case 'p':
        return pointer(dice);
    case 's':
        return name(dice);
    case 'l':
        return length(dice);
    case 'i':
        return below(dice, 32) - 2ULL;
    case 'x':
        return flags(dice);
    case 'P':
        return process(dice);
    case 'g':
        return below(dice, 66);
    case 't':
        return page_of(dice, 1, 16, 8);
    case 'v':
        return page_of(dice, 2, 16, 8);
    case 'm':
        return page_of(dice, 3, 64, 8);
    case 'a':
        return page_of(dice, 4, 128, 8);
    case 'e':
        return page_of(dice, 5, 8, 8);
    case 'A':
        return page_of(dice, 16, PAGE, POOL_PAGES - 16);
    case 'c':
        return command(dice);
    case 'u':
        return user(dice);
    case 'M':
        return below(dice, 010000);
    default:
        return any_number(dice);
    }
}

/* ---- what they point to ---- */

static inline void
fill_structures(struct dice *dice)
{
    char *pool = dice->pool;
    struct timespec *times = (void *)(pool + PAGE);
    struct iovec *parts = (void *)(pool + 2 * PAGE);
    struct msghdr *messages = (void *)(pool + 3 * PAGE);
    const char **strings = (void *)(pool + 5 * PAGE);
    for (int i = 0; i < 16; i++) {
        times[i] = (struct timespec){0, 1000 * (long)below(dice, 100)};
        parts[i] = (struct iovec){pool + PAGE * (6 + i % 2), 1U << below(dice, 12)};
        strings[i] = i % 4 == 3 ? NULL : pool + PAGE * NAMES_PAGE + NAME_SIZE * i;
    }
    for (int i = 0; i < 8; i++) {
        messages[i] = (struct msghdr){.msg_iov = parts, .msg_iovlen = 2};
        if (i % 2)
            messages[i].msg_control = pool + 6 * PAGE;
        messages[i].msg_controllen = i % 2 ? 64 : 0;
        struct sockaddr_un *address = (void *)(pool + 4 * PAGE + 128 * i);
        address->sun_family = (sa_family_t)below(dice, 48);
        snprintf(address->sun_path, sizeof address->sun_path, "%s", i % 2 ? "s0" : "/run/s");
    }
    for (int i = 0; i < PAGE / 4; i++) {
        ((uint32_t *)(void *)(pool + 6 * PAGE))[i] = (uint32_t)below(dice, 64);
        ((uint32_t *)(void *)(pool + 7 * PAGE))[i] = (uint32_t)roll(dice);
    }
}

/* The pool lies between two pages that are not there. */
static inline void
make_pool(struct dice *dice)
{
    char *area = mmap(NULL, (POOL_PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                      0);
    if (area == MAP_FAILED ||
        mprotect(area + PAGE, POOL_PAGES * PAGE, PROT_READ | PROT_WRITE) < 0)
        _exit(1);
    dice->pool = area + PAGE;
    memcpy(dice->pool + PAGE * NAMES_PAGE, dice->told->names, sizeof dice->told->names);
    fill_structures(dice);
}

/* Descriptors of every kind that a program can have. */
static inline void
open_descriptors(void)
{
    static const char *const names[] = {"/dev/null",     "/dev/zero", "/dev/urandom",
                                        "/etc/passwd",   "/usr",      "/proc/self/status",
                                        "/proc/self/fd", "d0"};
    int pair[2];
    for (int i = 0; i < 6; i++) {
        char file[] = {'f', (char)('0' + i), 0};
        open(file, (i % 2 ? O_RDWR : O_RDWR | O_APPEND) | O_CREAT | O_NONBLOCK, 0600);
    }
    mkdir("d0", 0700);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        open(names[i], O_RDONLY | O_NONBLOCK);
    open(".", O_PATH | O_DIRECTORY);
    for (int i = 0; i < 4; i++)
        (void)!pipe2(pair, O_NONBLOCK);
    for (int i = 0; i < 4; i++)
        socketpair(AF_UNIX, (i % 2 ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_NONBLOCK, 0, pair);
    sigset_t set;
    sigfillset(&set);
    signalfd(-1, &set, SFD_NONBLOCK);
    epoll_create1(0);
    eventfd(1, EFD_NONBLOCK);
    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
}

#endif
