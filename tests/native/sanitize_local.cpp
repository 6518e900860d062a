// Small Gram matrices and local posteriors of the C++ engine for sanitizers to watch. Linked with sanitize.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "sanitize.h"

namespace {

// Blocks of rows and a query each; then the posterior of that query, whose weights the identity for targets shows.
void local(int isa, int64_t n, int64_t d, int64_t width, int64_t t, int threads) {
  const int64_t queries = 21, wide = width + 1, square = wide * wide;
  const std::vector<double> x = normal<double>(queries * wide * d), weights(static_cast<size_t>(d), 0.8);
  std::vector<double> blocks(static_cast<size_t>(queries * square)), variance(static_cast<size_t>(queries));
  for (int family = kFamilies - 1; family >= 0; --family)
    expect(sggp_small_stationary(isa, threads, family, 1.5, 1.2, x.data(), weights.data(), queries, wide, d,
                                 blocks.data()) == 0,
           "small blocks return ok", isa);
  for (int64_t b = 0; b < queries; ++b)
    for (int64_t i = 0; i < wide; ++i)
      for (int64_t j = 0; j < wide; ++j) {
        double q = 0;
        for (int64_t k = 0; k < d; ++k) {
          const double e = 0.8 * (x[size_t((b * wide + i) * d + k)] - x[size_t((b * wide + j) * d + k)]);
          q += e * e;
        }
        expect(std::abs(blocks[size_t(b * square + i * wide + j)] - 1.5 * rbf(q)) < 1e-12, "small blocks", isa);
      }
  std::vector<int64_t> index(static_cast<size_t>(queries * width));
  for (size_t e = 0; e < index.size(); ++e) index[e] = int64_t(e) / width % 2 ? int64_t(e) % width : n - 1 - int64_t(e) % width;
  const std::vector<double> noise(static_cast<size_t>(n), 0.3);
  std::vector<double> targets(static_cast<size_t>(n * t), 0.0), deviations(static_cast<size_t>(queries * t), 0.0);
  for (int64_t i = 0; i < std::min(n, t); ++i) targets[size_t(i * t + i)] = 1.0;
  blocks[size_t(square)] = std::numeric_limits<double>::quiet_NaN();  // the second query's: the prior is left
  expect(sggp_local_posteriors(isa, threads, blocks.data(), index.data(), queries, width, noise.data(), n,
                               targets.data(), t, variance.data(), deviations.data()) == 0,
         "local posteriors return ok", isa);
  for (int64_t b = 0; b < queries && t == n; ++b) {
    const double* block = blocks.data() + b * square;
    double explained = 0;
    for (int64_t i = 0; i < width && b != 1; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < width; ++j)
        sum -= (block[i * wide + j] + (i == j ? 0.3 : 0.0)) * deviations[size_t(b * t + index[size_t(b * width + j)])];
      expect(std::abs(sum - block[i * wide + width]) < 1e-10, "weights of the nearest rows", isa);
      explained -= block[i * wide + width] * deviations[size_t(b * t + index[size_t(b * width + i)])];
    }
    expect(std::abs(variance[size_t(b)] - (1.5 - explained)) < 1e-10, "a local variance", isa);
  }
  index[0] = n;
  expect(sggp_local_posteriors(isa, threads, blocks.data(), index.data(), queries, width, noise.data(), n,
                               targets.data(), t, variance.data(), deviations.data()) == 1,
         "a row that does not exist is refused", isa);
}

// Two leaves of targets, of which one meets two runs of sources and the other one; what they do not meet counts as zero.
template <class T, class Function>
void near(int isa, int64_t n, int64_t m, int64_t d, int64_t s, int threads, Function call) {
  const std::vector<double> a = normal<double>(n * d), b = normal<double>(m * d);
  const std::vector<T> v = normal<T>(m * s);
  std::vector<int64_t> groups = {0, n / 2, n / 2, n}, runs = {0, m / 3, m / 2, m, m / 4, m};
  const std::vector<int64_t> offsets = {0, 2, 3};
  std::vector<T> out(static_cast<size_t>(n * s));
  for (int family = kFamilies - 1; family >= 0; --family)
    expect(call(isa, threads, family, 1.5, 1.2, a.data(), n, b.data(), m, d, v.data(), s, groups.data(), offsets.data(),
                2, runs.data(), out.data()) == 0,
           "near products return ok", isa);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < s; ++c) {
      double sum = 0;
      for (int64_t j = 0; j < m; ++j) {
        const bool met = i < n / 2 ? j < m / 3 || j >= m / 2 : j >= m / 4;
        double q = 0;
        for (int64_t k = 0; k < d && met; ++k) {
          const double e = a[size_t(i * d + k)] - b[size_t(j * d + k)];
          q += e * e;
        }
        if (met) sum += 1.5 * rbf(q) * double(v[size_t(j * s + c)]);
      }
      expect(std::abs(double(out[size_t(i * s + c)]) - sum) < (sizeof(T) == 4 ? 1e-3 : 1e-10), "near products", isa);
    }
  runs[5] = m + 1;
  expect(call(isa, threads, 0, 1.5, 1.2, a.data(), n, b.data(), m, d, v.data(), s, groups.data(), offsets.data(), 2,
              runs.data(), out.data()) == 1,
         "a source that does not exist is refused", isa);
}

}  // namespace

void local_posteriors(int isa) {
  local(isa, 9, 1, 1, 9, 1);
  local(isa, 20, 3, 9, 20, 3);
  local(isa, 40, 0, 7, 40, 2);
  local(isa, 70, 26, 64, 70, 3);
  local(isa, 30, 2, 12, 0, 2);
}

void near_products(int isa) {
  near<float>(isa, 2, 4, 1, 1, 1, sggp_near_f32);
  near<float>(isa, 130, 700, 3, 17, 3, sggp_near_f32);
  near<double>(isa, 130, 700, 3, 5, 2, sggp_near_f64);
  near<double>(isa, 49, 257, 2, 65, 3, sggp_near_f64);
}
