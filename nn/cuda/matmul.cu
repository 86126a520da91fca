#include "nn/cuda/matmul.h"

#include <stdlib.h> // calloc, free
#include <string.h> // memcmp, memset

#include "nn/cuda/device.h"
#include "nn/cuda/few_rows.h"
#include "nn/cuda/matmul_trial.h"

nn_status nn_cuda_blas_status(cublasStatus_t error, const char *what, const char *file, int line) {
  if (error == CUBLAS_STATUS_SUCCESS)
    return NN_OK;
  return nn_fail(error == CUBLAS_STATUS_ALLOC_FAILED ? NN_ERR_MEMORY : NN_ERR_INTERNAL, file, line,
                 "cuBLASLt: %s: %s", what, cublasLtGetStatusString(error));
}

#define TRY(call, what) NN_TRY(nn_cuda_blas_status((call), (what), __FILE__, __LINE__))

// ---- plans

// All that the choice of an algorithm depends on. Compared by bytes: no gaps, and cleared before it is
// filled.
typedef struct {
  int64_t m, n, k, a_stride, c_stride;
  int32_t transposed_a, transposed_b, c_is_float, add;
  int32_t epilogue;                              // cublasLtEpilogue_t
  int32_t a_alignment, b_alignment, c_alignment; // bytes
} shape;

// cuBLASLt counts by columns: to it our row-major c = a b is c^T = b^T a^T, so that b comes first.
typedef struct plan {
  struct plan *next; // of the same bucket
  shape of;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
  int32_t uses; // how often it has run
  bool found;   // else cuBLASLt has no algorithm for this shape
} plan;

enum { BUCKETS = 1024 };
struct nn_cuda_plans {
  plan *bucket[BUCKETS];
};

nn_status nn_cuda_plans_create(nn_cuda_plans **out) {
  *out = static_cast<nn_cuda_plans *>(calloc(1, sizeof **out));
  return *out != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory: the plans of products");
}

static void free_plan(plan *p) {
  if (p->operation != NULL)
    (void)cublasLtMatmulDescDestroy(p->operation);
  if (p->a != NULL)
    (void)cublasLtMatrixLayoutDestroy(p->a);
  if (p->b != NULL)
    (void)cublasLtMatrixLayoutDestroy(p->b);
  if (p->c != NULL)
    (void)cublasLtMatrixLayoutDestroy(p->c);
  free(p);
}

void nn_cuda_plans_free(nn_cuda_plans *plans) {
  for (int i = 0; plans != NULL && i < BUCKETS; i++)
    for (plan *p = plans->bucket[i], *next; p != NULL; p = next) {
      next = p->next;
      free_plan(p);
    }
  free(plans);
}

// FNV-1a (Fowler, Noll, Vo)
static uint32_t bucket_of(const shape *s) {
  uint64_t hash = 14695981039346656037u;
  const unsigned char *bytes = reinterpret_cast<const unsigned char *>(s);
  for (size_t i = 0; i < sizeof *s; i++)
    hash = (hash ^ bytes[i]) * 1099511628211u;
  return (uint32_t)(hash ^ hash >> 32) % BUCKETS;
}

// ---- a new plan

enum { ALIGNMENT_MAX = 16 }; // no algorithm wants more

static int32_t alignment_of(const void *address) {
  int32_t alignment = 1;
  while (alignment < ALIGNMENT_MAX && reinterpret_cast<uintptr_t>(address) % (2 * alignment) == 0)
    alignment *= 2;
  return alignment;
}

