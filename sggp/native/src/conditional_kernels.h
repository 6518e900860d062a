// One term of Vecchia's likelihood, log N(y_i | y_N(i)), with its gradient: a small covariance matrix that is made,
// factorised and differentiated in the caches of one core.
//
// With H = s phi(|x_a - x_b|^2) + noise among [neighbours N, the row i], U^T U = H_NN, b = H_NN^-1 H_Ni, a = H_NN^-1 r_N,
// w = (-b, 1), v = H_ii - H_iN b and e = r_i - b^T r_N, one number per target: dl/dH is the symmetric part of w q^T with
// q = sum (e^2/v - 1)/(2v) w + sum (e/v) (a, 0), and dl/dr = -(e/v) w. The upper triangle of H carries H_Ni and r_N as
// further columns, so that its factorisation solves with U^T on the way.
#pragma once

#include "neighbour_kernels.h"

namespace SGGP_ISA {

// Where the parts of one row lie in the memory of a thread: m = members that exist, rest = m - 1, t targets.
struct Parts {
  int rest, columns, stride, wide;  // wide >= m: columns of points and correlations; stride >= m + t: those of H
  double *points, *phi, *psi, *h, *w, *q, *solved, *own, *error, *sums;
};

static int multiple_of_eight(int64_t x) { return int((x + 7) / 8 * 8); }

static int64_t conditional_work(int64_t d, int64_t width, int64_t t) {
  const int64_t wide = multiple_of_eight(width), stride = multiple_of_eight(width + t);
  return wide * (d + 2 * wide + stride + 4) + stride + multiple_of_eight(t) + 8 * d + 64;
}

static Parts parts_of(int64_t d, int m, int64_t t, double* work) {
  const int wide = multiple_of_eight(m), stride = multiple_of_eight(m + t);
  Parts p = {m - 1, int(m + t), stride, wide, work, nullptr, nullptr, nullptr, nullptr,
             nullptr, nullptr, nullptr, nullptr, nullptr};
  p.phi = p.points + d * wide;
  p.psi = p.phi + wide * wide;
  p.h = p.psi + wide * wide;
  p.w = p.h + wide * stride;
  p.q = p.w + wide;
  p.solved = p.q + wide;
  p.error = p.solved + 2 * wide;
  p.sums = p.error + multiple_of_eight(t);
  p.own = p.sums + 8 * d;  // stride values
  return p;
}

// Lines of coordinates in units of length scales, seen from the row itself: differences are taken before anything is
// rounded. Zero past the members.
static void gather_scaled(const Conditionals& s, const int64_t* index, const Parts& p) {
  const double* origin = s.x + index[s.width - 1] * s.d;
  int column = 0;
  for (int64_t a = 0; a < s.width; ++a) {
    if (index[a] < 0) continue;
    const double* from = s.x + index[a] * s.d;
    for (int64_t k = 0; k < s.d; ++k) p.points[k * p.wide + column] = (from[k] - origin[k]) * s.weights[k];
    ++column;
  }
  for (; column < p.wide; ++column)
    for (int64_t k = 0; k < s.d; ++k) p.points[k * p.wide + column] = 0.0;
}

SGGP_INLINE Reg<double> lane_numbers() {
  Reg<double> r;
  for (int i = 0; i < Simd<double>::W; ++i) r[i] = i;
  return r;
}

// phi and, with Slope, psi = -2 phi' of all pairs a < b, zero elsewhere within the registers that hold any: 4 rows at a
// time, whose sums do not wait for one another.
template <int Family, bool Slope> static void correlations(const Conditionals& s, const Parts& p) {
  constexpr int W = Simd<double>::W;
  const Constants<double> c = {0.0, 0.0};
  const Reg<double> lanes = lane_numbers();
  for (int j = 0; j <= p.rest; j += W)
    for (int i = 0; i < p.rest && i < j + W; i += 4) {
      Reg<double> q[4] = {}, t[4], phi[4], psi[4];
      for (int64_t k = 0; k < s.d; ++k) {
        const double* line = p.points + k * p.wide;
        const Reg<double> b = load(line + j);
        SGGP_UNROLL for (int r = 0; r < 4; ++r) {
          const Reg<double> e = minus_each(b, line + i + r);
          q[r] = fma(e, e, q[r]);
        }
      }
      SGGP_UNROLL for (int r = 0; r < 4; ++r) t[r] = argument<double, Family>(q[r], c);
      profile<double, Family, Slope, 4>(q, t, c, phi, psi);
      SGGP_UNROLL for (int r = 0; r < 4; ++r) {
        const IntReg<double> above = (IntReg<double>)(lanes > set(double(i + r - j)));
        store(p.phi + (i + r) * p.wide + j, (Reg<double>)((IntReg<double>)phi[r] & above));
        if (Slope) store(p.psi + (i + r) * p.wide + j, (Reg<double>)((IntReg<double>)psi[r] & above));
      }
    }
}

// False where there is no such family.
template <bool Slope> static bool correlations_of(const Conditionals& s, const Parts& p) {
  return with_family(s.family, [&](auto known) { correlations<known(), Slope>(s, p); });
}

SGGP_INLINE double noise_at(const Conditionals& s, const double* noise, int64_t place) {
  return noise[s.shared_noise ? 0 : place];
}

// Rows of [H_NN, H_Ni, r_N], upper triangle, with `jitter` times the mean of the diagonal added to it.
static void assemble(const Conditionals& s, const int64_t* index, const double* residuals, const double* noise,
                     double jitter, const Parts& p) {
  constexpr int W = Simd<double>::W;
  const Reg<double> scale = set(s.scale);
  double mean = 0.0;
  int a = 0;
  for (int64_t place = 0; place + 1 < s.width; ++place) {
    if (index[place] < 0) continue;
    double* row = p.h + a * p.stride;
    for (int j = a / W * W; j <= p.rest; j += W) store(row + j, load(p.phi + a * p.wide + j) * scale);
    row[a] = s.scale + noise_at(s, noise, place);
    mean += row[a] / p.rest;
    for (int64_t t = 0; t < s.t; ++t) row[p.rest + 1 + t] = residuals[place * s.t + t];
    for (int j = p.columns; j < p.stride; ++j) row[j] = 0.0;
    ++a;
  }
  if (jitter > 0.0)
    for (a = 0; a < p.rest; ++a) p.h[a * p.stride + a] += jitter * mean;
}

// x = U^-1 x for two columns: registers of solved entries first, then the triangle within one register.
static void solve_upper(const Parts& p, double* x, double* y) {
  constexpr int W = Simd<double>::W;
  for (int first = (p.rest - 1) / W * W; first >= 0; first -= W) {
    const int last = first + W < p.rest ? first + W : p.rest;
    for (int i = first; i < last; ++i) {
      const double* row = p.h + i * p.stride;
      Reg<double> a = {}, b = {};
      for (int j = first + W; j < p.rest; j += W) {
        const Reg<double> u = load(row + j);
        a = fma(u, load(x + j), a);
        b = fma(u, load(y + j), b);
      }
      x[i] -= lane_sum<double>(a);
      y[i] -= lane_sum<double>(b);
    }
    for (int i = last - 1; i >= first; --i) {
      const double* row = p.h + i * p.stride;
      double a = x[i], b = y[i];
      for (int j = i + 1; j < last; ++j) {
        a -= row[j] * x[j];
        b -= row[j] * y[j];
      }
      x[i] = a / row[i];
      y[i] = b / row[i];
    }
  }
}

// Adds up w_a q_b + q_a w_b over pairs, times phi for the scale, times psi and squared differences for the lengths.
static double pull_back(const Conditionals& s, const Parts& p, double* lengths) {
  constexpr int W = Simd<double>::W;
  Reg<double> scale = {};
  for (int64_t k = 0; k < s.d; ++k) store(p.sums + k * W, Reg<double>{});
  for (int j = 0; j <= p.rest; j += W) {
    const Reg<double> w = load(p.w + j), q = load(p.q + j);
    for (int i = 0; i < p.rest && i < j + W; i += 4) {
      Reg<double> g[4];
      SGGP_UNROLL for (int r = 0; r < 4; ++r) {
        g[r] = fma(set(p.w[i + r]), q, set(p.q[i + r]) * w);
        scale = fma(g[r], load(p.phi + (i + r) * p.wide + j), scale);
      }
      if (!lengths) continue;
      SGGP_UNROLL for (int r = 0; r < 4; ++r) g[r] = g[r] * load(p.psi + (i + r) * p.wide + j);
      for (int64_t k = 0; k < s.d; ++k) {
        const double* line = p.points + k * p.wide;
        const Reg<double> b = load(line + j);
        Reg<double> sum = load(p.sums + k * W);
        SGGP_UNROLL for (int r = 0; r < 4; ++r) {
          const Reg<double> e = minus_each(b, line + i + r);
          sum = fma(g[r] * e, e, sum);
        }
        store(p.sums + k * W, sum);
      }
    }
  }
  for (int64_t k = 0; lengths && k < s.d; ++k)
    lengths[k] = s.scale * s.weights[k] * lane_sum<double>(load(p.sums + k * W));
  return lane_sum<double>(scale);
}

// w and q, zero past the members.
static void ends_of_gradient(const Conditionals& s, double variance, const Parts& p) {
  double* combined = p.solved + p.wide;
  for (int a = 0; a < p.wide; ++a) p.solved[a] = combined[a] = 0.0;
  double curvature = 0.0;
  for (int64_t t = 0; t < s.t; ++t) {
    const double slope = p.error[t] / variance;
    curvature += 0.5 * (slope * slope - 1.0 / variance);
  }
  for (int a = 0; a < p.rest; ++a) {
    const double* columns = p.h + a * p.stride + p.rest;
    p.solved[a] = columns[0];
    for (int64_t t = 0; t < s.t; ++t) combined[a] += columns[1 + t] * (p.error[t] / variance);
  }
  solve_upper(p, p.solved, combined);
  for (int a = 0; a < p.wide; ++a) {
    p.w[a] = a == p.rest ? 1.0 : -p.solved[a];
    p.q[a] = curvature * p.w[a] + combined[a];
  }
}

static void nothing(const Conditionals& s, const ConditionalOut& out) {
  const double nan = __builtin_nan("");
  *out.value = nan;
  for (int64_t k = 0; out.lengths && k < s.d; ++k) out.lengths[k] = nan;
  if (out.scale) *out.scale = nan;
  for (int64_t a = 0; out.noise && a < (s.shared_noise ? 1 : s.width); ++a) out.noise[a] = nan;
  for (int64_t a = 0; out.residuals && a < s.width * s.t; ++a) out.residuals[a] = nan;
}

// The row `index` (width, the row itself last, below zero where a neighbour is missing) with its residuals (width, t) and
// noise. NaN where even a large jitter leaves it without a factor.
static void conditional(const Conditionals& s, const int64_t* index, const double* residuals, const double* noise,
                        double* work, const ConditionalOut& out) {
  const bool slope = out.lengths != nullptr, gradient = slope || out.scale || out.noise || out.residuals;
  int m = 0;
  for (int64_t a = 0; a < s.width; ++a) m += index[a] >= 0;
  const Parts p = parts_of(s.d, m, s.t, work);
  gather_scaled(s, index, p);
  if (!(slope ? correlations_of<true>(s, p) : correlations_of<false>(s, p))) return nothing(s, out);
  bool good = false;
  for (double jitter = 0.0; !good && jitter < 1e-3; jitter = jitter > 0.0 ? jitter * 100.0 : 1e-12) {  // as sggp.linalg
    assemble(s, index, residuals, noise, jitter, p);
    good = factorise_upper(p.h, p.rest, p.stride);
  }
  if (!good) return nothing(s, out);

  for (int j = 0; j < 1 + s.t; ++j) p.own[j] = 0.0;  // products of the column of H_Ni with itself and the residuals'
  for (int a = 0; a < p.rest; ++a) {
    const double* columns = p.h + a * p.stride + p.rest;
    for (int j = 0; j < 1 + s.t; ++j) p.own[j] += columns[0] * columns[j];
  }
  const double prior = s.scale + noise_at(s, noise, s.width - 1), least = 1e-14 * prior;
  double variance = prior - p.own[0], quadratic = 0.0;
  if (variance < least) variance = least;
  for (int64_t t = 0; t < s.t; ++t) {
    p.error[t] = residuals[(s.width - 1) * s.t + t] - p.own[1 + t];
    quadratic += p.error[t] * p.error[t];
  }
  *out.value = -0.5 * (quadratic / variance + double(s.t) * (__builtin_log(variance) + 1.8378770664093454836));
  if (!gradient) return;

  ends_of_gradient(s, variance, p);
  double trace = 0.0;
  if (out.noise && s.shared_noise) *out.noise = 0.0;
  int column = 0;
  for (int64_t a = 0; a < s.width; ++a) {
    const bool real = index[a] >= 0;
    const double w = real ? p.w[column] : 0.0, own = real ? w * p.q[column] : 0.0;
    column += real;
    trace += own;
    if (out.noise && !s.shared_noise) out.noise[a] = own;
    for (int64_t t = 0; out.residuals && t < s.t; ++t) out.residuals[a * s.t + t] = -w * (p.error[t] / variance);
  }
  if (out.noise && s.shared_noise) *out.noise = trace;
  if (!slope && !out.scale) return;
  const double pairs = pull_back(s, p, out.lengths);
  if (out.scale) *out.scale = trace + pairs;
}

}  // namespace SGGP_ISA
