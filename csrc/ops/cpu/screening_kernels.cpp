// The kernels of screening for each instruction set, and the choice between them at run time.

#include <cstring>

#include "common/screening.h"

#if defined(__GNUC__)
#define MABM_INLINE inline __attribute__((always_inline))
#define MABM_OUTLINE __attribute__((noinline, cold))
#define MABM_UNROLL _Pragma("GCC unroll 16")
#else
#define MABM_INLINE __forceinline
#define MABM_OUTLINE __declspec(noinline)
#define MABM_UNROLL
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MABM_X86 1
#include <immintrin.h>
#endif

namespace mabm {

// Vectors of the compiler's own, four lanes wide, which every processor with SIMD has; one lane
// for a compiler without them.
namespace portable {

#if defined(__GNUC__)
constexpr int kLanes = 4;
using Floats = float __attribute__((vector_size(16)));
MABM_INLINE Floats broadcast(float value) { return Floats{} + value; }
using Flags = int32_t __attribute__((vector_size(16)));
MABM_INLINE Flags not_at_most(Floats a, Floats b) { return ~(a <= b); }
MABM_INLINE Flags either(Flags a, Flags b) { return a | b; }
MABM_INLINE unsigned bits(Flags flags) {
  const Flags lanes = flags & Flags{1, 2, 4, 8};
  return static_cast<unsigned>(lanes[0] | lanes[1] | lanes[2] | lanes[3]);
}
#else
constexpr int kLanes = 1;
using Floats = float;
MABM_INLINE Floats broadcast(float value) { return value; }
using Flags = bool;
MABM_INLINE Flags not_at_most(Floats a, Floats b) { return !(a <= b); }
MABM_INLINE Flags either(Flags a, Flags b) { return a || b; }
MABM_INLINE unsigned bits(Flags flags) { return flags; }
#endif

MABM_INLINE Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}
MABM_INLINE void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }
MABM_INLINE Floats add(Floats a, Floats b) { return a + b; }
MABM_INLINE Floats multiply(Floats a, Floats b) { return a * b; }
MABM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

#include "ops/cpu/screening_scan.h"

const ScreenKernel kFloat{"portable", 4, 2 * kLanes, 1, &Scan<FloatOperand, 4, 2>::scan};

}  // namespace portable

#if MABM_X86

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {

constexpr int kLanes = 8;
using Floats = __m256;

MABM_INLINE Floats load(const float* from) { return _mm256_loadu_ps(from); }
MABM_INLINE void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
MABM_INLINE Floats broadcast(float value) { return _mm256_set1_ps(value); }
MABM_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
MABM_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
MABM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
using Flags = __m256;
MABM_INLINE Flags not_at_most(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_NLE_UQ); }
MABM_INLINE Flags either(Flags a, Flags b) { return _mm256_or_ps(a, b); }
MABM_INLINE unsigned bits(Flags flags) { return static_cast<unsigned>(_mm256_movemask_ps(flags)); }

#include "ops/cpu/screening_scan.h"

const ScreenKernel kFloat{"AVX2", 6, 16, 1, &Scan<FloatOperand, 6, 2>::scan};

}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,fma")
namespace avx512 {

constexpr int kLanes = 16;
using Floats = __m512;

MABM_INLINE Floats load(const float* from) { return _mm512_loadu_ps(from); }
MABM_INLINE void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
MABM_INLINE Floats broadcast(float value) { return _mm512_set1_ps(value); }
MABM_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
MABM_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
MABM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
using Flags = __mmask16;
MABM_INLINE Flags not_at_most(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
MABM_INLINE Flags either(Flags a, Flags b) { return static_cast<Flags>(a | b); }
MABM_INLINE unsigned bits(Flags flags) { return flags; }

#include "ops/cpu/screening_scan.h"

const ScreenKernel kFloat{"AVX-512", 12, 32, 1, &Scan<FloatOperand, 12, 2>::scan};

}  // namespace avx512
#pragma GCC pop_options

#endif  // MABM_X86

const ScreenKernel& portable_float_kernel() { return portable::kFloat; }

const ScreenKernel& float_kernel() {
#if MABM_X86
  if (__builtin_cpu_supports("avx512f")) {
    return avx512::kFloat;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2::kFloat;
  }
#endif
  return portable::kFloat;
}

}  // namespace mabm
