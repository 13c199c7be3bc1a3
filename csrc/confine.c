/* confine.c - what launcher and init take away from themselves.
 *
 * In the process tier the launcher does it once, and inits inherit it.  A new
 * user namespace gives every capability in it, so there each init does it too,
 * when its files are mounted. */
#include "runtime.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAP_BIT(cap) (1ULL << (cap))
/* For the identity of runs and for what they leave in their workspace. */
static const uint64_t for_runs = CAP_BIT(CAP_SETUID) | CAP_BIT(CAP_SETGID) | CAP_BIT(CAP_KILL) |
                                 CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_DAC_OVERRIDE) |
                                 CAP_BIT(CAP_FOWNER);
/* For namespaces of inits (mapping uid 0 takes CAP_SETFCAP, Linux 5.12), for the size
 * of a workspace, and for the memory of a process that hides from others.  They are
 * void outside the user namespace. */
static const uint64_t in_namespaces = CAP_BIT(CAP_SYS_ADMIN) | CAP_BIT(CAP_SYS_PTRACE) |
                                      CAP_BIT(CAP_SETFCAP);

/* RLIMIT_CORE is 1 and not 0: a piped core_pattern ignores 0 but honours 1 (core(5)). */
void
eb_confine_limits(void)
{
    static const struct {
        int resource;
        rlim_t value;
    } limits[] = {
        {RLIMIT_CORE, 1}, {RLIMIT_MEMLOCK, 0},  {RLIMIT_RTPRIO, 0},
        {RLIMIT_NICE, 0}, {RLIMIT_MSGQUEUE, 0}, {RLIMIT_SIGPENDING, 1024},
    };
    for (size_t i = 0; EB_HAS(FIXED_LIMITS) && i < sizeof limits / sizeof *limits; i++) {
        struct rlimit now;
        __rlimit_resource_t resource = (__rlimit_resource_t)limits[i].resource;
        if (getrlimit(resource, &now) < 0)
            continue;
        rlim_t value = limits[i].value < now.rlim_max ? limits[i].value : now.rlim_max;
        struct rlimit lowered = {value, value};
        setrlimit(resource, &lowered);
    }
}

/* With an empty bounding set and NOROOT no execve gives any of them back. */
int
eb_confine_capabilities(bool namespaces)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct held[2];
    uint64_t wanted = namespaces ? for_runs | in_namespaces : geteuid() == 0 ? for_runs : 0;
    memset(held, 0, sizeof held);
    if (!EB_HAS(CAPABILITIES))
        return 0;
    if (syscall(SYS_capget, &header, held) < 0)
        return -errno;
    if (held[0].permitted & CAP_BIT(CAP_SETPCAP)) {
        for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
            prctl(PR_CAPBSET_DROP, cap);
        prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED |
                                     SECBIT_NO_CAP_AMBIENT_RAISE |
                                     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED);
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned i = 0; i < 2; i++) {
        held[i].permitted &= (uint32_t)(wanted >> (32 * i));
        held[i].effective = held[i].permitted;
        held[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, held) < 0 ? -errno : 0;
}

int
eb_confine_calls(const struct eb_filter *filter)
{
    struct {
        unsigned short len;
        const struct eb_insn *filter;
    } program = {.len = filter->n_insns, .filter = filter->insns};
    if (filter->n_insns == 0 || !EB_HAS(CALLS))
        return 0;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}
