/* syscalls.c - random system calls, made inside a sandbox.
 *
 *     syscalls INPUT CALLS SECONDS SEED
 *
 * Workers make the calls; each has a life of some thousand.  A call may end its
 * worker, stop it, take its memory or its descriptors away: the supervisor looks
 * at what the workers count in shared memory, kills one that makes no progress and
 * starts another in its place.  A number at which workers end or stop is tried
 * less often from then on, and never left out.
 *
 * INPUT is what the driver knows (tests/syscall_fuzz.py), a line each:
 *     call NUMBER KINDS     the kinds of its arguments, letters of syscall_args.h
 *     name PATH
 *     pid NUMBER
 * At the end, and a few times a second, the supervisor writes what was done:
 *     calls TOTAL           of these lines the last one counts
 *     of NUMBER MADE SUCCEEDED FAILED DENIED
 *     workers ENDED STUCK */
#include "syscall_args.h"
#include "syscall_call.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
    WORKERS = 6,
    NUMBERS = 1024,
    LIFE = 8192,
    TICK_MS = 10,
    TICKS_PER_LINE = 30,
    COST = 32, /* what a number pays for a worker; calls that come back pay it off */
    COST_MOST = 512,
};

struct tally {
    uint64_t made;
    uint64_t succeeded;
    uint64_t failed;
    uint64_t denied; /* EPERM, ENOSYS */
};

/* What one worker counts. */
struct desk {
    volatile uint64_t made;
    volatile uint32_t current;
    struct tally tallies[NUMBERS];
};

struct board {
    struct desk desks[WORKERS];
    volatile uint16_t cost[NUMBERS];
    volatile bool alive[NUMBERS]; /* not always denied */
};

struct worker {
    pid_t pid;
    uint64_t seen;
    int ticks; /* since it made progress */
};

static struct told told;
static char kinds[NUMBERS][ARGS + 1];
static uint32_t last_number;
static struct board *board;
static struct worker workers[WORKERS];
static struct tally totals[NUMBERS];
static uint64_t total, ended, stuck;
static pid_t supervisor;

/* ---- a worker ---- */

static bool
is_signal_call(long number)
{
    return number == SYS_kill || number == SYS_tkill || number == SYS_tgkill ||
           number == SYS_rt_sigqueueinfo || number == SYS_rt_tgsigqueueinfo;
}

/* A run that kills or stops all that is in it is over; it was not blocked, so it
 * would say nothing. */
static void
spare_supervisor(long number, uint64_t args[ARGS])
{
    if (!is_signal_call(number))
        return;
    for (int i = 0; i < 2; i++) {
        int pid = (int)args[i];
        bool with_us = pid == 0 && getpgrp() == supervisor;
        if (with_us || pid == -1 || pid == supervisor || pid == -supervisor)
            for (int s = 1; s < 3; s++)
                if ((int)args[s] == SIGKILL || (int)args[s] == SIGSTOP)
                    args[s] = SIGTERM;
    }
}

static long
choose_number(struct dice *dice)
{
    long number = 0;
    bool any = below(dice, 8) == 0;
    for (int attempt = 0; attempt < 64; attempt++) {
        number = below(dice, last_number + 8);
        if ((any || board->alive[number]) && below(dice, 1U + board->cost[number]) == 0)
            break;
    }
    return number;
}

static void
choose_arguments(struct dice *dice, long number, uint64_t args[ARGS])
{
    static const char any[] = "fpslixPtor";
    const char *kind = kinds[number];
    for (int i = 0; i < ARGS; i++) {
        bool odd = *kind == 0 || below(dice, 24) == 0;
        args[i] = argument(dice, odd ? any[below(dice, sizeof any - 1)] : *kind);
        kind += *kind != 0;
    }
    spare_supervisor(number, args);
}

static void
note(struct desk *desk, long number, long result)
{
    struct tally *tally = &desk->tallies[number];
    bool denied = result == -EPERM || result == -ENOSYS;
    bool error = result < 0 && result >= -4095;
    tally->succeeded += !error;
    tally->failed += error && !denied;
    tally->denied += denied;
    if (!denied)
        board->alive[number] = true;
    uint16_t cost = board->cost[number];
    if (cost > 0)
        board->cost[number] = (uint16_t)(cost - 1 - cost / 16);
}

/* One in a thousand is not a call of this architecture's table at all. */
static void
try_foreign(struct dice *dice, struct desk *desk, const uint64_t args[ARGS])
{
    long number = (long)below(dice, 512);
    desk->current = NUMBERS;
    desk->made++;
    if (below(dice, 2))
        call_foreign(number, args);
    else
        call(number | (below(dice, 2) ? 0x40000000 : (long)any_number(dice)), args);
}

static _Noreturn void
work(struct desk *desk, uint64_t seed)
{
    struct dice dice = {.state = seed | 1, .told = &told};
    setpgid(0, 0);
    syscall(SYS_close_range, 0, ~0U, 0);
    open_descriptors();
    make_pool(&dice);
    for (int i = 0; i < LIFE; i++) {
        uint64_t args[ARGS];
        long number = choose_number(&dice);
        choose_arguments(&dice, number, args);
        if (below(&dice, 2048) == 0)
            try_foreign(&dice, desk, args);
        desk->current = (uint32_t)number;
        desk->made++;
        desk->tallies[number].made++;
        note(desk, number, forks(number) ? call_twice(number, args) : call(number, args));
    }
    _exit(0);
}

