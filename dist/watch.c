#include "dist/watch.h"

#include <mpi.h>    // MPI_*
#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc
#include <string.h>

#include "dist/group_table.h" // dist_seconds
#include "nn/log.h"

typedef enum { COMPUTING, WAITING, LATE, GONE } doing;

typedef struct {
  int32_t rank, doing;
  int64_t step;       // -1: none
  int64_t collective; // that it has begun or waits for
  char phase[24], what[64];
} note;

enum { READERS = 2 };

struct dist_watch {
  MPI_Comm comm;
  int32_t rank, size;
  double interval;
  double next; // when this rank looks and speaks again
  // of the wait under way
  int64_t number;
  bool warned;
  bool late; // this rank or another has waited for longer than the deadline
  double late_since;
  note mine;
  struct {
    int32_t rank;
    note note; // as sent
    MPI_Request request;
  } reader[READERS]; // whom this rank tells
  int32_t readers;

  // of the ranks that keep the list
  note *last;    // [size], NULL elsewhere
  double *heard; // [size] when
  note incoming;
  MPI_Request request;
};

// ---- opening

static bool keeps_list(int32_t rank, int32_t size) {
  return rank == 0 || rank == size - 1;
}

static void listen(dist_watch *w) {
  MPI_Irecv(&w->incoming, (int)sizeof w->incoming, MPI_BYTE, MPI_ANY_SOURCE, 0, w->comm, &w->request);
}

