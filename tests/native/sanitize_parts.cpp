// The newer functions of the C++ engine for sanitizers to watch: small systems, searches, sparse factors, ceilings.
// Buffers have exactly the right size; results are compared with plain loops. Linked with sanitize.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "sanitize.h"

namespace {

double squared(const double* a, const double* b, int64_t d) {
  double q = 0;
  for (int64_t k = 0; k < d; ++k) q += (a[k] - b[k]) * (a[k] - b[k]);
  return q;
}

// Columns of the inverse factor against a plain Gauss-Jordan solve, and the residual scores.
void systems(int isa, int64_t n, int64_t d, int64_t rank, int64_t width, int threads) {
  const std::vector<double> points = normal<double>(n * d), noise(static_cast<size_t>(n), 0.3);
  std::vector<double> low = normal<double>(n * rank);
  for (double& x : low) x *= 0.1;
  const std::vector<float> low32(low.begin(), low.end()), weight = std::vector<float>(static_cast<size_t>(n), 0.5f);
  const int64_t rows = 70;
  std::vector<int64_t> index(static_cast<size_t>(rows * width)), own(static_cast<size_t>(rows));
  std::vector<uint8_t> real(index.size(), 1);
  for (int64_t i = 0; i < rows; ++i) {
    own[size_t(i)] = i % n;
    for (int64_t j = 0; j < width; ++j) index[size_t(i * width + j)] = (i + j) % n;
    if (width > 1) real[size_t(i * width)] = i % 2;
  }
  for (int family = 0; family < kFamilies; ++family) {
    std::vector<double> out(index.size());
    const double* f = rank ? low.data() : nullptr;
    expect(sggp_neighbour_columns(isa, threads, family, 1.5, 1.2, points.data(), d, noise.data(), f, rank, index.data(),
                                  real.data(), rows, width, out.data()) == 0,
           "columns return ok", isa);
    for (int64_t i = 0; i < rows && family == 0; ++i) {
      const int64_t* at = index.data() + i * width;
      // the system times its column is zero but for the last entry
      for (int64_t r = 0; r < width; ++r) {
        if (!real[size_t(i * width + r)]) continue;
        double sum = 0;
        for (int64_t c = 0; c < width; ++c) {
          double entry = 1.5 * rbf(squared(points.data() + at[r] * d, points.data() + at[c] * d, d));
          for (int64_t k = 0; k < rank; ++k) entry -= low[size_t(at[r] * rank + k)] * low[size_t(at[c] * rank + k)];
          if (r == c) entry += 0.3;
          sum += entry * out[size_t(i * width + c)];
        }
        const double last = out[size_t(i * width + width - 1)];
        expect(std::abs(sum - (r == width - 1 ? 1.0 / last : 0.0)) < 1e-9, "columns of the inverse factor", isa);
      }
    }
    std::vector<int64_t> candidates = index;
    for (size_t e = 0; e < candidates.size(); e += 3) candidates[e] = -1;
    std::vector<float> scores(candidates.size());
    expect(sggp_neighbour_scores(isa, threads, family, 1.5, 1.2, points.data(), d, low32.data(), rank, weight.data(),
                                 own.data(), candidates.data(), rows, width, scores.data()) == 0,
           "scores return ok", isa);
    for (size_t e = 0; e < scores.size() && family == 0; ++e) {
      const int64_t i = own[e / size_t(width)], c = candidates[e];
      double gap = c < 0 ? 0.0 : 1.5 * rbf(squared(points.data() + i * d, points.data() + c * d, d));
      for (int64_t k = 0; c >= 0 && k < rank; ++k) gap -= low[size_t(i * rank + k)] * low[size_t(c * rank + k)];
      expect(std::abs((c < 0 ? -1.0 : std::abs(gap) * 0.5) - double(scores[e])) < 1e-4, "residual scores", isa);
    }
  }
}

// Values and slopes of the conditionals against densities of two rows, and what is left alone.
void conditionals(int isa, int64_t n, int64_t d, int64_t width, int64_t t, int threads) {
  const std::vector<double> x = normal<double>(n * d), weights(static_cast<size_t>(d), 0.8);
  const int64_t rows = 40;
  std::vector<int64_t> index(static_cast<size_t>(rows * width));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < width; ++j) index[size_t(i * width + j)] = j + 1 < width && (i + j) % 3 == 0 ? -1 : (i + 2 * j) % n;
  const std::vector<double> residuals = normal<double>(rows * width * t), noise(static_cast<size_t>(rows * width), 0.4);
  const size_t b = size_t(rows), k = size_t(width);
  for (int family = 0; family < kFamilies; ++family)
    for (int shared : {0, 1}) {
      std::vector<double> value(b), lengths(b * size_t(d)), scale(b), slope(shared ? b : b * k), pulled(b * k * size_t(t));
      if (kShaped[family]) continue;
      const auto run = [&](double* l, double* s, double* e, double* r) {
        return sggp_conditionals(isa, threads, family, 1.5, x.data(), n, weights.data(), d, index.data(), rows, width,
                                 residuals.data(), t, noise.data(), shared, value.data(), l, s, e, r);
      };
      expect(run(nullptr, nullptr, nullptr, nullptr) == 0, "conditionals return ok", isa);
      const std::vector<double> alone = value;
      expect(run(lengths.data(), scale.data(), slope.data(), pulled.data()) == 0, "conditionals return ok", isa);
      expect(alone == value, "conditionals with and without gradient", isa);
      for (int64_t i = 0; i < rows && width <= 2; ++i) {
        const int64_t own = i * width + width - 1;
        double mean[8] = {}, variance = 1.9;
        if (width == 2 && index[size_t(i * width)] >= 0) {
          const double q = 0.64 * squared(x.data() + index[size_t(own)] * d, x.data() + index[size_t(own - 1)] * d, d);
          if (family != 0) continue;
          const double share = 1.5 * rbf(q) / 1.9;
          for (int64_t c = 0; c < t; ++c) mean[c] = share * residuals[size_t((own - 1) * t + c)];
          variance -= share * share * 1.9;
        }
        double density = 0;
        for (int64_t c = 0; c < t; ++c) {
          const double e = residuals[size_t(own * t + c)] - mean[c];
          density -= 0.5 * (e * e / variance + std::log(2 * 3.14159265358979323846 * variance));
        }
        expect(std::abs(density - value[size_t(i)]) < 1e-10, "a conditional density", isa);
      }
    }
  index[size_t(width - 1)] = n;
  double value[40];
  expect(sggp_conditionals(isa, threads, 0, 1.5, x.data(), n, weights.data(), d, index.data(), rows, width,
                           residuals.data(), t, noise.data(), 1, value, nullptr, nullptr, nullptr, nullptr) == 1,
         "a row that does not exist is refused", isa);
}

