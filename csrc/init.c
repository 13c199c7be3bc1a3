/* init.c - the supervisor of one run at a time.
 *
 * An init is forked by the launcher, confined like it, and serves one run
 * after the other over its own socket to the host.  It is a child subreaper
 * inside a Landlock domain of its own (D1, signals scoped) or the first process
 * of a PID namespace; the program runs in a nested domain (D2).  So init can
 * signal its whole tree with one kill(-1), nobody in the tree can signal init,
 * and when wait() says ECHILD not a single process of the run is left: that is
 * what makes it fit to serve the next one.
 *
 * Signals are blocked except inside ppoll(): SIGCHLD only interrupts it,
 * SIGTERM asks for an orderly end (status and accounts are not lost, as they
 * would be with SIGKILL).  SIGPIPE, when a program closes its input, does nothing. */
#include "kernel.h"
#include "meter.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DYING_MS 10
#define LAST_WORDS_MS 5000

volatile sig_atomic_t eb_init_terminated;

static void
on_nothing(int signal)
{
    (void)signal;
}

/* To the first process of a PID namespace who is outside has pid 0, which nobody inside
 * can pretend with SI_USER.  From inside it may come where no Landlock scope keeps the
 * program from it (ABI 6). */
static void
on_sigterm(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    if (getpid() == 1 && (info->si_code != SI_USER || info->si_pid != 0))
        return;
    eb_init_terminated = 1;
}

void
eb_init_follow_launcher(const struct eb_init *init)
{
    struct pollfd launcher = {.fd = init->runtime->self, .events = POLLIN};
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    /* It may have died before; in a PID namespace getppid() does not tell. */
    if (poll(&launcher, 1, 0) != 0)
        eb_init_terminated = 1;
}

/* A launcher that ends everything gives its inits little time, and the host does not
 * read any more.  Where the launcher is dead itself, the host may live, and be only
 * slow: it gets what the runs had written.  Not for ever, as an end of file does not
 * come where a forked child has a copy of its socket. */
bool
eb_init_waits(const struct eb_init *init)
{
    static uint64_t until;
    struct pollfd launcher = {.fd = init->runtime->self, .events = POLLIN};
    if (!eb_init_terminated)
        return true;
    /* Its pidfd becomes readable a moment after it has sent SIGTERM by dying. */
    if (poll(&launcher, 1, DYING_MS) == 0)
        return false;
    if (until == 0)
        until = eb_now() + LAST_WORDS_MS * EB_MS;
    return eb_now() < until;
}

static void
set_signals(void)
{
    struct sigaction nothing = {.sa_handler = on_nothing};
    struct sigaction term = {.sa_sigaction = on_sigterm, .sa_flags = SA_SIGINFO};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_SETMASK, &set, NULL);
    sigaction(SIGCHLD, &nothing, NULL);
    /* Not SIG_IGN, which the program would inherit: execve resets handlers only. */
    sigaction(SIGPIPE, &nothing, NULL);
    /* As the launcher. */
    sigaction(SIGHUP, &nothing, NULL);
    sigaction(SIGTERM, &term, NULL);
}

/* Enters D1.  kill(-1) is only ever used after the proof that the scope holds:
 * the launcher, of the same uid or ours to signal as root, must be out of reach.
 * Every layer denies moving files between directories unless it says otherwise,
 * so this one, which is about signals only, does. */
static void
enter_scope(struct eb_init *init)
{
    struct eb_path_rule everywhere = {.fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC),
                                      .access = EB_FS_REFER};
    struct eb_ruleset_spec spec = {.handled_fs = EB_FS_REFER,
                                   .scoped = eb_landlock_scopes(init->runtime->abi),
                                   .rules = &everywhere,
                                   .n_rules = 1};
    unsigned flags = init->runtime->abi >= 7 ? EB_LANDLOCK_QUIET : 0;
    int fd = init->runtime->scoped ? eb_ruleset_create(&spec) : -1;
    if (everywhere.fd >= 0)
        close(everywhere.fd);
    if (fd < 0)
        return;
    if (syscall(SYS_landlock_restrict_self, fd, flags) == 0)
        init->scoped = kill(init->launcher, 0) < 0 && errno == EPERM;
    close(fd);
}

