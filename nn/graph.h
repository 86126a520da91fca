// Work that is launched again and again on the same memory, recorded once: launching it then costs about as
// much as a single kernel.
#pragma once

#include "nn/device.h"

typedef struct nn_graph nn_graph;

// Runs `work`, and keeps what it launched in *out. It may call operators, nn_device_copy and nn_device_zero;
// it must have run before with tensors of the same shapes, as nothing may be allocated now. *out is NULL
// where it cannot be recorded (on a CPU, for example): the next time, call `work` again.
nn_status nn_graph_record(nn_device *device, nn_status (*work)(void *context), void *context, nn_graph **out);

// Runs it once more: the same operators on the same addresses.
nn_status nn_graph_launch(nn_graph *graph);
void nn_graph_free(nn_graph *graph); // NULL is allowed

// What a build with CUDA has (nn/cuda/graph.cu).
nn_status nn_cuda_graph_record(nn_device *device, nn_status (*work)(void *context), void *context,
                               nn_graph **out);
nn_status nn_cuda_graph_launch(nn_graph *graph);
void nn_cuda_graph_free(nn_graph *graph);
