// Nearest rows by comparing with all, and products with a sparse inverse factor.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace SGGP_ISA {

// out (4, kTile) = |row_r - point_j|^2 for 4 rows of length d and a tile of kTile points packed by coordinates.
static void squared_distances(const float* lines, int64_t d, const float* rows, float* out) {
  constexpr int W = Simd<float>::W;
  for (int j = 0; j < kTile; j += W) {
    Reg<float> q0 = {}, q1 = {}, q2 = {}, q3 = {};
    for (int64_t k = 0; k < d; ++k) {
      const Reg<float> p = load(lines + k * kTile + j);
      const Reg<float> e0 = p - set(rows[k]), e1 = p - set(rows[d + k]);
      const Reg<float> e2 = p - set(rows[2 * d + k]), e3 = p - set(rows[3 * d + k]);
      q0 = fma(e0, e0, q0);
      q1 = fma(e1, e1, q1);
      q2 = fma(e2, e2, q2);
      q3 = fma(e3, e3, q3);
    }
    store(out + j, q0);
    store(out + kTile + j, q1);
    store(out + 2 * kTile + j, q2);
    store(out + 3 * kTile + j, q3);
  }
}

#if defined(__AVX512F__)
SGGP_INLINE uint32_t lanes_below(Reg<float> x, Reg<float> bound) {
  return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, _CMP_LT_OQ);
}
// The lanes of `bits` side by side; what follows them is overwritten too.
SGGP_INLINE int64_t keep_lanes(uint32_t bits, Reg<float> x, IntReg<float> place, float* kept, int32_t* places,
                               int64_t found) {
  store(kept + found, (Reg<float>)_mm512_maskz_compress_ps(__mmask16(bits), (__m512)x));
  const __m512i packed = _mm512_maskz_compress_epi32(__mmask16(bits), (__m512i)place);
  std::memcpy(places + found, &packed, sizeof packed);
  return found + __builtin_popcount(bits);
}
#else
SGGP_INLINE uint32_t lanes_below(Reg<float> x, Reg<float> bound) {
  const IntReg<float> below = (IntReg<float>)(x < bound);
#if SGGP_BYTES == 32
  return uint32_t(_mm256_movemask_ps((__m256)below));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_ps((__m128)below));
#else
  uint32_t bits = 0;
  for (int i = 0; i < Simd<float>::W; ++i) bits |= uint32_t(below[i] & 1) << i;
  return bits;
#endif
}
SGGP_INLINE int64_t keep_lanes(uint32_t bits, Reg<float> x, IntReg<float> place, float* kept, int32_t* places,
                               int64_t found) {
  float lanes[Simd<float>::W];
  int32_t numbers[Simd<float>::W];
  store(lanes, x);
  std::memcpy(numbers, &place, sizeof place);
  for (; bits != 0; bits &= bits - 1, ++found) {
    const int lane = __builtin_ctz(bits);
    kept[found] = lanes[lane];
    places[found] = numbers[lane];
  }
  return found;
}
#endif

// Appends (value, first + j) of every value below the bound, j < count; returns how many there are then. `values` is
// a whole tile; kept and places are overwritten up to a register past what they hold.
static int64_t append_below(const float* values, int count, float bound, int32_t first, float* kept, int32_t* places,
                            int64_t found) {
  constexpr int W = Simd<float>::W, kGroup = 64, N = kGroup / W;
  const Reg<float> limit = set(bound);
  IntReg<float> numbers;
  for (int i = 0; i < W; ++i) numbers[i] = first + i;
  for (int j = 0; j < count; j += kGroup) {
    uint32_t bits[N], any = 0;
    for (int i = 0; i < N; ++i) any |= bits[i] = lanes_below(load(values + j + i * W), limit);
    if (any == 0) continue;
    for (int i = 0; i < N; ++i) {
      const int left = count - j - i * W;
      if (left < W) bits[i] &= left > 0 ? (1u << left) - 1 : 0;
      if (bits[i] != 0)
        found = keep_lanes(bits[i], load(values + j + i * W), numbers + (j + i * W), kept, places, found);
    }
  }
  return found;
}

SGGP_INLINE int32_t bits_of(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Of `count` numbers >= 0 with their places, keeps all below a bound, at least k and at most `most`, and returns their
// count; the bound is found by halving its bits, which order as the numbers do. -1, with nothing changed but what a
// register holds past the end, where too many numbers are equal.
static int64_t keep_smallest(float* values, int32_t* places, int64_t count, int64_t k, int64_t most, float* bound) {
  constexpr int W = Simd<float>::W;
  for (int i = 0; i < W; ++i) values[count + i] = __builtin_inff();
  float least = values[0], largest = values[0];
  for (int64_t i = 1; i < count; ++i) {
    least = values[i] < least ? values[i] : least;
    largest = values[i] > largest ? values[i] : largest;
  }
  int32_t low = bits_of(least), high = bits_of(largest) + 1;  // too few below one, perhaps too many below the other
  while (true) {
    const int32_t middle = low + (high - low) / 2;
    if (middle == low) return -1;
    std::memcpy(bound, &middle, sizeof middle);
    const Reg<float> limit = set(*bound);
    IntReg<float> below = {};
    for (int64_t i = 0; i < count; i += W) below -= (IntReg<float>)(load(values + i) < limit);
    int64_t found = 0;
    for (int i = 0; i < W; ++i) found += below[i];
    if (found < k) low = middle;
    else if (found > most) high = middle;
    else break;
  }
  const Reg<float> limit = set(*bound);
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += W) {
    const Reg<float> x = load(values + i);
    IntReg<float> place;
    std::memcpy(&place, places + i, sizeof place);
    found = keep_lanes(lanes_below(x, limit), x, place, values, places, found);
  }
  return found;
}

// Columns [from, to) of out += U (U^T v), column by column of U: entries values[e] in rows index[e]. `half` has kSlab numbers.
static void sparse_square(const int64_t* index, const double* values, int64_t n, int64_t width, const double* v,
                          int64_t s, int64_t from, int64_t to, double* half, double* out) {
  constexpr int W = Simd<double>::W;
  const int64_t count = to - from, whole = count / W * W;
  for (int64_t i = 0; i < n; ++i, index += width, values += width) {
    for (int64_t c = 0; c < count; ++c) half[c] = 0.0;
    for (int64_t e = 0; e < width; ++e) {
      if (values[e] == 0.0) continue;
      const double* row = v + index[e] * s + from;
      const Reg<double> f = set(values[e]);
      int64_t c = 0;
      for (; c < whole; c += W) store(half + c, fma(f, load(row + c), load(half + c)));
      for (; c < count; ++c) half[c] += values[e] * row[c];
    }
    for (int64_t e = 0; e < width; ++e) {
      if (values[e] == 0.0) continue;
      double* row = out + index[e] * s + from;
      const Reg<double> f = set(values[e]);
      int64_t c = 0;
      for (; c < whole; c += W) store(row + c, fma(f, load(half + c), load(row + c)));
      for (; c < count; ++c) row[c] += values[e] * half[c];
    }
  }
}

}  // namespace SGGP_ISA
