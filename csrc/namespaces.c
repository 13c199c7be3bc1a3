/* namespaces.c - the namespaces of a launcher, and those of each of its inits.
 *
 * What is the same for all runs is made once: a user namespace, which gives the
 * right to make the others without being root, and network, UTS, cgroup and mount
 * namespace.  Each init gets a user namespace inside it (RLIMIT_NPROC then counts
 * its processes alone), a mount, an IPC and a PID namespace, of which it is the
 * first process: when it ends, the kernel ends all others.
 *
 * Ids are mapped to themselves, so that files and messages mean the same on both
 * sides.  A map of more than one's own id is written from outside, with
 * CAP_SETUID there (user_namespaces(7)); all of them are. */
#include "kernel.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static int
write_text(pid_t pid, const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    int error = n < 0 ? -errno : 0;
    close(fd);
    return error;
}

static int
write_maps(const struct eb_runtime *runtime, pid_t pid)
{
    int error = runtime->deny_setgroups ? write_text(pid, "setgroups", "deny") : 0;
    if (error == 0)
        error = write_text(pid, "uid_map", runtime->uid_map);
    return error < 0 ? error : write_text(pid, "gid_map", runtime->gid_map);
}

/* Waits in the outer namespace until there is an inner one to write the maps of. */
static _Noreturn void
serve_as_mapper(const struct eb_runtime *runtime, int go)
{
    char byte;
    if (read(go, &byte, 1) != 1)
        _exit(0);
    _exit(-write_maps(runtime, getppid()));
}

static int
enter_user_namespace(const struct eb_runtime *runtime, struct eb_failure *failure)
{
    int go[2], status = 0;
    failure->stage = EB_STAGE_USER_NAMESPACE;
    if (pipe2(go, O_CLOEXEC) < 0)
        return -errno;
    pid_t mapper = fork();
    if (mapper == 0) {
        close(go[1]);
        serve_as_mapper(runtime, go[0]);
    }
    int error = mapper < 0 ? -errno : unshare(CLONE_NEWUSER) < 0 ? -errno : 0;
    if (error == 0)
        (void)!write(go[1], "", 1);
    close(go[0]);
    close(go[1]);
    if (mapper > 0 && waitpid(mapper, &status, 0) < 0 && error == 0)
        error = -errno;
    if (error == 0 && status != 0) {
        failure->stage = EB_STAGE_ID_MAP;
        error = WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
    }
    return error;
}

int
eb_namespaces_enter(const struct eb_runtime *runtime, const struct eb_config *config,
                    struct eb_failure *failure)
{
    int flags = CLONE_NEWNS | (EB_HAS(UTS_NAMESPACE) ? CLONE_NEWUTS : 0) |
                (EB_HAS(CGROUP_NAMESPACE) ? CLONE_NEWCGROUP : 0);
    int error = enter_user_namespace(runtime, failure);
    if (error < 0)
        return error;
    if ((config->flags & EB_CONFIG_OWN_NETWORK) && EB_HAS(NETWORK_NAMESPACE))
        flags |= CLONE_NEWNET;
    failure->stage = EB_STAGE_NAMESPACES;
    if (unshare(flags) < 0)
        return -errno;
    /* What is mounted here stays here. */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -errno;
    failure->stage = EB_STAGE_HOST_NAME;
    if (!EB_HAS(UTS_NAMESPACE))
        return 0;
    size_t length = strnlen(config->host_name, sizeof config->host_name);
    if (sethostname(config->host_name, length) < 0 || setdomainname("", 0) < 0)
        return -errno;
    failure->stage = EB_STAGE_NONE;
    return 0;
}

pid_t
eb_namespaces_fork(const struct eb_runtime *runtime, struct eb_failure *failure)
{
    const unsigned long flags = (EB_HAS(USER_NAMESPACE) ? CLONE_NEWUSER : 0UL) |
                                (EB_HAS(IPC_NAMESPACE) ? CLONE_NEWIPC : 0UL) |
                                (EB_HAS(PID_NAMESPACE) ? CLONE_NEWPID : 0UL) | CLONE_NEWNS |
                                SIGCHLD;
    int go[2];
    failure->stage = EB_STAGE_FORK;
    if (pipe2(go, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        char byte;
        close(go[1]);
        if (read(go[0], &byte, 1) != 1)
            _exit(1);
        close(go[0]);
        return 0;
    }
    int error = pid < 0 ? -errno : 0;
    if (error == 0 && EB_HAS(USER_NAMESPACE)) {
        failure->stage = EB_STAGE_ID_MAP;
        error = write_maps(runtime, pid);
    }
    if (error == 0)
        (void)!write(go[1], "", 1);
    close(go[0]);
    close(go[1]);
    /* Without its byte it ends by itself. */
    if (error < 0 && pid > 0)
        waitpid(pid, NULL, 0);
    return error < 0 ? error : pid;
}
