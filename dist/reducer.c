#include "dist/reducer.h"

#include <stdlib.h> // calloc

#include "dist/group_table.h"

typedef struct {
  int64_t offset, count; // elements of the gradient arena
  int64_t missing;       // elements that backward has not completed yet
  dist_request *request; // NULL: not posted yet, or done
} bucket;

struct dist_reducer {
  dist_group *group;
  float *grad;    // the arena, [total]
  int64_t total;  // elements
  int64_t width;  // elements of a bucket; the last one, at the arena's start, may be smaller
  bucket *bucket; // from the end of the arena to its start
  int64_t buckets;
  int64_t posted; // buckets [0, posted) have been posted, [0, done) have ended
  int64_t done;
  double exposed;
};

nn_status dist_reducer_create(dist_group *group, const nn_params *params, int64_t bucket_bytes,
                              dist_reducer **out) {
  *out = NULL;
  if (bucket_bytes < 1)
    return NN_FAIL(NN_ERR_USAGE, "gradient buckets of %lld bytes: at least 1 is needed",
                   (long long)bucket_bytes);
  int64_t total = params->table->total;
  int64_t width =
      (bucket_bytes / (int64_t)sizeof(float) + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN;
  if (width < NN_PARAM_ALIGN)
    width = NN_PARAM_ALIGN;
  int64_t buckets = (total + width - 1) / width;

  dist_reducer *reducer = calloc(1, sizeof *reducer);
  bucket *items = calloc((size_t)(buckets > 0 ? buckets : 1), sizeof *items);
  if (reducer == NULL || items == NULL) {
    free(reducer);
    free(items);
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld gradient buckets", (long long)buckets);
  }
  *reducer = (dist_reducer){.group = group,
                            .grad = params->grad,
                            .total = total,
                            .width = width,
                            .bucket = items,
                            .buckets = buckets};
  for (int64_t i = 0; i < buckets; i++) {
    int64_t end = total - i * width;
    items[i].offset = end > width ? end - width : 0;
    items[i].count = end - items[i].offset;
  }
  *out = reducer;
  return NN_OK;
}

void dist_reducer_free(dist_reducer *reducer) {
  if (reducer == NULL)
    return;
  free(reducer->bucket);
  free(reducer);
}

void dist_reducer_begin(dist_reducer *reducer) {
  for (int64_t i = 0; i < reducer->buckets; i++)
    reducer->bucket[i].missing = reducer->bucket[i].count;
  reducer->posted = reducer->done = 0;
}

// Posts what is complete, strictly in the order of the layout: every rank has to post the same all-reduces in
// the same order, whatever the order in which its ranges became ready.
static nn_status post_ready(dist_reducer *reducer) {
  while (reducer->posted < reducer->buckets && reducer->bucket[reducer->posted].missing == 0) {
    bucket *next = &reducer->bucket[reducer->posted];
    if (reducer->group->size > 1)
      NN_TRY(dist_allreduce_start(reducer->group, reducer->grad + next->offset, next->count, DIST_F32,
                                  DIST_SUM, &next->request));
    reducer->posted++;
  }
  return NN_OK;
}

nn_status dist_reducer_poll(dist_reducer *reducer) {
  for (int64_t i = reducer->done; i < reducer->posted; i++) {
    bucket *item = &reducer->bucket[i];
    bool done = true;
    if (item->request != NULL) {
      nn_status status = dist_test(item->request, &done);
      if (done || status != NN_OK)
        item->request = NULL;
      NN_TRY(status);
    }
    if (done && i == reducer->done)
      reducer->done++;
  }
  return NN_OK;
}

static nn_status ready(void *context, int64_t offset, int64_t count) {
  dist_reducer *reducer = context;
  if (count < 0 || offset < 0 || offset + count > reducer->total)
    return NN_FAIL(NN_ERR_INTERNAL, "gradient range [%lld, +%lld) outside of an arena of %lld elements",
                   (long long)offset, (long long)count, (long long)reducer->total);
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
  if (reducer->posted < reducer->buckets) {
    const bucket *next = &reducer->bucket[reducer->posted];
    return NN_FAIL(NN_ERR_INTERNAL, "backward left %lld gradients of [%lld, +%lld) incomplete",
                   (long long)next->missing, (long long)next->offset, (long long)next->count);
  }
  const dist_group_table *table = reducer->group->table;
  if (table->mark != NULL)
    NN_TRY(table->mark(reducer->group));
  for (; reducer->done < reducer->posted; reducer->done++) {
    bucket *item = &reducer->bucket[reducer->done];
    if (item->request == NULL)
      continue;
    dist_request *request = item->request;
    item->request = NULL;
    NN_TRY(dist_wait(request));
  }
  reducer->exposed = dist_seconds() - started;
  return table->exposed != NULL ? table->exposed(reducer->group, &reducer->exposed) : NN_OK;
}

double dist_reducer_exposed_seconds(const dist_reducer *reducer) {
  return reducer->exposed;
}