void searches(int isa, int64_t n, int64_t d, int64_t k, int threads) {
  std::vector<float> points(static_cast<size_t>(n * d));
  for (float& x : points) x = float(int(engine() % 41) - 20);
  const int64_t q = 11;
  const std::vector<float> queries(points.begin(), points.begin() + std::min<int64_t>(q, n) * d);
  const int64_t asked = std::min<int64_t>(q, n);
  auto distance = [&](const float* a, int64_t j) {
    float sum = 0;
    for (int64_t c = 0; c < d; ++c) sum += (a[c] - points[size_t(j * d + c)]) * (a[c] - points[size_t(j * d + c)]);
    return sum;
  };
  for (int earlier : {0, 1}) {
    const float* from = earlier ? points.data() : queries.data();
    const int64_t rows = earlier ? n : asked;
    std::vector<int64_t> out(static_cast<size_t>(rows * k)), before(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) before[size_t(i)] = i;
    expect(sggp_nearest(isa, threads, points.data(), n, d, from, rows, k, earlier ? before.data() : nullptr,
                        out.data()) == 0,
           "nearest", isa);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t reach = earlier ? i : n;
      std::vector<float> all;
      for (int64_t j = 0; j < reach; ++j) all.push_back(distance(from + i * d, j));
      std::sort(all.begin(), all.end());
      for (int64_t j = 0; j < k; ++j) {
        const int64_t found = out[size_t(i * k + j)];
        expect(j < reach ? found >= 0 && found < reach && distance(from + i * d, found) == all[size_t(j)] : found == -1,
               "nearest rows", isa);
      }
    }
  }
  std::vector<int64_t> order(static_cast<size_t>(n), -1);
  expect(sggp_coarse_to_fine(isa, threads, points.data(), n, d, order.data()) == 0, "coarse to fine", isa);
  std::sort(order.begin(), order.end());
  for (int64_t i = 0; i < n; ++i) expect(order[size_t(i)] == i, "coarse to fine is a permutation", isa);
}

