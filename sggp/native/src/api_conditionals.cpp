// Terms of Vecchia's likelihood behind the C interface.
#include <algorithm>
#include <atomic>

#include "api.h"
#include "parallel.h"

namespace {

constexpr int64_t kRowsAtATime = 16;
constexpr int64_t kMostMembers = 4096, kMostTargets = int64_t(1) << 18;  // their product is an int

template <class T> T* at(T* values, int64_t offset) { return values ? values + offset : nullptr; }

bool inside(const int64_t* index, int64_t width, int64_t n) {
  return index[width - 1] >= 0 && std::all_of(index, index + width, [n](int64_t j) { return j < n; });
}

}  // namespace

// value (rows): log densities of rows given their neighbours, index (rows, width) into x (n, d) with the row itself last
// and -1 for a neighbour that is missing; residuals (rows, width, t). noise (1) or, where it is not shared, (rows, width).
// Derivatives, each null or of shape: lengths (rows, d), grad_scale (rows), grad_noise (rows) or (rows, width),
// grad_residuals (rows, width, t).
SGGP_API int sggp_conditionals(int isa_index, int threads, int family, double scale, const double* x, int64_t n,
                               const double* weights, int64_t d, const int64_t* index, int64_t rows, int64_t width,
                               const double* residuals, int64_t t, const double* noise, int shared_noise,
                               double* value, double* lengths, double* grad_scale, double* grad_noise,
                               double* grad_residuals) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || d < 0 || rows < 0 || width < 1 || width > kMostMembers || t < 0 || t > kMostTargets)
      return kBadArgument;
    if (!known_family(family, 0.0)) return kUnknownFamily;
    const Conditionals s = {family, scale, x, weights, d, width, t, shared_noise != 0};
    const int64_t noises = s.shared_noise ? 1 : width;
    std::atomic<bool> good{true};
    parallel_for(threads, (rows + kRowsAtATime - 1) / kRowsAtATime, [&](int64_t job) {
      Buffer<double> work(size_t(isa->conditionals.work(d, width, t)));
      const int64_t last = std::min(rows, (job + 1) * kRowsAtATime);
      for (int64_t i = job * kRowsAtATime; i < last; ++i) {
        if (!inside(index + i * width, width, n)) {
          good = false;
          continue;
        }
        const ConditionalOut out = {value + i, at(lengths, i * d), at(grad_scale, i), at(grad_noise, i * noises),
                                    at(grad_residuals, i * width * t)};
        isa->conditionals.conditional(s, index + i * width, residuals + i * width * t,
                                      noise + (s.shared_noise ? 0 : i * width), work.data(), out);
      }
    });
    return good ? kOk : kBadArgument;
  });
}
