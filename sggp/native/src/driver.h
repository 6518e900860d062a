// Blocks of K and products K V from tiles, whatever the kernel: packing, threads, and sums that do not depend on them.
//
// Columns are cut into tiles of kTile, tiles into segments of kSegment. Each tile is summed in T, each segment in
// double, and segments are added in order; so row i of a product is the same number for any set of rows computed with
// it and any number of threads. Packed tiles are made for as many segments at a time as fit in `pack_bytes` (a few
// tiles where not even one segment does).
#pragma once

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernels.h"
#include "parallel.h"

constexpr int kSegment = 16;
constexpr int64_t kSmallWork = 1 << 17;  // operations below which threads cost more than they save

// One kernel matrix: columns that can be packed by tiles, and tiles of K made from packed columns.
template <class T> class Source {
 public:
  virtual ~Source() = default;
  virtual size_t packed_bytes() const = 0;  // of one tile, a multiple of 64
  virtual int chunk_rows() const = 0;       // rows that one thread takes at a time, for all tiles in turn
  virtual double entry_cost() const = 0;    // operations per entry, roughly
  virtual void pack(int64_t first, int count, unsigned char* out) const = 0;
  // k: (rows, kStride), written up to `count` columns rounded up to the lanes of a register at least.
  virtual void fill(int64_t row, int rows, int64_t first, int count, const unsigned char* packed, T* k) const = 0;
};

inline size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
  int threads;
  int64_t rows;   // per chunk
  int64_t chunks, tiles, batch;  // batch: tiles packed at a time, whole segments
};

template <class T>
Plan plan_for(const Source<T>& source, int64_t n, int64_t m, int64_t extra_cost, size_t tile_bytes, int threads,
              int64_t pack_bytes) {
  Plan p;
  const double work = double(n) * double(m) * (source.entry_cost() + double(extra_cost));
  p.threads = work < double(kSmallWork) ? 1 : std::max(threads, 1);
  const int64_t share = ceil_div(ceil_div(n, p.threads), 4) * 4;
  p.rows = std::max<int64_t>(1, std::min<int64_t>(source.chunk_rows(), share));
  p.chunks = ceil_div(n, p.rows);
  p.tiles = ceil_div(m, kTile);
  const int64_t fit = std::max<int64_t>(1, pack_bytes / int64_t(std::max<size_t>(tile_bytes, 1)));
  p.batch = std::min(p.tiles, fit < kSegment ? fit : fit / kSegment * kSegment);
  return p;
}

inline int tile_count(int64_t m, int64_t tile) { return int(std::min<int64_t>(kTile, m - tile * kTile)); }

constexpr int64_t kStreamed = int64_t(1) << 24;  // bytes from which an output is written past the caches

// to = from * scale; `streamed`: past the caches, which would first read what is about to be overwritten.
template <class T> void write_scaled(T* to, const T* from, int count, T scale, bool streamed) {
  int j = 0;
#if defined(__SSE2__)
  typedef T Vector __attribute__((vector_size(16)));
  constexpr int width = 16 / int(sizeof(T));
  if (streamed) {
    for (; j < count && reinterpret_cast<uintptr_t>(to + j) % 64 != 0; ++j) to[j] = from[j] * scale;
    for (; j + 4 * width <= count; j += 4 * width)  // whole lines
      for (int h = 0; h < 4 * width; h += width) {
        Vector x;
        std::memcpy(&x, from + j + h, sizeof x);
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + j + h), (__m128i)(x * scale));
      }
  }
#else
  (void)streamed;
#endif
  for (; j < count; ++j) to[j] = from[j] * scale;
}

template <class T>
void block_of(const Source<T>& source, int64_t n, int64_t m, T scale, T* out, int threads,
              int64_t pack_bytes) {
  const size_t bytes = source.packed_bytes();
  const Plan p = plan_for(source, n, m, 0, bytes, threads, pack_bytes);
  expect_writes(out, sizeof(T) * size_t(n) * size_t(m));
  const bool streamed = int64_t(sizeof(T)) * n * m >= kStreamed;
  Buffer<unsigned char> packed(bytes * size_t(p.batch));
  for (int64_t start = 0; start < p.tiles; start += p.batch) {
    const int64_t here = std::min(p.batch, p.tiles - start);
    parallel_for(p.threads, here, [&](int64_t t) {
      source.pack((start + t) * kTile, tile_count(m, start + t), packed.data() + size_t(t) * bytes);
    });
    const int64_t segments = ceil_div(here, kSegment);
    parallel_for(p.threads, p.chunks * segments, [&](int64_t job) {
      const int64_t row = job / segments * p.rows, t0 = job % segments * kSegment;
      const int rows = int(std::min(p.rows, n - row));
      Buffer<T> k(size_t(kTileRows) * kStride);
      for (int64_t t = t0; t < std::min(here, t0 + kSegment); ++t) {
        const int64_t first = (start + t) * kTile;
        const int count = tile_count(m, start + t);
        for (int done = 0; done < rows; done += kTileRows) {
          const int some = std::min(kTileRows, rows - done);
          source.fill(row + done, some, first, count, packed.data() + size_t(t) * bytes, k.data());
          for (int r = 0; r < some; ++r) {
            const T* from = k.data() + r * kStride;
            T* to = out + (row + done + r) * m + first;
            write_scaled(to, from, count, scale, streamed);
          }
        }
      }
#if defined(__SSE2__)
      if (streamed) _mm_sfence();
#endif
    });
  }
}

