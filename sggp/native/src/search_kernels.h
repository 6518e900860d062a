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

// Appends (value, first + j) of every value below the bound, j < count; returns how many there are then.
static int64_t append_below(const float* values, int count, float bound, int32_t first, float* kept, int32_t* places,
                            int64_t found) {
  constexpr int W = Simd<float>::W, kGroup = 64;
  int j = 0;
  for (; j + kGroup <= count; j += kGroup) {
    IntReg<float> some = {};
    for (int i = 0; i < kGroup; i += W) some |= load(values + j + i) < set(bound);
    uint64_t words[SGGP_BYTES / 8], any = 0;
    std::memcpy(words, &some, sizeof some);
    for (uint64_t word : words) any |= word;
    if (any == 0) continue;
    for (int i = j; i < j + kGroup; ++i) {
      kept[found] = values[i];
      places[found] = first + i;
      found += values[i] < bound;
    }
  }
  for (; j < count; ++j) {
    kept[found] = values[j];
    places[found] = first + j;
    found += values[j] < bound;
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
