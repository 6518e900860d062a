// Stationary kernels on a tile: direct differences, register-blocked, then the profile while still in registers.
//
// q_ij = sum_k (a_ik - b_jk)^2 in the same order for every entry, so K(x, x) is symmetric bit for bit. Coordinates are
// summed in runs of kRun whose sums are then added, which keeps the rounding error of long sums small.
#pragma once

#include "kernels.h"

namespace SGGP_ISA {

constexpr int kRun = 32;  // coordinates summed before a partial sum is put down

#if SGGP_BYTES == 64
constexpr int kRows = 4, kCols = 4;  // 16 accumulators of 32 registers
#elif defined(__aarch64__)
constexpr int kRows = 4, kCols = 4;
#else
constexpr int kRows = 4, kCols = 2;  // 8 of 16
#endif

template <class T> constexpr int panel_width() { return kCols * Simd<T>::W; }

template <class T> void pack_points(const T* points, int64_t d, int count, T* packed) {
  constexpr int P = panel_width<T>();
  for (int first = 0; first < count; first += P, packed += P * d) {
    const int width = count - first < P ? count - first : P;
    const T* source = points + first * d;
    if (width < P) std::memset(packed, 0, sizeof(T) * P * d);
    int64_t k = 0;
    for (; k + 8 <= d; k += 8)  // a few cache lines of the source at a time
      for (int j = 0; j < width; ++j)
        for (int h = 0; h < 8; ++h) packed[(k + h) * P + j] = source[j * d + k + h];
    for (; k < d; ++k)
      for (int j = 0; j < width; ++j) packed[k * P + j] = source[j * d + k];
  }
}

// sum over coordinates [k0, k1) of squared differences of R rows and one panel.
template <class T, int R, bool Weighted>
SGGP_INLINE void squares(const T* a, const T* weights, int64_t d, int64_t k0, int64_t k1, const T* panel,
                         Reg<T> (&q)[R][kCols]) {
  constexpr int W = Simd<T>::W, P = panel_width<T>();
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kCols; ++c) q[r][c] = Reg<T>{};
  for (int64_t k = k0; k < k1; ++k) {
    Reg<T> b[kCols];
    for (int c = 0; c < kCols; ++c) b[c] = load(panel + k * P + c * W);
    Reg<T> w{};
    if (Weighted) w = set(weights[k]);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kCols; ++c) {
        Reg<T> e = minus_each(b[c], a + r * d + k);
        if (Weighted) e = e * w;
        q[r][c] = fma(e, e, q[r][c]);
      }
  }
}

// The squares of R rows and one panel over coordinates [k0, k1), in k (added to it where k0 > 0).
template <class T, int R, bool Weighted>
void squares_block(const T* a, const T* weights, int64_t d, int64_t k0, int64_t k1, const T* panel, T* k) {
  constexpr int W = Simd<T>::W;
  Reg<T> q[R][kCols];
  squares<T, R, Weighted>(a, weights, d, k0, k1, panel, q);
  if (k0 > 0) {
    SGGP_UNROLL for (int r = 0; r < R; ++r)
      SGGP_UNROLL for (int c = 0; c < kCols; ++c) q[r][c] = load(k + r * kStride + c * W) + q[r][c];
  }
  SGGP_UNROLL for (int r = 0; r < R; ++r)
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) store<T>(k + r * kStride + c * W, q[r][c]);
}

// phi of the squares in `groups` groups of kCols registers in each of `rows` rows. Apart from their sums, so that the
// constants stay in registers, and with the roots of the next group under way while this one's are used.
template <class T, int Family> void profile_tile(const Constants<T>& constants, int rows, int groups, T* k) {
  constexpr int W = Simd<T>::W, P = panel_width<T>();
  const Constants<T> own = constants;
  Reg<T> next[kCols], unused[kCols];
  SGGP_UNROLL for (int c = 0; c < kCols; ++c) next[c] = argument<T, Family>(load(k + c * W), own);
  for (int r = 0, g = 0; r < rows;) {
    g = g + 1 < groups ? g + 1 : 0;
    r += g == 0;
    T* ahead = g > 0 ? k + P : r < rows ? k + kStride - (groups - 1) * P : k;
    Reg<T> t[kCols], phi[kCols];
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) t[c] = next[c];
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) next[c] = argument<T, Family>(load(ahead + c * W), own);
    profile<T, Family, false, kCols>(t, t, own, phi, unused);
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) store<T>(k + c * W, phi[c]);
    k = ahead;
  }
}

template <class T, int Family, bool Weighted>
void tile_of(const Constants<T>& constants, const T* a, const T* weights, int64_t d, int rows, const T* packed,
             int count, T* k) {
  constexpr int P = panel_width<T>();
  for (int first = 0; first < count; first += P, packed += P * d)
    for (int64_t k0 = 0; k0 == 0 || k0 < d; k0 += kRun) {
      const int64_t k1 = k0 + kRun < d ? k0 + kRun : d;
      int r = 0;
      for (; r + kRows <= rows; r += kRows)
        squares_block<T, kRows, Weighted>(a + r * d, weights, d, k0, k1, packed, k + r * kStride + first);
      for (; r < rows; ++r)
        squares_block<T, 1, Weighted>(a + r * d, weights, d, k0, k1, packed, k + r * kStride + first);
    }
  profile_tile<T, Family>(constants, rows, (count + P - 1) / P, k);
}

template <class T> Constants<T> constants_of(T alpha) { return {alpha, T(0.5) / alpha}; }

