/* kernel.h - what older kernel and libc headers lack. */
#ifndef EB_KERNEL_H
#define EB_KERNEL_H

#include <sys/syscall.h>

/* landlock_restrict_self(): nothing of the sandbox goes to the audit log, so a
 * program cannot flood it (ABI 7, Linux 6.15). */
#define EB_LANDLOCK_QUIET ((1U << 0) | (1U << 2))

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

#endif
