#include "launch/records/balance.h"

#include <stdio.h>
#include <stdlib.h>

enum { RANK_BITS = 20 }; // leaves 43 bits for microseconds

nn_status launch_balance_open(dist_group *world, launch_balance *out) {
  *out = (launch_balance){.often = calloc((size_t)dist_size(world), sizeof *out->often)};
  return out->often != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory for counts of ranks");
}

void launch_balance_close(launch_balance *balance) {
  free(balance->often);
  *balance = (launch_balance){0};
}

nn_status launch_balance_start(launch_balance *b, dist_group *world, double busy_seconds) {
  b->total = busy_seconds > 0 ? (int64_t)(1e6 * busy_seconds) : 0;
  b->slowest = b->total << RANK_BITS | dist_rank(world);
  NN_TRY(dist_allreduce_start(world, &b->slowest, 1, DIST_I64, DIST_MAX, &b->requests[0]));
  return dist_allreduce_start(world, &b->total, 1, DIST_I64, DIST_SUM, &b->requests[1]);
}

nn_status launch_balance_finish(launch_balance *b, dist_group *world, int32_t *slowest_rank,
                                double *imbalance) {
  NN_TRY(dist_wait(b->requests[0]));
  NN_TRY(dist_wait(b->requests[1]));
  double slowest = (double)(b->slowest >> RANK_BITS), mean = (double)b->total / dist_size(world);
  *slowest_rank = (int32_t)(b->slowest & ((1 << RANK_BITS) - 1));
  *imbalance = slowest > 0 ? 1 - mean / slowest : 0;
  b->often[*slowest_rank]++;
  b->sum += *imbalance;
  b->steps++;
  return NN_OK;
}

void launch_balance_describe(const launch_balance *b, const dist_group *world, char *text, size_t size) {
  int32_t most = 0;
  for (int32_t rank = 1; rank < dist_size(world); rank++)
    if (b->often[rank] > b->often[most])
      most = rank;
  text[0] = '\0';
  if (b->steps > 0 && b->sum / (double)b->steps > LAUNCH_IMBALANCE_TOLD)
    snprintf(text, size, "%.0f%% of the time of %d ranks, for rank %d in %.0f%% of the steps",
             100 * b->sum / (double)b->steps, dist_size(world), most,
             100.0 * b->often[most] / (double)b->steps);
}
