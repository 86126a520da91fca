// Who is missing: each rank tells two others, now and then, what it is doing, so that a rank that waits in
// vain can name the one it waits for.
//
// A collective that hangs tells nobody why: every rank that waits in it knows of itself alone. So ranks send
// notes of a hundred bytes (phase, step, collectives begun, waiting or not) over a communicator of their own
// to rank 0 and, in case that is the one that is missing, to the last rank. There is no thread: notes are
// sent and read where this rank polls its requests anyway, at most once in DIST_WATCH_INTERVAL seconds, and
// every interval while it waits. A note is a non-blocking message, and a rank has one under way to each
// reader, so a reader that stands still costs nothing either. One-sided windows would need the hanging rank's
// help to be read, and files would ask a shared file system thousands of times.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

typedef struct dist_watch dist_watch;

#define DIST_WATCH_INTERVAL 5.0 // seconds, or an eighth of the deadline

// Over MPI_COMM_WORLD; collective. Functions below accept NULL: a group of one watches nobody.
nn_status dist_watch_open(int32_t rank, int32_t size, dist_watch **out);
// Collective when `orderly`: reads what is under way. After a failure nothing is sent, and MPI may still
// write into the watch, which is left alone.
void dist_watch_close(dist_watch *watch, bool orderly);

void dist_watch_deadline(dist_watch *watch, double seconds); // from now on; 0: none
void dist_watch_phase(dist_watch *watch, const char *phase, int64_t step);
// One more collective is begun; returns its number, the same on all ranks.
int64_t dist_watch_begin(dist_watch *watch);
int64_t dist_watch_take_back(dist_watch *watch); // it was none: a message between two ranks

// While this rank computes: cheap, at any rate.
void dist_watch_poll(dist_watch *watch);
// While it waits for collective `number`, since `waited` seconds. True: give up. A rank that keeps the list
// does so at the deadline (0: never), its own or another's; the others leave it the time to speak first.
bool dist_watch_wait(dist_watch *watch, int64_t number, const char *what, double waited, double deadline);
// "in step 12 (training); waiting for rank 3 (...)": after "did not complete within 600 s".
void dist_watch_explain(const dist_watch *watch, int64_t number, char *text, size_t size);
