// cuBLASLt's products by plain loops: operands are packed to float32, sums are float32 in the order of k. Its
// second algorithm is as the first, but faster; the third is the fastest, and sums from the end.
#include <cublasLt.h>

#include <math.h>
#include <new>
#include <string.h>
#include <vector>

#include "tests/emulator/emulator.h"

enum { ALGORITHMS = 3 };

struct emulator_blas {
  int unused;
};
struct emulator_matmul {
  cublasOperation_t transpose_a, transpose_b;
  cublasLtEpilogue_t epilogue;
  const void *bias; // in the type of d
  const void *aux;  // a matrix like d; GELU_AUX writes it
  int64_t aux_leading;
};
struct emulator_layout {
  cudaDataType type;
  uint64_t rows, columns;
  int64_t leading; // column-major
};
struct emulator_preference {
  uint64_t workspace;
};

static size_t size_of(cudaDataType type) { return type == CUDA_R_16BF ? 2 : 4; }

static float load(const void *base, cudaDataType type, int64_t index) {
  uint32_t bits;
  if (type == CUDA_R_16BF)
    bits = static_cast<uint32_t>(static_cast<const uint16_t *>(base)[index]) << 16;
  else
    bits = static_cast<const uint32_t *>(base)[index];
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void store(void *base, cudaDataType type, int64_t index, float value) {
  if (type != CUDA_R_16BF) {
    static_cast<float *>(base)[index] = value;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  static_cast<uint16_t *>(base)[index] =
      static_cast<uint16_t>(value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Where (row, column) of a layout lies.
static int64_t index_of(const emulator_layout *x, int64_t row, int64_t column) {
  return row + column * x->leading;
}

// op(x) as [outer, k], k fastest: rows of a, columns of b.
static std::vector<float> pack(const void *base, const emulator_layout *x, bool rows_are_outer, int64_t outer,
                               int64_t k) {
  std::vector<float> packed(static_cast<size_t>(outer * k));
  for (int64_t i = 0; i < outer; i++)
    for (int64_t j = 0; j < k; j++)
      packed[static_cast<size_t>(i * k + j)] =
          load(base, x->type, rows_are_outer ? index_of(x, i, j) : index_of(x, j, i));
  return packed;
}

// GELU, tanh form, and its slope.
static float gelu(float x) {
  return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}
static float gelu_slope(float x) {
  const float t = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x);
}

// What becomes of an element of the product before it is stored.
static float finish(const emulator_matmul *desc, const emulator_layout *d, int64_t row, int64_t column, float sum) {
  const emulator_layout aux = {d->type, d->rows, d->columns, desc->aux_leading};
  if (desc->epilogue & CUBLASLT_EPILOGUE_BIAS)
    sum += load(desc->bias, d->type, row);
  if (desc->epilogue == CUBLASLT_EPILOGUE_DGELU)
    return sum * gelu_slope(load(desc->aux, d->type, index_of(&aux, row, column)));
  if ((desc->epilogue | CUBLASLT_EPILOGUE_BIAS) != CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
    return sum;
  store(const_cast<void *>(desc->aux), d->type, index_of(&aux, row, column), sum);
  return gelu(sum);
}

template <typename T> static cublasStatus_t set(T *field, const void *value, size_t bytes) {
  if (bytes != sizeof *field)
    return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T> static cublasStatus_t create(T **out, const T &value) {
  *out = new (std::nothrow) T(value);
  return *out != nullptr ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

template <typename T> static cublasStatus_t destroy(T *object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

extern "C" {

const char *cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
  case CUBLAS_STATUS_SUCCESS: return "success";
  case CUBLAS_STATUS_ALLOC_FAILED: return "the resource allocation failed";
  case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
  case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality is not supported";
  default: return "an error of the emulated cuBLASLt";
  }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return create(handle, {}); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t, cudaDataType_t) {
  return create(
      desc, {CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, nullptr, 0});
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes) {
  switch (attribute) {
  case CUBLASLT_MATMUL_DESC_TRANSA: return set(&desc->transpose_a, value, bytes);
  case CUBLASLT_MATMUL_DESC_TRANSB: return set(&desc->transpose_b, value, bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&desc->epilogue, value, bytes);
  case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&desc->bias, value, bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return set(&desc->aux, value, bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return set(&desc->aux_leading, value, bytes);
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return destroy(desc); }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  return create(layout, {type, rows, columns, leading});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  return create(preference, {0});
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return set(&preference->workspace, value, bytes);
  return bytes == sizeof(uint32_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return destroy(preference);
}

// Like the library, it has nothing for 2-byte operands whose rows begin at odd elements, nor for auxiliary
// matrices whose rows are not a multiple of 8 elements.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
  *found = 0;
  if (wanted < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  for (const emulator_layout *x : {a, b, c, d})
    if (size_of(x->type) == 2 && x->leading % 2 != 0)
      return CUBLAS_STATUS_NOT_SUPPORTED;
  if (desc->aux != nullptr && (desc->aux_leading % 8 != 0 || desc->aux_leading < static_cast<int64_t>(d->rows)))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  *found = wanted < ALGORITHMS ? wanted : ALGORITHMS;
  for (int i = 0; i < *found; i++) {
    results[i] = {};
    results[i].algo.data[0] = static_cast<uint64_t>(i);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *,
                                                    cublasLtMatmulAlgoConfigAttributes_t, void *value,
                                                    size_t bytes, size_t *written) {
  memset(value, 0, bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

// d = alpha op(a) op(b) + beta c, and what the epilogue says: the bias [rows of d] is added to every column.
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *, size_t,
                              cudaStream_t) {
  const bool turn_a = desc->transpose_a == CUBLAS_OP_T, turn_b = desc->transpose_b == CUBLAS_OP_T;
  const int64_t m = static_cast<int64_t>(d_layout->rows), n = static_cast<int64_t>(d_layout->columns);
  const int64_t k = static_cast<int64_t>(turn_a ? a_layout->rows : a_layout->columns);
  const bool fits = static_cast<int64_t>(turn_a ? a_layout->columns : a_layout->rows) == m &&
                    static_cast<int64_t>(turn_b ? b_layout->columns : b_layout->rows) == k &&
                    static_cast<int64_t>(turn_b ? b_layout->rows : b_layout->columns) == n &&
                    c_layout->rows == d_layout->rows && c_layout->columns == d_layout->columns;
  for (const emulator_layout *x : {a_layout, b_layout, c_layout, d_layout})
    if (x->leading < static_cast<int64_t>(x->rows))
      return CUBLAS_STATUS_INVALID_VALUE;
  if (!fits || m == 0 || n == 0 || k == 0)
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool from_end = algorithm->data[0] == ALGORITHMS - 1;
  emulator_milliseconds += static_cast<double>(ALGORITHMS - algorithm->data[0]);
  const float by = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
  const std::vector<float> left = pack(a, a_layout, !turn_a, m, k), right = pack(b, b_layout, turn_b, n, k);
  for (int64_t row = 0; row < m; row++)
    for (int64_t column = 0; column < n; column++) {
      const float *x = &left[static_cast<size_t>(row * k)], *y = &right[static_cast<size_t>(column * k)];
      float sum = 0;
      for (int64_t i = 0; i < k; i++)
        sum += x[from_end ? k - 1 - i : i] * y[from_end ? k - 1 - i : i];
      sum *= by;
      if (keep != 0)
        sum += keep * load(c, c_layout->type, index_of(c_layout, row, column));
      store(d, d_layout->type, index_of(d_layout, row, column), finish(desc, d_layout, row, column, sum));
    }
  return CUBLAS_STATUS_SUCCESS;
}
}
