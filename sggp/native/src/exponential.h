// 2^-t and log(1 + y) on registers.
//
// 2^-t = 2^-n p(f) with f = t - n exact and a polynomial with p(0) = 1 fitted to the relative error (2e-9 in float, 3e-18
// in double), so 2^0 = 1 exactly. Steps are taken for N registers at a time, since those of one wait for one another.
#pragma once

#include "simd.h"

namespace SGGP_ISA {

#define SGGP_EACH SGGP_UNROLL for (int i = 0; i < N; ++i)

template <class T> struct Exponential;

template <> struct Exponential<float> {
  static constexpr int degree = 6;
  static constexpr float p[degree] = {
      -0.69314720288631248803f, 0.24022647909581948661f, -0.055503324011890249824f,
      0.009618437651272404073f, -0.0013398902851562386291f, 0.00015353335167184590829f};
};

template <> struct Exponential<double> {
  static constexpr int degree = 11;
  static constexpr double p[degree] = {
      -0.6931471805599453258482054, 0.2402265069591013138786555, -0.05550410866482007997639619,
      0.009618129107594062670512147, -0.001333355814677522550616363, 0.0001540353045719115954204593,
      -0.00001525273349271182141247495, 0.000001321543523997555830977394, -0.0000001017819967851587021051637,
      7.073790971610360604361138e-9, -4.43476481920697092790699e-10};
};

#if defined(__AVX512F__)
// 2^-t in steps of 1/16: 2^-n is an entry of one register and an exponent, and the polynomial is short. t + magic holds
// 16 n in its lowest bits. The entries are 2^-(j/16) as bits, plus j << 19.
alignas(64) constexpr uint32_t kSixteenths[16] = {
    0x3f800000u, 0x3f7d257du, 0x3f7ac0c7u, 0x3f78ccdfu, 0x3f7744fdu, 0x3f76248cu, 0x3f75672au, 0x3f7508a4u,
    0x3f7504f3u, 0x3f75583fu, 0x3f75fed7u, 0x3f76f532u, 0x3f7837f0u, 0x3f79c3d3u, 0x3f7b95c2u, 0x3f7daac3u};

template <int N> SGGP_INLINE void power_by_table(const Reg<float> (&t)[N], Reg<float> (&out)[N]) {
  using S = Simd<float>;
  constexpr float p[3] = {-0.6931472f, 0.24023429f, -0.055502135f};
  const Reg<float> magic = set(S::magic / 16);
  const __m512i powers = _mm512_load_si512(kSixteenths);
  Reg<float> n[N], f[N], power[N];
  SGGP_EACH n[i] = t[i] + magic;
  SGGP_EACH {
    const __m512i bits = (__m512i)n[i];
    power[i] = (Reg<float>)_mm512_sub_epi32(_mm512_permutexvar_epi32(bits, powers), _mm512_slli_epi32(bits, 19));
  }
  SGGP_EACH f[i] = t[i] - (n[i] - magic);
  SGGP_EACH out[i] = fma(f[i], set(p[2]), set(p[1]));
  SGGP_EACH out[i] = fma(out[i], f[i], set(p[0]));
  SGGP_EACH f[i] = f[i] * power[i];
  SGGP_EACH {
    const __mmask16 keep = _mm512_cmp_ps_mask((__m512)t[i], (__m512)set(S::cutoff), _CMP_NGT_UQ);
    out[i] = (Reg<float>)_mm512_maskz_fmadd_ps(keep, (__m512)out[i], (__m512)f[i], (__m512)power[i]);
  }
}
#endif

// 2^-t for t >= 0, zero beyond the cutoff.
template <class T, int N> SGGP_INLINE void power(const Reg<T> (&t)[N], Reg<T> (&out)[N]) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) return power_by_table<N>(t, out);
#endif
  using E = Exponential<T>;
  Reg<T> n[N], f[N];
  SGGP_EACH n[i] = nearest(t[i]);
  SGGP_EACH f[i] = t[i] - n[i];
  SGGP_EACH out[i] = set(E::p[E::degree - 1]);
  SGGP_UNROLL for (int k = E::degree - 2; k >= 0; --k) SGGP_EACH out[i] = fma(out[i], f[i], set(E::p[k]));
  SGGP_EACH out[i] = scaled(fma(out[i], f[i], set(T(1))), n[i], t[i]);
}

constexpr long double kLog2e = 1.442695040888963407359924681001892137427L;
constexpr long double kLn2 = 0.693147180559945309417232121458176568L;

// log(1 + y) for 0 <= y <= largest, relative error a few units in the last place: returned as e ln 2 + g.
template <class T> SGGP_INLINE void log1p_parts(Reg<T> y, Reg<T>& e, Reg<T>& g) {
  using S = Simd<T>;
  using I = IntReg<T>;
  using U = Bits<T>;
  const Reg<T> one = set(T(1));
  const Reg<T> u = one + y;
  const Reg<T> lost = y - (u - one);  // what rounding 1 + y dropped
  const U root_half = (U)set(T(0.70710678118654752440L));
  const I exponent = (I)((U)u - root_half) >> S::mantissa;
  const Reg<T> z = (Reg<T>)((U)u - ((U)exponent << S::mantissa));  // in [sqrt(1/2), sqrt(2))
  const Reg<T> inverse = (Reg<T>)((U)(S::bias - exponent) << S::mantissa);
  const Reg<T> f = fma(lost, inverse, z - one);
  e = (Reg<T>)(exponent + (I)set(S::magic)) - set(S::magic);
  const Reg<T> s = f / (set(T(2)) + f);
  const Reg<T> s2 = s * s;
  constexpr int terms = sizeof(T) == 4 ? 5 : 11;
  Reg<T> p = set(T(1) / T(2 * terms + 1));
  for (int i = terms - 1; i >= 1; --i) p = fma(p, s2, set(T(1) / T(2 * i + 1)));
  // 2 atanh(s) = 2 s (1 + s2 p); f - s f = 2 s, written so that the leading term is exact
  g = f - s * (f - (s2 + s2) * p);
}

}  // namespace SGGP_ISA
