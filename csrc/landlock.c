/* landlock.c - rules -> ruleset descriptor.
 *
 * Facts relied on (security/landlock, Linux 5.13 to 7.2):
 *   - a bit that the running kernel does not know is EINVAL for the whole
 *     ruleset, so every mask is cut down to the ABI and a bit that this file does
 *     not know never reaches the kernel;
 *   - a right that only a directory can have is EINVAL on a file;
 *   - a rule without any right is ENOMSG;
 *   - a rule binds the inode that the descriptor refers to, O_PATH included, and
 *     pins it: a path that is replaced later is not covered;
 *   - every layer denies REFER unless a rule of its own grants it, also a layer
 *     that handles no file right at all. */
#include "evalbox.h"
#include "kernel.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* What each ABI added; an ABI that added no right has an empty row. */
struct rights {
    uint64_t fs;
    uint64_t net;
    uint64_t scopes;
};

static const struct rights LADDER[] = {
    [1] = {.fs = EB_FS_ABI_1},
    [2] = {.fs = EB_FS_REFER},
    [3] = {.fs = EB_FS_TRUNCATE},
    [4] = {.net = EB_NET_BIND_TCP | EB_NET_CONNECT_TCP},
    [5] = {.fs = EB_FS_IOCTL_DEV},
    [6] = {.scopes = EB_SCOPE_ABSTRACT_UNIX_SOCKET | EB_SCOPE_SIGNAL},
    [7] = {0}, /* flags of restrict_self for the audit log */
    [8] = {0}, /* restrict_self for all threads */
    [9] = {.fs = EB_FS_RESOLVE_UNIX},
    [10] = {.net = EB_NET_BIND_UDP | EB_NET_CONNECT_SEND_UDP},
};
enum { LAST_ABI = sizeof LADDER / sizeof LADDER[0] - 1 };

static struct rights
known_to(int abi)
{
    struct rights all = {0};
    for (int i = 1; i <= abi && i <= LAST_ABI; i++) {
        all.fs |= LADDER[i].fs;
        all.net |= LADDER[i].net;
        all.scopes |= LADDER[i].scopes;
    }
    return all;
}

int
eb_landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, EB_RULESET_VERSION);
    return abi < 0 ? -errno : (int)abi;
}

uint64_t
eb_landlock_fs(int abi)
{
    return known_to(abi).fs;
}

uint64_t
eb_landlock_net(int abi)
{
    return known_to(abi).net;
}

uint64_t
eb_landlock_scopes(int abi)
{
    return known_to(abi).scopes;
}

static int
add_rule(int ruleset, const struct eb_path_rule *rule, uint64_t handled)
{
    struct stat status;
    if (fstat(rule->fd, &status) < 0)
        return -errno;
    struct eb_path_beneath beneath = {.allowed_access = rule->access & handled,
                                      .parent_fd = rule->fd};
    if (!S_ISDIR(status.st_mode))
        beneath.allowed_access &= EB_FS_OF_FILES;
    if (beneath.allowed_access == 0)
        return 0;
    if (syscall(SYS_landlock_add_rule, ruleset, EB_RULE_PATH_BENEATH, &beneath, 0) < 0)
        return -errno;
    return 0;
}

int
eb_ruleset_create(const struct eb_ruleset_spec *spec)
{
    int abi = eb_landlock_abi();
    if (abi < 0)
        return abi;
    /* A lower ABI may be asked for, to see what an older kernel would hold. */
    if (spec->abi > 0 && spec->abi < abi)
        abi = spec->abi;
    struct rights known = known_to(abi);
    struct eb_ruleset_attr attr = {.handled_fs = spec->handled_fs & known.fs,
                                   .handled_net = spec->handled_net & known.net,
                                   .scoped = spec->scoped & known.scopes};
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (ruleset < 0)
        return -errno;
    for (size_t i = 0; i < spec->n_rules; i++) {
        int error = add_rule(ruleset, &spec->rules[i], attr.handled_fs);
        if (error < 0) {
            close(ruleset);
            return error;
        }
    }
    return ruleset;
}
