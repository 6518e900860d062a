// Nearest rows and products with sparse inverse factors behind the C interface.
#include <algorithm>
#include <cmath>
#include <cstring>
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
    if (found_ > room_ - kTile) shrink(isa);
  }

  // The places of the k smallest, smallest first, ties by place; -1 where fewer were offered.
  void finish(const Isa& isa, int64_t* out) {
    if (found_ > most()) shrink(isa);
    order();
    std::sort(keys_.begin(), keys_.end());
    for (int64_t i = 0; i < k_; ++i) out[i] = i < found_ ? int64_t(uint32_t(keys_[size_t(i)])) : -1;
  }

 private:
  int64_t most() const { return k_ + k_ / 2; }  // few enough to go on with

  // One number each that orders as (value, place) do: the bits of a float that is not negative order as it does.
  void order() {
    keys_.resize(size_t(found_));
    for (size_t i = 0; i < size_t(found_); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &values_[i], sizeof bits);
      keys_[i] = uint64_t(bits) << 32 | uint32_t(places_[i]);
    }
  }

  void shrink(const Isa& isa) {
    float bound = 0.0f;
    const int64_t kept = isa.search.keep_smallest(values_.data(), places_.data(), found_, k_, most(), &bound);
    if (kept >= 0) {
      found_ = kept;
      bound_ = bound;
      return;
    }
    order();  // equal values, of which the first places stay
    std::nth_element(keys_.begin(), keys_.begin() + (k_ - 1), keys_.end());
    for (size_t i = 0; i < size_t(k_); ++i) {
      const uint32_t bits = uint32_t(keys_[i] >> 32);
      std::memcpy(&values_[i], &bits, sizeof bits);
      places_[i] = int32_t(uint32_t(keys_[i]));
    }
    bound_ = std::nextafter(values_[size_t(k_ - 1)], std::numeric_limits<float>::infinity());
    found_ = k_;
  }

  int64_t k_, room_, found_ = 0;
  float bound_ = std::numeric_limits<float>::infinity();
  std::vector<float> values_;
  std::vector<int32_t> places_;
  std::vector<uint64_t> keys_;
};

std::vector<float> by_coordinates(const float* points, int64_t n, int64_t d) {
  const int64_t tiles = ceil_div(n, kTile);
  std::vector<float> lines(size_t(tiles * d * kTile), 0.0f);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < d; ++k) lines[size_t((i / kTile * d + k) * kTile + i % kTile)] = points[i * d + k];
  return lines;
}

// Orders points from coarse to fine: at every level, in the order given, all that lie further than the level's radius
// from everything chosen so far; then the radius is halved.
class CoarseToFine {
 public:
  CoarseToFine(const Isa& isa, int threads, const float* points, int64_t n, int64_t d)
      : isa_(isa), threads_(threads), points_(points), d_(d), left_(size_t(n)), gap_(size_t(n)) {
    for (int64_t i = 0; i < n; ++i) left_[size_t(i)] = i;
    std::fill(gap_.begin(), gap_.end(), std::numeric_limits<float>::infinity());
  }

  void run(int64_t* out) {
    if (left_.empty()) return;
    pack();
    chosen_ = {0};
    settle(out);
    float radius = 0.0f;
    for (size_t i = 1; i < left_.size(); ++i) radius = std::max(radius, gap_[i]);
    const float least = radius * 1e-14f;
    while (compact(), !left_.empty()) {
      radius *= 0.25f;  // of squares
      if (!(radius > least)) {
        out = std::copy(left_.begin(), left_.end(), out);
        return;
      }
      for (size_t at = 0; at < left_.size();) {
        at = choose(at, radius);
        settle(out);
      }
    }
  }

 private:
  static constexpr size_t kBatch = 128;

  void pack() {
    std::vector<float> rows(left_.size() * size_t(d_));
    for (size_t i = 0; i < left_.size(); ++i)
      std::copy(points_ + left_[i] * d_, points_ + (left_[i] + 1) * d_, rows.begin() + int64_t(i) * d_);
    lines_ = by_coordinates(rows.data(), int64_t(left_.size()), d_);
  }

  // Drops what has been chosen (a negative gap).
  void compact() {
    size_t kept = 0;
    for (size_t i = 0; i < left_.size(); ++i)
      if (gap_[i] >= 0.0f) {
        left_[kept] = left_[i];
        gap_[kept++] = gap_[i];
      }
    left_.resize(kept);
    gap_.resize(kept);
    pack();
  }

  const float* point(size_t place) const { return points_ + left_[place] * d_; }