// K V for the rows of one chunk and one segment, added to acc (rows, s).
template <class T>
void segment_product(const Source<T>& source, const ProductKernels<T>& product, int64_t row, int rows, int64_t m,
                     int64_t s, int64_t start, int64_t t0, int64_t t1, const unsigned char* packed, size_t bytes,
                     size_t tile_bytes, T* k, double* acc) {
  for (int64_t t = t0; t < t1; ++t) {
    const unsigned char* at = packed + size_t(t) * tile_bytes;
    const int count = tile_count(m, start + t);
    for (int done = 0; done < rows; done += kTileRows) {
      const int some = std::min(kTileRows, rows - done);
      source.fill(row + done, some, (start + t) * kTile, count, at, k);
      product.multiply(k, some, reinterpret_cast<const T*>(at + bytes), s, count, acc + done * s);
    }
  }
}

template <class T>
void matmul_of(const Source<T>& source, const ProductKernels<T>& product, int64_t n, int64_t m, const T* v, int64_t s,
               T scale, T* out, int threads,
              int64_t pack_bytes) {
  std::fill(out, out + n * s, T(0));
  const size_t bytes = source.packed_bytes();
  const size_t tile_bytes = bytes + round_up(sizeof(T) * size_t(product.packed_size(s)), 64);
  const Plan p = plan_for(source, n, m, s, tile_bytes, threads, pack_bytes);
  Buffer<unsigned char> packed(tile_bytes * size_t(p.batch));
  for (int64_t start = 0; start < p.tiles; start += p.batch) {
    const int64_t here = std::min(p.batch, p.tiles - start);
    parallel_for(p.threads, here, [&](int64_t t) {
      const int count = tile_count(m, start + t);
      unsigned char* at = packed.data() + size_t(t) * tile_bytes;
      source.pack((start + t) * kTile, count, at);
      product.pack(v + (start + t) * kTile * s, s, count, reinterpret_cast<T*>(at + bytes));
    });
    const int64_t segments = ceil_div(here, kSegment);
    auto add = [&](int64_t row, int64_t rows, const double* total) {
      for (int64_t i = 0; i < rows * s; ++i) out[row * s + i] += T(total[i] * double(scale));
    };
    if (p.chunks >= p.threads) {
      parallel_for(p.threads, p.chunks, [&](int64_t chunk) {
        const int64_t row = chunk * p.rows;
        const int rows = int(std::min(p.rows, n - row));
        Buffer<T> k(size_t(kTileRows) * kStride);
        Buffer<double> sums(size_t(2 * rows * s));
        double* part = sums.data();
        double* total = part + rows * s;
        std::memset(total, 0, sizeof(double) * size_t(rows * s));
        for (int64_t g = 0; g < segments; ++g) {
          std::memset(part, 0, sizeof(double) * size_t(rows * s));
          segment_product(source, product, row, rows, m, s, start, g * kSegment, std::min(here, (g + 1) * kSegment),
                          packed.data(), bytes, tile_bytes, k.data(), part);
          for (int64_t i = 0; i < rows * s; ++i) total[i] += part[i];
        }
        add(row, rows, total);
      });
      continue;
    }
    // Few rows: threads share the segments, whose sums are added in order afterwards.
    Buffer<double> parts(size_t(segments * n * s));
    std::memset(parts.data(), 0, sizeof(double) * size_t(segments * n * s));
    parallel_for(p.threads, p.chunks * segments, [&](int64_t job) {
      const int64_t row = job / segments * p.rows, g = job % segments;
      const int rows = int(std::min(p.rows, n - row));
      Buffer<T> k(size_t(kTileRows) * kStride);
      segment_product(source, product, row, rows, m, s, start, g * kSegment, std::min(here, (g + 1) * kSegment),
                      packed.data(), bytes, tile_bytes, k.data(), parts.data() + (g * n + row) * s);
    });
    for (int64_t g = 1; g < segments; ++g)
      for (int64_t i = 0; i < n * s; ++i) parts.data()[i] += parts.data()[g * n * s + i];
    add(0, n, parts.data());
  }
}
