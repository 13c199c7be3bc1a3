/* launcher.c - the small process that all runs of one kind come from.
 *
 * Started once by the host with the descriptors of evalbox.h.  It confines
 * itself first with everything that its runs share: namespaces, no_new_privs,
 * capabilities reduced to what inits and clean-up need, fixed resource limits,
 * and the large seccomp filter, which in namespaces each init installs when its
 * files are mounted.  Then it forks inits on request and does nothing else: jobs
 * and reports pass between host and init directly.
 *
 * It is a child subreaper, so a child that it does not know is the orphan of
 * an init that died: killed, and reaped until none is left.  It watches the
 * host's pidfd (end of file on the socket alone does not come while a forked
 * child of the host holds a copy): when the host is gone, every tree dies and
 * the workspaces are removed. */
#include "kernel.h"
#include "meter.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_SLOTS = 4096, END_WAIT_MS = 5000 };

struct slot {
    pid_t pid; /* 0: free */
    char name[EB_NAME_MAX];
};

static struct slot slots[MAX_SLOTS];
static uint32_t n_slots;
static struct eb_runtime runtime = {.cgroups = {.fds = {-1, -1, -1}, .home = -1}};

static void
on_sigchld(int signal)
{
    (void)signal;
}

static void
tell(uint32_t type, uint32_t slot, enum eb_stage stage, int error)
{
    struct eb_control message = {.type = type, .slot = slot, .stage = stage, .error = error};
    struct iovec part = {.iov_base = &message, .iov_len = sizeof message};
    eb_packet_send(EB_FD_CONTROL, &part, 1, NULL, 0, 0);
}

/* In namespaces no workspace is on a disk, and there is no root. */
static void
remove_root(void)
{
    if (runtime.root_name[0])
        eb_tree_remove(EB_FD_PARENT, runtime.root_name);
}

static _Noreturn void
fail(enum eb_stage stage, int error)
{
    tell(EB_CONTROL_FAILED, 0, stage, error);
    remove_root();
    _exit(1);
}

/* ---- confinement ---- */

