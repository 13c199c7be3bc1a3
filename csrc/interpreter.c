/* interpreter.c - what makes a CPython of any kind a template (template.c).
 *
 * Loaded into it with LD_PRELOAD, so that nothing has to be installed there and its
 * version does not matter: it takes the place of main() and drives the interpreter
 * through the calls that CPython exports for programs that embed it (3.8 and newer,
 * docs.python.org/3/c-api/init_config.html).  So no frame of ours is below what a run
 * does, and its tracebacks, recursion limit and main module are those of
 * `python main.py`.
 *
 * A run is forked by a child that borrows our memory (vfork) and ends at once: the run
 * is then a child of init, and still fork() has done all that the C library and the
 * modules want done. */
#include "cpython.h"
#include "kernel.h"
#include "template.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROOM_FOR_CONFIG = 16384, HELLO_MAX = 212992 };
enum { TRIES = 2000, PAUSE_NS = 50000 };

struct eb_cpython py;
object *eb_helpers;

static struct eb_filter filter;
static int parked_by = -1; /* the template waits for its end of file */

/* ---- the interpreter ---- */

/* False in what is no CPython: a shell, say, that will start one. */
static bool
find_cpython(void)
{
    bool all = true;
#define FIND(type, name, arguments)                                                            \
    *(void **)&py.name = dlsym(RTLD_DEFAULT, #name);                                           \
    all = all && py.name;
    CPYTHON(FIND)
#undef FIND
    return all;
}

object *
eb_helper(const char *name)
{
    return py.PyDict_GetItemString(eb_helpers, name);
}

/* The same as the command line of a run, `python main.py`. */
static void
start_interpreter(int argc, char **argv)
{
    static _Alignas(16) char config[ROOM_FOR_CONFIG];
    py.PyConfig_InitPythonConfig(config);
    struct status status = py.PyConfig_SetBytesArgv(config, argc, argv);
    if (!py.PyStatus_Exception(status))
        status = py.Py_InitializeFromConfig(config);
    if (py.PyStatus_Exception(status))
        py.Py_ExitStatusException(status);
}

/* As a run would get it, if it has no variables of its own. */
static object *
own_environment(void)
{
    static char text[EB_MESSAGE_MAX];
    size_t used = 0;
    for (char **item = environ; *item; item++) {
        size_t size = strlen(*item) + 1;
        if (size > sizeof text - used)
            break;
        memcpy(text + used, *item, size);
        used += size;
    }
    return py.PyBytes_FromStringAndSize(text, (ssize_t)used);
}

static void
run_text(const char *text)
{
    eb_helpers = py.PyDict_New();
    if (!eb_helpers ||
        py.PyDict_SetItemString(eb_helpers, "__builtins__", py.PyEval_GetBuiltins()) < 0 ||
        py.PyDict_SetItemString(eb_helpers, "started_with", own_environment()) < 0)
        exit(1);
    if (!py.PyRun_StringFlags(text, EB_FILE_INPUT, eb_helpers, eb_helpers, NULL)) {
        py.PyErr_Print();
        exit(1);
    }
}

static void
answer(int pid)
{
    struct eb_template_answer answer = {pid};
    struct iovec part = {.iov_base = &answer, .iov_len = sizeof answer};
    if (eb_packet_send(EB_TEMPLATE_FD, &part, 1, NULL, 0, 0) < 0)
        _exit(1);
}

/* The text, which stays where it is. */
static const char *
take_hello(void)
{
    static _Alignas(16) char buffer[HELLO_MAX];
    struct eb_packet packet = {.data = buffer};
    struct eb_template_hello hello;
    ssize_t got = eb_packet_receive(EB_TEMPLATE_FD, &packet, sizeof buffer, 0);
    if (got < (ssize_t)sizeof hello)
        _exit(1);
    memcpy(&hello, buffer, sizeof hello);
    size_t insns = hello.n_insns * sizeof(struct eb_insn);
    size_t size = sizeof hello + insns + hello.text;
    if (hello.version != EB_PROTOCOL_VERSION || hello.n_insns > EB_FILTER_MAX ||
        size != (size_t)got || hello.text == 0 || buffer[got - 1])
        _exit(1);
    const void *first = buffer + sizeof hello;
    filter = (struct eb_filter){first, (uint16_t)hello.n_insns};
    return buffer + sizeof hello + insns;
}

/* ---- a run ---- */

/* Reads memory that the order came with, which lives as long as we do. */
static char *
strings_of(const struct eb_template_order *order, char *inside, int memory)
{
    if (memory < 0)
        return inside;
    void *mapped = mmap(NULL, order->strings, PROT_READ, MAP_PRIVATE, memory, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

/* Who forked us ends at once, and then init is our parent. */
static void
wait_for_parent(pid_t parent)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    for (int i = 0; i < TRIES && getppid() != parent; i++) {
        if (i < 100)
            sched_yield();
        else
            nanosleep(&pause, NULL);
    }
}

static void
confine(const struct eb_template_order *order, const int *fds)
{
    struct eb_child_status status = {0};
    struct eb_child child = {
        .status = &status,
        .stdio = {fds[EB_TEMPLATE_STDIN], fds[EB_TEMPLATE_STDOUT], fds[EB_TEMPLATE_STDERR]},
        .cwd_fd = fds[EB_TEMPLATE_CWD],
        .ruleset_fd = fds[EB_TEMPLATE_RULESET],
        .gate_fd = fds[EB_TEMPLATE_GATE],
        .notice_fd = EB_TEMPLATE_FD,
        .listener_fd = -1,
        .template_fds = {-1, -1},
        .report_fd = EB_TEMPLATE_FD,
        .landlock_flags = order->landlock_flags,
        .uid = EB_KEEP_ID, /* it is the template's */
        .parent = order->parent,
        .open_files = order->open_files,
        .filter = filter,
        .own_session = order->own_session != 0,
    };
    memcpy(child.rlimits, order->rlimits, sizeof child.rlimits);
    memcpy(child.cgroups, fds + EB_TEMPLATE_CGROUPS, sizeof child.cgroups);
    /* In the place of our own socket, which is none of its business. */
    if (dup2(fds[EB_TEMPLATE_NOTICE], EB_TEMPLATE_FD) < 0)
        _exit(127);
    wait_for_parent(order->parent);
    eb_child_confine(&child);
}

/* The path of the script. */
static object *
renew(const struct eb_template_order *order, const char *strings)
{
    const char *end = strings + order->strings, *at = strings;
    for (uint32_t i = 0; i < order->argc && at < end; i++)
        at += strnlen(at, (size_t)(end - at)) + 1;
    if (at > end)
        return NULL;
    object *argv = py.PyBytes_FromStringAndSize(strings, at - strings);
    object *environment = py.PyBytes_FromStringAndSize(at, end - at);
    return py.PyObject_CallFunction(eb_helper("renew"), "OO", argv, environment);
}

/* Init may look at the pipe when all is over. */
static void
say_that_it_begins(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const uint64_t begun[2] = {0, (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec};
    (void)!write(EB_TEMPLATE_FD, begun, sizeof begun);
}

static _Noreturn void
begin_run(const struct eb_template_order *order, char *inside, const int *fds)
{
    char *strings = strings_of(order, inside, fds[EB_TEMPLATE_STRINGS]);
    confine(order, fds);
    prctl(PR_SET_DUMPABLE, 1);
    object *path = strings ? renew(order, strings) : NULL;
    const char *script = path ? py.PyBytes_AsString(path) : NULL;
    if (!script) {
        py.PyErr_Print();
        _exit(127);
    }
    say_that_it_begins();
    /* End of file: what comes now is the program's. */
    close(EB_TEMPLATE_FD);
    eb_script_run(script);
}

/* The child that forks ends before this returns: 0 in the run, else its pid. */
static pid_t
fork_for_init(void)
{
    volatile pid_t forked = -EAGAIN;
    pid_t between = vfork();
    if (between == 0) {
        pid_t pid = fork();
        if (pid == 0)
            return 0;
        forked = pid < 0 ? -errno : pid;
        _exit(0);
    }
    if (between < 0)
        return -errno;
    waitpid(between, NULL, 0);
    return forked;
}

static pid_t
fork_child(void)
{
    py.PyOS_BeforeFork();
    pid_t pid = fork_for_init();
    if (pid == 0)
        py.PyOS_AfterFork_Child();
    else
        py.PyOS_AfterFork_Parent();
    return pid;
}

/* Forks the process of the next run before there is one: most of what a fork costs, the
 * pages that both write to, is then behind it.  True in that process, which takes the
 * orders from here on; in the template when it has taken one, or is dead. */
static bool
park(void)
{
    char byte;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    pid_t pid = fork_child();
    close(ends[pid == 0 ? 0 : 1]);
    if (pid == 0) {
        object *done = py.PyObject_CallFunction(eb_helper("rehearse"), NULL);
        if (!done)
            _exit(127);
        parked_by = ends[1];
        return true;
    }
    while (pid > 0 && read(ends[0], &byte, 1) < 0 && errno == EINTR)
        continue;
    close(ends[0]);
    return false;
}

/* In the run it does not return, which has its own copy of `packet`. */
static void
take_fork(const struct eb_template_order *order, struct eb_packet *packet, bool is_parked)
{
    int fds[EB_TEMPLATE_FDS];
    pid_t pid = is_parked ? 0 : fork_child();
    if (is_parked) {
        answer(getpid());
        close(parked_by);
    }
    if (pid == 0) {
        eb_packet_sort(packet, order->fds, fds, EB_TEMPLATE_FDS);
        begin_run(order, (char *)packet->data + sizeof *order, fds);
    }
    for (int i = 0; i < packet->n_fds; i++)
        close(packet->fds[i]);
    /* Its arguments and variables are no other run's. */
    memset(packet->data, 0, packet->size);
    answer(pid);
}

static void
serve(void)
{
    static _Alignas(16) char buffer[EB_MESSAGE_MAX];
    struct eb_template_order order;
    bool is_parked = false;
    for (;;) {
        struct eb_packet packet = {.data = buffer};
        ssize_t got = eb_packet_receive(EB_TEMPLATE_FD, &packet, sizeof buffer, 0);
        if (got == -EINTR)
            continue;
        if (got < (ssize_t)sizeof order)
            _exit(0);
        memcpy(&order, buffer, sizeof order);
        if (order.type == EB_TEMPLATE_FORK)
            take_fork(&order, &packet, is_parked);
        else if (order.type == EB_TEMPLATE_PARK)
            is_parked = park();
        else if (is_parked)
            /* Of a run that could not be started, the parked process is all there is. */
            _exit(0);
        else
            kill(-1, SIGKILL);
    }
}

static int
our_main(int argc, char **argv, char **environment)
{
    (void)environment;
    /* No run lists our descriptors. */
    prctl(PR_SET_DUMPABLE, 0);
    unsetenv("LD_PRELOAD");
    unsetenv(EB_TEMPLATE_MARK);
    fcntl(EB_TEMPLATE_FD, F_SETFD, FD_CLOEXEC);
    close(EB_TEMPLATE_LIBRARY);
    const char *text = take_hello();
    /* By its name, which there is in the tree of a run; and it is emptied afterwards. */
    const char *folder = getenv("TMPDIR");
    if (folder && chdir(folder) < 0)
        _exit(1);
    start_interpreter(argc, argv);
    run_text(text);
    answer(0);
    serve();
    return 0;
}

/* ---- in the place of main() ---- */

typedef int main_function(int, char **, char **);
typedef int start_function(main_function *, int, char **, void (*)(void), void (*)(void),
                           void (*)(void), void *);

start_function __libc_start_main; /* NOLINT(bugprone-reserved-identifier): the C library's */

int
__libc_start_main(main_function *main, int argc, char **argv, void (*init)(void),
                  void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    start_function *start;
    *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
    bool ours = getenv(EB_TEMPLATE_MARK) && find_cpython();
    return start(ours ? our_main : main, argc, argv, init, fini, rtld_fini, stack_end);
}
