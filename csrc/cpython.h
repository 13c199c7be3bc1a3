/* cpython.h - what is called of CPython, found when the interpreter starts: all of it is
 * in every version from 3.8 on, and no header of one version is needed. */
#ifndef EB_CPYTHON_H
#define EB_CPYTHON_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

enum { EB_FILE_INPUT = 257 }; /* Py_file_input */

typedef struct object object;
struct status { /* PyStatus */
    int type;
    const char *function;
    const char *message;
    int exit_code;
};

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
struct eb_cpython {
    CPYTHON(POINTER)
};
#undef POINTER

extern struct eb_cpython py;
/* The names that the text of the first message defines. */
extern object *eb_helpers;

object *eb_helper(const char *name);

/* ---- script.c ---- */

/* Runs a file as the main module, and ends the process as the interpreter would. */
_Noreturn void eb_script_run(const char *path);

#endif
