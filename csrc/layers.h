/* layers.h - the layers of a sandbox, each of which a test build can leave out.
 *
 * tests/security/test_layers.py compiles the launcher once for each with
 * -DEB_LAYERS_OFF=<bit> and shows an attack that then succeeds: no layer is there
 * for show.  Every other build has all of them, and the tests are constant. */
#ifndef EB_LAYERS_H
#define EB_LAYERS_H

/* clang-format would move the backslashes by the width of the remarks. */
/* clang-format off */
#define EB_LAYERS(X)                                                        \
    X(LANDLOCK)          /* rules of the program's domain */                \
    X(CALLS)             /* both seccomp filters */                         \
    X(CHILD_CALLS)       /* the program's own, on top of the launcher's */  \
    X(IDENTITY)          /* a uid of its own */                             \
    X(CAPABILITIES)      /* none for the program */                         \
    X(RLIMITS)           /* data, file size, processes, stack */            \
    X(OPEN_FILES)        /* RLIMIT_NOFILE */                                \
    X(FIXED_LIMITS)      /* core files, locked memory, signals */           \
    X(CLOSE_RANGE)       /* no descriptor of host or init */                \
    X(USER_NAMESPACE)    /* a count of processes of its own */              \
    X(PID_NAMESPACE)                                                        \
    X(NETWORK_NAMESPACE)                                                    \
    X(IPC_NAMESPACE)                                                        \
    X(UTS_NAMESPACE)                                                        \
    X(CGROUP_NAMESPACE)                                                     \
    X(READ_ONLY)         /* what is bound into the tree */                  \
    X(HIDDEN_PROC)       /* what of /proc is of the whole machine */        \
    X(OLD_ROOT)          /* the host's tree is detached */                  \
    X(DISK)              /* size of the workspace */                        \
    X(MEMORY_CGROUP)     /* limit of the tree's memory */                   \
    X(PROCESS_CGROUP)    /* limit of its processes */                       \
    X(MEMORY_WATCH)                                                         \
    X(CPU_WATCH)                                                            \
    X(TREE_KILL)         /* of what is left when the program ends */        \
    X(CLEARING)          /* of the workspace between two runs */
/* clang-format on */

#define EB_LAYER_NUMBER(name) EB_LAYER_##name,
enum eb_layer { EB_LAYERS(EB_LAYER_NUMBER) EB_LAYER_COUNT };
#undef EB_LAYER_NUMBER

#ifndef EB_LAYERS_OFF
#define EB_LAYERS_OFF 0
#endif
#define EB_HAS(layer) (!(((unsigned long)(EB_LAYERS_OFF) >> EB_LAYER_##layer) & 1))

#endif