void sparse(int isa, int64_t n, int64_t width, int64_t s, int threads) {
  std::vector<int64_t> index(static_cast<size_t>(n * width));
  for (size_t e = 0; e < index.size(); ++e) index[e] = int64_t(engine() % uint32_t(n));
  std::vector<double> values = normal<double>(n * width), out(static_cast<size_t>(n * s));
  for (size_t e = 0; e < values.size(); e += 4) values[e] = 0.0;
  const std::vector<double> v = normal<double>(n * s);
  expect(sggp_sparse_square(isa, threads, index.data(), values.data(), n, width, v.data(), s, out.data()) == 0, "sparse", isa);
  std::vector<double> expected(out.size(), 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t t = 0; t < s; ++t) {
      double half = 0;
      for (int64_t e = i * width; e < (i + 1) * width; ++e) half += values[size_t(e)] * v[size_t(index[size_t(e)] * s + t)];
      for (int64_t e = i * width; e < (i + 1) * width; ++e) expected[size_t(index[size_t(e)] * s + t)] += values[size_t(e)] * half;
    }
  for (size_t i = 0; i < out.size(); ++i) expect(std::abs(out[i] - expected[i]) < 1e-9, "sparse square", isa);
}

void small_grams(int64_t batch, int64_t m, int64_t d, int threads) {
  std::vector<uint8_t> x(static_cast<size_t>(batch * m * d));
  for (uint8_t& value : x) value = engine() % 3 ? uint8_t(0) : uint8_t(engine());
  for (int kind : {0, 1}) {
    std::vector<double> out(static_cast<size_t>(batch * m * m));
    expect(sggp_small_tanimoto(threads, kind, x.data(), batch, m, d, out.data()) == 0, "small tanimoto", 0);
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < m; ++j) {
          const uint8_t *p = x.data() + (b * m + i) * d, *q = x.data() + (b * m + j) * d;
          double top = 0, bottom = 0;
          for (int64_t k = 0; k < d; ++k) {
            top += kind ? double(p[k]) * q[k] : std::min(p[k], q[k]);
            bottom += kind ? double(p[k]) * p[k] + double(q[k]) * q[k] - double(p[k]) * q[k] : std::max(p[k], q[k]);
          }
          expect(out[size_t((b * m + i) * m + j)] == (bottom == 0 ? 1.0 : top / bottom), "small tanimoto entries", 0);
        }
  }
}