/* Handlers, ignored signals, mask and umask of the host are not ours. */
static void
reset_process(void)
{
    sigset_t set;
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int signal = 1; signal < NSIG; signal++)
        sigaction(signal, &action, NULL);
    action.sa_handler = on_sigchld;
    sigaction(SIGCHLD, &action, NULL);
    /* A run that shares our session can bring a stopped process into our group; when that is
     * orphaned, the kernel sends SIGHUP to all of it (setpgid(2)). */
    sigaction(SIGHUP, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_SETMASK, &set, NULL);
    umask(022);
    (void)!chdir("/");
    setsid();
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (EB_HAS(CLOSE_RANGE) && syscall(SYS_close_range, EB_FD_END, ~0U, 0) < 0)
        fail(EB_STAGE_CLOSE_RANGE, errno);
    for (int fd = EB_FD_CONTROL; fd < EB_FD_END; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static struct eb_insn *
map_filters(const struct eb_packet *packet, uint32_t n_insns)
{
    if (n_insns > 2 * EB_FILTER_MAX || packet->n_fds != 1)
        fail(EB_STAGE_CONFIG, EBADMSG);
    struct eb_insn *insns = mmap(NULL, (n_insns + 1) * sizeof *insns, PROT_READ,
                                 MAP_PRIVATE | MAP_POPULATE, packet->fds[0], 0);
    if (insns == MAP_FAILED)
        fail(EB_STAGE_CONFIG, errno);
    close(packet->fds[0]);
    return insns;
}

/* What every init inherits. */
static void
remember(struct eb_config *config, const struct eb_insn *insns)
{
    int abi = eb_landlock_abi();
    runtime.launcher_filter = (struct eb_filter){insns, (uint16_t)config->launcher_filter};
    runtime.child_filter = (struct eb_filter){insns + config->launcher_filter,
                                              (uint16_t)config->child_filter};
    runtime.listen = (config->flags & EB_CONFIG_LISTEN) != 0;
    runtime.namespaces = (config->flags & EB_CONFIG_NAMESPACES) != 0;
    runtime.deny_setgroups = (config->flags & EB_CONFIG_DENY_SETGROUPS) != 0;
    runtime.abi = abi < 0 ? 0 : abi;
    runtime.scoped = eb_landlock_scopes(runtime.abi) != 0;
    config->uid_map[EB_MAP_MAX - 1] = config->gid_map[EB_MAP_MAX - 1] = 0;
    memcpy(runtime.uid_map, config->uid_map, EB_MAP_MAX);
    memcpy(runtime.gid_map, config->gid_map, EB_MAP_MAX);
    runtime.self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (runtime.self < 0)
        fail(EB_STAGE_CONFIG, errno);
}

static void
confine(void)
{
    struct eb_config config;
    struct eb_packet packet = {.data = &config};
    struct eb_failure failure = {EB_STAGE_NONE, -1};
    ssize_t got = eb_packet_receive(EB_FD_CONTROL, &packet, sizeof config, 0);
    if (got != (ssize_t)sizeof config || config.version != EB_PROTOCOL_VERSION)
        fail(EB_STAGE_CONFIG, got < 0 ? (int)-got : EBADMSG);
    config.root_name[EB_NAME_MAX - 1] = 0;
    memcpy(runtime.root_name, config.root_name, sizeof runtime.root_name);
    if (config.launcher_filter > EB_FILTER_MAX || config.child_filter > EB_FILTER_MAX)
        fail(EB_STAGE_CONFIG, EBADMSG);
    remember(&config, map_filters(&packet, config.launcher_filter + config.child_filter));
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        fail(EB_STAGE_SUBREAPER, errno);
    int error = runtime.namespaces ? eb_namespaces_enter(&runtime, &config, &failure) : 0;
    if (error < 0)
        fail(failure.stage, -error);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(EB_STAGE_NO_NEW_PRIVS, errno);
    eb_confine_limits();
    error = eb_confine_capabilities(runtime.namespaces);
    if (error < 0)
        fail(EB_STAGE_LAUNCHER_CAPABILITIES, -error);
    /* Inits in namespaces still have to mount: each filters its own calls then. */
    error = runtime.namespaces ? 0 : eb_confine_calls(&runtime.launcher_filter);
    if (error < 0)
        fail(EB_STAGE_LAUNCHER_SECCOMP, -error);
}

/* ---- inits ---- */

/* The process of a new init; 0 in itself. */
static pid_t
fork_init(struct eb_failure *failure)
{
    if (runtime.namespaces)
        return eb_namespaces_fork(&runtime, failure);
    pid_t pid = fork();
    return pid < 0 ? -errno : pid;
}

static void
spawn_init(const struct eb_control *order, const struct eb_packet *packet)
{
    int files = packet->n_fds > 1 ? packet->fds[1] : -1;
    struct eb_init init = {.runtime = &runtime,
                           .sock = packet->n_fds > 0 ? packet->fds[0] : -1,
                           .workspace = runtime.namespaces ? -1 : files,
                           .tree = runtime.namespaces ? files : -1,
                           .uid = order->uid,
                           .launcher = getpid()};
    struct eb_failure failure = {EB_STAGE_CGROUP, -1};
    pid_t pid = eb_cgroups_open(&runtime.cgroups, order->name, order->cgroup, &init.cgroup);
    if (pid == 0) {
        failure.stage = EB_STAGE_FORK;
        pid = fork_init(&failure);
    }
    if (pid == 0) {
        eb_cgroups_forget(&runtime.cgroups);
        for (int fd = EB_FD_CONTROL; fd < EB_FD_END; fd++)
            close(fd);
        eb_init_main(&init);
    }
    eb_cgroups_close(&init.cgroup);
    if (pid < 0) {
        if (runtime.namespaces && init.sock >= 0)
            eb_init_say_ready(&init, &failure, (int)pid);
        tell(EB_CONTROL_GONE, order->slot, failure.stage, (int)-pid);
        return;
    }
    slots[order->slot].pid = pid;
    memcpy(slots[order->slot].name, order->name, EB_NAME_MAX);
    if (order->slot >= n_slots)
        n_slots = order->slot + 1;
}

static struct slot *
slot_of(pid_t pid)
{
    for (uint32_t i = 0; i < n_slots; i++)
        if (slots[i].pid == pid)
            return &slots[i];
    return NULL;
}

/* One pass over the children that we did not start; how many there were. */
static size_t
kill_unknown(int proc)
{
    static pid_t pids[MAX_SLOTS];
    size_t unknown = 0;
    size_t n = eb_watch_children(proc, pids, MAX_SLOTS);
    for (size_t i = 0; i < n; i++) {
        if (slot_of(pids[i]))
            continue;
        unknown++;
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, WNOHANG | __WALL);
    }
    return unknown;
}

/* What a dead init left behind came to us: killed until nothing more comes. */
static void
kill_orphans(void)
{
    const struct timespec soon = {.tv_nsec = 1000000};
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (kill_unknown(proc) > 0)
        ppoll(NULL, 0, &soon, NULL);
    close(proc);
}

/* Its tree first, then its workspace; the host hears of it last. */
static void
bury(struct slot *slot)
{
    uint32_t number = (uint32_t)(slot - slots);
    slot->pid = 0;
    eb_cgroups_kill(&runtime.cgroups, slot->name);
    kill_orphans();
    if (slot->name[0])
        eb_cgroups_bury(&runtime.cgroups, slot->name);
    if (runtime.root_name[0])
        eb_tree_remove(EB_FD_ROOT, slot->name);
    tell(EB_CONTROL_GONE, number, EB_STAGE_NONE, 0);
}

