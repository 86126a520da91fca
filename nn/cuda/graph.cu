// Recorded work is a CUDA graph, captured from the device's stream.
#include <stdlib.h> // calloc, free

#include "nn/cuda/stream.h"

extern "C" {
#include "nn/graph.h"
}

struct nn_graph {
  nn_device *device;
  cudaGraphExec_t ready;
};

extern "C" nn_status nn_cuda_graph_launch(nn_graph *graph) {
  NN_CUDA_TRY(cudaGraphLaunch(graph->ready, nn_cuda_stream(graph->device)));
  return NN_OK;
}

extern "C" void nn_cuda_graph_free(nn_graph *graph) {
  if (graph == NULL)
    return;
  if (graph->ready != NULL) {
    (void)cudaStreamSynchronize(nn_cuda_stream(graph->device)); // it may be running
    (void)cudaGraphExecDestroy(graph->ready);
  }
  free(graph);
}

static nn_status make_ready(nn_device *device, cudaGraph_t recorded, nn_graph **out) {
  nn_graph *graph = static_cast<nn_graph *>(calloc(1, sizeof *graph));
  if (graph == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: a graph");
  graph->device = device;
  const nn_status status = nn_cuda_status(cudaGraphInstantiateWithFlags(&graph->ready, recorded, 0),
                                          "preparing a graph", __FILE__, __LINE__);
  if (status == NN_OK)
    *out = graph;
  else
    nn_cuda_graph_free(graph);
  return status;
}

// The capture is ended also where `work` fails, or the stream could not be used any more.
static nn_status record(nn_device *device, nn_status (*work)(void *context), void *context, nn_graph **out) {
  const cudaStream_t stream = nn_cuda_stream(device);
  cudaGraph_t recorded = NULL;
  NN_CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  nn_status status = work(context);
  const cudaError_t ended = cudaStreamEndCapture(stream, &recorded);
  if (status == NN_OK)
    status = nn_cuda_status(ended, "recording a graph", __FILE__, __LINE__);
  if (status == NN_OK)
    status = make_ready(device, recorded, out);
  if (recorded != NULL)
    (void)cudaGraphDestroy(recorded);
  return status;
}

// Nothing has run yet where recording failed.
extern "C" nn_status nn_cuda_graph_record(nn_device *device, nn_status (*work)(void *context), void *context,
                                          nn_graph **out) {
  *out = NULL;
  if (record(device, work, context, out) == NN_OK)
    return nn_cuda_graph_launch(*out);
  nn_error_clear();
  (void)cudaGetLastError(); // what ended the capture
  return work(context);
}
