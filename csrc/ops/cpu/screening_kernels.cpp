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
#elif defined(__aarch64__) && defined(__GNUC__)
#define MABM_ARM 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace mabm {

// Vectors of the compiler's own, four lanes wide, which every processor with SIMD has; one lane
// for a compiler without them.
namespace portable {

#if defined(__GNUC__)
constexpr int kLanes = 4;
using Floats = float __attribute__((vector_size(16)));
using Integers = int32_t __attribute__((vector_size(16)));
MABM_INLINE Floats broadcast(float value) { return Floats{} + value; }
MABM_INLINE Floats integers_to_floats(Integers values) {
  return __builtin_convertvector(values, Floats);
}
MABM_INLINE Integers multiply_add_bytes(Integers sums, const int8_t* left, const int8_t* right) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int k = 0; k < 4; ++k) {
      sums[lane] += left[k] * right[4 * lane + k];
    }
  }
  return sums;
}
using Flags = Integers;
MABM_INLINE Flags not_at_most(Floats a, Floats b) { return ~(a <= b); }
MABM_INLINE Flags either(Flags a, Flags b) { return a | b; }
MABM_INLINE unsigned bits(Flags flags) {
  const Flags lanes = flags & Flags{1, 2, 4, 8};
  return static_cast<unsigned>(lanes[0] | lanes[1] | lanes[2] | lanes[3]);
}
#else
constexpr int kLanes = 1;
using Floats = float;
using Integers = int32_t;
MABM_INLINE Floats broadcast(float value) { return value; }
MABM_INLINE Floats integers_to_floats(Integers value) { return static_cast<float>(value); }
MABM_INLINE Integers multiply_add_bytes(Integers sum, const int8_t* left, const int8_t* right) {
  return sum + left[0] * right[0] + left[1] * right[1] + left[2] * right[2] + left[3] * right[3];
}
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
MABM_INLINE Integers load_integers(const void* from) {
  Integers values;
  std::memcpy(&values, from, sizeof values);
  return values;
}
MABM_INLINE void store_integers(void* to, Integers values) {
  std::memcpy(to, &values, sizeof values);
}
MABM_INLINE Floats add(Floats a, Floats b) { return a + b; }
MABM_INLINE Floats multiply(Floats a, Floats b) { return a * b; }
MABM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

#include "ops/cpu/screening_scan.h"

// Quantized operands come after the scan.
#include "ops/cpu/screening_quantized.h"

const ScreenKernel kFloat{"portable", 4, 2 * kLanes, 0, &Scan<FloatOperand, 4, 2>::scan};
const ScreenKernel kQuantized{"portable", 4, 2 * kLanes, 0, &Scan<QuantizedOperand, 4, 2>::scan};

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

const ScreenKernel kFloat{"AVX2", 6, 16, 0, &Scan<FloatOperand, 6, 2>::scan};

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

const ScreenKernel kFloat{"AVX-512", 12, 32, 0, &Scan<FloatOperand, 12, 2>::scan};

}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vnni,fma")
namespace avx512_vnni {

using namespace avx512;
using Integers = __m512i;

MABM_INLINE Integers load_integers(const void* from) { return _mm512_loadu_si512(from); }
MABM_INLINE void store_integers(void* to, Integers values) { _mm512_storeu_si512(to, values); }
MABM_INLINE Floats integers_to_floats(Integers values) {
  return _mm512_maskz_cvtepi32_ps(0xffff, values);  // GCC warns of the one without a mask
}
MABM_INLINE Integers multiply_add_bytes(Integers sums, const int8_t* left, const int8_t* right) {
  int32_t four;
  std::memcpy(&four, left, sizeof four);
  return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four), load_integers(right));
}

#include "ops/cpu/screening_scan.h"
// Quantized operands come after the scan.
#include "ops/cpu/screening_quantized.h"

const ScreenKernel kQuantized{"AVX-512 VNNI", 12, 32, 128, &Scan<QuantizedOperand, 12, 2>::scan};

}  // namespace avx512_vnni
#pragma GCC pop_options

#if __GNUC__ >= 11
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
namespace avx_vnni {

using namespace avx2;
using Integers = __m256i;

MABM_INLINE Integers load_integers(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
MABM_INLINE void store_integers(void* to, Integers values) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), values);
}
MABM_INLINE Floats integers_to_floats(Integers values) { return _mm256_cvtepi32_ps(values); }
MABM_INLINE Integers multiply_add_bytes(Integers sums, const int8_t* left, const int8_t* right) {
  int32_t four;
  std::memcpy(&four, left, sizeof four);
  return _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi32(four), load_integers(right));
}

