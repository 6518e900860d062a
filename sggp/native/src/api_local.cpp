// Small Gram matrices and local posteriors behind the C interface.
#include <algorithm>
#include <atomic>

#include "api.h"
#include "parallel.h"

namespace {

constexpr int64_t kAtATime = 16, kWidest = 1 << 15;

}  // namespace

// out (batch, width, width): the kernel among the `width` rows of every x (batch, width, d), weights (d) inverse length
// scales.
SGGP_API int sggp_small_stationary(int isa_index, int threads, int family, double scale, double alpha, const double* x,
                                   const double* weights, int64_t batch, int64_t width, int64_t d, double* out) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || batch < 0 || width < 1 || width > kWidest || d < 0) return kBadArgument;
    if (!known_family(family, alpha)) return kUnknownFamily;
    const SmallSystems s = {family, scale, alpha, nullptr, d, nullptr, nullptr, 0};
    parallel_for(threads, (batch + kAtATime - 1) / kAtATime, [&](int64_t job) {
      Buffer<double> work(size_t(isa->local.gram_work(d, int(width))));
      for (int64_t b = job * kAtATime; b < std::min(batch, (job + 1) * kAtATime); ++b)
        isa->local.gram(s, weights, x + b * width * d, int(width), work.data(), out + b * width * width);
    });
    return kOk;
  });
}

// variance (queries) and deviations (queries, t), which hold the prior's values at first, given rows index (queries,
// width) below n: blocks (queries, width + 1, width + 1) with the query last, noise (n), targets (n, t).
SGGP_API int sggp_local_posteriors(int isa_index, int threads, const double* blocks, const int64_t* index,
                                   int64_t queries, int64_t width, const double* noise, int64_t n,
                                   const double* targets, int64_t t, double* variance, double* deviations) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || queries < 0 || width < 1 || width > kWidest || n < 0 || t < 0) return kBadArgument;
    const LocalSystems s = {noise, targets, t, int(width)};
    const int64_t size = (width + 1) * (width + 1);
    std::atomic<bool> good{true};
    parallel_for(threads, (queries + kAtATime - 1) / kAtATime, [&](int64_t job) {
      Buffer<double> work(size_t(isa->local.work(int(width))));
      for (int64_t i = job * kAtATime; i < std::min(queries, (job + 1) * kAtATime); ++i) {
        const int64_t* own = index + i * width;
        if (std::any_of(own, own + width, [n](int64_t j) { return j < 0 || j >= n; })) {
          good = false;
          continue;
        }
        isa->local.local(s, own, blocks + i * size, work.data(), variance + i, deviations + i * t);
      }
    });
    return good ? kOk : kBadArgument;
  });
}
