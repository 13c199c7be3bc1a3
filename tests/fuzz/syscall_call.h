/* syscall_call.h - one system call, by number, with six arguments, past the C library. */
#ifndef EB_SYSCALL_CALL_H
#define EB_SYSCALL_CALL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>

enum { ARGS = 6 };

#if defined __x86_64__
static inline long
call(long number, const uint64_t args[ARGS])
{
    long result;
    register uint64_t d __asm__("r10") = args[3];
    register uint64_t e __asm__("r8") = args[4];
    register uint64_t f __asm__("r9") = args[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(d), "r"(e),
                       "r"(f)
                     : "rcx", "r11", "memory");
    return result;
}

/* The child, which may share our stack or have none, ends without touching it. */
static inline long
call_twice(long number, const uint64_t args[ARGS])
{
    long result;
    register uint64_t d __asm__("r10") = args[3];
    register uint64_t e __asm__("r8") = args[4];
    __asm__ volatile("syscall\n"
                     "test %%rax, %%rax\n"
                     "jnz 2f\n"
                     "1: mov $60, %%eax\n"
                     "xor %%edi, %%edi\n"
                     "syscall\n"
                     "jmp 1b\n"
                     "2:"
                     : "=a"(result)
                     : "a"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(d), "r"(e)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

static inline bool
forks(long number)
{
    return number == SYS_fork || number == SYS_vfork || number == SYS_clone ||
           number == SYS_clone3;
}

/* By the old door, which numbers the calls otherwise. */
static inline void
call_foreign(long number, const uint64_t args[ARGS])
{
    long result = number;
    __asm__ volatile("int $0x80"
                     : "+a"(result)
                     : "b"(args[0]), "c"(args[1]), "d"(args[2])
                     : "memory");
}
#elif defined __aarch64__
static inline long
call(long number, const uint64_t args[ARGS])
{
    register long x8 __asm__("x8") = number;
    register uint64_t x0 __asm__("x0") = args[0];
    register uint64_t x1 __asm__("x1") = args[1];
    register uint64_t x2 __asm__("x2") = args[2];
    register uint64_t x3 __asm__("x3") = args[3];
    register uint64_t x4 __asm__("x4") = args[4];
    register uint64_t x5 __asm__("x5") = args[5];
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return (long)x0;
}

static inline long
call_twice(long number, const uint64_t args[ARGS])
{
    register long x8 __asm__("x8") = number;
    register uint64_t x0 __asm__("x0") = args[0];
    register uint64_t x1 __asm__("x1") = args[1];
    register uint64_t x2 __asm__("x2") = args[2];
    register uint64_t x3 __asm__("x3") = args[3];
    register uint64_t x4 __asm__("x4") = args[4];
    __asm__ volatile("svc 0\n"
                     "cbnz x0, 2f\n"
                     "1: mov x8, 93\n"
                     "svc 0\n"
                     "b 1b\n"
                     "2:"
                     : "+r"(x0), "+r"(x8)
                     : "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                     : "memory", "cc");
    return (long)x0;
}

static inline bool
forks(long number)
{
    return number == SYS_clone || number == SYS_clone3;
}

static inline void
call_foreign(long number, const uint64_t args[ARGS])
{
    call(number, args);
}
#endif

#endif