  // Chooses up to kBatch points from place `at` on; returns the place to go on from.
  size_t choose(size_t at, float radius) {
    chosen_.clear();
    size_t seen = 0;
    for (; at < left_.size() && seen < kBatch; ++at) {
      if (!(gap_[at] > radius)) continue;
      ++seen;
      bool free = true;
      for (size_t other : chosen_) {
        float distance = 0.0f;
        for (int64_t k = 0; k < d_; ++k) {
          const float e = point(at)[k] - point(other)[k];
          distance += e * e;
        }
        if (!(distance > radius)) {
          free = false;
          break;
        }
      }
      if (free) chosen_.push_back(at);
    }
    return at;
  }

  // Writes the chosen points and measures all others against them.
  void settle(int64_t*& out) {
    if (chosen_.empty()) return;
    const size_t groups = (chosen_.size() + 3) / 4;
    std::vector<float> rows(groups * 4 * size_t(d_));
    for (size_t i = 0; i < groups * 4; ++i) {
      const float* from = point(chosen_[std::min(i, chosen_.size() - 1)]);
      std::copy(from, from + d_, rows.begin() + int64_t(i) * d_);
    }
    const int64_t tiles = ceil_div(int64_t(left_.size()), kTile), part = 16;
    const double work = double(left_.size()) * double(chosen_.size()) * double(d_);
    parallel_for(work < double(kSmallWork) ? 1 : threads_, ceil_div(tiles, part), [&](int64_t job) {
      Buffer<float> distances(4 * kTile);
      for (int64_t tile = job * part; tile < std::min(tiles, (job + 1) * part); ++tile) {
        const int count = tile_count(int64_t(left_.size()), tile);
        float* gap = gap_.data() + tile * kTile;
        for (size_t g = 0; g < groups; ++g) {
          isa_.search.squared_distances(lines_.data() + tile * d_ * kTile, d_, rows.data() + g * 4 * size_t(d_),
                                        distances.data());
          for (int r = 0; r < 4; ++r)
            for (int j = 0; j < count; ++j) gap[j] = std::min(gap[j], distances.data()[r * kTile + j]);
        }
      }
    });
    for (size_t place : chosen_) {
      gap_[place] = -1.0f;
      *out++ = left_[place];
    }
  }

  const Isa& isa_;
  int threads_;
  const float* points_;
  int64_t d_;
  std::vector<int64_t> left_;  // the points that are not chosen yet, as of the last compaction
  std::vector<float> gap_;     // squared distance to what is chosen; negative: chosen
  std::vector<float> lines_;
  std::vector<size_t> chosen_;
};

}  // namespace

// out (n): a permutation of the points (n, d) from coarse to fine, starting with point 0.
SGGP_API int sggp_coarse_to_fine(int isa_index, int threads, const float* points, int64_t n, int64_t d, int64_t* out) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || d < 0) return kBadArgument;
    CoarseToFine(*isa, threads, points, n, d).run(out);
    return kOk;
  });
}

// out (q, k): the places of the k points (n, d) nearest to every query (q, d), nearest first, -1 beyond the last.
// `before` (q) or null: only points at places below a query's number count.
SGGP_API int sggp_nearest(int isa_index, int threads, const float* points, int64_t n, int64_t d, const float* queries,
                          int64_t q, int64_t k, const int64_t* before, int64_t* out) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || n > std::numeric_limits<int32_t>::max() || d < 0 || q < 0 || k < 1)
      return kBadArgument;
    const std::vector<float> lines = by_coordinates(points, n, d);
    const auto reach = [&](int64_t row) { return before ? std::min(before[row], n) : n; };
    const int64_t jobs = ceil_div(q, kJobRows);
    parallel_for(threads, jobs, [&](int64_t turn) {
      const int64_t job = jobs - 1 - turn;  // where places ascend, the last have the most earlier rows
      const int64_t start = job * kJobRows, stop = std::min(q, start + kJobRows);
      std::vector<Smallest> best(size_t(stop - start), Smallest(k));
      std::vector<float> rows(size_t(4 * d), 0.0f);
      Buffer<float> distances(4 * kTile);
      int64_t most = 0;
      for (int64_t row = start; row < stop; ++row) most = std::max(most, reach(row));
      for (int64_t tile = 0; tile * kTile < most; ++tile)
        for (int64_t row = start; row < stop; row += 4) {
          const int64_t group = std::min<int64_t>(4, stop - row);
          int64_t limits[4], any = 0;
          for (int64_t r = 0; r < group; ++r) any = std::max(any, limits[r] = reach(row + r) - tile * kTile);
          if (any <= 0) continue;
          std::copy(queries + row * d, queries + (row + group) * d, rows.begin());
          isa->search.squared_distances(lines.data() + tile * d * kTile, d, rows.data(), distances.data());
          for (int64_t r = 0; r < group; ++r)
            if (limits[r] > 0)
              best[size_t(row + r - start)].offer(*isa, distances.data() + r * kTile,
                                                  int(std::min<int64_t>(limits[r], kTile)), int32_t(tile * kTile));
        }
      for (int64_t row = start; row < stop; ++row) best[size_t(row - start)].finish(*isa, out + row * k);
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
