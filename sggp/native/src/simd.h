// One register of floats or doubles for the instruction set that this translation unit is compiled for.
//
// Everything is inside namespace SGGP_ISA (a macro set by isa_*.cpp), so that copies compiled with different flags
// never share a symbol. No standard library templates here for the same reason. GCC and Clang vector types give
// + - * / and comparisons; only what they lack is spelled with intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define SGGP_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define SGGP_BYTES 32
#else
#define SGGP_BYTES 16
#endif

#define SGGP_INLINE static inline __attribute__((always_inline))

// Loops over registers: they exist only if the loop is gone.
#define SGGP_UNROLL _Pragma("GCC unroll 16")

namespace SGGP_ISA {

template <class T> struct Simd;

template <> struct Simd<float> {
  typedef float R __attribute__((vector_size(SGGP_BYTES)));
  typedef int32_t I __attribute__((vector_size(SGGP_BYTES)));
  typedef uint32_t U __attribute__((vector_size(SGGP_BYTES)));  // where bits are shifted out
  static constexpr int W = SGGP_BYTES / 4;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float cutoff = 125.0f;      // 2^-t is taken as zero beyond, so that no subnormal number appears
  static constexpr float largest = 1e38f;
};

template <> struct Simd<double> {
  typedef double R __attribute__((vector_size(SGGP_BYTES)));
  typedef int64_t I __attribute__((vector_size(SGGP_BYTES)));
  typedef uint64_t U __attribute__((vector_size(SGGP_BYTES)));
  static constexpr int W = SGGP_BYTES / 8;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double magic = 6755399441055744.0;
  static constexpr double cutoff = 1021.0;
  static constexpr double largest = 1e308;
};

template <class T> using Reg = typename Simd<T>::R;
template <class T> using IntReg = typename Simd<T>::I;
template <class T> using Bits = typename Simd<T>::U;

template <class T> SGGP_INLINE Reg<T> load(const T* p) {
  Reg<T> r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
template <class T> SGGP_INLINE void store(T* p, Reg<T> r) { std::memcpy(p, &r, sizeof r); }

#if defined(__AVX512F__)

SGGP_INLINE Reg<float> set(float x) { return (Reg<float>)_mm512_set1_ps(x); }
SGGP_INLINE Reg<double> set(double x) { return (Reg<double>)_mm512_set1_pd(x); }
SGGP_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) {
  return (Reg<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
SGGP_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) {
  return (Reg<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
SGGP_INLINE Reg<float> root(Reg<float> a) { return (Reg<float>)_mm512_sqrt_ps((__m512)a); }
SGGP_INLINE Reg<double> root(Reg<double> a) { return (Reg<double>)_mm512_sqrt_pd((__m512d)a); }
// min(a, bound); a NaN in `a` is kept (the second operand of the instruction).
SGGP_INLINE Reg<float> capped(Reg<float> a, Reg<float> bound) {
  return (Reg<float>)_mm512_min_ps((__m512)bound, (__m512)a);
}
SGGP_INLINE Reg<double> capped(Reg<double> a, Reg<double> bound) {
  return (Reg<double>)_mm512_min_pd((__m512d)bound, (__m512d)a);
}
SGGP_INLINE Reg<float> nearest(Reg<float> a) {
  return (Reg<float>)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SGGP_INLINE Reg<double> nearest(Reg<double> a) {
  return (Reg<double>)_mm512_roundscale_pd((__m512d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// b - *x in every lane. The broadcast is part of the subtraction: an instruction of its own would take a turn of the
// adders (Zen 4: 1.25 cycles a coordinate and register instead of 1).
SGGP_INLINE Reg<float> minus_each(Reg<float> b, const float* x) {
  Reg<float> e;
  __asm__("vsubps %2%{1to16%}, %1, %0" : "=v"(e) : "v"(b), "m"(*x));
  return e;
}
SGGP_INLINE Reg<double> minus_each(Reg<double> b, const double* x) {
  Reg<double> e;
  __asm__("vsubpd %2%{1to8%}, %1, %0" : "=v"(e) : "v"(b), "m"(*x));
  return e;
}
// p * 2^-n where n = nearest(t); zero where t lies beyond the cutoff.
SGGP_INLINE Reg<float> scaled(Reg<float> p, Reg<float> n, Reg<float> t) {
  const __mmask16 keep = _mm512_cmp_ps_mask((__m512)t, (__m512)set(Simd<float>::cutoff), _CMP_NGT_UQ);
  return (Reg<float>)_mm512_maskz_scalef_ps(keep, (__m512)p, (__m512)-n);
}
SGGP_INLINE Reg<double> scaled(Reg<double> p, Reg<double> n, Reg<double> t) {
  const __mmask8 keep = _mm512_cmp_pd_mask((__m512d)t, (__m512d)set(Simd<double>::cutoff), _CMP_NGT_UQ);
  return (Reg<double>)_mm512_maskz_scalef_pd(keep, (__m512d)p, (__m512d)-n);
}

#else

SGGP_INLINE Reg<float> set(float x) { return x - Reg<float>{}; }
SGGP_INLINE Reg<double> set(double x) { return x - Reg<double>{}; }

#if SGGP_BYTES == 32
SGGP_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) {
  return (Reg<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
SGGP_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) {
  return (Reg<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
SGGP_INLINE Reg<float> root(Reg<float> a) { return (Reg<float>)_mm256_sqrt_ps((__m256)a); }
SGGP_INLINE Reg<double> root(Reg<double> a) { return (Reg<double>)_mm256_sqrt_pd((__m256d)a); }
#elif defined(__aarch64__) && defined(__ARM_NEON)
SGGP_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) {
  return (Reg<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
SGGP_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) {
  return (Reg<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
SGGP_INLINE Reg<float> root(Reg<float> a) { return (Reg<float>)vsqrtq_f32((float32x4_t)a); }
SGGP_INLINE Reg<double> root(Reg<double> a) { return (Reg<double>)vsqrtq_f64((float64x2_t)a); }
#else
SGGP_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) { return a * b + c; }
SGGP_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) { return a * b + c; }
#if defined(__SSE2__)
SGGP_INLINE Reg<float> root(Reg<float> a) { return (Reg<float>)_mm_sqrt_ps((__m128)a); }
SGGP_INLINE Reg<double> root(Reg<double> a) { return (Reg<double>)_mm_sqrt_pd((__m128d)a); }
#else
SGGP_INLINE Reg<float> root(Reg<float> a) {
  for (int i = 0; i < Simd<float>::W; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
SGGP_INLINE Reg<double> root(Reg<double> a) {
  for (int i = 0; i < Simd<double>::W; ++i) a[i] = __builtin_sqrt(a[i]);
  return a;
}
#endif
#endif

SGGP_INLINE Reg<float> minus_each(Reg<float> b, const float* x) { return b - set(*x); }
SGGP_INLINE Reg<double> minus_each(Reg<double> b, const double* x) { return b - set(*x); }

template <class R> SGGP_INLINE R capped(R a, R bound) { return bound < a ? bound : a; }

SGGP_INLINE Reg<float> nearest(Reg<float> a) {
  return (a + set(Simd<float>::magic)) - set(Simd<float>::magic);
}
SGGP_INLINE Reg<double> nearest(Reg<double> a) {
  return (a + set(Simd<double>::magic)) - set(Simd<double>::magic);
}
template <class T> SGGP_INLINE Reg<T> scaled_by_bits(Reg<T> p, Reg<T> n, Reg<T> t) {
  using S = Simd<T>;
  // The low bits of n + magic hold the integer n; those of the pattern of magic itself are zero.
  const Bits<T> power = (S::bias - (Bits<T>)(n + set(S::magic))) << S::mantissa;
  const Reg<T> value = p * (Reg<T>)power;
  return (Reg<T>)((IntReg<T>)value & ~(t > set(S::cutoff)));
}
SGGP_INLINE Reg<float> scaled(Reg<float> p, Reg<float> n, Reg<float> t) { return scaled_by_bits<float>(p, n, t); }
SGGP_INLINE Reg<double> scaled(Reg<double> p, Reg<double> n, Reg<double> t) { return scaled_by_bits<double>(p, n, t); }

#endif

// The sum of N lanes, halves first: the same order for every call.
template <class T, int N> struct Lanes {
  typedef T V __attribute__((vector_size(N * sizeof(T))));
  SGGP_INLINE T sum(V x) {
    typename Lanes<T, N / 2>::V low, high;
    std::memcpy(&low, &x, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&x) + sizeof low, sizeof high);
    return Lanes<T, N / 2>::sum(low + high);
  }
};
template <class T> struct Lanes<T, 2> {
  typedef T V __attribute__((vector_size(2 * sizeof(T))));
  SGGP_INLINE T sum(V x) { return x[0] + x[1]; }
};
template <class T> SGGP_INLINE T lane_sum(Reg<T> r) { return Lanes<T, Simd<T>::W>::sum(r); }

}  // namespace SGGP_ISA