template <class T>
void tile(int family, T alpha, const T* a, const T* weights, int64_t d, int rows, const T* packed, int count, T* k) {
  const Constants<T> constants = constants_of(alpha);
  with_family(family, [&](auto known) {
    if (weights)
      tile_of<T, known(), true>(constants, a, weights, d, rows, packed, count, k);
    else
      tile_of<T, known(), false>(constants, a, weights, d, rows, packed, count, k);
  });
}

// --- gradient -----------------------------------------------------------------------------------------------------

// The weights w_ij of R rows and one panel, times phi into *value and times psi into k.
template <class T, int Family, int R>
void gradient_block(const T* a, int64_t d, const T* left, int64_t s, const T* panel, const T* right,
                    const Constants<T>& constants, T* k, Reg<T>* value) {
  constexpr int W = Simd<T>::W, P = panel_width<T>();
  alignas(64) T squared[R * P];
  {
    Reg<T> w[R][kCols];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kCols; ++c) w[r][c] = Reg<T>{};
    for (int64_t t = 0; t < s; ++t)
      for (int r = 0; r < R; ++r) {
        const Reg<T> x = set(left[r * s + t]);
        for (int c = 0; c < kCols; ++c) w[r][c] = fma(x, load(right + t * P + c * W), w[r][c]);
      }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kCols; ++c) store<T>(k + r * kStride + c * W, w[r][c]);
  }
  for (int64_t k0 = 0; k0 == 0 || k0 < d; k0 += kRun) {
    Reg<T> q[R][kCols];
    squares<T, R, false>(a, nullptr, d, k0, k0 + kRun < d ? k0 + kRun : d, panel, q);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kCols; ++c) {
        T* at = squared + r * P + c * W;
        store<T>(at, k0 > 0 ? load(at) + q[r][c] : q[r][c]);
      }
  }
  const Constants<T> own = constants;
  Reg<T> sum = *value;
  for (int r = 0; r < R; ++r) {
    Reg<T> q[kCols], t[kCols], phi[kCols], slope[kCols];
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) q[c] = load(squared + r * P + c * W);
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) t[c] = argument<T, Family>(q[c], own);
    profile<T, Family, true, kCols>(q, t, own, phi, slope);
    SGGP_UNROLL for (int c = 0; c < kCols; ++c) {
      T* at = k + r * kStride + c * W;
      const Reg<T> w = load(at);
      sum = fma(w, phi[c], sum);
      store<T>(at, w * slope[c]);
    }
  }
  *value = sum;
}

// sums[k] += sum over R rows and the panel of g_ij (a_ik - b_jk)^2, one register per coordinate.
template <class T, int R>
void gradient_sums(const T* a, int64_t d, const T* panel, const T* g, T* sums) {
  constexpr int W = Simd<T>::W, P = panel_width<T>();
  Reg<T> weight[R][kCols];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kCols; ++c) weight[r][c] = load(g + r * kStride + c * W);
  for (int64_t k = 0; k < d; ++k) {
    Reg<T> part[kCols];
    for (int c = 0; c < kCols; ++c) part[c] = Reg<T>{};
    for (int r = 0; r < R; ++r) {
      const Reg<T> x = set(a[r * d + k]);
      for (int c = 0; c < kCols; ++c) {
        const Reg<T> e = load(panel + k * P + c * W) - x;
        part[c] = fma(weight[r][c], e * e, part[c]);
      }
    }
    Reg<T> sum = part[0];
    for (int c = 1; c < kCols; ++c) sum = sum + part[c];
    store<T>(sums + k * W, load(sums + k * W) + sum);
  }
}

template <class T, int Family>
void gradient_of(const Constants<T>& constants, const T* a, int64_t d, const T* left, int64_t s, int rows,
                 const T* packed, const T* right, int count, T* work, double* lengths, double* scale) {
  constexpr int W = Simd<T>::W, P = panel_width<T>();
  T* sums = work;                // one register per coordinate
  T* g = work + (d + 1) * 64;    // (rows, kStride)
  for (int first = 0; first < count; first += P, packed += P * d, right += P * s) {
    Reg<T> value{};
    int r = 0;
    for (; r + kRows <= rows; r += kRows)
      gradient_block<T, Family, kRows>(a + r * d, d, left + r * s, s, packed, right, constants, g + r * kStride, &value);
    for (; r < rows; ++r)
      gradient_block<T, Family, 1>(a + r * d, d, left + r * s, s, packed, right, constants, g + r * kStride, &value);
    *scale += lane_sum<T>(value);
    for (int64_t i = 0; i < d * W; ++i) sums[i] = T(0);
    for (r = 0; r + kRows <= rows; r += kRows) gradient_sums<T, kRows>(a + r * d, d, packed, g + r * kStride, sums);
    for (; r < rows; ++r) gradient_sums<T, 1>(a + r * d, d, packed, g + r * kStride, sums);
    for (int64_t i = 0; i < d; ++i) lengths[i] += lane_sum<T>(load(sums + i * W));
  }
}

template <class T>
void gradient(int family, T alpha, const T* a, int64_t d, const T* left, int64_t s, int rows, const T* packed,
              const T* right, int count, T* work, double* lengths, double* scale) {
  const Constants<T> constants = constants_of(alpha);
  with_family(family, [&](auto known) {
    gradient_of<T, known()>(constants, a, d, left, s, rows, packed, right, count, work, lengths, scale);
  });
}

}  // namespace SGGP_ISA
