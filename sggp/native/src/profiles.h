// The five stationary profiles phi(q), q = squared distance, and psi(q) = -2 phi'(q), on one register.
//
// The exponential is 2^t = 2^n p(f), t = c q or c sqrt(q) with c in two parts, so that f = t - n is good to about one
// unit in the last place; p is a polynomial with p(0) = 1 fitted to the relative error (2e-9 in float, 3e-18 in
// double), so phi(0) = 1 exactly. sqrt is the correctly rounded instruction.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace SGGP_ISA {

template <class T> struct Exponential;

template <> struct Exponential<float> {
  static constexpr int degree = 6;
  static constexpr float p[degree] = {0.69314720288631248803f,  0.24022647909581948661f,  0.055503324011890249824f,
                                      0.009618437651272404073f, 0.0013398902851562386291f, 0.00015353335167184590829f};
};

template <> struct Exponential<double> {
  static constexpr int degree = 11;
  static constexpr double p[degree] = {
      0.6931471805599453258482054,    0.2402265069591013138786555,    0.05550410866482007997639619,
      0.009618129107594062670512147,  0.001333355814677522550616363,  0.0001540353045719115954204593,
      0.00001525273349271182141247495, 0.000001321543523997555830977394, 0.0000001017819967851587021051637,
      7.073790971610360604361138e-9,  4.43476481920697092790699e-10};
};

// 2^(n + f), |f| <= 1/2, zero where t < cutoff.
template <class T> SGGP_INLINE Reg<T> exp2_parts(Reg<T> n, Reg<T> f, Reg<T> t) {
  using E = Exponential<T>;
  Reg<T> p = set(E::p[E::degree - 1]);
  for (int i = E::degree - 2; i >= 0; --i) p = fma(p, f, set(E::p[i]));
  return scaled(fma(p, f, set(T(1))), n, t);
}

// exp(-c x) for x >= 0, where -c log2(e) = Hi + Lo.
template <class T> SGGP_INLINE Reg<T> decay(Reg<T> x, T hi, T lo) {
  const Reg<T> t = x * set(hi);
  const Reg<T> n = nearest(t);
  Reg<T> f = fma(x, set(hi), -n);
  f = fma(x, set(lo), f);
  return exp2_parts<T>(n, f, t);
}

template <class T> struct Split {
  T hi, lo;
  constexpr explicit Split(long double c) : hi(T(c)), lo(T(c - (long double)T(c))) {}
};

constexpr long double kLog2e = 1.442695040888963407359924681001892137427L;
constexpr long double kRoot3 = 1.732050807568877293527446341505872366943L;
constexpr long double kRoot5 = 2.236067977499789696409173668731276235441L;
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

template <class T> struct Constants {
  T alpha, half_inverse_alpha;
};

// phi(q); with `slope`, *slope = -2 phi'(q), zero for matern12 at q = 0.
template <class T, int Family, bool Slope>
SGGP_INLINE Reg<T> profile(Reg<T> q, const Constants<T>& c, Reg<T>* slope) {
  if (Family == kRbf) {
    constexpr Split<T> k(-kLog2e / 2);
    const Reg<T> value = decay<T>(q, k.hi, k.lo);
    if (Slope) *slope = value;
    return value;
  }
  if (Family == kRationalQuadratic) {
    const Reg<T> y = capped(q * set(c.half_inverse_alpha), set(Simd<T>::largest));
    Reg<T> e, g;
    log1p_parts<T>(y, e, g);
    constexpr Split<T> log2e(kLog2e);
    const Reg<T> logarithm = e + fma(g, set(log2e.hi), g * set(log2e.lo));
    const Reg<T> t = logarithm * set(-c.alpha);
    const Reg<T> n = nearest(t);
    const Reg<T> value = exp2_parts<T>(n, t - n, t);
    if (Slope) *slope = value / (set(T(1)) + y);
    return value;
  }
  q = capped(q, set(T(1e8)));  // beyond, phi is zero; keeps infinity out of (1 + r) exp(-r)
  const Reg<T> r = root(q);
  const Reg<T> one = set(T(1));
  if (Family == kMatern12) {
    constexpr Split<T> k(-kLog2e);
    const Reg<T> value = decay<T>(r, k.hi, k.lo);
    if (Slope) {
      const Reg<T> ratio = value / r;
      *slope = (Reg<T>)((IntReg<T>)ratio & (q > Reg<T>{}));
    }
    return value;
  }
  if (Family == kMatern32) {
    constexpr Split<T> k(-kLog2e * kRoot3);
    const Reg<T> value = decay<T>(r, k.hi, k.lo);
    if (Slope) *slope = value * set(T(3));
    return fma(r, set(T(kRoot3)), one) * value;
  }
  constexpr Split<T> k(-kLog2e * kRoot5);
  const Reg<T> value = decay<T>(r, k.hi, k.lo);
  const Reg<T> linear = fma(r, set(T(kRoot5)), one);
  if (Slope) *slope = linear * (value * set(T(5.0L / 3.0L)));
  return fma(q, set(T(5.0L / 3.0L)), linear) * value;
}

}  // namespace SGGP_ISA
