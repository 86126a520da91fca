#include "launch/records/phases.h"

#include <math.h>   // llround
#include <string.h> // strcmp

launch_phases launch_phases_make(const launch_config *config) {
  double steps = (double)config->train.steps;
  bool search = strcmp(config->model.attention, "nats") == 0;
  return (launch_phases){
      .warmup = search ? llround(config->nats.type_warmup * steps) : 0,
      .ramp = search ? llround(config->nats.lambda_ramp * steps) : 0,
      .price = search ? config->nats.lambda : 0,
      .target = search ? config->nats.kv_target : 0,
      .eta = config->nats.kv_eta,
  };
}

bool launch_phases_dense(const launch_phases *phases, int64_t step) {
  return step < phases->warmup;
}

double launch_phases_lambda(const launch_phases *phases, int64_t step) {
  if (phases->target > 0)
    return phases->dual;
  return phases->price * nn_ramp(step, phases->warmup, phases->ramp);
}

void launch_phases_follow(launch_phases *phases, int64_t step, double kv_fraction) {
  if (phases->target <= 0 || launch_phases_dense(phases, step))
    return;
  phases->dual += phases->eta * (kv_fraction - phases->target);
  if (phases->dual < 0)
    phases->dual = 0;
}
