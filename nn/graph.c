#include "nn/graph.h"

nn_status nn_graph_record(nn_device *device, nn_status (*work)(void *context), void *context,
                          nn_graph **out) {
  *out = NULL;
#ifdef NN_WITH_CUDA
  if (nn_device_get_kind(device) == NN_DEVICE_CUDA)
    return nn_cuda_graph_record(device, work, context, out);
#endif
  (void)device;
  return work(context);
}

nn_status nn_graph_launch(nn_graph *graph) {
#ifdef NN_WITH_CUDA
  return nn_cuda_graph_launch(graph);
#else
  (void)graph;
  return NN_FAIL(NN_ERR_INTERNAL, "graph: a build without CUDA records none");
#endif
}

void nn_graph_free(nn_graph *graph) {
#ifdef NN_WITH_CUDA
  nn_cuda_graph_free(graph);
#else
  (void)graph;
#endif
}