/* ---- the supervisor ---- */

/* The C library keeps two signals from its callers, and workers send those too. */
static void
block_signals(uint64_t mask)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
}

static void
start(uint32_t which, uint64_t *seed)
{
    *seed = *seed * 6364136223846793005U + 1442695040888963407U;
    pid_t pid = fork();
    if (pid == 0) {
        for (int signal = 1; signal < NSIG; signal++)
            sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        block_signals(0);
        work(&board->desks[which], *seed);
    }
    workers[which] = (struct worker){.pid = pid > 0 ? pid : 0};
}

/* A desk that was overwritten counts for nothing. */
static void
collect(uint32_t which, bool was_stuck)
{
    struct desk *desk = &board->desks[which];
    uint32_t number = desk->current;
    if (desk->made <= 2 * LIFE) {
        total += desk->made;
        ended++;
        stuck += was_stuck;
        for (int i = 0; i < NUMBERS; i++) {
            totals[i].made += desk->tallies[i].made;
            totals[i].succeeded += desk->tallies[i].succeeded;
            totals[i].failed += desk->tallies[i].failed;
            totals[i].denied += desk->tallies[i].denied;
        }
    }
    if (number < NUMBERS && desk->made < LIFE && board->cost[number] < COST_MOST)
        board->cost[number] = (uint16_t)(board->cost[number] + COST);
    memset(desk, 0, sizeof *desk);
    workers[which].pid = 0;
}

static void
reap(bool was_stuck)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
        for (uint32_t i = 0; i < WORKERS; i++)
            if (workers[i].pid == pid)
                collect(i, was_stuck);
}

static void
look_after(uint32_t which)
{
    struct worker *worker = &workers[which];
    uint64_t made = board->desks[which].made;
    worker->ticks = made == worker->seen ? worker->ticks + 1 : 0;
    worker->seen = made;
    if (worker->ticks < 2)
        return;
    kill(worker->pid, SIGKILL);
    if (waitpid(worker->pid, NULL, __WALL) == worker->pid)
        collect(which, true);
}

static void
say(bool all)
{
    printf("\ncalls %llu\n", (unsigned long long)total);
    for (int i = 0; all && i < NUMBERS; i++)
        if (totals[i].made > 0)
            printf("of %d %llu %llu %llu %llu\n", i, (unsigned long long)totals[i].made,
                   (unsigned long long)totals[i].succeeded,
                   (unsigned long long)totals[i].failed, (unsigned long long)totals[i].denied);
    if (all)
        printf("workers %llu %llu\n", (unsigned long long)ended, (unsigned long long)stuck);
    fflush(stdout);
}

static uint64_t
now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void
supervise(uint64_t calls, uint64_t seconds, uint64_t seed)
{
    const struct timespec soon = {.tv_nsec = TICK_MS * 1000000L};
    uint64_t end = now_ms() + 1000 * seconds, tick = now_ms();
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (int ticks = 0; total < calls && tick < end;) {
        for (uint32_t i = 0; i < WORKERS; i++)
            if (!workers[i].pid)
                start(i, &seed);
        sigtimedwait(&child, NULL, &soon);
        reap(false);
        if (now_ms() < tick + TICK_MS)
            continue;
        tick = now_ms();
        for (uint32_t i = 0; i < WORKERS; i++)
            if (workers[i].pid)
                look_after(i);
        if (++ticks % TICKS_PER_LINE == 0)
            say(false);
    }
}

/* ---- start and end ---- */

static bool
read_input(const char *path)
{
    char line[512], word[NAME_SIZE];
    unsigned number;
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "call %u %6s", &number, word) == 2 && number < NUMBERS - 8) {
            memcpy(kinds[number], word, ARGS + 1);
            last_number = number > last_number ? number : last_number;
        } else if (sscanf(line, "name %255s", word) == 1 && told.n_names < MOST_NAMES) {
            memcpy(told.names[told.n_names++], word, NAME_SIZE);
        } else if (sscanf(line, "pid %u", &number) == 1 && told.n_pids < MOST_PIDS) {
            told.pids[told.n_pids++] = (int)number;
        }
    }
    fclose(file);
    return told.n_names > 0 && last_number > 0;
}

int
main(int argc, char **argv)
{
    if (argc != 5 || !read_input(argv[1]))
        return 2;
    supervisor = getpid();
    /* Everything that workers can send us but SIGKILL and SIGSTOP. */
    for (int signal = 1; signal < NSIG; signal++)
        if (signal != SIGCHLD)
            sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    block_signals(~0ULL);
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                 0);
    if (board == MAP_FAILED)
        return 2;
    supervise(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10),
              strtoull(argv[4], NULL, 10));
    for (uint32_t i = 0; i < WORKERS; i++)
        if (workers[i].pid && kill(workers[i].pid, SIGKILL) == 0 &&
            waitpid(workers[i].pid, NULL, __WALL) == workers[i].pid)
            collect(i, false);
    say(true);
    return 0;
}
