/* script.c - the main module of a run that was forked from a template, and its end.
 *
 * At the end the interpreter is not taken down object by object, which costs ten times
 * as much as the fork: threads are waited for, exit handlers run, what the run made is
 * collected, and its output is flushed. */
#include "cpython.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

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
    object *code = py.PyObject_CallFunction(eb_helper("exit_status"), "O", value);
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
_Noreturn void
eb_script_run(const char *path)
{
    bool interrupted = false;
    int status = 0;
    object *names = py.PyModule_GetDict(py.PyImport_AddModule("__main__"));
    FILE *file = fopen(path, "rb");
    if (!file) {
        object *code = py.PyObject_CallFunction(eb_helper("cannot_open"), "i", errno);
        exit(code ? (int)py.PyLong_AsLong(code) : 2);
    }
    object *result = py.PyRun_FileExFlags(file, path, EB_FILE_INPUT, names, names, 1, NULL);
    if (result)
        py.Py_DecRef(result);
    else
        status = status_of_error(&interrupted);
    object *flushed = py.PyObject_CallFunction(eb_helper("finish"), NULL);
    if (!flushed)
        py.PyErr_Print();
    else if (py.PyLong_AsLong(flushed) != 0)
        status = 120; /* as Py_RunMain(): what was written did not arrive */
    if (interrupted)
        die_of_interrupt();
    exit(status);
}