static void
reap(void)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0) {
        struct slot *slot = slot_of(pid);
        if (slot)
            bury(slot);
    }
}

/* ---- service ---- */

/* A slot that is in use is not given away: who asks sees its socket closed.  One without
 * a name has nothing outside its namespaces. */
static void
take_spawn(const struct eb_control *order, const struct eb_packet *packet)
{
    bool named = order->name[0] == 0 || eb_tree_is_entry(order->name);
    if (order->slot < n_slots && slots[order->slot].pid)
        return;
    if (order->slot < MAX_SLOTS && packet->n_fds == 2 && named)
        spawn_init(order, packet);
    else
        tell(EB_CONTROL_GONE, order->slot, EB_STAGE_FORK, EBADMSG);
}

static void
take_whole_order(const struct eb_control *order, struct eb_packet *packet)
{
    if (order->type == EB_CONTROL_SPAWN)
        take_spawn(order, packet);
    else if (order->type == EB_CONTROL_KILL && order->slot < n_slots && slots[order->slot].pid)
        kill(slots[order->slot].pid, SIGKILL);
    else if (order->type == EB_CONTROL_CGROUP && eb_tree_is_entry(order->name))
        eb_cgroups_take(&runtime.cgroups, order, packet->fds, packet->n_fds);
}

/* False when the host closed its end. */
static bool
take_order(void)
{
    struct eb_control order;
    struct eb_packet packet = {.data = &order};
    ssize_t got = eb_packet_receive(EB_FD_CONTROL, &packet, sizeof order, MSG_DONTWAIT);
    if (got == -EAGAIN || got == -EBADMSG)
        return true;
    if (got <= 0)
        return false;
    order.name[EB_NAME_MAX - 1] = 0;
    if (got == (ssize_t)sizeof order)
        take_whole_order(&order, &packet);
    for (int i = 0; i < packet.n_fds; i++)
        eb_close(&packet.fds[i]);
    return true;
}

static void
serve(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (;;) {
        struct pollfd fds[] = {{.fd = EB_FD_CONTROL, .events = POLLIN},
                               {.fd = EB_FD_HOST, .events = POLLIN}};
        reap();
        if (ppoll(fds, 2, NULL, &none) < 0)
            continue;
        if (fds[1].revents)
            return;
        if (fds[0].revents && !take_order())
            return;
    }
}

/* What the host had made before it died is in an order that nobody has taken yet. */
static void
take_cgroups(void)
{
    ssize_t got;
    do {
        struct eb_control order = {0};
        struct eb_packet packet = {.data = &order};
        got = eb_packet_receive(EB_FD_CONTROL, &packet, sizeof order, MSG_DONTWAIT);
        if (got == (ssize_t)sizeof order && order.type == EB_CONTROL_CGROUP)
            eb_cgroups_take(&runtime.cgroups, &order, packet.fds, packet.n_fds);
        for (int i = 0; i < packet.n_fds; i++)
            eb_close(&packet.fds[i]);
    } while (got > 0 || got == -EBADMSG);
}

static bool
any_init(void)
{
    for (uint32_t i = 0; i < n_slots; i++)
        if (slots[i].pid)
            return true;
    return false;
}

static void
signal_inits(int signal)
{
    for (uint32_t i = 0; i < n_slots; i++)
        if (slots[i].pid)
            kill(slots[i].pid, signal);
}

/* Inits end their trees themselves; one that cannot is killed. */
static void
end_everything(void)
{
    sigset_t none;
    sigemptyset(&none);
    signal_inits(SIGTERM);
    for (int waited = 0; any_init() && waited < END_WAIT_MS; waited += 10) {
        const struct timespec again = {.tv_nsec = 10000000};
        reap();
        if (any_init())
            ppoll(NULL, 0, &again, &none);
    }
    signal_inits(SIGKILL);
    while (any_init()) {
        const struct timespec again = {.tv_nsec = 10000000};
        reap();
        ppoll(NULL, 0, &again, &none);
    }
    kill_orphans();
    remove_root();
    take_cgroups();
    eb_cgroups_remove(&runtime.cgroups);
}

#ifdef __SANITIZE_ADDRESS__
/* The look for leaks at the end would need calls that are denied by then. */
const char *__asan_default_options(void);
const char *
__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

int
main(void)
{
    reset_process();
    confine();
    tell(EB_CONTROL_READY, 0, EB_STAGE_NONE, 0);
    serve();
    end_everything();
    return 0;
}
