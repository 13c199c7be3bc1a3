/* start.c - the launcher started from the host process.
 *
 * The host may be large and full of threads: fork would copy its page tables
 * (94 ms with 2 GB resident) and could inherit a lock.  The child of a vfork
 * borrows the memory until execve and only makes system calls. */
#include "evalbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 3, MAX_FDS = 16 };

/* Two passes: a source may have the number of another one's target. */
static int
place_descriptors(const int32_t *fds, uint32_t n_fds)
{
    int high[MAX_FDS];
    for (uint32_t i = 0; i < n_fds; i++) {
        high[i] = fcntl(fds[i], F_DUPFD, FIRST + (int)n_fds);
        if (high[i] < 0)
            return -errno;
    }
    for (uint32_t i = 0; i < n_fds; i++)
        if (dup2(high[i], FIRST + (int)i) < 0)
            return -errno;
    return 0;
}

int
eb_launcher_start(const char *path, const int32_t *fds, uint32_t n_fds)
{
    /* Not the path: in a PID namespace the program may read /proc/1/cmdline. */
    char name[] = "evalbox_launcher";
    char *const argv[] = {name, NULL};
    char *const envp[] = {NULL};
    volatile int error = 0;
    sigset_t all, before;
    if (n_fds > MAX_FDS)
        return -EINVAL;
    /* No handler of the host may run in the child. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = vfork();
    if (pid == 0) {
        error = place_descriptors(fds, n_fds);
        if (error == 0) {
            execve(path, argv, envp);
            error = -errno;
        }
        _exit(127);
    }
    int fork_error = pid < 0 ? -errno : 0;
    if (pid > 0 && error < 0)
        waitpid(pid, NULL, 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (fork_error < 0)
        return fork_error;
    return error < 0 ? error : pid;
}
