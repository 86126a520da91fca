// Included by tile_multiply.c once per vector width; no include guard on purpose.
//   NATS_WIDTH   floats of a vector
//   NATS_ROWS    rows of c that are held in registers, with NATS_VECS vectors of each
//   NATS_LEVEL   suffix of the names defined here
//   NATS_TARGET  function attribute that chooses the instruction set

#define NATS_NAME(name) NATS_CONCAT(name##_, NATS_LEVEL)
#define nats_vec        NATS_NAME(vec)
#define nats_block      NATS_NAME(block)
#define nats_panel      NATS_NAME(panel)

typedef float nats_vec __attribute__((vector_size(NATS_WIDTH * sizeof(float)), aligned(4), may_alias));

// c[rows, vecs * WIDTH] (+)= a b. Both counts are constants where this is inlined.
NN_INLINE NATS_TARGET void nats_block(int rows, int vecs, int k, nats_matrix a, const float *b,
                                      ptrdiff_t b_row, float *c, ptrdiff_t c_row, bool add) {
  nats_vec sum[NATS_ROWS * NATS_VECS][NATS_VECS]; // registers, once the loops are unrolled
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vecs; v++)
      sum[r][v] = add ? *(const nats_vec *)(c + r * c_row + v * NATS_WIDTH) : (nats_vec){0};
  for (int p = 0; p < k; p++) {
    nats_vec right[NATS_VECS];
    for (int v = 0; v < vecs; v++)
      right[v] = *(const nats_vec *)(b + p * b_row + v * NATS_WIDTH);
    for (int r = 0; r < rows; r++) {
      float left = a.data[r * a.row + p * a.column];
      for (int v = 0; v < vecs; v++)
        sum[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vecs; v++)
      *(nats_vec *)(c + r * c_row + v * NATS_WIDTH) = sum[r][v];
}

// All rows of c, `vecs` vectors wide: narrow panels take more rows at a time, so that enough sums are under
// way to hide the latency of an addition.
NN_INLINE NATS_TARGET void nats_panel(int vecs, int m, int k, nats_matrix a, const float *b, ptrdiff_t b_row,
                                      float *c, ptrdiff_t c_row, bool add) {
  const int step = NATS_ROWS * (NATS_VECS / vecs);
  int i = 0;
  for (; i + step <= m; i += step, a.data += step * a.row)
    nats_block(step, vecs, k, a, b, b_row, c + i * c_row, c_row, add);
  for (; i + 2 <= m; i += 2, a.data += 2 * a.row)
    nats_block(2, vecs, k, a, b, b_row, c + i * c_row, c_row, add);
  if (i < m)
    nats_block(1, vecs, k, a, b, b_row, c + i * c_row, c_row, add);
}

static NATS_TARGET void NATS_NAME(multiply)(int m, int n, int k, nats_matrix a, const float *b,
                                            ptrdiff_t b_row, float *c, ptrdiff_t c_row, bool add) {
  const int wide = NATS_VECS * NATS_WIDTH;
  int j = 0;
  for (; j + wide <= n; j += wide)
    nats_panel(NATS_VECS, m, k, a, b + j, b_row, c + j, c_row, add);
#if NATS_VECS * NATS_WIDTH > 16
  for (; j + 32 <= n; j += 32)
    nats_panel(32 / NATS_WIDTH, m, k, a, b + j, b_row, c + j, c_row, add);
  if (j < n)
    nats_panel(16 / NATS_WIDTH, m, k, a, b + j, b_row, c + j, c_row, add);
#endif
}

#undef NATS_NAME
#undef nats_vec
#undef nats_block
#undef nats_panel
#undef NATS_WIDTH
#undef NATS_ROWS
#undef NATS_VECS
#undef NATS_LEVEL
#undef NATS_TARGET
