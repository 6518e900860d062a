// Nearest rows and products with sparse inverse factors behind the C interface.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "api.h"
#include "driver.h"
#include "parallel.h"

namespace {

constexpr int64_t kJobRows = 64;

// The k smallest of what has been offered so far.
class Smallest {
 public:
  explicit Smallest(int64_t k) : k_(k), room_(2 * k + kTile), values_(size_t(room_ + kTile)), places_(size_t(room_ + kTile)) {}

  void offer(const Isa& isa, const float* values, int count, int32_t first) {
    found_ = isa.search.append_below(values, count, bound_, first, values_.data(), places_.data(), found_);
    if (found_ > room_ - kTile) shrink();
  }

  // The places of the k smallest, smallest first, ties by place; -1 where fewer were offered.
  void finish(int64_t* out) {
    pairs();
    const int64_t kept = std::min(k_, found_);
    std::partial_sort(pairs_.begin(), pairs_.begin() + kept, pairs_.end());
    for (int64_t i = 0; i < k_; ++i) out[i] = i < kept ? pairs_[size_t(i)].second : -1;
  }

 private:
  void pairs() {
    pairs_.resize(size_t(found_));
    for (size_t i = 0; i < size_t(found_); ++i) pairs_[i] = {values_[i], places_[i]};
  }

  void shrink() {
    if (found_ <= k_) return;
    pairs();
    std::nth_element(pairs_.begin(), pairs_.begin() + (k_ - 1), pairs_.end());
    bound_ = std::nextafter(pairs_[size_t(k_ - 1)].first, std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < size_t(k_); ++i) {
      values_[i] = pairs_[i].first;
      places_[i] = pairs_[i].second;
    }
    found_ = k_;
  }

  int64_t k_, room_, found_ = 0;
  float bound_ = std::numeric_limits<float>::infinity();
  std::vector<float> values_;
  std::vector<int32_t> places_;
  std::vector<std::pair<float, int32_t>> pairs_;
};

std::vector<float> by_coordinates(const float* points, int64_t n, int64_t d) {
  const int64_t tiles = ceil_div(n, kTile);
  std::vector<float> lines(size_t(tiles * d * kTile), 0.0f);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < d; ++k) lines[size_t((i / kTile * d + k) * kTile + i % kTile)] = points[i * d + k];
  return lines;
}

}  // namespace

// out (q, k): the places of the k points (n, d) nearest to every query (q, d), nearest first, -1 beyond the last.
// `earlier`: the queries are the points themselves, and only places before a query's own count.
SGGP_API int sggp_nearest(int isa_index, int threads, const float* points, int64_t n, int64_t d, const float* queries,
                          int64_t q, int64_t k, int earlier, int64_t* out) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || n > std::numeric_limits<int32_t>::max() || d < 0 || q < 0 || k < 1 ||
        (earlier && q != n))
      return kBadArgument;
    const std::vector<float> lines = by_coordinates(points, n, d);
    const int64_t jobs = ceil_div(q, kJobRows);
    parallel_for(threads, jobs, [&](int64_t turn) {
      const int64_t job = jobs - 1 - turn;  // the last have the most earlier rows
      const int64_t start = job * kJobRows, stop = std::min(q, start + kJobRows);
      std::vector<Smallest> best(size_t(stop - start), Smallest(k));
      std::vector<float> rows(size_t(4 * d), 0.0f);
      Buffer<float> distances(4 * kTile);
      const int64_t reach = earlier ? stop - 1 : n;
      for (int64_t tile = 0; tile * kTile < reach; ++tile)
        for (int64_t row = start; row < stop; row += 4) {
          const int64_t group = std::min<int64_t>(4, stop - row);
          std::copy(queries + row * d, queries + (row + group) * d, rows.begin());
          isa->search.squared_distances(lines.data() + tile * d * kTile, d, rows.data(), distances.data());
          for (int64_t r = 0; r < group; ++r) {
            const int64_t limit = (earlier ? row + r : n) - tile * kTile;
            if (limit > 0)
              best[size_t(row + r - start)].offer(*isa, distances.data() + r * kTile, int(std::min<int64_t>(limit, kTile)),
                                                  int32_t(tile * kTile));
          }
        }
      for (int64_t row = start; row < stop; ++row) best[size_t(row - start)].finish(out + row * k);
    });
    return kOk;
  });
}

// out (n, s) = U U^T v for U with columns of `width` entries: values (n, width) in rows index (n, width).
SGGP_API int sggp_sparse_square(int isa_index, int threads, const int64_t* index, const double* values, int64_t n,
                                int64_t width, const double* v, int64_t s, double* out) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || width < 0 || s < 0) return kBadArgument;
    std::fill(out, out + n * s, 0.0);
    const int64_t slab = std::min<int64_t>(64, round_up(size_t(ceil_div(s, std::max(threads, 1))), 8));
    if (slab == 0) return kOk;
    parallel_for(threads, ceil_div(s, slab), [&](int64_t part) {
      Buffer<double> half(static_cast<size_t>(slab));
      isa->search.sparse_square(index, values, n, width, v, s, part * slab, std::min(s, (part + 1) * slab), half.data(),
                                out);
    });
    return kOk;
  });
}
