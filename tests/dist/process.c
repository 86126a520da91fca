// A program of ranks for process_test.sh: each mode ends in a way that only whole processes show.
//   process kill | abort CODE | deadline | missing RANK | stop | world
#include <signal.h> // raise
#include <stdio.h>
#include <stdlib.h> // getenv, strtol
#include <string.h> // strcmp
#include <time.h>   // nanosleep

#include "dist/group.h"
#include "dist/stop.h"
#include "nn/log.h"

static void sleep_seconds(double seconds) {
  struct timespec pause = {.tv_sec = (time_t)seconds,
                           .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
  nanosleep(&pause, NULL);
}

// The last rank dies without a word while the others wait for it.
static nn_status run_kill(dist_group *world) {
  NN_TRY(dist_stop_install()); // as in training, where SIGTERM alone does not end a rank
  NN_TRY(dist_barrier(world));
  if (dist_rank(world) == dist_size(world) - 1)
    raise(SIGKILL);
  return dist_barrier(world);
}

// The last rank never comes to an all-reduce.
static nn_status run_deadline(dist_group *world) {
  float numbers[7] = {0};
  dist_set_deadline(world, 1);
  if (dist_rank(world) == dist_size(world) - 1)
    sleep_seconds(30);
  nn_status status = dist_allreduce(world, numbers, 7, DIST_F32, DIST_SUM);
  nn_error_report();
  nn_error_clear();
  if (dist_barrier(world) == NN_ERR_COMM) // refused at once, not after another deadline
    nn_error_report();
  return status;
}

// One rank stands still in a step that the others take; what they say about it is the test.
static nn_status run_missing(dist_group *world, int32_t missing) {
  int32_t one = 1;
  for (int64_t step = 0; step < 20; step++) {
    dist_enter(world, "training", step, 1);
    sleep_seconds(0.05);
    if (step == 12 && dist_rank(world) == missing)
      sleep_seconds(30);
    NN_TRY(dist_allreduce(world, &one, 1, DIST_I32, DIST_MAX));
  }
  return NN_OK;
}

// Steps until a signal: with exit code 75, on every rank in the same step.
static nn_status run_stop(dist_group *world) {
  NN_TRY(dist_stop_install());
  NN_TRY(dist_agree(world, NN_OK));
  const char *started = getenv("NATSFORMER_STARTED"); // launch/ranks.sh waits for it
  FILE *file = started != NULL && dist_rank(world) == 0 ? fopen(started, "w") : NULL;
  if (file != NULL)
    fclose(file);
  nn_info("ready");
  for (int step = 0; step < 3000; step++) {
    bool stop = false;
    NN_TRY(dist_stop_agreed(world, &stop));
    if (stop) {
      nn_warn("stopped");
      return dist_agree(world, NN_STOPPED);
    }
    sleep_seconds(0.01);
  }
  return NN_OK;
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  dist_group *world;
  nn_status status = dist_init(&argc, &argv, &world);
  if (status != NN_OK) {
    nn_error_report();
    return nn_exit_code(status);
  }
  if (strcmp(mode, "kill") == 0)
    status = run_kill(world);
  else if (strcmp(mode, "deadline") == 0)
    status = run_deadline(world);
  else if (strcmp(mode, "missing") == 0 && argc > 2)
    status = run_missing(world, (int32_t)strtol(argv[2], NULL, 10));
  else if (strcmp(mode, "stop") == 0)
    status = run_stop(world);
  else if (strcmp(mode, "abort") == 0 && argc > 2) {
    if (dist_rank(world) == dist_size(world) - 1) {
      nn_error("the disk of this rank is full");
      dist_abort(world, (int)strtol(argv[2], NULL, 10));
    }
    status = dist_barrier(world);
  } else {
    nn_warn("rank %d of %d", dist_rank(world), dist_size(world));
  }
  if (status == NN_ERR_COMM && strcmp(mode, "missing") == 0) {
    nn_error_report();
    dist_abort(world, nn_exit_code(status));
  }
  dist_finalize(world);
  return nn_exit_code(status);
}
