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
 * modules want done.
 *
 * At the end of a run the interpreter is not taken down object by object, which costs
 * ten times as much as the fork: threads are waited for, exit handlers run, what the
 * run made is collected, and its output is flushed. */
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

enum { FILE_INPUT = 257, ROOM_FOR_CONFIG = 16384, HELLO_MAX = 212992 };
enum { TRIES = 2000, PAUSE_NS = 50000 };

typedef struct object object;
struct status { /* PyStatus */
    int type;
    const char *function;
    const char *message;
    int exit_code;
};

/* What is called of CPython; all of it is in every version from 3.8 on. */
#define CPYTHON(X)                                                                             \
    X(void, PyConfig_InitPythonConfig, (void *))                                               \
    X(struct status, PyConfig_SetBytesArgv, (void *, long, char *const *))                     \
    X(struct status, Py_InitializeFromConfig, (const void *))                                  \
    X(int, PyStatus_Exception, (struct status))                                                \
    X(void, Py_ExitStatusException, (struct status))                                           \
    X(void, PyOS_BeforeFork, (void))                                                           \
    X(void, PyOS_AfterFork_Parent, (void))                                                     \
    X(void, PyOS_AfterFork_Child, (void))                                                      \
    X(object *, PyDict_New, (void))                                                            \
    X(int, PyDict_SetItemString, (object *, const char *, object *))                           \
    X(object *, PyDict_GetItemString, (object *, const char *))                                \
    X(object *, PyEval_GetBuiltins, (void))                                                    \
    X(object *, PyRun_StringFlags, (const char *, int, object *, object *, void *))            \
    X(object *, PyRun_FileExFlags,                                                             \
      (FILE *, const char *, int, object *, object *, int, void *))                            \
    X(object *, PyObject_CallFunction, (object *, const char *, ...))                          \
    X(object *, PyImport_AddModule, (const char *))                                            \
    X(object *, PyModule_GetDict, (object *))                                                  \
    X(object *, PyBytes_FromStringAndSize, (const char *, ssize_t))                            \
    X(const char *, PyBytes_AsString, (object *))                                              \
    X(long, PyLong_AsLong, (object *))                                                         \
    X(int, PyErr_ExceptionMatches, (object *))                                                 \
    X(void, PyErr_Fetch, (object **, object **, object **))                                    \
    X(void, PyErr_NormalizeException, (object **, object **, object **))                       \
    X(void, PyErr_Print, (void))                                                               \
    X(void, Py_DecRef, (object *))

#define POINTER(type, name, arguments) type(*name) arguments;
static struct {
    CPYTHON(POINTER)
} py;
#undef POINTER

static struct eb_filter filter;
static object *helpers; /* the names that the text of the first message defines */

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

static object *
helper(const char *name)
{
    return py.PyDict_GetItemString(helpers, name);
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
    helpers = py.PyDict_New();
    if (!helpers ||
        py.PyDict_SetItemString(helpers, "__builtins__", py.PyEval_GetBuiltins()) < 0 ||
        py.PyDict_SetItemString(helpers, "started_with", own_environment()) < 0)
        exit(1);
    if (!py.PyRun_StringFlags(text, FILE_INPUT, helpers, helpers, NULL)) {
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

/* A script that ends with sys.exit() asks for a status, all others have 0 or 1. */
static int
status_of_error(bool *interrupted)
{
    object *builtins = py.PyEval_GetBuiltins();
    *interrupted = py.PyErr_ExceptionMatches(
        py.PyDict_GetItemString(builtins, "KeyboardInterrupt"));
    if (!py.PyErr_ExceptionMatches(py.PyDict_GetItemString(builtins, "SystemExit"))) {
        py.PyErr_Print();
        return 1;
    }
    object *type, *value, *traceback;
    py.PyErr_Fetch(&type, &value, &traceback);
    py.PyErr_NormalizeException(&type, &value, &traceback);
    object *code = py.PyObject_CallFunction(helper("exit_status"), "O", value);
    py.Py_DecRef(value);
    py.Py_DecRef(traceback);
    if (!code)
        return 1;
    return (int)py.PyLong_AsLong(code);
}

static _Noreturn void
die_of_interrupt(void)
{
    signal(SIGINT, SIG_DFL);
    kill(getpid(), SIGINT);
    _exit(130);
}

/* As pymain_run_file() and Py_RunMain() do it. */
static _Noreturn void
run_script(const char *path)
{
    bool interrupted = false;
    int status = 0;
    object *names = py.PyModule_GetDict(py.PyImport_AddModule("__main__"));
    FILE *file = fopen(path, "rb");
    if (!file) {
        object *code = py.PyObject_CallFunction(helper("cannot_open"), "i", errno);
        exit(code ? (int)py.PyLong_AsLong(code) : 2);
    }
    object *result = py.PyRun_FileExFlags(file, path, FILE_INPUT, names, names, 1, NULL);
    if (result)
        py.Py_DecRef(result);
    else
        status = status_of_error(&interrupted);
    object *flushed = py.PyObject_CallFunction(helper("finish"), NULL);
    if (!flushed)
        py.PyErr_Print();
    else if (py.PyLong_AsLong(flushed) != 0)
        status = 120; /* as Py_RunMain(): what was written did not arrive */
    if (interrupted)
        die_of_interrupt();
    exit(status);
}

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
    return py.PyObject_CallFunction(helper("renew"), "OO", argv, environment);
}

static _Noreturn void
begin_run(const struct eb_template_order *order, char *inside, const int *fds)
{
    char *strings = strings_of(order, inside, fds[EB_TEMPLATE_STRINGS]);
    confine(order, fds);
    prctl(PR_SET_DUMPABLE, 1);
    py.PyOS_AfterFork_Child();
    object *path = strings ? renew(order, strings) : NULL;
    const char *script = path ? py.PyBytes_AsString(path) : NULL;
    if (!script) {
        py.PyErr_Print();
        _exit(127);
    }
    /* End of file: what comes now is the program's. */
    close(EB_TEMPLATE_FD);
    run_script(script);
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

/* Each in its place; -1 where there is none. */
static void
sort_descriptors(uint32_t bits, const struct eb_packet *packet, int *fds)
{
    int used = 0;
    for (int i = 0; i < EB_TEMPLATE_FDS; i++)
        fds[i] = (bits & (1U << i)) && used < packet->n_fds ? packet->fds[used++] : -1;
}

static void
serve(void)
{
    static _Alignas(16) char buffer[EB_MESSAGE_MAX];
    struct eb_template_order order;
    int fds[EB_TEMPLATE_FDS];
    for (;;) {
        struct eb_packet packet = {.data = buffer};
        ssize_t got = eb_packet_receive(EB_TEMPLATE_FD, &packet, sizeof buffer, 0);
        if (got == -EINTR)
            continue;
        if (got < (ssize_t)sizeof order)
            _exit(0);
        memcpy(&order, buffer, sizeof order);
        if (order.type == EB_TEMPLATE_KILL) {
            kill(-1, SIGKILL);
            continue;
        }
        sort_descriptors(order.fds, &packet, fds);
        py.PyOS_BeforeFork();
        pid_t pid = fork_for_init();
        if (pid == 0)
            begin_run(&order, buffer + sizeof order, fds);
        py.PyOS_AfterFork_Parent();
        for (int i = 0; i < packet.n_fds; i++)
            close(packet.fds[i]);
        answer(pid);
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
