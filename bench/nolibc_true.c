/* nolibc_true.c - the smallest program that exits with 0.
 *
 * No C library and no loader: what is left of a run is the kernel's exec and
 * exit, so that our own cost cannot hide behind a program's start-up.
 * Built with -nostdlib -static. */

_Noreturn void _start(void);

_Noreturn void
_start(void)
{
#if defined(__x86_64__)
    __asm__ volatile("xor %%edi, %%edi; mov $231, %%eax; syscall" ::: "rdi", "rax", "memory");
#elif defined(__aarch64__)
    __asm__ volatile("mov x0, #0; mov x8, #94; svc #0" ::: "x0", "x8", "memory");
#else
#error "only x86_64 and aarch64"
#endif
    __builtin_unreachable();
}
