/* clone.c - a child made inside a cgroup of v2.
 *
 * CLONE_INTO_CGROUP (Linux 5.7) is an argument of clone3(), which libc offers to
 * nobody.  Its syscall() is no help: it would return in the child too, which
 * shares the memory and has a stack without the frame to return from. */
#include "cgroup.h"
#include "kernel.h"
#include "runtime.h"

#include <errno.h>

/* The child calls `entry`, on the stack of `args`; only the parent returns. */
static long
clone_and_call(const struct eb_clone_args *args, int (*entry)(void *), void *argument)
{
    long result;
#if defined(__x86_64__)
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %[argument], %%rdi\n\t"
                     "call *%[entry]\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "0"((long)SYS_clone3), "D"(args),
                       "S"(sizeof *args), [entry] "r"(entry), [argument] "r"(argument)
                     : "rcx", "r11", "cc", "memory");
#elif defined(__aarch64__)
    register long number __asm__("x8") = SYS_clone3;
    register long first __asm__("x0") = (long)args;
    register long second __asm__("x1") = sizeof *args;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x0, %[argument]\n\t"
                     "blr %[entry]\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(first)
                     : "r"(number), "r"(second), [entry] "r"(entry), [argument] "r"(argument)
                     : "cc", "memory");
    result = first;
#else
    (void)args, (void)entry, (void)argument;
    result = -ENOSYS;
#endif
    return result;
}

pid_t
eb_cgroup_clone(struct eb_cgroup *cgroup, struct eb_child *child, void *stack,
                size_t stack_size, uint64_t flags)
{
    struct eb_clone_args args = {
        .flags = flags | EB_CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = stack_size,
        .cgroup = (uint64_t)(cgroup->run >= 0 ? cgroup->run : cgroup->memory),
    };
    long pid = clone_and_call(&args, eb_child_main, child);
    if (pid != -ENOSYS && pid != -EPERM)
        return (pid_t)pid;
    int error = eb_cgroup_open_entrance(cgroup);
    return error < 0 ? error : -ENOSYS;
}
