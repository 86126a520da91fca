// natsformer: distributed pretraining of transformers with learned attention masks.
#include <errno.h>
#include <stdio.h>  // fprintf
#include <stdlib.h> // exit
#include <string.h> // strcmp, strerror

#include "dist/stop.h"
#include "launch/command.h"
#include "launch/machine/blas_core.h"
#include "launch/started.h"
#include "nn/log.h"

static const launch_command *const commands[] = {
    &launch_data,     &launch_train,  &launch_eval,  &launch_compare,
    &launch_generate, &launch_verify, &launch_bench, &launch_plot_again,
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_overview(FILE *stream) {
  fprintf(stream, "usage: natsformer COMMAND ...\n\n");
  for (int i = 0; i < COMMANDS; i++)
    fprintf(stream, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
  fprintf(stream,
          "\n`natsformer COMMAND --help` tells more. Several ranks: mpirun -np N natsformer COMMAND ...\n");
}

_Noreturn void launch_fail_alone(dist_group *world, nn_status status) {
  nn_error_report();
  dist_abort(world, nn_exit_code(status));
}

static bool wants_help(int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
      return true;
  return false;
}

// Reports are written without looking: whether they arrived is asked once, when all is written.
static nn_status check_output(void) {
  bool flushed = fflush(stdout) == 0;
  if (flushed && !ferror(stdout))
    return NN_OK;
  return NN_FAIL(NN_ERR_IO, "standard output: cannot write: %s",
                 flushed ? "an earlier write failed" : strerror(errno));
}

// The exit code of a command that needs no other rank.
static int finish_alone(void) {
  nn_status status = check_output();
  if (status != NN_OK)
    nn_error_report();
  return nn_exit_code(status);
}

int main(int argc, char **argv) {
  if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
    printf("natsformer %s\n", NATSFORMER_VERSION);
    return finish_alone();
  }
  if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    print_overview(argc < 2 ? stderr : stdout);
    return argc < 2 ? nn_exit_code(NN_ERR_USAGE) : finish_alone();
  }
  const launch_command *command = NULL;
  for (int i = 0; i < COMMANDS; i++)
    if (strcmp(argv[1], commands[i]->name) == 0)
      command = commands[i];
  if (command != NULL && wants_help(argc - 1, argv + 1)) {
    fputs(command->usage, stdout);
    return finish_alone();
  }

  launch_blas_choose_core(argv); // may start this program anew
  dist_group *world = NULL;
  nn_status status = command != NULL && command->stops ? dist_stop_install() : NN_OK;
  NN_KEEP(status, dist_init(&argc, &argv, &world));
  if (status == NN_OK)
    status = launch_set_threads(world, 0); // until a configuration says how many
  if (status != NN_OK) {
    nn_error_report();
    return nn_exit_code(status);
  }
  launch_started(world);
  if (command == NULL)
    status = NN_FAIL(NN_ERR_USAGE, "unknown command '%s'; `natsformer --help` lists them", argv[1]);
  else
    status = command->run(world, argc - 1, argv + 1);
  if (status == NN_ERR_COMM) // the others may not know, and would wait for this rank
    launch_fail_alone(world, status);
  if ((status == NN_OK || status == NN_STOPPED) && dist_rank(world) == 0) {
    nn_status written = check_output();
    status = written == NN_OK ? status : written;
  }
  if (status != NN_OK && status != NN_STOPPED && dist_rank(world) == 0)
    nn_error_report();
  dist_finalize(world);
  return nn_exit_code(status);
}
