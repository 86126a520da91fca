// When a run stops without a signal.
#pragma once

#include "launch/config/config.h"

// Makes all ranks stop (dist/stop.h) when this start has taken train.time_limit, or train.stop_before minutes
// before the end of the Slurm job, whichever comes first. Rank 0's clock decides, once: the others count from
// now. Agreed. Errors: NN_ERR_USAGE (a job shorter than train.stop_before would stop at once, again and
// again).
nn_status launch_time_limit_set(dist_group *world, const launch_config *config);
