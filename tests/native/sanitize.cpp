// Calls every function of the C++ engine on buffers of exactly the right size, for sanitizers to watch, and compares
// with plain loops. Built and run by sggp/native/src/sanitize.sh.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "sanitize.h"

std::mt19937 engine(7);

namespace {

int failures = 0;

struct Functions32 {
  static constexpr auto stationary = sggp_stationary_f32;
  static constexpr auto gradient = sggp_gradient_f32;
};
struct Functions64 {
  static constexpr auto stationary = sggp_stationary_f64;
  static constexpr auto gradient = sggp_gradient_f64;
};

template <class T, class F> void stationary(int isa, int64_t n, int64_t m, int64_t d, int64_t s, int threads) {
  const double close = sizeof(T) == 4 ? 1e-4 : 1e-10;
  const std::vector<T> a = normal<T>(n * d), b = normal<T>(m * d), v = normal<T>(m * s), left = normal<T>(n * s);
  const std::vector<T> weights(static_cast<size_t>(d), T(1));
  for (int family = 0; family < kFamilies; ++family)
    for (const T* w : {static_cast<const T*>(nullptr), weights.data()})
      for (int64_t budget : {int64_t(1), int64_t(1) << 22}) {
        std::vector<T> k(static_cast<size_t>(n * m)), out(static_cast<size_t>(n * s));
        expect(F::stationary(isa, threads, family, 2.0, 1.5, a.data(), n, b.data(), m, d, w, nullptr, 0, k.data(),
                             budget, 0) == 0,
               "block returns ok", isa);
        expect(F::stationary(isa, threads, family, 2.0, 1.5, a.data(), n, b.data(), m, d, w, v.data(), s, out.data(),
                             budget, 0) == 0,
               "matmul returns ok", isa);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t t = 0; t < s; ++t) {
            double sum = 0;
            for (int64_t j = 0; j < m; ++j) sum += double(k[i * m + j]) * double(v[j * s + t]);
            expect(std::abs(sum - double(out[i * s + t])) < close, "matmul is block times columns", isa);
          }
          double q = 0;
          for (int64_t c = 0; c < d; ++c) q += (double(a[i * d + c]) - b[c]) * (double(a[i * d + c]) - b[c]);
          if (family == 0) expect(std::abs(double(k[i * m]) - 2 * rbf(q)) < close, "rbf", isa);
        }
        std::vector<double> gradient(static_cast<size_t>(d + 1));
        expect(F::gradient(isa, threads, family, 2.0, 1.5, a.data(), n, b.data(), m, d, left.data(), v.data(), s,
                           gradient.data(), budget) == 0,
               "gradient returns ok", isa);
        double form = 0;
        for (int64_t i = 0; i < n; ++i)
          for (int64_t t = 0; t < s; ++t) form += double(left[i * s + t]) * double(out[i * s + t]);
        expect(std::abs(form / 2 - gradient[size_t(d)]) < close * double(n), "derivative in the scale", isa);
      }
}

// The product that makes every tile of K once, against whole rows.
template <class T, class F> void square(int isa, int64_t n, int64_t d, int64_t s, int threads) {
  const std::vector<T> a = normal<T>(n * d), v = normal<T>(n * s);
  std::vector<T> halves(static_cast<size_t>(n * s)), rows(halves);
  for (int64_t budget : {int64_t(0), int64_t(1) << 30})
    expect(F::stationary(isa, threads, 2, 2.0, 1.0, a.data(), n, a.data(), n, d, nullptr, v.data(), s,
                         (budget ? halves : rows).data(), 1 << 20, budget) == 0,
           "square returns ok", isa);
  for (size_t i = 0; i < rows.size(); ++i)
    expect(std::abs(double(halves[i]) - double(rows[i])) < 1e-3, "square product", isa);
}

