// Posteriors of single queries given their nearest rows: a small covariance matrix and one factor of it for each.
#pragma once

#include "neighbour_kernels.h"

namespace SGGP_ISA {

static int64_t gram_work(int64_t d, int width) {
  const int64_t stride = (width + 7) / 8 * 8;
  return stride * (d + stride) + 64;
}

// out (width, width) = scale phi(|w (x_i - x_j)|^2) of rows x (width, d): differences from the first of them are
// taken before anything is rounded. False where there is no such family.
static bool gram(const SmallSystems& s, const double* weights, const double* x, int width, double* work, double* out) {
  const int stride = (width + 7) / 8 * 8;
  double *lines = work, *r = work + stride * s.d;
    for (int j = 0; j < stride; ++j)
    for (int64_t k = 0; k < s.d; ++k)
      lines[k * stride + j] = j < width ? (x[j * s.d + k] - x[k]) * weights[k] : 0.0;
  if (!small_gram(s, lines, width, stride, r)) return false;
  for (int i = 0; i < width; ++i) {
    for (int j = 0; j < i; ++j) out[i * width + j] = r[j * stride + i];
    for (int j = i; j < width; ++j) out[i * width + j] = r[i * stride + j];
  }
  return true;
}

static int64_t local_work(int width) {
  const int64_t stride = (width + 7) / 8 * 8;
  return stride * (stride + 2) + 64;
}

// to -= sum_j weight_j row_j, rows of `s` numbers at `table + index[j] * s`; columns first .. first + N registers.
template <int N>
SGGP_INLINE void subtract_rows(const double* table, int64_t s, const int64_t* index, const double* weight, int width,
                               int64_t first, double* to) {
  constexpr int W = Simd<double>::W;
  Reg<double> sum[N] = {};
  for (int j = 0; j < width; ++j) {
    const double* row = table + index[j] * s + first;
    const Reg<double> w = set(weight[j]);
    SGGP_UNROLL for (int c = 0; c < N; ++c) sum[c] = fma(w, load(row + c * W), sum[c]);
  }
  SGGP_UNROLL for (int c = 0; c < N; ++c) store(to + first + c * W, load(to + first + c * W) - sum[c]);
}

// U^T U = block + noise with the least jitter that gives a factor, U in rows of `stride`; false where none does.
static bool factor(const LocalSystems& s, const int64_t* index, const double* block, int stride, double* u) {
  constexpr int W = Simd<double>::W;
  const int m = s.width;
  double mean = 0.0;
  for (int i = 0; i < m; ++i) mean += (block[i * (m + 1) + i] + s.noise[index[i]]) / m;
  for (double jitter = 0.0; jitter < 1e-3; jitter = jitter > 0.0 ? jitter * 100.0 : 1e-12) {  // as sggp.linalg
    for (int i = 0; i < m; ++i) {
      double* row = u + i * stride;
      for (int j = i / W * W; j < i; ++j) row[j] = 0.0;
      for (int j = i; j < m; ++j) row[j] = block[i * (m + 1) + j];
      for (int j = m; j < stride; ++j) row[j] = 0.0;
      row[i] += s.noise[index[i]] + jitter * mean;
    }
    if (!factorise_upper(u, m, stride)) continue;
    bool finite = true;
    for (int i = 0; i < m; ++i) finite = finite && u[i * stride + i] < 1e308;
    if (finite) return true;
  }
  return false;
}

// The variance of a query given the rows `index` (width), `block` (width + 1, width + 1) being the covariance of these
// and, last, the query; `deviation` (targets) holds the prior's values and is left with what the rows' targets do not
// explain of them. Those of the prior where there is no factor.
static void local(const LocalSystems& s, const int64_t* index, const double* block, double* work, double* variance,
                  double* deviation) {
  constexpr int W = Simd<double>::W;
  const int m = s.width, stride = (m + 7) / 8 * 8;
  double *u = work, *y = u + stride * stride;
  *variance = block[m * (m + 1) + m];
  if (!factor(s, index, block, stride, u)) {
    if (*variance < 0.0) *variance = 0.0;
    return;
  }
  for (int i = 0; i < stride; ++i) y[i] = i < m ? block[m * (m + 1) + i] : 0.0;
  double explained = 0.0;
  for (int i = 0; i < m; ++i) {  // y = U^-T k
    const double* row = u + i * stride;
    const double own = y[i] / row[i];
    explained += own * own;
    const Reg<double> f = set(-own);
    const int whole = (i + W) / W * W;
    y[i] = own;
    for (int j = i + 1; j < whole && j < m; ++j) y[j] -= own * row[j];
    for (int j = whole; j < stride; j += W) store(y + j, fma(f, load(row + j), load(y + j)));
  }
  for (int i = m - 1; i >= 0; --i) {  // y = U^-1 y
    const double* row = u + i * stride;
    const int whole = (i + W) / W * W;
    Reg<double> sum = {};
    for (int j = whole; j < stride; j += W) sum = fma(load(row + j), load(y + j), sum);
    double left = y[i] - lane_sum<double>(sum);
    for (int j = i + 1; j < whole && j < m; ++j) left -= row[j] * y[j];
    y[i] = left / row[i];
  }
  *variance -= explained;
  if (*variance < 0.0) *variance = 0.0;
  int64_t t = 0;
  for (; t + 4 * W <= s.num_targets; t += 4 * W) subtract_rows<4>(s.targets, s.num_targets, index, y, m, t, deviation);
  for (; t + W <= s.num_targets; t += W) subtract_rows<1>(s.targets, s.num_targets, index, y, m, t, deviation);
  for (; t < s.num_targets; ++t)
    for (int j = 0; j < m; ++j) deviation[t] -= y[j] * s.targets[index[j] * s.num_targets + t];
}

}  // namespace SGGP_ISA
