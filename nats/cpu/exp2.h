// 2^x for softmax: scores are kept in units of log 2, so no reduction by ln 2 is needed.
#pragma once

#include "nn/cpu/vector.h"

// 2^x for x < 128, within 1.5 units in the last place; 0 below -126; NaN for NaN and infinity. x = n + f with
// n = round(x); 2^f - 1 = f q(f) with q of degree 5 fitted for the smallest relative error on |f| <= 1/2.
NN_INLINE nn_v16 nats_exp2(nn_v16 x) {
  const float magic = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  nn_v16 shifted = x + magic;
  nn_v16 f = x - (shifted - magic);
  nn_v16 q = f * 1.535336196e-4f + 1.339887502e-3f;
  q = q * f + 9.618436918e-3f;
  q = q * f + 5.550332367e-2f;
  q = q * f + 2.402264774e-1f;
  q = q * f + 6.931471825e-1f;
  q = q * f + 1.0f;
  nn_u16 power = (nn_u16)q + ((nn_u16)shifted << 23); // n is added to the exponent
  return (nn_v16)(power & ~(nn_u16)(x < -126.0f));
}