/* The files that the host wants it to have; then nothing more is to be mounted. */
static int
move_into_tree(struct eb_init *init, struct eb_failure *failure)
{
    struct eb_tree_view view;
    off_t size = lseek(init->tree, 0, SEEK_END);
    failure->stage = EB_STAGE_TREE;
    void *data = size <= 0 ? MAP_FAILED
                           : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, init->tree, 0);
    if (data == MAP_FAILED)
        return -EBADMSG;
    int error = eb_tree_decode(data, (size_t)size, &view);
    if (error == 0)
        error = eb_mounts_make(init, &view, failure);
    munmap(data, (size_t)size);
    eb_close(&init->tree);
    if (error < 0)
        return error;
    failure->stage = EB_STAGE_LAUNCHER_CAPABILITIES;
    error = eb_confine_capabilities(true);
    if (error < 0)
        return error;
    failure->stage = EB_STAGE_LAUNCHER_SECCOMP;
    return eb_confine_calls(&init->runtime->launcher_filter);
}

void
eb_init_say_ready(const struct eb_init *init, const struct eb_failure *failure, int error)
{
    struct eb_report report = {.type = EB_REPORT_READY,
                               .stage = error < 0 ? failure->stage : EB_STAGE_NONE,
                               .error = -error,
                               .denied_nr = failure->item};
    struct iovec part = {.iov_base = &report, .iov_len = sizeof report};
    eb_packet_send(init->sock, &part, 1, &init->workspace, error < 0 ? 0 : 1, MSG_DONTWAIT);
}

/* The first process of a PID namespace reaches nobody outside with kill(-1). */
static void
enter_tree(struct eb_init *init)
{
    struct eb_failure failure = {EB_STAGE_TREE, -1};
    int error = move_into_tree(init, &failure);
    eb_init_say_ready(init, &failure, error);
    if (error < 0)
        _exit(1);
    init->scoped = getpid() == 1;
}

