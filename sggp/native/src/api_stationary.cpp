// Stationary kernels behind the C interface.
#include <vector>

#include "api.h"
#include "driver.h"
#include "symmetric.h"

namespace {

template <class T> class Stationary final : public Source<T> {
 public:
  Stationary(const StationaryKernels<T>& kernels, int family, T alpha, const T* a, const T* b, const T* weights, int64_t d)
      : kernels_(kernels), family_(family), alpha_(alpha), a_(a), b_(b), weights_(weights), d_(d) {}

  size_t packed_bytes() const override { return round_up(sizeof(T) * size_t(kTile) * size_t(d_), 64); }
  int chunk_rows() const override { return 2 * kTileRows; }
  double entry_cost() const override { return double(d_) + 10.0; }

  void pack(int64_t first, int count, unsigned char* out) const override {
    kernels_.pack(b_ + first * d_, d_, count, reinterpret_cast<T*>(out));
  }

  void fill(int64_t row, int rows, int64_t, int count, const unsigned char* packed, T* k) const override {
    kernels_.tile(family_, alpha_, a_ + row * d_, weights_, d_, rows, reinterpret_cast<const T*>(packed), count, k);
  }

 private:
  const StationaryKernels<T>& kernels_;
  int family_;
  T alpha_;
  const T *a_, *b_, *weights_;
  int64_t d_;
};

bool usable(const Isa* isa, int64_t n, int64_t m, int64_t d, int64_t s) {
  return isa != nullptr && n >= 0 && m >= 0 && d >= 0 && s >= 0;
}

// v null: the block; otherwise the product, for a == b by halves of K where that fits in `square_budget` bytes.
template <class T>
int stationary(int isa_index, int threads, int family, double scale, double alpha, const T* a, int64_t n, const T* b,
               int64_t m, int64_t d, const T* weights, const T* v, int64_t s, T* out,
               int64_t pack_bytes, int64_t square_budget) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (!usable(isa, n, m, d, s)) return kBadArgument;
    if (!known_family(family, alpha)) return kUnknownFamily;
    const Kernels<T>& kernels = kernels_of<T>(*isa);
    const Stationary<T> source(kernels.stationary, family, T(alpha), a, b, weights, d);
    if (v == nullptr)
      block_of<T>(source, n, m, T(scale), out, threads, pack_bytes);
    else if (a == b && n == m && n > 2 * kTile &&
             square_bytes(source, kernels.product, n, s, threads) <= double(square_budget))
      square_matmul_of<T>(source, kernels.product, n, v, s, T(scale), out, threads);
    else
      matmul_of<T>(source, kernels.product, n, m, v, s, T(scale), out, threads, pack_bytes);
    return kOk;
  });
}

// gradient (d + 1): derivatives in log length scale, then in scale.
template <class T>
int stationary_gradient(int isa_index, int threads, int family, double scale, double alpha, const T* a, int64_t n,
                        const T* b, int64_t m, int64_t d, const T* left, const T* right, int64_t s,
                        double* gradient, int64_t pack_bytes) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (!usable(isa, n, m, d, s)) return kBadArgument;
    if (!known_family(family, alpha)) return kUnknownFamily;
    for (int64_t k = 0; k <= d; ++k) gradient[k] = 0.0;
    const StationaryKernels<T>& kernels = kernels_of<T>(*isa).stationary;
    const Stationary<T> source(kernels, family, T(alpha), a, b, nullptr, d);
    const size_t bytes = source.packed_bytes();
    const size_t tile_bytes = bytes + round_up(sizeof(T) * size_t(kTile) * size_t(s), 64);
    const Plan p = plan_for(source, n, m, d + s, tile_bytes, threads, pack_bytes);
    Buffer<unsigned char> packed(tile_bytes * size_t(p.batch));
    std::vector<double> parts(size_t(p.chunks) * size_t(d + 1), 0.0);
    for (int64_t start = 0; start < p.tiles; start += p.batch) {
      const int64_t here = std::min(p.batch, p.tiles - start);
      parallel_for(p.threads, here, [&](int64_t t) {
        const int64_t first = (start + t) * kTile;
        const int count = tile_count(m, start + t);
        unsigned char* at = packed.data() + size_t(t) * tile_bytes;
        source.pack(first, count, at);
        kernels.pack(right + first * s, s, count, reinterpret_cast<T*>(at + bytes));
      });
      parallel_for(p.threads, p.chunks, [&](int64_t chunk) {
        const int64_t row = chunk * p.rows;
        const int rows = int(std::min(p.rows, n - row));
        Buffer<T> work(size_t(d + 1) * 64 + size_t(rows) * kStride);
        double* sums = parts.data() + chunk * (d + 1);
        for (int64_t t = 0; t < here; ++t) {
          const unsigned char* at = packed.data() + size_t(t) * tile_bytes;
          kernels.gradient(family, T(alpha), a + row * d, d, left + row * s, s, rows, reinterpret_cast<const T*>(at),
                           reinterpret_cast<const T*>(at + bytes), tile_count(m, start + t), work.data(), sums,
                           sums + d);
        }
      });
    }
    for (int64_t chunk = 0; chunk < p.chunks; ++chunk)
      for (int64_t k = 0; k <= d; ++k) gradient[k] += parts[size_t(chunk * (d + 1) + k)];
    for (int64_t k = 0; k < d; ++k) gradient[k] *= scale;
    return kOk;
  });
}

}  // namespace

SGGP_API int sggp_abi_version() { return kAbiVersion; }

SGGP_API int sggp_isa_count() {
  int count = 0;
  supported_isas(&count);
  return count;
}

SGGP_API const char* sggp_isa_name(int isa) {
  const Isa* found = isa < 0 ? nullptr : isa_at(isa);
  return found ? found->name : nullptr;
}

#define SGGP_STATIONARY(suffix, T)                                                                                   \
  SGGP_API int sggp_stationary_##suffix(int isa, int threads, int family, double scale, double alpha, const T* a,    \
                                        int64_t n, const T* b, int64_t m, int64_t d, const T* weights, const T* v,   \
                                        int64_t s, T* out, int64_t pack_bytes, int64_t square_budget) {              \
    return stationary<T>(isa, threads, family, scale, alpha, a, n, b, m, d, weights, v, s, out, pack_bytes,          \
                         square_budget);                                                                             \
  }                                                                                                                  \
  SGGP_API int sggp_gradient_##suffix(int isa, int threads, int family, double scale, double alpha, const T* a,      \
                                      int64_t n, const T* b, int64_t m, int64_t d, const T* left, const T* right,    \
                                      int64_t s, double* gradient, int64_t pack_bytes) {                             \
    return stationary_gradient<T>(isa, threads, family, scale, alpha, a, n, b, m, d, left, right, s, gradient,       \
                                  pack_bytes);                                                                       \
  }

SGGP_STATIONARY(f32, float)
SGGP_STATIONARY(f64, double)
