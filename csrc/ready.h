/* ready.h - what the next run will need, made while nobody waits for it. */
#ifndef EB_READY_H
#define EB_READY_H

#include <stdbool.h>
#include <stdint.h>

struct eb_pipe {
    int ours; /* non-blocking */
    int theirs;
};

/* Of one run only: what a program does to an open file would be seen by the next. */
struct eb_ready {
    uint32_t uid; /* that may open the pipes again */
    int null;     /* /dev/null to be read; -1: not made, as all below */
    struct eb_pipe out;
    struct eb_pipe err;
    int oom_score; /* our own, which a child inherits; it stays open */
};

/* What oom_score_adj was. */
struct eb_oom_score {
    char text[16];
};

/* `to_program`: their end is the one to read from. */
int eb_pipe_make(struct eb_pipe *made, bool to_program, uint32_t uid);
/* What fails is left for the run to try again, and to report. */
void eb_ready_make(struct eb_ready *ready, uint32_t uid);
/* From here to eb_oom_score_restore() we are what the OOM killer takes first, as those who
 * are made meanwhile are from then on; false when that cannot be. */
bool eb_oom_score_raise(const struct eb_ready *ready, struct eb_oom_score *usual);
void eb_oom_score_restore(const struct eb_ready *ready, const struct eb_oom_score *usual);
/* Takes a pipe, which is made now if there is none for this uid. */
int eb_ready_take(struct eb_ready *ready, struct eb_pipe *from, struct eb_pipe *taken,
                  uint32_t uid);

#endif