#include "ops/cpu/screening_scan.h"
// Quantized operands come after the scan.
#include "ops/cpu/screening_quantized.h"

const ScreenKernel kQuantized{"AVX-VNNI", 6, 16, 128, &Scan<QuantizedOperand, 6, 2>::scan};

}  // namespace avx_vnni
#pragma GCC pop_options
#endif

#endif  // MABM_X86

#if MABM_ARM

namespace neon {

constexpr int kLanes = 4;
using Floats = float32x4_t;

MABM_INLINE Floats load(const float* from) { return vld1q_f32(from); }
MABM_INLINE void store(float* to, Floats values) { vst1q_f32(to, values); }
MABM_INLINE Floats broadcast(float value) { return vdupq_n_f32(value); }
MABM_INLINE Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
MABM_INLINE Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
MABM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
using Flags = uint32x4_t;
MABM_INLINE Flags not_at_most(Floats a, Floats b) { return vmvnq_u32(vcleq_f32(a, b)); }
MABM_INLINE Flags either(Flags a, Flags b) { return vorrq_u32(a, b); }
MABM_INLINE unsigned bits(Flags flags) {
  const uint32_t lanes[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(flags, vld1q_u32(lanes)));
}

#include "ops/cpu/screening_scan.h"

const ScreenKernel kFloat{"NEON", 6, 12, 0, &Scan<FloatOperand, 6, 3>::scan};

}  // namespace neon

// Clang knows the instructions of the processor that it compiles for, such as Apple's, only.
#if !defined(__clang__) || defined(__ARM_FEATURE_DOTPROD)
#define MABM_ARM_DOT 1
#if !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
namespace neon_dot {

using namespace neon;
using Integers = int32x4_t;

MABM_INLINE Integers load_integers(const void* from) {
  return vld1q_s32(static_cast<const int32_t*>(from));
}
MABM_INLINE void store_integers(void* to, Integers values) {
  vst1q_s32(static_cast<int32_t*>(to), values);
}
MABM_INLINE Floats integers_to_floats(Integers values) { return vcvtq_f32_s32(values); }
MABM_INLINE Integers multiply_add_bytes(Integers sums, const int8_t* left, const int8_t* right) {
  const Integers four = vld1q_dup_s32(reinterpret_cast<const int32_t*>(left));
  return vdotq_s32(sums, vreinterpretq_s8_s32(four), vld1q_s8(right));
}

#include "ops/cpu/screening_scan.h"
// Quantized operands come after the scan.
#include "ops/cpu/screening_quantized.h"

const ScreenKernel kQuantized{"NEON dot product", 6, 12, 0, &Scan<QuantizedOperand, 6, 3>::scan};

}  // namespace neon_dot
#if !defined(__clang__)
#pragma GCC pop_options
#endif
#endif

#endif  // MABM_ARM

namespace {

// Depth of the products that a kernel has to get right before it is used: some milliseconds.
constexpr int64_t kCheckDepth = 64;

#if MABM_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

}  // namespace

const ScreenKernel& portable_float_kernel() { return portable::kFloat; }
const ScreenKernel& portable_quantized_kernel() { return portable::kQuantized; }

const ScreenKernel& float_kernel() {
#if MABM_X86
  if (__builtin_cpu_supports("avx512f")) {
    return avx512::kFloat;
  }
  if (has_avx2()) {
    return avx2::kFloat;
  }
#elif MABM_ARM
  return neon::kFloat;
#endif
  return portable::kFloat;
}

const ScreenKernel& supported_quantized_kernel() {
#if MABM_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni")) {
    return avx512_vnni::kQuantized;
  }
#if __GNUC__ >= 11
  if (has_avx2() && __builtin_cpu_supports("avxvnni")) {
    return avx_vnni::kQuantized;
  }
#endif
#elif MABM_ARM_DOT && defined(__linux__)
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) {
    return neon_dot::kQuantized;
  }
#elif MABM_ARM_DOT
  return neon_dot::kQuantized;
#endif
  return portable::kQuantized;
}

const ScreenKernel& quantized_kernel() {
  static const ScreenKernel& kernel = multiplies_exactly(supported_quantized_kernel(), kCheckDepth)
                                          ? supported_quantized_kernel()
                                          : portable::kQuantized;
  return kernel;
}

}  // namespace mabm
