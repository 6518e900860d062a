// Small dense systems of a row and its neighbours: columns of a sparse inverse Cholesky factor, and residual scores.
#pragma once

#include "kernels.h"

namespace SGGP_ISA {

// out[j] = scale phi(|p_j - own|^2) for lines of coordinates from column `first` on; coordinate k of `own` at k * step.
template <int Family>
static void covariance_row(const SmallSystems& s, const double* lines, int first, int stride, const double* own, int step,
                           double* out) {
  constexpr int W = Simd<double>::W;
  const Constants<double> c = {s.alpha, s.alpha > 0 ? 0.5 / s.alpha : 0.0};
  for (int j = first; j < stride; j += W) {
    Reg<double> q[1] = {}, t[1], phi[1], unused[1];
    for (int64_t k = 0; k < s.d; ++k) {
      const Reg<double> e = load(lines + k * stride + j) - set(own[k * step]);
      q[0] = fma(e, e, q[0]);
    }
    t[0] = argument<double, Family>(q[0], c);
    profile<double, Family, false, 1>(q, t, c, phi, unused);
    store(out + j, phi[0] * set(s.scale));
  }
}

// Columns of `table` (width rows of length d picked by index) as rows of length `stride`, zero past the width.
static void gather_transposed(const double* table, int64_t d, const int64_t* index, int width, int stride, double* out) {
  constexpr int64_t kLines = 8;  // as many lines at a time as stay in the first cache
  for (int64_t first = 0; first < d; first += kLines) {
    const int64_t lines = d - first < kLines ? d - first : kLines;
    for (int j = 0; j < stride; ++j) {
      const double* from = j < width && index[j] >= 0 ? table + index[j] * d + first : nullptr;
      for (int64_t k = 0; k < lines; ++k) out[(first + k) * stride + j] = from ? from[k] : 0.0;
    }
  }
}

// r (upper triangle by registers) = scale phi(|p_i - p_j|^2); 4 rows at a time, whose sums do not wait for one another.
template <int Family>
static void gram_of(const SmallSystems& s, const double* pt, int width, int stride, double* r) {
  constexpr int W = Simd<double>::W;
  const Constants<double> c = {s.alpha, s.alpha > 0 ? 0.5 / s.alpha : 0.0};
  const Reg<double> scale = set(s.scale);
  for (int j = 0; j < width; j += W)
    for (int i = 0; i < width && i < j + W; i += 4) {
      Reg<double> q[4] = {}, t[4], phi[4], unused[4];
      for (int64_t k = 0; k < s.d; ++k) {
        const double* line = pt + k * stride;
        const Reg<double> b = load(line + j);
        SGGP_UNROLL for (int h = 0; h < 4; ++h) {
          const Reg<double> e = minus_each(b, line + i + h);
          q[h] = fma(e, e, q[h]);
        }
      }
      SGGP_UNROLL for (int h = 0; h < 4; ++h) t[h] = argument<double, Family>(q[h], c);
      profile<double, Family, false, 4>(q, t, c, phi, unused);
      SGGP_UNROLL for (int h = 0; h < 4; ++h) store(r + (i + h) * stride + j, phi[h] * scale);
    }
}

// The same; false where there is no such family.
static bool small_gram(const SmallSystems& s, const double* pt, int width, int stride, double* r) {
  return with_family(s.family, [&](auto known) { gram_of<known()>(s, pt, width, stride, r); });
}

// r -= ft^T ft for 4 rows and two registers of columns.
SGGP_INLINE void downdate_pair(const double* ft, int64_t rank, int stride, int i, int j, double* r) {
  constexpr int W = Simd<double>::W;
  Reg<double> a[4] = {}, b[4] = {};
  for (int64_t k = 0; k < rank; ++k) {
    const double* line = ft + k * stride;
    const Reg<double> x = load(line + j), y = load(line + j + W);
    SGGP_UNROLL for (int h = 0; h < 4; ++h) {
      const Reg<double> f = set(line[i + h]);
      a[h] = fma(f, x, a[h]);
      b[h] = fma(f, y, b[h]);
    }
  }
  SGGP_UNROLL for (int h = 0; h < 4; ++h) {
    double* at = r + (i + h) * stride + j;
    store(at, load(at) - a[h]);
    store(at + W, load(at + W) - b[h]);
  }
}

// r (upper triangle by registers) -= ft^T ft, blocks of 4 rows by two registers, by one where one is left.
static void downdate(const double* ft, int64_t rank, int width, int stride, double* r) {
  constexpr int W = Simd<double>::W;
  for (int i = 0; i < width; i += 4)
    for (int j = i / W * W; j < stride; j += W) {
      if (j + 2 * W <= stride) {
        downdate_pair(ft, rank, stride, i, j, r);
        j += W;
        continue;
      }
      Reg<double> c0 = {}, c1 = {}, c2 = {}, c3 = {};
      for (int64_t k = 0; k < rank; ++k) {
        const double* line = ft + k * stride;
        const Reg<double> b = load(line + j);
        c0 = fma(set(line[i]), b, c0);
        c1 = fma(set(line[i + 1]), b, c1);
        c2 = fma(set(line[i + 2]), b, c2);
        c3 = fma(set(line[i + 3]), b, c3);
      }
      double* at = r + i * stride + j;
      store(at, load(at) - c0);
      store(at + stride, load(at + stride) - c1);
      store(at + 2 * stride, load(at + 2 * stride) - c2);
      store(at + 3 * stride, load(at + 3 * stride) - c3);
    }
}

// a = u^T u in place, upper triangle by rows; false where a pivot is not positive.
static bool factorise_upper(double* a, int width, int stride) {
  constexpr int W = Simd<double>::W;
  for (int j = 0; j < width; ++j) {
    double* row = a + j * stride;
    if (!(row[j] > 0.0)) return false;
    const Reg<double> inverse = set(1.0) / root(set(row[j]));
    for (int k = j / W * W; k < stride; k += W) store(row + k, load(row + k) * inverse);
    for (int i = j + 1; i < width; ++i) {
      double* to = a + i * stride;
      const Reg<double> f = set(-row[i]);
      for (int k = i / W * W; k < stride; k += W) store(to + k, fma(f, load(row + k), load(to + k)));
    }
  }
  return true;
}

static int64_t column_work(int64_t d, int64_t rank, int width) {
  const int64_t stride = (width + 7) / 8 * 8, square = (stride + 4) * stride;
  return 2 * square + stride * (d + rank) + 64;
}

// The entries of one column of U: last row of the inverse factor of the small residual system.
static bool column(const SmallSystems& s, const int64_t* index, const uint8_t* real, int width, double* work,
                   double* out) {
  const int stride = (width + 7) / 8 * 8, square = (stride + 4) * stride;
  double *r = work, *u = work + square, *lines = u + square;
  for (int k = 0; k < square; ++k) r[k] = 0.0;
  gather_transposed(s.points, s.d, index, width, stride, lines);
  if (!small_gram(s, lines, width, stride, r)) return false;
  if (s.rank > 0) {
    gather_transposed(s.low_rank, s.rank, index, width, stride, lines);
    downdate(lines, s.rank, width, stride, r);
  }
  for (int i = 0; i < width; ++i) {
    double& own = r[i * stride + i];
    own = (own > 0.0 ? own : 0.0) + s.noise[index[i]];  // rounding must not leave less than the noise
  }
  for (int i = 0; i < width; ++i) {
    if (real[i]) continue;
    for (int j = 0; j < width; ++j) r[i * stride + j] = r[j * stride + i] = 0.0;
    r[i * stride + i] = 1.0;
  }
  bool good = false;
  for (double jitter = 0.0; !good && jitter < 1e-3; jitter = jitter > 0.0 ? jitter * 100.0 : 1e-12) {  // as sggp.linalg
    for (int k = 0; k < square; ++k) u[k] = r[k];
    for (int i = 0; i < width; ++i) u[i * stride + i] += jitter * s.scale;
    good = factorise_upper(u, width, stride);
  }
  if (!good) return false;
  for (int i = width - 1; i >= 0; --i) {
    double sum = i == width - 1 ? 1.0 : 0.0;
    for (int j = i + 1; j < width; ++j) sum -= u[i * stride + j] * out[j];
    out[i] = sum / u[i * stride + i];
  }
  for (int i = 0; i < width; ++i)
    if (!real[i]) out[i] = 0.0;
  return true;
}

static int64_t score_work(int64_t d, int64_t count) { return (count + 7) / 8 * 8 * (d + 1) + 64; }

// |k(x_row, x_c) - f_row . f_c| left[c] for each candidate; -1 where there is none.
static void scores(const SmallSystems& s, const float* low_rank, const float* left, int64_t row,
                   const int64_t* candidates, int count, double* work, float* out) {
  constexpr int V = Simd<float>::W;
  const int stride = (count + 7) / 8 * 8;
  double *pt = work, *values = work + s.d * stride;
  gather_transposed(s.points, s.d, candidates, count, stride, pt);
  with_family(s.family, [&](auto known) {
    covariance_row<known()>(s, pt, 0, stride, s.points + row * s.d, 1, values);
  });
  const float* own = low_rank + row * s.rank;
  for (int j = 0; j < count; ++j) {
    if (candidates[j] < 0) {
      out[j] = -1.0f;
      continue;
    }
    const float* other = low_rank + candidates[j] * s.rank;
    Reg<float> a = {}, b = {};
    int64_t k = 0;
    for (; k + 2 * V <= s.rank; k += 2 * V) {
      a = fma(load(own + k), load(other + k), a);
      b = fma(load(own + k + V), load(other + k + V), b);
    }
    float dot = lane_sum<float>(a + b);
    for (; k < s.rank; ++k) dot += own[k] * other[k];
    const float gap = float(values[j]) - dot;
    out[j] = (gap < 0.0f ? -gap : gap) * left[candidates[j]];
  }
}

}  // namespace SGGP_ISA