static cublasLtEpilogue_t epilogue_of(const nn_cuda_product *p) {
  if (p->before_gelu != NULL)
    return p->bias != NULL ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  if (p->gelu_of != NULL)
    return CUBLASLT_EPILOGUE_DGELU;
  return p->bias != NULL ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

static shape shape_of(const nn_cuda_product *p) {
  shape s;
  memset(&s, 0, sizeof s);
  s.m = p->m;
  s.n = p->n;
  s.k = p->k;
  s.a_stride = p->a_stride != 0 ? p->a_stride : p->transposed_a ? p->m : p->k;
  s.c_stride = p->c_stride != 0 ? p->c_stride : p->n;
  s.transposed_a = p->transposed_a;
  s.transposed_b = p->transposed_b;
  s.c_is_float = p->c_is_float;
  s.add = p->add;
  s.epilogue = epilogue_of(p);
  s.a_alignment = alignment_of(p->a);
  s.b_alignment = alignment_of(p->b);
  s.c_alignment = alignment_of(p->c);
  return s;
}

static cudaDataType_t compute_type(const nn_device *device) {
  return nn_device_compute_type(device) == NN_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static nn_status set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                     const void *value, size_t bytes) {
  TRY(cublasLtMatmulDescSetAttribute(operation, attribute, value, bytes), "describing a product");
  return NN_OK;
}

// Its tensors beside a, b and c are set before every use: pointers differ from call to call.
static nn_status describe_operation(plan *p) {
  const cublasOperation_t first = p->of.transposed_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = p->of.transposed_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)p->of.epilogue;
  TRY(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  NN_TRY(set(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
  NN_TRY(set(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  return set(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
}

// What the epilogue reads or writes beside c, a matrix like it.
static const void *matrix_of(const nn_cuda_product *product) {
  return product->before_gelu != NULL ? product->before_gelu : product->gelu_of;
}

static nn_status set_tensors(const plan *p, const nn_cuda_product *product) {
  const void *bias = product->bias, *matrix = matrix_of(product);
  const int64_t stride = p->of.c_stride;
  if (bias != NULL)
    NN_TRY(set(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
  if (matrix == NULL)
    return NN_OK;
  NN_TRY(set(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &stride, sizeof stride));
  return set(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &matrix, sizeof matrix);
}

// A row-major [rows, columns] matrix.
static nn_status describe_matrix(cublasLtMatrixLayout_t *out, cudaDataType_t type, int64_t rows,
                                 int64_t columns, int64_t stride) {
  TRY(cublasLtMatrixLayoutCreate(out, type, (uint64_t)columns, (uint64_t)rows, stride),
      "describing a matrix");
  return NN_OK;
}

static nn_status describe_matrices(plan *p, cudaDataType_t type) {
  const shape *s = &p->of;
  const cudaDataType_t type_of_c = s->c_is_float ? CUDA_R_32F : type;
  NN_TRY(describe_matrix(&p->a, type, s->transposed_a ? s->k : s->m, s->transposed_a ? s->m : s->k,
                         s->a_stride));
  NN_TRY(describe_matrix(&p->b, type, s->transposed_b ? s->n : s->k, s->transposed_b ? s->k : s->n,
                         s->transposed_b ? s->k : s->n));
  return describe_matrix(&p->c, type_of_c, s->m, s->n, s->c_stride);
}

static nn_status prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                        const void *value, size_t bytes) {
  TRY(cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes), "choosing an algorithm");
  return NN_OK;
}

static nn_status set_preferences(const plan *p, bool c_is_float, cublasLtMatmulPreference_t preference) {
  const uint64_t bytes = NN_CUDA_BLAS_BYTES;
  // Products that are split along k are summed in float32, whatever the type of c.
  const uint32_t reduction =
      c_is_float ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const uint32_t a = (uint32_t)p->of.a_alignment, b = (uint32_t)p->of.b_alignment,
                 c = (uint32_t)p->of.c_alignment;
  NN_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes));
  NN_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction));
  NN_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b, sizeof b));
  NN_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof a));
  NN_TRY(prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c));
  return prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c, sizeof c);
}

enum { ANSWERS = 8 }; // of cuBLASLt, the best first by its own rules

