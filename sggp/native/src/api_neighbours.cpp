// Sparse inverse Cholesky factors of stationary kernels behind the C interface.
#include <algorithm>
#include <atomic>

#include "api.h"
#include "parallel.h"

namespace {

constexpr int64_t kRowsAtATime = 64;

bool usable(const Isa* isa, const SmallSystems& s, int64_t rows, int64_t width) {
  return isa != nullptr && s.d >= 0 && s.rank >= 0 && rows >= 0 && width >= 1 && width <= 4096;
}

}  // namespace

// values (rows, width): column i of U for index (rows, width), its own row last; `real` marks entries that exist.
SGGP_API int sggp_neighbour_columns(int isa_index, int threads, int family, double scale, double alpha,
                                    const double* points, int64_t d, const double* noise, const double* low_rank,
                                    int64_t rank, const int64_t* index, const uint8_t* real, int64_t rows,
                                    int64_t width, double* values) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    const SmallSystems s = {family, scale, alpha, points, d, noise, low_rank, rank};
    if (!usable(isa, s, rows, width)) return kBadArgument;
    if (!known_family(family, alpha)) return kUnknownFamily;
    std::atomic<bool> good{true};
    parallel_for(threads, (rows + kRowsAtATime - 1) / kRowsAtATime, [&](int64_t job) {
      Buffer<double> work(size_t(isa->neighbours.column_work(d, rank, int(width))));
      const int64_t last = std::min(rows, (job + 1) * kRowsAtATime);
      for (int64_t i = job * kRowsAtATime; i < last; ++i)
        if (!isa->neighbours.column(s, index + i * width, real + i * width, int(width), work.data(),
                                    values + i * width))
          good = false;
    });
    return good ? kOk : kFailed;
  });
}

// out (rows, count): residual scores of candidates (rows, count), -1 where a candidate is -1.
SGGP_API int sggp_neighbour_scores(int isa_index, int threads, int family, double scale, double alpha,
                                   const double* points, int64_t d, const float* low_rank, int64_t rank,
                                   const float* left, const int64_t* own, const int64_t* candidates, int64_t rows,
                                   int64_t count, float* out) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    const SmallSystems s = {family, scale, alpha, points, d, nullptr, nullptr, rank};
    if (!usable(isa, s, rows, std::max<int64_t>(count, 1))) return kBadArgument;
    if (!known_family(family, alpha)) return kUnknownFamily;
    parallel_for(threads, (rows + kRowsAtATime - 1) / kRowsAtATime, [&](int64_t job) {
      Buffer<double> work(size_t(isa->neighbours.score_work(d, count)));
      const int64_t last = std::min(rows, (job + 1) * kRowsAtATime);
      for (int64_t i = job * kRowsAtATime; i < last; ++i)
        isa->neighbours.scores(s, low_rank, left, own[i], candidates + i * count, int(count), work.data(),
                               out + i * count);
    });
    return kOk;
  });
}
