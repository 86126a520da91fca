// Groups without an MPI launcher, and what needs no other rank.
#include <criterion/criterion.h>
#include <mpi.h>    // MPI_Initialized
#include <signal.h> // raise
#include <stdlib.h> // setenv
#include <string.h> // strstr
#include <unistd.h> // sleep

#include "dist/group_table.h"
#include "dist/reducer.h"
#include "dist/stop.h"

// The tests themselves may run under a launcher (a Slurm step, for example).
static void leave_launchers(void) {
  const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",   "PMI_RANK",
                               "MV2_COMM_WORLD_RANK",  "PALS_RANKID", "SLURM_STEP_NUM_TASKS"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    unsetenv(names[i]);
  nn_error_clear();
}

TestSuite(self, .init = leave_launchers);

// Breaks: a plain `natsformer train` on a laptop or a login node starts MPI and fails or hangs there.
Test(self, starts_without_mpi) {
  dist_group *world;
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  cr_assert_eq(dist_size(world), 1);
  cr_assert_eq(dist_rank(world), 0);
  cr_assert_eq(dist_local_size(world), 1);
  cr_assert_eq(dist_local_rank(world), 0);
  int initialized = 1;
  MPI_Initialized(&initialized);
  cr_assert_eq(initialized, 0);
  dist_finalize(world);
}

// Breaks: ranks started by a launcher that is not recognised each train alone and overwrite one another.
Test(self, recognises_launchers) {
  const struct {
    const char *name, *value, *ranks_name, *ranks;
    int32_t expected;
  } cases[] = {
      {"OMPI_COMM_WORLD_SIZE", "4", NULL, NULL, 4},
      {"PMIX_RANK", "1", NULL, NULL, 0},
      {"PMI_RANK", "0", "PMI_SIZE", "8", 8},
      {"MV2_COMM_WORLD_RANK", "0", "MV2_COMM_WORLD_SIZE", "2", 2},
      {"PALS_RANKID", "3", NULL, NULL, 0},
  };
  int32_t ranks;
  cr_assert_not(dist_mpi_launched(&ranks));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    setenv(cases[i].name, cases[i].value, 1);
    if (cases[i].ranks_name != NULL)
      setenv(cases[i].ranks_name, cases[i].ranks, 1);
    cr_expect(dist_mpi_launched(&ranks), "%s", cases[i].name);
    cr_expect_eq(ranks, cases[i].expected, "%s: %d ranks", cases[i].name, ranks);
    leave_launchers();
  }
}

// Breaks: `srun -n 2 natsformer train` without an MPI plugin runs two trainings in one folder.
Test(self, refuses_tasks_that_cannot_meet) {
  dist_group *world;
  setenv("SLURM_STEP_NUM_TASKS", "2", 1);
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_ERR_USAGE);
  cr_assert_not_null(strstr(nn_error_text(), "--mpi=pmix"));
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  nn_error_clear();
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  dist_finalize(world);
}

// Breaks: one rank alone gets other gradients, tokens or counts than it put in.
Test(self, collectives_keep_what_is_mine) {
  dist_group *world;
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  int64_t numbers[3] = {1, -2, 3}, gathered[3] = {0};
  for (dist_op op = DIST_SUM; op <= DIST_MAX; op++)
    cr_assert_eq(dist_allreduce(world, numbers, 3, DIST_I64, op), NN_OK);
  cr_assert_eq(dist_broadcast(world, numbers, sizeof numbers, 0), NN_OK);
  cr_assert_eq(dist_allgather(world, numbers, sizeof numbers, gathered), NN_OK);
  cr_assert_eq(dist_barrier(world), NN_OK);
  const int64_t expected[3] = {1, -2, 3};
  cr_assert_arr_eq(numbers, expected, sizeof expected);
  cr_assert_arr_eq(gathered, expected, sizeof expected);

  dist_request *request;
  bool done = false;
  cr_assert_eq(dist_allreduce_start(world, numbers, 3, DIST_I64, DIST_SUM, &request), NN_OK);
  cr_assert_eq(dist_test(request, &done), NN_OK);
  cr_assert(done);
  cr_assert_eq(dist_allreduce_start(world, NULL, 0, DIST_F32, DIST_SUM, &request), NN_OK);
  cr_assert_eq(dist_wait(request), NN_OK);
  dist_finalize(world);
}

// Breaks: a wrong call crashes inside MPI or waits for ever instead of failing with a text.
Test(self, wrong_arguments_fail) {
  dist_group *world;
  char byte = 0;
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  cr_assert_eq(dist_broadcast(world, &byte, 1, 1), NN_ERR_INTERNAL);
  cr_assert_not_null(strstr(nn_error_text(), "rank 1 in a group of 1"), "%s", nn_error_text());
  cr_assert_eq(dist_broadcast(world, NULL, 1, 0), NN_ERR_INTERNAL);
  cr_assert_eq(dist_allreduce(world, &byte, -1, DIST_U8, DIST_SUM), NN_ERR_INTERNAL);
  cr_assert_eq(dist_send(world, &byte, 1, 0, 0), NN_ERR_INTERNAL);
  cr_assert_eq(dist_receive(world, &byte, 1, 0, 0), NN_ERR_INTERNAL);
  dist_finalize(world);
}

