#include "launch/train/time_limit.h"

#include <stdlib.h> // getenv, strtoll
#include <time.h>   // time

#include "dist/stop.h"
#include "launch/records/progress.h" // launch_duration
#include "nn/log.h"

// Seconds until the time that Slurm has set; false where there is none that makes sense.
static bool job_seconds(double *seconds) {
  const char *text = getenv("SLURM_JOB_END_TIME"); // since 1970
  char *end = NULL;
  long long at = text != NULL ? strtoll(text, &end, 10) : 0;
  if (text == NULL) {
    nn_info("train.stop_before has no effect: SLURM_JOB_END_TIME is not set");
    return false;
  }
  *seconds = difftime((time_t)at, time(NULL));
  if (end == text || *end != '\0' || *seconds <= 0) {
    nn_warn("train.stop_before has no effect: SLURM_JOB_END_TIME is '%.40s', and this machine's clock says "
            "%lld",
            text, (long long)time(NULL));
    return false;
  }
  return true;
}

// Rank 0. *seconds stays 0 where nothing limits the run.
static nn_status choose(const launch_config *config, double *seconds) {
  double limit = 60 * config->train.time_limit, before = 60 * config->train.stop_before, left = 0;
  char text[LAUNCH_DURATION], left_text[LAUNCH_DURATION];
  *seconds = limit;
  if (before > 0 && job_seconds(&left)) {
    if (left <= before)
      return NN_FAIL(NN_ERR_USAGE,
                     "train.stop_before: the job ends in %s, and is to stop %s before: give it more time",
                     launch_duration(left, left_text), launch_duration(before, text));
    if (limit == 0 || left - before < limit)
      *seconds = left - before;
  }
  if (*seconds > 0)
    nn_info("saving and stopping in %s, if not done by then", launch_duration(*seconds, text));
  return NN_OK;
}

nn_status launch_time_limit_set(dist_group *world, const launch_config *config) {
  double seconds = 0;
  NN_TRY(dist_agree(world, dist_rank(world) == 0 ? choose(config, &seconds) : NN_OK));
  NN_TRY(dist_broadcast(world, &seconds, sizeof seconds, 0));
  if (seconds > 0)
    dist_stop_after(seconds);
  return NN_OK;
}
