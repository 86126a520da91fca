#include "make_cases.h"

#include <hdf5.h>
#include <stdlib.h>

#include "../nats/attention_case.h"

static const attention_spec SPECS[] = {
    {.name = "tokens",
     .batch = 1,
     .length = 70,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 6,
     .global = .1,
     .local = .5},
    {.name = "groups",
     .batch = 1,
     .length = 41,
     .heads = 6,
     .kv_heads = 2,
     .head_size = 12,
     .chunk = 1,
     .window = 0,
     .global = .1,
     .local = .5},
    {.name = "chunks",
     .batch = 1,
     .length = 45,
     .heads = 2,
     .kv_heads = 1,
     .head_size = 16,
     .chunk = 4,
     .window = 5,
     .global = .2,
     .local = .5},
};

static void put(hid_t group, const char *name, hid_t type, int rank, const hsize_t *shape, const void *data) {
  hid_t space = H5Screate_simple(rank, shape, NULL);
  hid_t dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  cr_assert_geq(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

static void put_attribute(hid_t group, const char *name, hid_t type, const void *value) {
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  cr_assert_geq(H5Awrite(attribute, type, value), 0);
  H5Aclose(attribute);
  H5Sclose(space);
}

// [T, heads, D] as [heads, T, D]
static void put_heads(hid_t group, const char *name, hid_t type, const reference *r, int32_t heads,
                      const double *from) {
  const int64_t length = r->length, size = r->head_size;
  double *turned = malloc((size_t)(heads * length * size) * sizeof *turned);
  for (int64_t h = 0; h < heads; h++)
    for (int64_t t = 0; t < length; t++)
      for (int64_t d = 0; d < size; d++)
        turned[(h * length + t) * size + d] = from[(t * heads + h) * size + d];
  H5Tconvert(H5T_NATIVE_DOUBLE, type, (size_t)(heads * length * size), turned, NULL, H5P_DEFAULT);
  put(group, name, type, 3, (const hsize_t[]){(hsize_t)heads, (hsize_t)length, (hsize_t)size}, turned);
  free(turned);
}

static void put_mask(hid_t group, const reference *r) {
  const int32_t length = r->length;
  int64_t *live = calloc((size_t)r->kv_heads * (size_t)length, sizeof *live), pairs = 0;
  for (int32_t h = 0; h < r->kv_heads; h++)
    for (int32_t i = 0; i < length; i++) {
      for (int32_t j = 0; j <= i; j++)
        live[h * length + i] += reference_mask(r, h, i, j) == 1;
      pairs += live[h * length + i];
    }
  put(group, "live", H5T_NATIVE_INT64, 2, (const hsize_t[]){(hsize_t)r->kv_heads, (hsize_t)length}, live);
  const double fraction = (double)pairs / (r->kv_heads * (length * (length + 1) / 2));
  put_attribute(group, "kv_fraction", H5T_NATIVE_DOUBLE, &fraction);
  free(live);
}

static void make_case(hid_t file, const attention_spec *spec, uint64_t seed) {
  attention_case c;
  case_open(&c, test_open_cpu(), spec, seed);
  reference r = case_reference(&c, 0);
  hid_t group = H5Gcreate2(file, spec->name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t types[3] = {(hsize_t)spec->kv_heads, (hsize_t)c.chunks, 3};
  put_attribute(group, "window", H5T_NATIVE_INT32, &spec->window);
  if (spec->chunk > 1)
    put_attribute(group, "chunk", H5T_NATIVE_INT32, &spec->chunk);
  put_mask(group, &r);
  put(group, "types", H5T_NATIVE_UINT8, 2, types, c.type);
  put_heads(group, "q", H5T_NATIVE_FLOAT, &r, r.heads, r.q);
  put_heads(group, "k", H5T_NATIVE_FLOAT, &r, r.kv_heads, r.k);
  put_heads(group, "v", H5T_NATIVE_FLOAT, &r, r.kv_heads, r.v);
  put_heads(group, "do", H5T_NATIVE_FLOAT, &r, r.heads, r.d_o);
  put_heads(group, "o", H5T_NATIVE_DOUBLE, &r, r.heads, r.o);
  put_heads(group, "dq", H5T_NATIVE_DOUBLE, &r, r.heads, r.dq);
  put_heads(group, "dk", H5T_NATIVE_DOUBLE, &r, r.kv_heads, r.dk);
  put_heads(group, "dv", H5T_NATIVE_DOUBLE, &r, r.kv_heads, r.dv);
  put(group, "lse", H5T_NATIVE_DOUBLE, 2, (const hsize_t[]){(hsize_t)r.heads, (hsize_t)r.length}, r.lse);
  put(group, "dtypes", H5T_NATIVE_DOUBLE, 3, types, r.dtypes);
  r.clip = 1;
  reference_backward(&r);
  put(group, "dtypes_clip1", H5T_NATIVE_DOUBLE, 3, types, r.dtypes);
  H5Gclose(group);
  reference_free(&r);
}

void make_cases(const char *path, uint64_t seed) {
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  cr_assert_geq(file, 0, "%s", path);
  for (size_t i = 0; i < sizeof SPECS / sizeof *SPECS; i++)
    make_case(file, &SPECS[i], seed + 100 * i);
  cr_assert_geq(H5Fclose(file), 0);
}