void fingerprints(int isa, int64_t n, int64_t m, int64_t d, int largest, int threads) {
  std::vector<uint8_t> a(static_cast<size_t>(n * d)), b(static_cast<size_t>(m * d));
  for (auto* x : {&a, &b})
    for (uint8_t& value : *x) value = engine() % 3 == 0 ? uint8_t(1 + int(engine()) % largest) : uint8_t(0);
  std::vector<uint8_t> top_a(static_cast<size_t>(d)), top_b(top_a);
  expect(sggp_largest(threads, a.data(), n, d, top_a.data()) == 0, "largest", isa);
  expect(sggp_largest(threads, b.data(), m, d, top_b.data()) == 0, "largest", isa);
  std::vector<int32_t> levels(static_cast<size_t>(d)), sum_a(static_cast<size_t>(n)), sum_b(static_cast<size_t>(m));
  int64_t width = 0;
  for (int64_t k = 0; k < d; ++k) width += levels[size_t(k)] = std::min(top_a[size_t(k)], top_b[size_t(k)]);
  const int64_t words = (width + 63) / 64;
  std::vector<uint64_t> bits_a(static_cast<size_t>(n * words)), bits_b(static_cast<size_t>(m * words));
  expect(sggp_pack(threads, a.data(), n, d, levels.data(), words, bits_a.data(), sum_a.data()) == 0, "pack", isa);
  expect(sggp_pack(threads, b.data(), m, d, levels.data(), words, bits_b.data(), sum_b.data()) == 0, "pack", isa);
  std::vector<float> lists(static_cast<size_t>(n * m)), bits(lists), v = normal<float>(m * 3), out(size_t(n * 3));
  expect(sggp_counts_f32(isa, threads, a.data(), n, b.data(), m, d, nullptr, 0, lists.data(), 1 << 20) == 0, "lists", isa);
  expect(sggp_bits_f32(isa, threads, bits_a.data(), n, bits_b.data(), m, words, sum_a.data(), sum_b.data(), nullptr, 0,
                       bits.data(), 1 << 20) == 0,
         "bits", isa);
  expect(sggp_counts_f32(isa, threads, a.data(), n, b.data(), m, d, v.data(), 3, out.data(), 1 << 20) == 0, "lists V", isa);
  std::vector<double> wide_lists(lists.size()), wide_bits(lists.size());
  expect(sggp_counts_f64(isa, threads, a.data(), n, b.data(), m, d, nullptr, 0, wide_lists.data(), 1 << 20) == 0, "lists", isa);
  expect(sggp_bits_f64(isa, threads, bits_a.data(), n, bits_b.data(), m, words, sum_a.data(), sum_b.data(), nullptr, 0,
                       wide_bits.data(), 1 << 20) == 0,
         "bits", isa);
  std::vector<float> again(out.size());
  expect(sggp_bits_f32(isa, threads, bits_a.data(), n, bits_b.data(), m, words, sum_a.data(), sum_b.data(), v.data(), 3,
                       again.data(), 1 << 20) == 0,
         "bits V", isa);
  for (size_t i = 0; i < out.size(); ++i) expect(std::abs(out[i] - again[i]) < 1e-3f, "bits V and lists V", isa);
  expect(wide_lists == wide_bits, "lists and bits in double", isa);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) {
      int low = 0, high = 0;
      for (int64_t k = 0; k < d; ++k) {
        low += std::min(a[size_t(i * d + k)], b[size_t(j * d + k)]);
        high += std::max(a[size_t(i * d + k)], b[size_t(j * d + k)]);
      }
      const float expected = high == 0 ? 1.0f : float(low) / float(high);
      expect(lists[size_t(i * m + j)] == expected && bits[size_t(i * m + j)] == expected, "tanimoto", isa);
    }
}

}  // namespace

void expect(bool good, const char* what, int isa) {
  static std::mutex guard;
  if (good) return;
  const std::lock_guard<std::mutex> lock(guard);
  ++failures;
  std::printf("FAILED: %s on %s\n", what, sggp_isa_name(isa));
}

void concurrently(const std::function<bool(int)>& call) {
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&call, i] {
      for (int k = 0; k < 5; ++k) expect(call(i), "a call beside others", 0);
    });
  for (std::thread& caller : callers) caller.join();
}

// What an OpenMP runtime's GOMP_parallel does, with threads that the sanitizers understand.
void team(void (*work)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(work, data);
  work(data);
  for (std::thread& other : others) other.join();
}

int main() {
  for (int isa = 0; isa < sggp_isa_count(); ++isa) {
    const int64_t shapes[][4] = {{1, 1, 1, 1}, {5, 70, 3, 2}, {49, 300, 34, 17}, {13, 257, 9, 65}, {3, 5, 0, 3}, {4, 33, 70, 13}};
    for (const auto& x : shapes) {
      stationary<float, Functions32>(isa, x[0], x[1], x[2], x[3], 3);
      stationary<double, Functions64>(isa, x[0], x[1], x[2], x[3], 2);
    }
    square<float, Functions32>(isa, 530, 3, 21, 3);
    square<double, Functions64>(isa, 800, 2, 3, 2);
    for (int largest : {1, 3, 255}) {
      fingerprints(isa, 1, 1, 1, largest, 1);
      fingerprints(isa, 70, 300, 77, largest, 3);
      fingerprints(isa, 3, 40, 1030, largest, 2);
    }
    newer_functions(isa);
    local_posteriors(isa);
    near_products(isa);
  }
  concurrently([](int) {
    std::vector<float> a(200 * 4, 0.1f), v(200, 1.0f), out(200);
    return sggp_stationary_f32(-1, 2, 2, 1.0, 1.0, a.data(), 200, a.data(), 200, 4, nullptr, v.data(), 1, out.data(),
                               1 << 20, 0) == 0 &&
           std::abs(out[3] - 200.0f) < 1e-3f;
  });
  functions_without_instruction_set();
  many_callers();
  sggp_use_team(reinterpret_cast<void*>(team));
  stationary<float, Functions32>(-1, 49, 300, 34, 17, 3);
  fingerprints(-1, 70, 300, 77, 3, 3);
  many_callers();
  sggp_use_team(nullptr);
  expect(sggp_abi_version() > 0, "a version", 0);
  expect(sggp_stationary_f32(99, 1, 0, 1, 1, nullptr, 0, nullptr, 0, 0, nullptr, nullptr, 0, nullptr, 1, 0) == 1,
         "an unknown instruction set is refused", 0);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