static void
prepare(struct eb_init *init)
{
    static const char *const names[EB_PLACES] = {"box", "home", "tmp", "shm"};
    set_signals();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    init->ruleset_fd = -1;
    eb_init_follow_launcher(init);
    if (init->runtime->namespaces)
        enter_tree(init);
    else
        enter_scope(init);
    init->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < EB_PLACES; i++)
        init->places[i] = openat(init->workspace, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    init->box = init->start[0] ? open(init->start, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                               : init->places[0];
    init->status = mmap(NULL, sizeof *init->status, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (init->status == MAP_FAILED || init->box < 0 || init->proc < 0)
        _exit(1);
    init->ready = (struct eb_ready){
        .null = -1,
        .out = {-1, -1},
        .err = {-1, -1},
        .oom_score = openat(init->proc, "self/oom_score_adj", O_RDWR | O_CLOEXEC)};
    eb_ready_make(&init->ready, init->uid);
    /* It keeps a file open, as all here from now on. */
    (void)eb_watch_runnable(init->proc);
}

/* Waits for an order; false when there will be none. */
static bool
wait_for_order(const struct eb_init *init)
{
    sigset_t none;
    sigemptyset(&none);
    for (;;) {
        struct pollfd fd = {.fd = init->sock, .events = POLLIN};
        if (eb_init_terminated)
            return false;
        if (ppoll(&fd, 1, NULL, &none) < 0)
            continue;
        if (fd.revents & POLLIN)
            return true;
        if (fd.revents)
            return false;
    }
}

static struct eb_job_fds
sort_descriptors(uint32_t bits, const struct eb_packet *packet)
{
    int places[EB_JOB_FDS];
    eb_packet_sort(packet, bits, places, EB_JOB_FDS);
    return (struct eb_job_fds){places[0], places[1], places[2], places[3], places[4]};
}

/* Keeps a new ruleset for this and the next runs. */
static void
keep_ruleset(struct eb_init *init, const struct eb_job *job, struct eb_job_fds *fds)
{
    if (fds->ruleset < 0)
        return;
    eb_close(&init->ruleset_fd);
    init->ruleset_fd = fds->ruleset;
    init->ruleset_id = job->ruleset_id;
}

static void
refuse(const struct eb_init *init, uint64_t run_id, enum eb_stage stage, int error)
{
    const struct eb_template *template = &init->template;
    bool told = stage == EB_STAGE_TEMPLATE;
    struct eb_report report = {.type = EB_REPORT_ENDED,
                               .cause = EB_CAUSE_SETUP,
                               .run_id = run_id,
                               .flags = told ? EB_REPORT_DIRTY : 0,
                               .stage = stage,
                               .error = error,
                               .stderr_size = told ? template->said_size : 0,
                               .denied_nr = -1};
    struct iovec parts[] = {
        {.iov_base = &report, .iov_len = sizeof report},
        {.iov_base = (void *)(uintptr_t)template->said, .iov_len = report.stderr_size}};
    eb_packet_send(init->sock, parts, 2, NULL, 0, 0);
}

/* A child that borrows our memory until execve starts with our peak as its own. */
static void
forget_peak(const struct eb_init *init)
{
    int fd = openat(init->proc, "self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "5", 1);
    close(fd);
}

static void
serve_job(struct eb_init *init, struct eb_packet *packet)
{
    struct eb_job_view view;
    struct eb_job job;
    memcpy(&job, packet->data, sizeof job);
    struct eb_job_fds fds = sort_descriptors(job.fds, packet);
    char *payload = (char *)packet->data + sizeof job;
    size_t size = packet->size - sizeof job;
    void *mapped = MAP_FAILED;
    if (fds.payload >= 0) {
        off_t end = lseek(fds.payload, 0, SEEK_END);
        size = end < 0 ? 0 : (size_t)end;
        mapped = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fds.payload, 0);
        payload = mapped;
    }
    int error = fds.payload >= 0 && mapped == MAP_FAILED
                    ? -ENOMEM
                    : eb_job_decode(&job, sizeof job, payload, size, &view);
    keep_ruleset(init, &job, &fds);
    if (error == 0 && job.ruleset_id != init->ruleset_id)
        error = -ESTALE;
    if (error == 0 && job.type == EB_ORDER_TEMPLATE)
        eb_template_order(init, &job, payload, size, &fds.library);
    else if (error < 0)
        refuse(init, job.run_id, EB_STAGE_JOB, -error);
    else if ((error = eb_template_ready(init)) < 0)
        refuse(init, job.run_id, EB_STAGE_TEMPLATE, -error);
    else
        eb_run_serve(init, &view, &fds);
    if (mapped != MAP_FAILED) {
        munmap(mapped, size);
        forget_peak(init);
    }
    eb_close(&fds.input);
    eb_close(&fds.gate);
    eb_close(&fds.payload);
    eb_close(&fds.library);
}

_Noreturn void
eb_init_main(struct eb_init *init)
{
    static _Alignas(16) unsigned char buffer[EB_MESSAGE_MAX];
    prepare(init);
    while (wait_for_order(init)) {
        struct eb_packet packet = {.data = buffer};
        ssize_t got = eb_packet_receive(init->sock, &packet, sizeof buffer, 0);
        if (got == 0)
            break;
        uint32_t type = 0;
        if (got >= (ssize_t)sizeof(struct eb_job))
            memcpy(&type, buffer, sizeof type);
        if (type == EB_ORDER_RUN || type == EB_ORDER_TEMPLATE)
            serve_job(init, &packet);
        else
            for (int i = 0; i < packet.n_fds; i++)
                close(packet.fds[i]);
    }
    _exit(0);
}
