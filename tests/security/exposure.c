/* exposure.c - what the sandbox that this runs in leaves within reach.
 *
 * Asks for every system call from 0 to 600 with arguments that mean nothing (-1),
 * each in a process of its own, and counts those that are answered by the kernel
 * and not by the sandbox.  Prints "name value" lines. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST = 600, DENIED = 1, ANSWERED = 2 };

static int
means_denial(int error)
{
    return error == EPERM || error == ENOSYS || error == EOPNOTSUPP || error == ENOTTY;
}

static void
ask(long nr)
{
    struct itimerval soon = {.it_value = {.tv_usec = 200000}};
    pid_t me = getpid();
    setitimer(ITIMER_REAL, &soon, NULL);
    long result = syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
    int error = errno;
    /* fork and its like come back twice. */
    if (getpid() != me)
        _exit(ANSWERED);
    _exit(result == -1 && means_denial(error) ? DENIED : ANSWERED);
}

static int
is_answered(long nr)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        ask(nr);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return 0;
    if (WIFSIGNALED(status))
        return WTERMSIG(status) != SIGSYS;
    return WEXITSTATUS(status) != DENIED;
}

static int
count(const char *path, int numbers_only)
{
    DIR *directory = opendir(path);
    int n = 0;
    if (!directory)
        return 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        n += numbers_only ? entry->d_name[0] >= '1' && entry->d_name[0] <= '9'
                          : entry->d_name[0] != '.';
    closedir(directory);
    return n;
}

static void
print_status(void)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (!colon || (strncmp(line, "Cap", 3) != 0 && strncmp(line, "Seccomp", 7) != 0))
            continue;
        *colon = ' ';
        fputs(line, stdout);
    }
    if (file)
        fclose(file);
}

static int
open_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += syscall(SYS_lseek, fd, 0L, SEEK_CUR) >= 0 || errno != EBADF;
    return n;
}

int
main(void)
{
    int answered = 0;
    printf("descriptors %d\n", open_descriptors());
    for (long nr = 0; nr <= LAST; nr++)
        if (nr != SYS_vhangup)
            answered += is_answered(nr);
    printf("answered %d\n", answered);
    printf("processes %d\n", count("/proc", 1));
    printf("etc %d\n", count("/etc", 0));
    printf("dev %d\n", count("/dev", 0));
    print_status();
    return 0;
}
