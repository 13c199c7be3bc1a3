/* launcher.c - the small process that all runs of one kind come from.
 *
 * Started once by the host with the descriptors of evalbox.h.  It confines
 * itself first with everything that its runs share: no_new_privs, the large
 * seccomp filter, capabilities reduced to what inits and clean-up need, fixed
 * resource limits.  Then it forks inits on request and does nothing else:
 * jobs and reports pass between host and init directly.
 *
 * It is a child subreaper, so a child that it does not know is the orphan of
 * an init that died: killed, and reaped until none is left.  It watches the
 * host's pidfd (end of file on the socket alone does not come while a forked
 * child of the host holds a copy): when the host is gone, every tree dies and
 * the workspaces are removed. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
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

static _Noreturn void
fail(enum eb_stage stage, int error)
{
    tell(EB_CONTROL_FAILED, 0, stage, error);
    eb_tree_remove(EB_FD_PARENT, runtime.root_name);
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
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_SETMASK, &set, NULL);
    umask(022);
    (void)!chdir("/");
    setsid();
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (syscall(SYS_close_range, EB_FD_END, ~0U, 0) < 0)
        fail(EB_STAGE_CLOSE_RANGE, errno);
    for (int fd = EB_FD_CONTROL; fd < EB_FD_END; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* Limits that are the same for every run.  RLIMIT_CORE is 1 and not 0: a piped
 * core_pattern ignores 0 but honours 1 (core(5)). */
static void
set_fixed_limits(void)
{
    static const struct {
        int resource;
        rlim_t value;
    } limits[] = {
        {RLIMIT_CORE, 1}, {RLIMIT_MEMLOCK, 0},  {RLIMIT_RTPRIO, 0},
        {RLIMIT_NICE, 0}, {RLIMIT_MSGQUEUE, 0}, {RLIMIT_SIGPENDING, 1024},
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit now;
        __rlimit_resource_t resource = (__rlimit_resource_t)limits[i].resource;
        if (getrlimit(resource, &now) < 0)
            continue;
        rlim_t value = limits[i].value < now.rlim_max ? limits[i].value : now.rlim_max;
        struct rlimit lowered = {value, value};
        setrlimit(resource, &lowered);
    }
}

#define CAP_BIT(cap) (1ULL << (cap))
static const uint64_t kept_capabilities = CAP_BIT(CAP_SETUID) | CAP_BIT(CAP_SETGID) |
                                          CAP_BIT(CAP_KILL) | CAP_BIT(CAP_CHOWN) |
                                          CAP_BIT(CAP_DAC_OVERRIDE) | CAP_BIT(CAP_FOWNER);

/* With an empty bounding set and NOROOT no execve gives any of them back. */
static void
reduce_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct held[2];
    memset(held, 0, sizeof held);
    if (syscall(SYS_capget, &header, held) < 0)
        fail(EB_STAGE_LAUNCHER_CAPABILITIES, errno);
    if (held[0].permitted & CAP_BIT(CAP_SETPCAP)) {
        for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
            prctl(PR_CAPBSET_DROP, cap);
        prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED |
                                     SECBIT_NO_CAP_AMBIENT_RAISE |
                                     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED);
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t kept = (uint32_t)(kept_capabilities >> (32 * i)) & held[i].permitted;
        held[i].permitted = held[i].effective = geteuid() == 0 ? kept : 0;
        held[i].inheritable = 0;
    }
    if (syscall(SYS_capset, &header, held) < 0)
        fail(EB_STAGE_LAUNCHER_CAPABILITIES, errno);
}

static void
load_filter(const struct eb_insn *insns, uint32_t n_insns)
{
    struct {
        unsigned short len;
        const struct eb_insn *filter;
    } program = {.len = (unsigned short)n_insns, .filter = insns};
    if (n_insns == 0)
        return;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        fail(EB_STAGE_LAUNCHER_SECCOMP, errno);
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

static void
confine(void)
{
    struct eb_config config;
    struct eb_packet packet = {.data = &config};
    ssize_t got = eb_packet_receive(EB_FD_CONTROL, &packet, sizeof config, 0);
    if (got != (ssize_t)sizeof config || config.version != EB_PROTOCOL_VERSION)
        fail(EB_STAGE_CONFIG, got < 0 ? (int)-got : EBADMSG);
    config.root_name[EB_NAME_MAX - 1] = 0;
    memcpy(runtime.root_name, config.root_name, sizeof runtime.root_name);
    if (config.launcher_filter > EB_FILTER_MAX || config.child_filter > EB_FILTER_MAX)
        fail(EB_STAGE_CONFIG, EBADMSG);
    struct eb_insn *insns = map_filters(&packet, config.launcher_filter + config.child_filter);
    int abi = eb_landlock_abi();
    runtime.child_filter.insns = insns + config.launcher_filter;
    runtime.child_filter.n_insns = (uint16_t)config.child_filter;
    runtime.listen = (config.flags & EB_CONFIG_LISTEN) != 0;
    runtime.abi = abi < 0 ? 0 : abi;
    runtime.scoped = eb_landlock_scopes(runtime.abi) != 0;
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        fail(EB_STAGE_SUBREAPER, errno);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(EB_STAGE_NO_NEW_PRIVS, errno);
    set_fixed_limits();
    reduce_capabilities();
    load_filter(insns, config.launcher_filter);
}

/* ---- inits ---- */

static void
spawn_init(const struct eb_control *order, const struct eb_packet *packet)
{
    struct eb_init init = {.runtime = &runtime,
                           .sock = packet->n_fds > 0 ? packet->fds[0] : -1,
                           .workspace = packet->n_fds > 1 ? packet->fds[1] : -1,
                           .uid = order->uid,
                           .launcher = getpid()};
    int opened = eb_cgroups_open(&runtime.cgroups, order->name, order->cgroup, &init.cgroup);
    errno = opened < 0 ? -opened : EBADMSG;
    pid_t pid = order->slot < MAX_SLOTS && packet->n_fds == 2 && opened == 0 ? fork() : -1;
    int error = errno;
    if (pid == 0) {
        eb_cgroups_forget(&runtime.cgroups);
        for (int fd = EB_FD_CONTROL; fd < EB_FD_END; fd++)
            close(fd);
        eb_init_main(&init);
    }
    eb_cgroups_close(&init.cgroup);
    if (pid < 0) {
        tell(EB_CONTROL_GONE, order->slot, opened < 0 ? EB_STAGE_CGROUP : EB_STAGE_FORK, error);
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
    eb_cgroups_bury(&runtime.cgroups, slot->name);
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
    if (got == (ssize_t)sizeof order && order.type == EB_CONTROL_SPAWN)
        spawn_init(&order, &packet);
    else if (got == (ssize_t)sizeof order && order.type == EB_CONTROL_KILL &&
             order.slot < n_slots && slots[order.slot].pid)
        kill(slots[order.slot].pid, SIGKILL);
    else if (got == (ssize_t)sizeof order && order.type == EB_CONTROL_CGROUP)
        eb_cgroups_take(&runtime.cgroups, &order, packet.fds, packet.n_fds);
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
    eb_tree_remove(EB_FD_PARENT, runtime.root_name);
    eb_cgroups_remove(&runtime.cgroups);
}

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