static nn_status start_list(dist_watch *w) {
  w->last = calloc((size_t)w->size, sizeof *w->last);
  w->heard = calloc((size_t)w->size, sizeof *w->heard);
  if (w->last == NULL || w->heard == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a list of %d ranks", w->size);
  for (int32_t rank = 0; rank < w->size; rank++) {
    w->last[rank] = w->mine;
    w->last[rank].rank = rank;
    w->heard[rank] = dist_seconds();
  }
  listen(w);
  return NN_OK;
}

nn_status dist_watch_open(int32_t rank, int32_t size, dist_watch **out) {
  dist_watch *w = calloc(1, sizeof *w);
  if (w == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the watch over %d ranks", size);
  *w = (dist_watch){.comm = MPI_COMM_NULL,
                    .rank = rank,
                    .size = size,
                    .interval = DIST_WATCH_INTERVAL,
                    .mine = {.rank = rank, .step = -1, .phase = "set-up"},
                    .request = MPI_REQUEST_NULL};
  *out = w;
  for (int32_t other = 0; other < size; other++)
    if (other != rank && keeps_list(other, size)) {
      w->reader[w->readers].rank = other;
      w->reader[w->readers++].request = MPI_REQUEST_NULL;
    }
  if (MPI_Comm_dup(MPI_COMM_WORLD, &w->comm) != MPI_SUCCESS)
    return NN_FAIL(NN_ERR_COMM, "rank %d of %d: duplicating the MPI communicator failed", rank, size);
  return keeps_list(rank, size) && size > 1 ? start_list(w) : NN_OK;
}

// ---- notes

// Told to a reader that has taken the note before; the next one says the same, and more.
static void tell(dist_watch *w) {
  for (int32_t i = 0; i < w->readers; i++) {
    int taken = 1;
    MPI_Test(&w->reader[i].request, &taken, MPI_STATUS_IGNORE);
    if (!taken)
      continue;
    w->reader[i].note = w->mine;
    MPI_Isend(&w->reader[i].note, (int)sizeof w->mine, MPI_BYTE, w->reader[i].rank, 0, w->comm,
              &w->reader[i].request);
  }
}

static void read_notes(dist_watch *w, double now) {
  for (int there = w->last != NULL; there;) {
    MPI_Test(&w->request, &there, MPI_STATUS_IGNORE);
    if (!there)
      return;
    const note *n = &w->incoming;
    if (n->rank >= 0 && n->rank < w->size) {
      w->last[n->rank] = *n;
      w->heard[n->rank] = now;
    }
    // A collective before the one that this rank waits in has ended: its note was only slow.
    if (n->doing == LATE && !w->late && n->collective >= w->number) {
      w->late = true;
      w->late_since = now;
    }
    listen(w);
  }
}

static void speak(dist_watch *w, doing now_doing, double now) {
  w->mine.doing = (int32_t)now_doing;
  read_notes(w, now);
  tell(w);
  w->next = now + w->interval;
}

// ---- what this rank does

void dist_watch_deadline(dist_watch *w, double seconds) {
  if (w == NULL)
    return;
  w->interval = seconds > 0 && seconds / 8 < DIST_WATCH_INTERVAL ? seconds / 8 : DIST_WATCH_INTERVAL;
  if (w->next > dist_seconds() + w->interval)
    w->next = 0;
}

void dist_watch_phase(dist_watch *w, const char *phase, int64_t step) {
  if (w == NULL)
    return;
  snprintf(w->mine.phase, sizeof w->mine.phase, "%s", phase);
  w->mine.step = step;
  dist_watch_poll(w);
}

int64_t dist_watch_begin(dist_watch *w) {
  return w != NULL ? ++w->mine.collective : 0;
}

int64_t dist_watch_take_back(dist_watch *w) {
  return w != NULL ? w->mine.collective-- : 0;
}

void dist_watch_poll(dist_watch *w) {
  if (w == NULL)
    return;
  double now = dist_seconds();
  if (now >= w->next)
    speak(w, COMPUTING, now);
}

// ---- who is missing

// Not waiting where this rank waits or further on, or silent although a rank that waits speaks.
static bool is_missing(const dist_watch *w, int32_t rank, int64_t number, double now) {
  const note *n = &w->last[rank];
  bool waits = n->doing == WAITING || n->doing == LATE;
  return rank != w->rank && (!waits || n->collective < number || now - w->heard[rank] > 3 * w->interval + 1);
}

static void describe_place(const note *n, char *text, size_t size) {
  if (n->step >= 0)
    snprintf(text, size, "step %lld (%s)", (long long)n->step, n->phase);
  else
    snprintf(text, size, "%s", n->phase);
}

static void describe(const note *n, double silent, char *text, size_t size) {
  char place[64];
  describe_place(n, place, sizeof place);
  if (n->doing == COMPUTING)
    snprintf(text, size, "rank %d (last heard of %.0f s ago: computing in %s)", n->rank, silent, place);
  else
    snprintf(text, size, "rank %d (last heard of %.0f s ago: in %s, waiting in %s)", n->rank, silent, place,
             n->what);
}

// "rank 3 (...), rank 5 (...) and 12 others"; returns how many there are.
static int32_t list_missing(const dist_watch *w, int64_t number, double now, char *text, size_t size) {
  enum { NAMED = 3 };
  int32_t missing = 0;
  size_t used = 0;
  text[0] = '\0';
  for (int32_t rank = 0; rank < w->size; rank++) {
    char one[200];
    if (!is_missing(w, rank, number, now) || ++missing > NAMED)
      continue;
    describe(&w->last[rank], now - w->heard[rank], one, sizeof one);
    used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", one);
    if (used >= size)
      used = size - 1;
  }
  if (missing > NAMED)
    snprintf(text + used, size - used, " and %d others", missing - NAMED);
  return missing;
}

void dist_watch_explain(const dist_watch *w, int64_t number, char *text, size_t size) {
  char place[64], list[640];
  text[0] = '\0';
  if (w == NULL)
    return;
  describe_place(&w->mine, place, sizeof place);
  if (w->last == NULL)
    snprintf(text, size,
             " in %s: another rank hangs, is far behind or has ended; ranks 0 and %d, which would "
             "know which, are silent",
             place, w->size - 1);
  else if (list_missing(w, number, dist_seconds(), list, sizeof list) > 0)
    snprintf(text, size, " in %s: waiting for %s", place, list);
  else
    snprintf(text, size, " in %s: all ranks wait in it; the network or the device does not deliver", place);
}

// Somebody may look at the screen long before the deadline.
static void warn_once(dist_watch *w, int64_t number, const char *what, double waited, double deadline) {
  char list[640];
  if (w->warned || w->rank != 0 || waited < deadline / 4)
    return;
  w->warned = true;
  if (list_missing(w, number, dist_seconds(), list, sizeof list) > 0)
    nn_warn("%s has taken %.0f s: waiting for %s", what, waited, list);
}

// A short wait is none: were it told, it would be the last that is heard of a rank that hangs right after it.
static void tell_of_wait(dist_watch *w, int64_t number, const char *what, double waited, double deadline) {
  double now = dist_seconds();
  if (now < w->next)
    return;
  if (waited < w->interval / 2) {
    speak(w, COMPUTING, now);
    return;
  }
  int64_t begun = w->mine.collective;
  w->mine.collective = number;
  snprintf(w->mine.what, sizeof w->mine.what, "%s", what);
  speak(w, deadline > 0 && waited > deadline ? LATE : WAITING, now);
  w->mine.collective = begun;
  if (deadline > 0)
    warn_once(w, number, what, waited, deadline);
}

bool dist_watch_wait(dist_watch *w, int64_t number, const char *what, double waited, double deadline) {
  if (w == NULL)
    return deadline > 0 && waited > deadline;
  if (number != w->number) {
    w->number = number;
    w->warned = w->late = false;
  }
  tell_of_wait(w, number, what, waited, deadline);
  if (deadline <= 0 || (waited <= deadline && !w->late))
    return false;
  double now = dist_seconds();
  if (!w->late) {
    w->late = true;
    w->late_since = now;
    w->next = now; // tell at once
  }
  // Rank 0 speaks first, then the last rank, then those who know nothing of the others.
  double grace = deadline / 4 < 4 ? deadline / 4 : 4;
  double mine = w->rank == 0 ? 0.25 * grace : w->last != NULL ? grace : 2 * grace;
  return now - w->late_since > mine;
}

// ---- closing

// The last note of each rank says that it is: when all have arrived, nothing is under way.
static bool all_gone(dist_watch *w) {
  read_notes(w, dist_seconds());
  for (int32_t rank = 0; w->last != NULL && rank < w->size; rank++)
    if (rank != w->rank && w->last[rank].doing != GONE)
      return false;
  for (int32_t i = 0; i < w->readers; i++) {
    int taken = 1;
    MPI_Test(&w->reader[i].request, &taken, MPI_STATUS_IGNORE);
    if (!taken)
      return false;
  }
  return true;
}

static void say_goodbye(dist_watch *w) {
  const double limit = dist_seconds() + 10;
  w->mine.doing = GONE;
  for (int32_t i = 0; i < w->readers; i++)
    for (int taken = 0; !taken && dist_seconds() < limit; read_notes(w, dist_seconds()))
      MPI_Test(&w->reader[i].request, &taken, MPI_STATUS_IGNORE);
  tell(w);
  while (!all_gone(w) && dist_seconds() < limit)
    ;
  if (w->request != MPI_REQUEST_NULL) {
    MPI_Cancel(&w->request);
    MPI_Wait(&w->request, MPI_STATUS_IGNORE);
  }
}

void dist_watch_close(dist_watch *w, bool orderly) {
  if (w == NULL || !orderly)
    return;
  say_goodbye(w);
  MPI_Comm_free(&w->comm);
  free(w->heard);
  free(w->last);
  free(w);
}
