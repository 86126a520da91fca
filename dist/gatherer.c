#include "dist/gatherer.h"

#include <stdlib.h> // calloc

#include "dist/group_table.h" // dist_seconds

struct dist_gatherer {
  dist_group *group;
  const nn_params *params;
  const dist_shards *shards;
  dist_request **request; // [buckets], NULL: not posted, or done
  int64_t *starts;        // [size + 1] of the bucket that is posted
  int64_t arrived;        // everything before this element of the arena is there
  double exposed;
};

nn_status dist_gatherer_create(dist_group *group, const nn_params *params, const dist_shards *shards,
                               dist_gatherer **out) {
  *out = NULL;
  dist_gatherer *g = calloc(1, sizeof *g);
  if (g == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a gatherer of parameters");
  *g = (dist_gatherer){.group = group, .params = params, .shards = shards, .arrived = shards->total};
  g->request = calloc((size_t)shards->buckets + 1, sizeof *g->request);
  g->starts = calloc((size_t)shards->size + 1, sizeof *g->starts);
  if (g->request == NULL || g->starts == NULL) {
    dist_gatherer_free(g);
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld buckets of parameters", (long long)shards->buckets);
  }
  *out = g;
  return NN_OK;
}

void dist_gatherer_free(dist_gatherer *g) {
  if (g == NULL)
    return;
  if (g->request != NULL && g->starts != NULL) {
    nn_status status = dist_gatherer_finish(g);
    (void)status; // whoever ends after a failure has recorded that one
  }
  free(g->starts);
  free(g->request);
  free(g);
}

// Bucket 0 is the arena's end, and the last that forward comes to.
nn_status dist_gatherer_start(dist_gatherer *g) {
  const nn_params *params = g->params;
  g->exposed = 0;
  g->arrived = 0;
  for (int64_t bucket = g->shards->buckets - 1; bucket >= 0; bucket--) {
    int64_t count, offset = dist_shards_bucket(g->shards, bucket, &count);
    dist_shards_starts(g->shards, bucket, g->starts);
    NN_TRY(dist_allgather_start(g->group, nn_act_at(params->device, params->compute, offset),
                                nn_device_act_size(params->device), g->starts, &g->request[bucket]));
  }
  return NN_OK;
}

// What has not been asked for yet should move on meanwhile.
static nn_status poll(dist_gatherer *g) {
  for (int64_t bucket = g->shards->buckets - 1; bucket >= 0; bucket--) {
    bool done = false;
    if (g->request[bucket] == NULL)
      continue;
    nn_status status = dist_test(g->request[bucket], &done);
    if (done || status != NN_OK)
      g->request[bucket] = NULL;
    NN_TRY(status);
  }
  return NN_OK;
}

static nn_status wait_for(dist_gatherer *g, int64_t bucket) {
  dist_request *request = g->request[bucket];
  g->request[bucket] = NULL;
  return request != NULL ? dist_wait(request) : NN_OK;
}

static nn_status await(void *context, int64_t end) {
  dist_gatherer *g = context;
  if (g->arrived == g->shards->total)
    return NN_OK;
  double started = dist_seconds();
  while (g->arrived < end) {
    int64_t bucket = (g->shards->total - 1 - g->arrived) / g->shards->width;
    NN_TRY(wait_for(g, bucket));
    g->arrived = g->shards->total - bucket * g->shards->width; // where it ends
  }
  NN_TRY(poll(g));
  g->exposed += dist_seconds() - started;
  return NN_OK;
}

nn_param_source dist_gatherer_source(dist_gatherer *g) {
  return (nn_param_source){.await = await, .context = g};
}

nn_status dist_gatherer_finish(dist_gatherer *g) {
  return await(g, g->shards->total);
}

double dist_gatherer_exposed_seconds(const dist_gatherer *g) {
  return g->exposed;
}
