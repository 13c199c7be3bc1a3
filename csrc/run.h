/* run.h - a run on its way, shared by run.c and finish.c. */
#ifndef EB_RUN_H
#define EB_RUN_H

#include "meter.h"

struct run {
    struct eb_init *init;
    const struct eb_job_view *view;
    struct eb_spawn spawn;
    struct eb_relay relay;
    struct eb_meter meter;
    pid_t pid;
    bool execed;
    bool dirty; /* no other run may be here: what it left could not be removed */
    bool reaped; /* the program itself */
    int wait_status;
    enum eb_cause cause;
    int64_t denied_nr;
    uint64_t started;
    uint64_t ended;
    uint64_t ending; /* until then an end of file is not waited for */
};

/* Reaps what is dead; false when there is no child left at all. */
bool eb_run_reap(struct run *run);
/* In namespaces the kernel itself holds the limit of the disk: sets it. */
int eb_run_limit_workspace(const struct run *run, uint64_t bytes);
/* Ends the tree, reports, and leaves all as the next run must find it. */
void eb_run_finish(struct run *run);

#endif