// Breaks: a failure on one rank loses its status or its message.
Test(self, agree_returns_my_failure) {
  dist_group *world;
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  cr_assert_eq(dist_agree(world, NN_OK), NN_OK);
  cr_assert_eq(dist_agree(world, NN_FAIL(NN_ERR_INPUT, "shard 3 is short")), NN_ERR_INPUT);
  cr_assert_str_eq(nn_error_text(), "shard 3 is short");
  dist_finalize(world);
}

// Breaks: a model whose backward forgets or repeats a range trains on wrong gradients, and only with several
// ranks.
Test(self, reducer_wants_every_gradient_once) {
  dist_group *world;
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  float grad[1000];
  for (int i = 0; i < 1000; i++)
    grad[i] = (float)i;
  nn_param_table table = {.total = 1000};
  nn_params params = {.table = &table, .grad = grad};
  dist_reducer *reducer;
  cr_assert_eq(dist_reducer_create(world, &params, 0, &reducer), NN_ERR_USAGE);
  nn_error_clear();
  cr_assert_eq(dist_reducer_create(world, &params, 256, &reducer), NN_OK);
  nn_grad_listener listener = dist_reducer_listener(reducer);

  dist_reducer_begin(reducer);
  cr_assert_eq(listener.ready(listener.context, 300, 700), NN_OK);
  cr_assert_eq(dist_reducer_finish(reducer), NN_ERR_INTERNAL);
  cr_assert_not_null(strstr(nn_error_text(), "incomplete"));
  nn_error_clear();
  cr_assert_eq(listener.ready(listener.context, 500, 2), NN_ERR_INTERNAL);
  cr_assert_not_null(strstr(nn_error_text(), "twice"));
  nn_error_clear();
  cr_assert_eq(listener.ready(listener.context, 999, 2), NN_ERR_INTERNAL);
  cr_assert_not_null(strstr(nn_error_text(), "outside"));

  dist_reducer_begin(reducer);
  cr_assert_eq(listener.ready(listener.context, 0, 300), NN_OK);
  cr_assert_eq(listener.ready(listener.context, 300, 700), NN_OK);
  cr_assert_eq(dist_reducer_finish(reducer), NN_OK);
  for (int i = 0; i < 1000; i++)
    cr_assert_eq(grad[i], (float)i);
  dist_reducer_free(reducer);
  dist_finalize(world);
}

// Breaks: a signal that asks to save and stop kills the run instead, or is not noticed.
static void stops_on(int signal) {
  dist_group *world;
  bool stop = true;
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK);
  cr_assert_eq(dist_stop_install(), NN_OK);
  cr_assert_eq(dist_stop_agreed(world, &stop), NN_OK);
  cr_assert_not(stop);
  raise(signal);
  cr_assert(dist_stop_asked());
  cr_assert_eq(dist_stop_agreed(world, &stop), NN_OK);
  cr_assert(stop);
  dist_finalize(world);
}

Test(self, usr1_asks_to_stop) {
  stops_on(SIGUSR1);
}

Test(self, term_asks_to_stop) {
  stops_on(SIGTERM);
}

Test(self, interrupt_asks_to_stop) {
  stops_on(SIGINT);
}

// Breaks: a limit of time passes without the run saving and stopping, or stops it too early.
Test(self, time_asks_to_stop) {
  dist_stop_after(3600);
  cr_assert_not(dist_stop_asked());
  dist_stop_after(0);
  cr_assert(dist_stop_asked());
}

// Breaks: the batch system signals rank and script, the script passes it on, and the second one of the two
// ends the run before its checkpoint is written.
Test(self, an_echo_changes_nothing) {
  cr_assert_eq(dist_stop_install(), NN_OK);
  raise(SIGUSR1);
  raise(SIGTERM);
  raise(SIGUSR1);
  raise(SIGINT);
  cr_assert(dist_stop_asked());
}

// Breaks: a run that hangs while it saves cannot be ended but by kill -9, or a job that was ended at once is
// put back into the queue as if it had saved.
Test(self, second_signal_ends_the_process, .signal = SIGUSR1) {
  cr_assert_eq(dist_stop_install(), NN_OK);
  raise(SIGTERM);
  cr_assert(dist_stop_asked());
  sleep(DIST_STOP_ECHO + 1);
  raise(SIGUSR1);
}

// Breaks: Ctrl-C pressed twice cannot end a run that hangs.
Test(self, second_interrupt_ends_the_process, .signal = SIGINT) {
  cr_assert_eq(dist_stop_install(), NN_OK);
  raise(SIGINT);
  cr_assert(dist_stop_asked());
  raise(SIGINT);
}
