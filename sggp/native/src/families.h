// The families of stationary kernels, spelt once: everything that asks for a family is made from this list.
//
// A new family takes a line in the list, in the order of sggp/native/families.py, and a `Profile` below; without one it
// does not compile.
#pragma once

#include <type_traits>

// X(name, whether it has a shape alpha)
#define SGGP_FAMILIES(X) \
  X(kRbf, false)         \
  X(kMatern12, false)    \
  X(kMatern32, false)    \
  X(kMatern52, false)    \
  X(kRationalQuadratic, true)

enum Family : int {
#define SGGP_NAME(name, shaped) name,
  SGGP_FAMILIES(SGGP_NAME)
#undef SGGP_NAME
  kFamilies
};

#define SGGP_SHAPED(name, shaped) shaped,
constexpr bool kShaped[kFamilies] = {SGGP_FAMILIES(SGGP_SHAPED)};
#undef SGGP_SHAPED

// Whether there is such a family, with its shape where it has one.
inline bool known_family(int family, double alpha) {
  return family >= 0 && family < kFamilies && (!kShaped[family] || alpha > 0.0);
}

#if defined(SGGP_ISA)  // the rest belongs to an instruction set

#include "exponential.h"

namespace SGGP_ISA {

template <class T> struct Constants {
  T alpha, half_inverse_alpha;
};

// work(std::integral_constant<int, family>) for the family of that number; false, and nothing computed in its place, where
// there is none.
template <class Work> SGGP_INLINE bool with_family(int family, const Work& work) {
  switch (family) {
#define SGGP_CASE(name, shaped)                 \
  case name:                                    \
    work(std::integral_constant<int, name>{});  \
    return true;
    SGGP_FAMILIES(SGGP_CASE)
#undef SGGP_CASE
    default:
      return false;
  }
}

// A family's phi(q), q = squared distance, and psi(q) = -2 phi'(q): phi is a polynomial in t = argument(q) times 2^-t,
// where t >= 0 is c q, sqrt(c q) or a logarithm. The rounding of c and of the product costs t about as much as that of q
// itself; sqrt is the correctly rounded instruction.
template <class T, int Family> struct Profile;

template <class T> struct Profile<T, kRbf> {
  SGGP_INLINE Reg<T> argument(Reg<T> q, const Constants<T>&) { return q * set(T(kLog2e / 2)); }

  template <bool Slope>
  SGGP_INLINE void values(Reg<T>, Reg<T>, Reg<T> power, const Constants<T>&, Reg<T>& phi, Reg<T>& psi) {
    phi = power;
    if (Slope) psi = power;
  }
};

// sqrt(c q) in units of log 2, c the square of the rate. Beyond q = 1e8 phi is zero, which keeps infinity out of the
// polynomial.
template <class T, int Square> struct Matern {
  SGGP_INLINE Reg<T> argument(Reg<T> q, const Constants<T>&) {
    return root(capped(q, set(T(1e8))) * set(T(kLog2e * kLog2e * Square)));
  }
};

template <class T> struct Profile<T, kMatern12> : Matern<T, 1> {
  template <bool Slope>
  SGGP_INLINE void values(Reg<T>, Reg<T> t, Reg<T> power, const Constants<T>&, Reg<T>& phi, Reg<T>& psi) {
    phi = power;
    if (Slope) {  // zero at the kink
      const Reg<T> ratio = power / (t * set(T(kLn2)));
      psi = (Reg<T>)((IntReg<T>)ratio & (t > Reg<T>{}));
    }
  }
};

template <class T> struct Profile<T, kMatern32> : Matern<T, 3> {
  template <bool Slope>
  SGGP_INLINE void values(Reg<T>, Reg<T> t, Reg<T> power, const Constants<T>&, Reg<T>& phi, Reg<T>& psi) {
    if (Slope) psi = power * set(T(3));
    phi = fma(t, set(T(kLn2)), set(T(1))) * power;
  }
};

template <class T> struct Profile<T, kMatern52> : Matern<T, 5> {
  template <bool Slope>
  SGGP_INLINE void values(Reg<T>, Reg<T> t, Reg<T> power, const Constants<T>&, Reg<T>& phi, Reg<T>& psi) {
    const Reg<T> one = set(T(1)), ln2 = set(T(kLn2));
    if (Slope) psi = fma(t, ln2, one) * (power * set(T(5.0L / 3.0L)));
    phi = fma(fma(t, set(T(kLn2 * kLn2 / 3)), ln2), t, one) * power;
  }
};

template <class T> struct Profile<T, kRationalQuadratic> {
  SGGP_INLINE Reg<T> ratio(Reg<T> q, const Constants<T>& c) {
    return capped(q * set(c.half_inverse_alpha), set(Simd<T>::largest));
  }

  SGGP_INLINE Reg<T> argument(Reg<T> q, const Constants<T>& c) {
    constexpr T high = T(kLog2e), low = T(kLog2e - (long double)high);
    Reg<T> e, g;
    log1p_parts<T>(ratio(q, c), e, g);
    return (e + fma(g, set(high), g * set(low))) * set(c.alpha);
  }

  template <bool Slope>
  SGGP_INLINE void values(Reg<T> q, Reg<T>, Reg<T> power, const Constants<T>& c, Reg<T>& phi, Reg<T>& psi) {
    phi = power;
    if (Slope) psi = power / (set(T(1)) + ratio(q, c));
  }
};

template <class T, int Family> SGGP_INLINE Reg<T> argument(Reg<T> q, const Constants<T>& c) {
  return Profile<T, Family>::argument(q, c);
}

// phi from t = argument(q); with Slope, psi(q).
template <class T, int Family, bool Slope, int N>
SGGP_INLINE void profile(const Reg<T> (&q)[N], const Reg<T> (&t)[N], const Constants<T>& c, Reg<T> (&phi)[N],
                         Reg<T> (&psi)[N]) {
  Reg<T> value[N];
  power<T, N>(t, value);
  SGGP_EACH Profile<T, Family>::template values<Slope>(q[i], t[i], value[i], c, phi[i], psi[i]);
}

}  // namespace SGGP_ISA

#endif
