/* template.h - between init (template.c) and an interpreter that it has runs forked
 * from (interpreter.c).  One message is one order or answer. */
#ifndef EB_TEMPLATE_H
#define EB_TEMPLATE_H

#include "runtime.h"

#define EB_TEMPLATE_FD 3      /* the interpreter's end of the socket */
#define EB_TEMPLATE_LIBRARY 4 /* what it is loaded from: no file that a run could see */
#define EB_TEMPLATE_MARK "EVALBOX_TEMPLATE" /* in its environment until it starts */

/* First message: this, the child filter, and the text that it runs, with a NUL. */
struct eb_template_hello {
    uint32_t version;
    uint32_t n_insns;
    uint32_t text; /* bytes */
};

enum eb_template_type {
    EB_TEMPLATE_FORK = 1,
    EB_TEMPLATE_KILL = 2,
    EB_TEMPLATE_PARK = 3 /* fork now; that process takes the next EB_TEMPLATE_FORK */
};

/* Descriptors of a fork, in the order of their bits. */
enum eb_template_fd {
    EB_TEMPLATE_NOTICE,
    EB_TEMPLATE_STDIN,
    EB_TEMPLATE_STDOUT,
    EB_TEMPLATE_STDERR,
    EB_TEMPLATE_CWD,
    EB_TEMPLATE_RULESET,
    EB_TEMPLATE_GATE,
    EB_TEMPLATE_CGROUPS, /* EB_HIERARCHIES of them */
    EB_TEMPLATE_STRINGS = EB_TEMPLATE_CGROUPS + EB_HIERARCHIES, /* memfd, when they are many */
    EB_TEMPLATE_FDS
};

/* Followed by argv and the environment, each string with a NUL. */
struct eb_template_order {
    uint32_t type;
    uint32_t fds;
    uint32_t argc;
    uint32_t strings; /* bytes */
    uint32_t landlock_flags;
    uint32_t own_session;
    int32_t parent;
    struct eb_rlimit rlimits[EB_CHILD_RLIMITS];
    struct eb_rlimit open_files;
};

/* Its pid, or -errno; 0 when the text has been run and orders are awaited. */
struct eb_template_answer {
    int32_t pid;
};

/* template_start.c: -errno, and what it said is kept. */
int eb_template_start(struct eb_init *init);

#endif
