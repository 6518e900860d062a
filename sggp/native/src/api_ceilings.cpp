// The engine's inner loops on one tile that never leaves the caches: what its products could reach at best.
#include <memory>
#include <vector>

#include "api.h"
#include "driver.h"

namespace {

constexpr int kCeilingRows = 48, kBitTileRows = 96;  // of a tile

// Runs one(work) `repeats` times on every thread, each with its own memory.
template <class Make> int repeated(int threads, int64_t repeats, const Make& make) {
  parallel_for(threads, threads, [&](int64_t) {
    auto once = make();
    for (int64_t i = 0; i < repeats; ++i) once();
  });
  return kOk;
}

template <class T> std::vector<T> spread(int64_t size) {
  std::vector<T> values(static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i) values[i] = T(i * 37 % 101) / T(101);
  return values;
}

template <class T> int evaluate(int isa_index, int threads, int family, int64_t d, int64_t repeats) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || threads < 1 || d < 0 || repeats < 0) return kBadArgument;
    if (!known_family(family, 1.0)) return kUnknownFamily;
    const StationaryKernels<T>& kernels = kernels_of<T>(*isa).stationary;
    const std::vector<T> points = spread<T>(kTile * d);
    return repeated(threads, repeats, [&] {
      auto packed = std::make_shared<Buffer<T>>(size_t(kTile * d));
      auto k = std::make_shared<Buffer<T>>(size_t(kCeilingRows * kStride));
      kernels.pack(points.data(), d, kTile, packed->data());
      return [&, packed, k, family, d] {
        kernels.tile(family, T(1), points.data(), nullptr, d, kCeilingRows, packed->data(), kTile, k->data());
      };
    });
  });
}

template <class T> int multiply(int isa_index, int threads, int64_t s, int64_t repeats) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || threads < 1 || s < 0 || repeats < 0) return kBadArgument;
    const ProductKernels<T>& kernels = kernels_of<T>(*isa).product;
    const std::vector<T> v = spread<T>(kTile * s + 1), tile = spread<T>(kCeilingRows * kStride);
    return repeated(threads, repeats, [&] {
      auto packed = std::make_shared<Buffer<T>>(size_t(kernels.packed_size(s)));
      auto sums = std::make_shared<std::vector<double>>(size_t(kCeilingRows * s));
      kernels.pack(v.data(), s, kTile, packed->data());
      return [&, packed, sums, s] { kernels.multiply(tile.data(), kCeilingRows, packed->data(), s, kTile, sums->data()); };
    });
  });
}

}  // namespace

// On every thread, `repeats` times a tile of kCeilingRows by kTile entries of the kernel between points of dimension d.
SGGP_API int sggp_ceiling_evaluate_f32(int isa, int threads, int family, int64_t d, int64_t repeats) {
  return evaluate<float>(isa, threads, family, d, repeats);
}
SGGP_API int sggp_ceiling_evaluate_f64(int isa, int threads, int family, int64_t d, int64_t repeats) {
  return evaluate<double>(isa, threads, family, d, repeats);
}

// On every thread, `repeats` times the product of such a tile with s columns.
SGGP_API int sggp_ceiling_multiply_f32(int isa, int threads, int64_t s, int64_t repeats) {
  return multiply<float>(isa, threads, s, repeats);
}
SGGP_API int sggp_ceiling_multiply_f64(int isa, int threads, int64_t s, int64_t repeats) {
  return multiply<double>(isa, threads, s, repeats);
}

// On every thread, `repeats` times the intersections of kBitTileRows rows with kTile columns of `words` 64-bit words.
SGGP_API int sggp_ceiling_intersect(int isa_index, int threads, int64_t words, int64_t repeats) {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || threads < 1 || words < 0 || repeats < 0) return kBadArgument;
    std::vector<uint64_t> bits(size_t(kTile * words) + 1);
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = i * 0x9e3779b97f4a7c15u;
    return repeated(threads, repeats, [&] {
      auto counts = std::make_shared<Buffer<int32_t>>(size_t(kBitTileRows * kStride));
      return [&, counts, words] {
        isa->bits.intersections(bits.data(), words, kBitTileRows, bits.data(), kTile, counts->data());
      };
    });
  });
}

// Fills `out`, which nobody has touched yet, the way blocks are written.
SGGP_API int sggp_ceiling_fill(int threads, float* out, int64_t count) {
  return guarded([&]() -> int {
    if (threads < 1 || count < 0) return kBadArgument;
    expect_writes(out, sizeof(float) * size_t(count));
    constexpr int64_t kPart = int64_t(1) << 18;
    const std::vector<float> line(size_t(kTile), 1.0f);
    parallel_for(threads, ceil_div(count, kPart), [&](int64_t part) {
      const int64_t last = std::min(count, (part + 1) * kPart);
      for (int64_t at = part * kPart; at < last; at += kTile)
        write_scaled(out + at, line.data(), int(std::min<int64_t>(kTile, last - at)), 1.0f, true);
    });
    return kOk;
  });
}
