// The near part of a far field behind the C interface: groups of targets, each with its own runs of sources.
#include <algorithm>

#include "api.h"
#include "driver.h"

namespace {

// Rows of the targets (n, d) and the sources (m, d), in the order of their trees.
template <class T> struct NearRows {
  const double *a, *b;
  int64_t n, m, d;
  const T* v;  // (m, s)
  int64_t s;
};

// Gathers rows of runs of sources, a tile at a time.
template <class T> class Gather {
 public:
  Gather(const NearRows<T>& rows, const double* centre, const int64_t* runs, int64_t count)
      : rows_(rows), centre_(centre), runs_(runs), count_(count), at_(count > 0 ? runs[0] : 0) {}

  // The next rows, at most kTile: differences from the centre in `points` (kTile, d), values in `values` (kTile, s).
  int next(T* points, T* values) {
    const int64_t d = rows_.d, s = rows_.s;
    int found = 0;
    while (run_ < count_ && found < kTile) {
      const int64_t some = std::min<int64_t>(kTile - found, runs_[2 * run_ + 1] - at_);
      for (int64_t i = 0; i < some; ++i)
        for (int64_t k = 0; k < d; ++k) points[(found + i) * d + k] = T(rows_.b[(at_ + i) * d + k] - centre_[k]);
      std::copy(rows_.v + at_ * s, rows_.v + (at_ + some) * s, values + found * s);
      found += int(some);
      at_ += some;
      if (at_ == runs_[2 * run_ + 1] && ++run_ < count_) at_ = runs_[2 * run_];
    }
    return found;
  }

 private:
  const NearRows<T>& rows_;
  const double* centre_;
  const int64_t* runs_;
  int64_t count_, run_ = 0, at_;
};

bool within(const int64_t* ranges, int64_t count, int64_t most) {
  for (int64_t i = 0; i < count; ++i)
    if (ranges[2 * i] < 0 || ranges[2 * i] >= ranges[2 * i + 1] || ranges[2 * i + 1] > most) return false;
  return true;
}

// Rows `first`..`last` of the targets: coordinates are taken from the first of them before anything is rounded.
template <class T>
void group_product(const Kernels<T>& kernels, int family, T alpha, double scale, const NearRows<T>& rows,
                   const int64_t* group, const int64_t* runs, int64_t count, T* out) {
  const int64_t d = rows.d, s = rows.s, height = group[1] - group[0];
  const double* centre = rows.a + group[0] * d;
  Buffer<T> targets(size_t(height * d)), points(size_t(kTile * d)), values(size_t(kTile * s));
  Buffer<T> packed(size_t(kTile * d)), columns(size_t(kernels.product.packed_size(s)));
  Buffer<T> k(size_t(kTileRows) * kStride);
  Buffer<double> sums(size_t(height * s));
  for (int64_t i = 0; i < height; ++i)
    for (int64_t c = 0; c < d; ++c) targets.data()[i * d + c] = T(centre[i * d + c] - centre[c]);
  std::fill(sums.data(), sums.data() + height * s, 0.0);
  Gather<T> gather(rows, centre, runs, count);
  for (int width = gather.next(points.data(), values.data()); width > 0;
       width = gather.next(points.data(), values.data())) {
    kernels.stationary.pack(points.data(), d, width, packed.data());
    kernels.product.pack(values.data(), s, width, columns.data());
    for (int64_t done = 0; done < height; done += kTileRows) {
      const int some = int(std::min<int64_t>(kTileRows, height - done));
      kernels.stationary.tile(family, alpha, targets.data() + done * d, nullptr, d, some, packed.data(), width, k.data());
      kernels.product.multiply(k.data(), some, columns.data(), s, width, sums.data() + done * s);
    }
  }
  for (int64_t i = 0; i < height * s; ++i) out[group[0] * s + i] = T(sums.data()[i] * scale);
}

// out (n, s): rows groups[g] of K(a, b) v over the runs offsets[g]..offsets[g + 1] of sources. Groups do not overlap.
template <class T>
int near_products(int isa_index, int threads, int family, double scale, double alpha, const NearRows<T>& rows,
                  const int64_t* groups, const int64_t* offsets, int64_t count, const int64_t* runs, T* out) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || rows.n < 0 || rows.m < 0 || rows.d < 1 || rows.s < 1 || count < 0) return kBadArgument;
    if (!known_family(family, alpha)) return kUnknownFamily;
    if (!within(groups, count, rows.n)) return kBadArgument;
    for (int64_t g = 0; g < count; ++g)
      if (offsets[g] > offsets[g + 1]) return kBadArgument;
    if (count > 0 && (offsets[0] != 0 || !within(runs, offsets[count], rows.m))) return kBadArgument;
    parallel_for(threads, count, [&](int64_t g) {
      group_product<T>(kernels_of<T>(*isa), family, T(alpha), scale, rows, groups + 2 * g, runs + 2 * offsets[g],
                       offsets[g + 1] - offsets[g], out);
    });
    return kOk;
  });
}

}  // namespace

#define SGGP_NEAR(suffix, T)                                                                                          \
  SGGP_API int sggp_near_##suffix(int isa, int threads, int family, double scale, double alpha, const double* a,     \
                                  int64_t n, const double* b, int64_t m, int64_t d, const T* v, int64_t s,           \
                                  const int64_t* groups, const int64_t* offsets, int64_t count, const int64_t* runs, \
                                  T* out) {                                                                          \
    return near_products<T>(isa, threads, family, scale, alpha, {a, b, n, m, d, v, s}, groups, offsets, count, runs, \
                            out);                                                                                    \
  }

SGGP_NEAR(f32, float)
SGGP_NEAR(f64, double)