static nn_status ask_for_algorithms(const nn_device *device, const plan *p, int wanted,
                                    cublasLtMatmulHeuristicResult_t answers[ANSWERS], int *count) {
  cublasLtMatmulPreference_t preference;
  *count = 0;
  TRY(cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm");
  nn_status status =
      set_preferences(p, p->of.c_is_float || nn_device_compute_type(device) == NN_F32, preference);
  if (status == NN_OK) {
    cublasStatus_t error =
        cublasLtMatmulAlgoGetHeuristic(nn_cuda_gpu_of(device)->blas, p->operation, p->b, p->a, p->c, p->c,
                                       preference, wanted, answers, count);
    if (error != CUBLAS_STATUS_NOT_SUPPORTED)
      status = nn_cuda_blas_status(error, "choosing an algorithm", __FILE__, __LINE__);
  }
  (void)cublasLtMatmulPreferenceDestroy(preference);
  return status;
}

static nn_status choose_algorithm(const nn_device *device, plan *p) {
  cublasLtMatmulHeuristicResult_t answers[ANSWERS] = {};
  int count;
  NN_TRY(ask_for_algorithms(device, p, 1, answers, &count));
  p->found = count > 0 && answers[0].state == CUBLAS_STATUS_SUCCESS;
  p->algorithm = answers[0].algo;
  return NN_OK;
}

static nn_status fill_plan(const nn_device *device, const nn_cuda_product *product, plan *p) {
  NN_TRY(describe_operation(p));
  NN_TRY(set_tensors(p, product)); // their alignment counts too
  NN_TRY(describe_matrices(p, compute_type(device)));
  return choose_algorithm(device, p);
}

static nn_status find_plan(const nn_device *device, const nn_cuda_product *product, plan **out) {
  const shape wanted = shape_of(product);
  plan **bucket = &nn_cuda_gpu_of(device)->plans->bucket[bucket_of(&wanted)];
  for (*out = *bucket; *out != NULL; *out = (*out)->next)
    if (memcmp(&(*out)->of, &wanted, sizeof wanted) == 0)
      return NN_OK;
  plan *p = static_cast<plan *>(calloc(1, sizeof *p));
  if (p == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: the plan of a product");
  p->of = wanted;
  nn_status status = fill_plan(device, product, p);
  if (status != NN_OK) {
    free_plan(p);
    return status;
  }
  p->next = *bucket;
  *bucket = *out = p;
  return NN_OK;
}

// ---- what cuBLASLt does not do

enum { SIDE = 16, THREADS = 256 };

// Products for which it has no algorithm (some rows of odd length): a thread per element of c. Slow.
template <typename T, typename C>
__global__ static void multiply_plainly(nn_cuda_product p, int64_t a_stride, int64_t c_stride) {
  const T *a = static_cast<const T *>(p.a), *b = static_cast<const T *>(p.b);
  int64_t row = (int64_t)blockIdx.x * SIDE + threadIdx.y, column = (int64_t)blockIdx.y * SIDE + threadIdx.x;
  if (row >= p.m || column >= p.n)
    return;
  float sum = 0.0f;
  for (int64_t k = 0; k < p.k; k++)
    sum += nn_load(p.transposed_a ? a + k * a_stride + row : a + row * a_stride + k) *
           nn_load(p.transposed_b ? b + column * p.k + k : b + k * p.n + column);
  C *c = static_cast<C *>(p.c) + row * c_stride + column;
  nn_store(c, p.add ? nn_load(c) + sum : sum);
}

template <typename T>
static nn_status run_plainly(nn_device *device, const nn_cuda_product *product, const shape *s) {
  dim3 grid((unsigned)nn_ceil_div(s->m, (int64_t)SIDE), (unsigned)nn_ceil_div(s->n, (int64_t)SIDE));
  if (s->c_is_float)
    return NN_LAUNCH(device, (multiply_plainly<T, float>), grid, dim3(SIDE, SIDE), 0, *product, s->a_stride,
                     s->c_stride);
  return NN_LAUNCH(device, (multiply_plainly<T, T>), grid, dim3(SIDE, SIDE), 0, *product, s->a_stride,
                   s->c_stride);
}

template <typename T>
__global__ static void fill_rows(int64_t rows, int64_t width, int64_t stride, const T *bias, T *c) {
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (at < rows * width)
    c[at / width * stride + at % width] = bias[at % width];
}

template <typename T>
static nn_status fill_with_bias(nn_device *device, const nn_cuda_product *product, const shape *s) {
  return NN_LAUNCH(device, fill_rows<T>, dim3((unsigned)nn_ceil_div(s->m * s->n, (int64_t)THREADS)),
                   dim3(THREADS), 0, s->m, s->n, s->c_stride, product->bias, product->c);
}

// ---- running

// Vector loads and stores want this alignment of all that is not part of the shape.
static bool tensors_are_aligned(const nn_cuda_product *product) {
  return alignment_of(product->bias) == ALIGNMENT_MAX && alignment_of(matrix_of(product)) == ALIGNMENT_MAX;
}

// GELU where it has been seen to be right and to pay: bfloat16, whole tiles of a large product, and forward
// with a bias.
static bool may_fuse(const nn_device *device, const nn_cuda_product *product) {
  const bool gelu = matrix_of(product) != NULL, forward = product->before_gelu != NULL;
  const bool large = product->m >= 512 && product->n % 128 == 0 && product->k % 64 == 0;
  return tensors_are_aligned(product) && (!gelu || (nn_device_compute_type(device) == NN_BF16 && large &&
                                                    (!forward || product->bias != NULL)));
}

// A trial takes as long as a hundred products: it is for those that are large and keep coming.
enum { TRIAL_USE = 32 };
#ifdef __CUDACC__
static const double TRIAL_OPERATIONS = 1e10;
#else // tests/emulator
static const double TRIAL_OPERATIONS = 1e6;
#endif

// Not in float32: there the same product takes ten times as long, and so would a trial.
static bool is_due_for_trial(const nn_device *device, const plan *p) {
  const double operations = 2.0 * (double)p->of.m * (double)p->of.n * (double)p->of.k;
  return p->uses == TRIAL_USE && operations >= TRIAL_OPERATIONS && nn_device_compute_type(device) == NN_BF16;
}

static nn_status try_algorithms(nn_device *device, const nn_cuda_product *product, plan *p) {
  cublasLtMatmulHeuristicResult_t answers[ANSWERS] = {};
  cublasLtMatmulAlgo_t algorithms[1 + ANSWERS] = {p->algorithm};
  int32_t count = 1, best;
  int answered;
  NN_TRY(ask_for_algorithms(device, p, ANSWERS, answers, &answered));
  for (int i = 0; i < answered; i++)
    if (answers[i].state == CUBLAS_STATUS_SUCCESS &&
        memcmp(&answers[i].algo, &p->algorithm, sizeof p->algorithm) != 0)
      algorithms[count++] = answers[i].algo;
  nn_cuda_trial trial = {};
  trial.operation = p->operation;
  trial.a_layout = p->b, trial.b_layout = p->a, trial.c_layout = p->c;
  trial.a = product->b, trial.b = product->a, trial.c = product->c;
  trial.beta = product->add ? 1.0f : 0.0f;
  trial.rows = p->of.m, trial.width = p->of.n, trial.stride = p->of.c_stride;
  trial.element = p->of.c_is_float ? sizeof(float) : nn_device_act_size(device);
  NN_TRY(nn_cuda_try_algorithms(device, &trial, count, algorithms, &best));
  p->algorithm = algorithms[best];
  return NN_OK;
}

static nn_status run_plan(nn_device *device, const nn_cuda_product *product, plan *p) {
  const nn_cuda_gpu *gpu = nn_cuda_gpu_of(device);
  const float one = 1.0f, beta = product->add ? 1.0f : 0.0f;
  NN_TRY(set_tensors(p, product));
  p->uses += p->uses <= TRIAL_USE;
  if (is_due_for_trial(device, p))
    NN_TRY(try_algorithms(device, product, p));
  TRY(cublasLtMatmul(gpu->blas, p->operation, &one, product->b, p->b, product->a, p->a, &beta, product->c,
                     p->c, product->c, p->c, &p->algorithm, gpu->blas_workspace, NN_CUDA_BLAS_BYTES,
                     gpu->stream),
      "multiplying matrices");
  return NN_OK;
}

nn_status nn_cuda_fuses(nn_device *device, const nn_cuda_product *product, bool *fuses) {
  plan *p = NULL;
  const bool few_rows = nn_cuda_has_few_rows(device, product);
  if (!few_rows && may_fuse(device, product))
    NN_TRY(find_plan(device, product, &p));
  *fuses = few_rows || (p != NULL && p->found);
  return NN_OK;
}

nn_status nn_cuda_multiply(nn_device *device, const nn_cuda_product *product) {
  plan *p = NULL;
  if (nn_cuda_has_few_rows(device, product))
    return nn_cuda_multiply_few_rows(device, product);
  if (tensors_are_aligned(product)) {
    NN_TRY(find_plan(device, product, &p));
    if (p->found)
      return run_plan(device, product, p);
  }
  if (product->bias == NULL)
    return NN_CUDA_TYPED(device, run_plainly, device, product, &p->of);
  // c starts from the bias.
  nn_cuda_product added = *product;
  added.bias = NULL;
  added.add = true;
  const shape s = shape_of(&added);
  NN_TRY(NN_CUDA_TYPED(device, fill_with_bias, device, product, &s));
  return nn_cuda_multiply(device, &added);
}