void ceilings(int isa, int threads) {
  for (int64_t size : {0, 1, 33, 70}) {
    expect(sggp_ceiling_evaluate_f32(isa, threads, 2, size, 2) == 0, "ceiling of evaluation", isa);
    expect(sggp_ceiling_evaluate_f64(isa, threads, 4, size, 1) == 0, "ceiling of evaluation", isa);
    expect(sggp_ceiling_multiply_f32(isa, threads, size, 2) == 0, "ceiling of the product", isa);
    expect(sggp_ceiling_multiply_f64(isa, threads, size, 1) == 0, "ceiling of the product", isa);
    expect(sggp_ceiling_intersect(isa, threads, size, 2) == 0, "ceiling of bits", isa);
  }
  for (int64_t size : {0, 1, 257, 300000}) {
    std::vector<float> out(static_cast<size_t>(size), 0.0f);
    expect(sggp_ceiling_fill(threads, out.data(), size) == 0, "ceiling of writing", isa);
    expect(std::all_of(out.begin(), out.end(), [](float x) { return x == 1.0f; }), "what was written", isa);
  }
  expect(sggp_ceiling_evaluate_f32(isa, threads, kFamilies, 1, 1) == 4, "an unknown family is refused", isa);
}

}  // namespace

void newer_functions(int isa) {
  systems(isa, 80, 1, 0, 1, 1);
  systems(isa, 90, 5, 3, 9, 3);
  systems(isa, 75, 26, 40, 41, 2);
  conditionals(isa, 50, 3, 1, 1, 1);
  conditionals(isa, 50, 1, 2, 3, 3);
  conditionals(isa, 60, 0, 5, 1, 2);
  conditionals(isa, 70, 26, 31, 1, 2);
  conditionals(isa, 80, 7, 40, 2, 3);
  searches(isa, 1, 3, 2, 1);
  searches(isa, 5, 0, 9, 2);
  searches(isa, 700, 3, 7, 3);
  searches(isa, 530, 33, 300, 2);
  sparse(isa, 1, 1, 1, 1);
  sparse(isa, 60, 5, 13, 3);
  sparse(isa, 50, 4, 130, 2);
  ceilings(isa, 2);
}

void functions_without_instruction_set() {
  small_grams(1, 1, 1, 1);
  small_grams(40, 7, 77, 3);
  small_grams(3, 4, 0, 2);
}

void many_callers() {
  concurrently([](int seed) {
    const int64_t n = 300, d = 3, k = 4;
    std::vector<float> points(static_cast<size_t>(n * d));
    for (size_t i = 0; i < points.size(); ++i) points[i] = float((i * size_t(seed + 7)) % 53);
    std::vector<int64_t> near(static_cast<size_t>(n * k)), order(static_cast<size_t>(n));
    std::vector<double> wide(points.begin(), points.end()), values(near.size(), 0.5);
    std::vector<double> v(static_cast<size_t>(n * 2), 1.0), out(v);
    std::vector<uint8_t> counts(static_cast<size_t>(6 * 5 * 8), uint8_t(seed));
    std::vector<double> grams(6 * 5 * 5), noise(static_cast<size_t>(n), 0.1), columns(near.size());
    const std::vector<uint8_t> real(near.size(), 1);
    bool good = sggp_nearest(-1, 2, points.data(), n, d, points.data(), n, k, nullptr, near.data()) == 0;
    good = good && sggp_coarse_to_fine(-1, 2, points.data(), n, d, order.data()) == 0;
    good = good && sggp_sparse_square(-1, 2, near.data(), values.data(), n, k, v.data(), 2, out.data()) == 0;
    good = good && sggp_small_tanimoto(2, 0, counts.data(), 6, 5, 8, grams.data()) == 0;
    good = good && sggp_neighbour_columns(-1, 2, 2, 1.0, 1.0, wide.data(), d, noise.data(), nullptr, 0, near.data(),
                                          real.data(), n, k, columns.data()) == 0;
    const double units[3] = {1.0, 1.0, 1.0};
    good = good && sggp_conditionals(-1, 2, 2, 1.0, wide.data(), n, units, d, near.data(), n, k, values.data(), 1,
                                     noise.data(), 1, v.data(), nullptr, out.data(), nullptr, nullptr) == 0;
    good = good && sggp_ceiling_intersect(-1, 2, 3, 1) == 0;
    return good;
  });
}
