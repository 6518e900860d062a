// K(x, x) V with every tile of K made once: a tile above the diagonal is multiplied by the columns of its own rows and,
// transposed, by those of its columns. Half the evaluations of `matmul_of` for the square product.
//
// Row tiles are dealt to threads in a fixed order and every thread sums into its own double precision output, so a call
// gives the same numbers each time; another number of threads may change the last bit.
#pragma once

#include "driver.h"

constexpr int kSquareRows = 128;  // rows of a tile made at a time

// Bytes that `square_matmul_of` allocates.
template <class T>
double square_bytes(const Source<T>& source, const ProductKernels<T>& product, int64_t n, int64_t s, int threads) {
  const double tile = double(source.packed_bytes()) + sizeof(T) * double(product.packed_size(s)) + 64.0;
  return tile * double(ceil_div(n, kTile)) + (8.0 * double(n * s) + sizeof(T) * kSquareRows * kStride) * threads;
}

template <class T>
void square_matmul_of(const Source<T>& source, const ProductKernels<T>& product, int64_t n, const T* v, int64_t s,
                      T scale, T* out, int threads) {
  const size_t bytes = source.packed_bytes();
  const size_t tile_bytes = bytes + round_up(sizeof(T) * size_t(product.packed_size(s)), 64);
  const int64_t tiles = ceil_div(n, kTile);
  const int64_t lanes = std::min<int64_t>(std::max(threads, 1), tiles);
  Buffer<unsigned char> packed(tile_bytes * size_t(tiles));
  auto points = [&](int64_t t) { return packed.data() + size_t(t) * tile_bytes; };
  auto values = [&](int64_t t) { return reinterpret_cast<T*>(points(t) + bytes); };
  parallel_for(threads, tiles, [&](int64_t t) {
    source.pack(t * kTile, tile_count(n, t), points(t));
    product.pack(v + t * kTile * s, s, tile_count(n, t), values(t));
  });
  Buffer<double> sums(size_t(lanes * n * s));
  parallel_for(threads, lanes, [&](int64_t lane) {
    double* acc = sums.data() + lane * n * s;
    std::fill(acc, acc + n * s, 0.0);
    Buffer<T> k(size_t(kSquareRows) * kStride);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t turn = t % (2 * lanes);  // 0 1 2 2 1 0 ...: later tiles are shorter
      if ((turn < lanes ? turn : 2 * lanes - 1 - turn) != lane) continue;
      for (int64_t other = t; other < tiles; ++other) {
        const int count = tile_count(n, other);
        for (int first = 0; first < tile_count(n, t); first += kSquareRows) {
          const int rows = std::min(kSquareRows, tile_count(n, t) - first);
          const int64_t row = t * kTile + first;
          source.fill(row, rows, other * kTile, count, points(other), k.data());
          product.multiply(k.data(), rows, values(other), s, count, acc + row * s);
          if (other > t) product.multiply_transposed(k.data(), rows, values(t), first, s, count, acc + other * kTile * s);
        }
      }
    }
  });
  const int64_t part = 1 << 14;
  parallel_for(threads, ceil_div(n * s, part), [&](int64_t p) {
    for (int64_t i = p * part; i < std::min(n * s, (p + 1) * part); ++i) {
      double total = 0.0;
      for (int64_t lane = 0; lane < lanes; ++lane) total += sums.data()[lane * n * s + i];
      out[i] = T(total * double(scale));
    }
  });
}
