#include "dist/reducer.h"

#include <stdbool.h>
#include <stdlib.h> // calloc

#include "dist/group_table.h"
#include "nn/ops.h" // nn_accumulate

enum { BUFFERS = 3 };   // of a window: a bucket that fills up, and others on their way
enum { UNDER_WAY = 3 }; // reduce-scatters on the host, where each takes memory for what arrives

typedef struct {
  int64_t offset, count; // elements of the gradient arena
  int64_t missing;       // elements that backward has not completed yet
  float *data;           // [count]; with a window NULL while it has no buffer
  dist_request *request; // NULL: not posted yet, or done
} bucket;

struct dist_reducer {
  dist_group *group;
  const nn_params *params;
  const dist_shards *shards; // NULL: every rank gets all sums
  int64_t *starts;           // [size + 1] of a bucket's pieces
  int64_t total;             // elements
  int64_t width;             // elements of a bucket; the last one, at the arena's start, may be smaller
  bucket *bucket;            // from the end of the arena to its start
  int64_t buckets;
  int64_t posted; // buckets [0, posted) have been posted, [0, done) have ended
  int64_t done;
  int64_t most_under_way;
  double exposed;
  // Of a window:
  float *buffer[BUFFERS]; // [width]
  bool taken[BUFFERS];
  int64_t left; // elements that are not ready yet, [0, left)
};

// ---- creation

static bool has_window(const dist_reducer *reducer) {
  return reducer->params->sum != NULL;
}

static int32_t buffers_of(const dist_shards *shards) {
  return shards->buckets < BUFFERS ? (int32_t)shards->buckets : BUFFERS;
}

int64_t dist_reducer_window_bytes(const dist_shards *shards) {
  return buffers_of(shards) * shards->width * (int64_t)sizeof(float);
}

