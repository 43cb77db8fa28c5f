// The vector instructions of x86 as functions that imitate them, by SIMDe, in place of immintrin.h.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

// What SIMDe lacks.
using __mmask16 = simde__mmask16;
inline __m512 every_lane_to_float(__m512i values) {
  const simde__m512i_private from = simde__m512i_to_private(values);
  simde__m512_private to;
  for (int lane = 0; lane < 16; ++lane) {
    to.f32[lane] = static_cast<float>(from.i32[lane]);
  }
  return simde__m512_from_private(to);
}
#undef _mm512_maskz_cvtepi32_ps
#define _mm512_maskz_cvtepi32_ps(mask, values) every_lane_to_float(values)
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
