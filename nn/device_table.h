// Private to the implementations of devices (nn/cpu, nn/cuda) and to the files that dispatch to them.
#pragma once

#include "nn/device.h"

struct nn_ops_table; // nn/ops_table.h

typedef struct {
  void (*close)(nn_device *device);
  nn_status (*alloc)(nn_device *device, size_t bytes, const char *what, void **out);
  void (*free)(nn_device *device, void *memory);
  nn_status (*host_alloc)(nn_device *device, size_t bytes, const char *what, void **out);
  void (*host_free)(nn_device *device, void *memory);
  nn_status (*upload)(nn_device *device, void *to, const void *from, size_t bytes);
  nn_status (*download)(nn_device *device, void *to, const void *from, size_t bytes);
  nn_status (*copy)(nn_device *device, void *to, const void *from, size_t bytes);
  nn_status (*zero)(nn_device *device, void *memory, size_t bytes);
  nn_status (*sync)(nn_device *device);
  nn_status (*event_create)(nn_device *device, nn_event **out);
  void (*event_destroy)(nn_event *event);
  nn_status (*event_record)(nn_event *event);
  nn_status (*event_done)(nn_event *event, bool *done);
} nn_device_table;

struct nn_device {
  const nn_device_table *table;
  const struct nn_ops_table *ops;
  nn_device_kind kind;
  nn_dtype compute_type;
  char description[128];
  void *workspace;
  size_t workspace_bytes;
  void *own; // what the implementation keeps: streams, handles
};

struct nn_event {
  nn_device *device;
  void *own;
};

// Registered devices. nn_cuda_device_open exists only in a build with CUDA.
nn_status nn_cpu_device_open(int32_t local_rank, nn_device **out);
nn_status nn_cuda_device_open(int32_t local_rank, nn_dtype compute_type, nn_device **out);