static nn_status allocate(dist_reducer *r) {
  r->bucket = calloc((size_t)r->buckets + 1, sizeof *r->bucket);
  r->starts = calloc((size_t)r->group->size + 1, sizeof *r->starts);
  if (r->bucket == NULL || r->starts == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld gradient buckets", (long long)r->buckets);
  for (int64_t i = 0; i < r->buckets; i++) {
    int64_t end = r->total - i * r->width;
    r->bucket[i].offset = end > r->width ? end - r->width : 0;
    r->bucket[i].count = end - r->bucket[i].offset;
    r->bucket[i].data = has_window(r) ? NULL : r->params->grad + r->bucket[i].offset;
  }
  for (int32_t i = 0; has_window(r) && i < buffers_of(r->shards); i++)
    NN_TRY(nn_device_alloc(r->params->device, (size_t)r->width * sizeof(float), "a bucket of gradients",
                           (void **)&r->buffer[i]));
  return NN_OK;
}

static nn_status create(dist_reducer settings, dist_reducer **out) {
  *out = NULL;
  dist_reducer *reducer = calloc(1, sizeof *reducer);
  if (reducer == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a gradient reducer");
  *reducer = settings;
  nn_status status = allocate(reducer);
  if (status == NN_OK)
    *out = reducer;
  else
    dist_reducer_free(reducer);
  return status;
}

nn_status dist_reducer_create(dist_group *group, const nn_params *params, int64_t bucket_bytes,
                              dist_reducer **out) {
  dist_shards of_one; // the same buckets, not cut further
  *out = NULL;
  NN_TRY(dist_shards_make(params->table->total, bucket_bytes, 0, 1, &of_one));
  return create((dist_reducer){.group = group,
                               .params = params,
                               .total = of_one.total,
                               .width = of_one.width,
                               .buckets = of_one.buckets,
                               .most_under_way = of_one.buckets},
                out);
}

static bool on_host(const nn_params *params) {
  return nn_device_get_kind(params->device) == NN_DEVICE_CPU;
}

nn_status dist_reducer_create_sharded(dist_group *group, const nn_params *params, const dist_shards *shards,
                                      dist_reducer **out) {
  return create((dist_reducer){.group = group,
                               .params = params,
                               .shards = shards,
                               .total = shards->total,
                               .width = shards->width,
                               .buckets = shards->buckets,
                               .most_under_way = on_host(params) ? UNDER_WAY : shards->buckets},
                out);
}

void dist_reducer_free(dist_reducer *reducer) {
  if (reducer == NULL)
    return;
  for (int32_t i = 0; i < BUFFERS; i++)
    if (reducer->buffer[i] != NULL)
      nn_device_free(reducer->params->device, reducer->buffer[i]);
  free(reducer->starts);
  free(reducer->bucket);
  free(reducer);
}

void dist_reducer_begin(dist_reducer *reducer) {
  for (int64_t i = 0; i < reducer->buckets; i++)
    reducer->bucket[i].missing = reducer->bucket[i].count;
  reducer->posted = reducer->done = 0;
  reducer->left = reducer->total;
  reducer->exposed = 0;
}

// ---- buckets on their way

static nn_status post(dist_reducer *r, bucket *next) {
  if (r->group->size == 1)
    return NN_OK;
  if (r->shards == NULL)
    return dist_allreduce_start(r->group, next->data, next->count, DIST_F32, DIST_SUM, &next->request);
  dist_shards_starts(r->shards, next - r->bucket, r->starts);
  return dist_reduce_scatter_start(r->group, next->data, r->starts, &next->request);
}

// Posts what is complete, strictly in the order of the layout: every rank has to post the same operations in
// the same order, whatever the order in which its ranges became ready.
static nn_status post_ready(dist_reducer *reducer) {
  while (reducer->posted < reducer->buckets && reducer->bucket[reducer->posted].missing == 0 &&
         reducer->posted - reducer->done < reducer->most_under_way) {
    NN_TRY(post(reducer, &reducer->bucket[reducer->posted]));
    reducer->posted++;
  }
  return NN_OK;
}

// A bucket has arrived. Of a window: its sums go where they are kept, and its buffer is free again.
static nn_status arrived(dist_reducer *r, bucket *item) {
  item->request = NULL;
  if (!has_window(r) || item->data == NULL)
    return NN_OK;
  dist_shards_starts(r->shards, item - r->bucket, r->starts);
  int64_t begin = r->starts[r->shards->rank], count = r->starts[r->shards->rank + 1] - begin;
  if (count > 0) {
    int64_t at = dist_shards_find(r->shards, item->offset + begin).at;
    NN_TRY(nn_accumulate(r->params->device, r->params->sum + at, item->data + begin, count));
  }
  for (int32_t i = 0; i < BUFFERS; i++)
    if (r->buffer[i] == item->data)
      r->taken[i] = false;
  item->data = NULL;
  return NN_OK;
}

nn_status dist_reducer_poll(dist_reducer *reducer) {
  for (int64_t i = reducer->done; i < reducer->posted; i++) {
    bucket *item = &reducer->bucket[i];
    bool done = true;
    if (item->request != NULL) {
      nn_status status = dist_test(item->request, &done);
      if (status != NN_OK)
        item->request = NULL;
      NN_TRY(status);
    }
    if (done)
      NN_TRY(arrived(reducer, item));
    if (done && i == reducer->done)
      reducer->done++;
  }
  return post_ready(reducer);
}

// Waits for the oldest bucket that was posted.
static nn_status wait_for_one(dist_reducer *reducer) {
  bucket *item = &reducer->bucket[reducer->done];
  dist_request *request = item->request;
  item->request = NULL;
  if (request != NULL)
    NN_TRY(dist_wait(request));
  NN_TRY(arrived(reducer, item));
  reducer->done++;
  return NN_OK;
}

// ---- a window

static nn_status take_buffer(dist_reducer *r, bucket *item) {
  double started = dist_seconds();
  for (;;) {
    for (int32_t i = 0; i < buffers_of(r->shards); i++)
      if (!r->taken[i]) {
        r->taken[i] = true;
        item->data = r->buffer[i];
        r->exposed += dist_seconds() - started;
        return NN_OK;
      }
    if (r->done == r->posted)
      return NN_FAIL(NN_ERR_INTERNAL, "gradient buckets: all %d buffers are taken and none is on its way",
                     BUFFERS);
    NN_TRY(wait_for_one(r));
  }
}

// Copies a range out of the window, which is then zero for the next block of backward.
static nn_status copy_out(dist_reducer *r, int64_t offset, int64_t count) {
  nn_device *device = r->params->device;
  float *window = nn_params_grad_at(r->params, offset);
  if (offset + count != r->left)
    return NN_FAIL(NN_ERR_INTERNAL, "gradient range [%lld, +%lld): expected the one that ends at %lld",
                   (long long)offset, (long long)count, (long long)r->left);
  while (r->left > offset) {
    bucket *item = &r->bucket[(r->total - r->left) / r->width];
    int64_t from = item->offset > offset ? item->offset : offset;
    if (item->data == NULL)
      NN_TRY(take_buffer(r, item));
    NN_TRY(nn_device_copy(device, item->data + (from - item->offset), window + (from - offset),
                          (size_t)(r->left - from) * sizeof(float)));
    item->missing -= r->left - from;
    r->left = from;
    NN_TRY(post_ready(r));
  }
  return nn_device_zero(device, window, (size_t)count * sizeof(float));
}

// ---- what backward tells

static nn_status ready(void *context, int64_t offset, int64_t count) {
  dist_reducer *reducer = context;
  if (count < 0 || offset < 0 || offset + count > reducer->total)
    return NN_FAIL(NN_ERR_INTERNAL, "gradient range [%lld, +%lld) outside of an arena of %lld elements",
                   (long long)offset, (long long)count, (long long)reducer->total);
  if (has_window(reducer)) {
    NN_TRY(copy_out(reducer, offset, count));
    return dist_reducer_poll(reducer);
  }
  // Counted from the arena's end, bucket i covers [i * width, (i + 1) * width).
  int64_t from = reducer->total - offset - count, to = reducer->total - offset;
  while (from < to) {
    int64_t i = from / reducer->width;
    int64_t until = (i + 1) * reducer->width < to ? (i + 1) * reducer->width : to;
    reducer->bucket[i].missing -= until - from;
    if (reducer->bucket[i].missing < 0)
      return NN_FAIL(NN_ERR_INTERNAL, "gradient range [%lld, +%lld) was completed twice", (long long)offset,
                     (long long)count);
    from = until;
  }
  NN_TRY(post_ready(reducer));
  return dist_reducer_poll(reducer);
}

nn_grad_listener dist_reducer_listener(dist_reducer *reducer) {
  return (nn_grad_listener){.ready = ready, .context = reducer};
}

nn_status dist_reducer_finish(dist_reducer *reducer) {
  double started = dist_seconds();
  int64_t complete = reducer->posted;
  while (complete < reducer->buckets && reducer->bucket[complete].missing == 0)
    complete++;
  if (complete < reducer->buckets) {
    const bucket *next = &reducer->bucket[complete];
    return NN_FAIL(NN_ERR_INTERNAL, "backward left %lld gradients of [%lld, +%lld) incomplete",
                   (long long)next->missing, (long long)next->offset, (long long)next->count);
  }
  const dist_group_table *table = reducer->group->table;
  if (table->mark != NULL)
    NN_TRY(table->mark(reducer->group));
  while (reducer->done < reducer->buckets) {
    NN_TRY(wait_for_one(reducer));
    NN_TRY(post_ready(reducer));
  }
  double waited = dist_seconds() - started;
  if (table->exposed != NULL)
    NN_TRY(table->exposed(reducer->group, &waited));
  reducer->exposed += waited;
  return NN_OK;
}

double dist_reducer_exposed_seconds(const dist_reducer *reducer) {
  return reducer->exposed;
}
