// The product of one tile of K with one tile of V, register-blocked; see kernels.h.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace SGGP_ISA {

#if SGGP_BYTES == 64 || defined(__aarch64__)
constexpr int kMaxChunk = 4;
constexpr int kRowsOf[kMaxChunk + 1] = {0, 12, 12, 8, 6};  // rows per block for 1..4 registers of columns
#else
constexpr int kMaxChunk = 2;
constexpr int kRowsOf[kMaxChunk + 1] = {0, 8, 6};
#endif
constexpr int kDotRows = 4, kDotCols = 4;

// Registers of columns that s columns are split into, and the columns left for dot products. A register that would be
// mostly empty is not worth its time.
template <class T> SGGP_INLINE int64_t full_registers(int64_t s) {
  constexpr int W = Simd<T>::W;
  const int64_t left = s % W;
  return s / W + (4 * left > 3 * W ? 1 : 0);
}

template <class T> int64_t packed_size(int64_t s) {
  constexpr int W = Simd<T>::W;
  const int64_t registers = full_registers<T>(s);
  const int64_t left = s > registers * W ? s - registers * W : 0;
  return (registers * W + left) * kTile;
}

// Next chunk of at most kMaxChunk registers; four and one become three and two.
SGGP_INLINE int next_chunk(int64_t registers) {
  if (registers <= kMaxChunk) return int(registers);
  if (registers == kMaxChunk + 1) return (kMaxChunk + 2) / 2;
  return kMaxChunk;
}

// work(chunk, column): every chunk of registers of s columns, and its first column; returns the first column left over.
template <class T, class Work> SGGP_INLINE int64_t each_chunk(int64_t s, const Work& work) {
  const int64_t registers = full_registers<T>(s);
  int64_t column = 0;
  for (int64_t done = 0; done < registers;) {
    const int chunk = next_chunk(registers - done);
    work(chunk, column);
    column += chunk * Simd<T>::W;
    done += chunk;
  }
  return column;
}

template <class T> void pack_values(const T* v, int64_t s, int count, T* packed) {
  int64_t column = each_chunk<T>(s, [&](int chunk, int64_t first) {
    const int64_t width = chunk * Simd<T>::W, real = s - first < width ? s - first : width;
    for (int j = 0; j < kTile; ++j) {
      T* out = packed + j * width;
      const int64_t have = j < count ? real : 0;
      if (have > 0) std::memcpy(out, v + j * s + first, sizeof(T) * have);
      if (have < width) std::memset(out + have, 0, sizeof(T) * (width - have));
    }
    packed += width * kTile;
  });
  for (; column < s; ++column, packed += kTile) {
    for (int j = 0; j < count; ++j) packed[j] = v[j * s + column];
    for (int j = count; j < kTile; ++j) packed[j] = T(0);
  }
}

// R outputs by C registers of columns, summed over `depth` entries. Across picks the operand: outputs are rows of K and
// depth runs along them, or (Across) outputs are columns of K and depth runs down the rows.
template <class T, int R, int C, bool Across>
void outer_block(const T* k, const T* v, int depth, double* acc, int64_t s, int64_t real) {
  constexpr int W = Simd<T>::W;
  constexpr int output = Across ? 1 : kStride, step = Across ? kStride : 1;
  Reg<T> sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c] = Reg<T>{};
  for (int j = 0; j < depth; ++j) {
    Reg<T> x[C];
    for (int c = 0; c < C; ++c) x[c] = load(v + (j * C + c) * W);
    for (int r = 0; r < R; ++r) {
      const Reg<T> entry = set(k[r * output + j * step]);
      for (int c = 0; c < C; ++c) sum[r][c] = fma(entry, x[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    T values[C * W];
    for (int c = 0; c < C; ++c) store<T>(values + c * W, sum[r][c]);
    double* out = acc + r * s;
    if (real == C * W)
      for (int i = 0; i < C * W; ++i) out[i] += double(values[i]);
    else
      for (int64_t i = 0; i < real; ++i) out[i] += double(values[i]);
  }
}

template <class T, int C, bool Across>
void outer_rows(const T* k, int outputs, const T* v, int depth, double* acc, int64_t s, int64_t real) {
  constexpr int R = kRowsOf[C];
  constexpr int output = Across ? 1 : kStride;
  int r = 0;
  for (; r + R <= outputs; r += R) outer_block<T, R, C, Across>(k + r * output, v, depth, acc + r * s, s, real);
  for (; r + 2 <= outputs; r += 2) outer_block<T, 2, C, Across>(k + r * output, v, depth, acc + r * s, s, real);
  for (; r < outputs; ++r) outer_block<T, 1, C, Across>(k + r * output, v, depth, acc + r * s, s, real);
}

template <class T, int R, int C> void dot_block(const T* k, const T* v, int count, double* acc, int64_t s) {
  constexpr int W = Simd<T>::W;
  Reg<T> sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c] = Reg<T>{};
  for (int j = 0; j < count; j += W) {  // columns past the end are multiplied by zeros of the packed V
    Reg<T> x[C];
    for (int c = 0; c < C; ++c) x[c] = load(v + c * kTile + j);
    for (int r = 0; r < R; ++r) {
      const Reg<T> entry = load(k + r * kStride + j);
      for (int c = 0; c < C; ++c) sum[r][c] = fma(entry, x[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r * s + c] += double(lane_sum<T>(sum[r][c]));
}

template <class T, int C> void dot_rows(const T* k, int rows, const T* v, int count, double* acc, int64_t s) {
  int r = 0;
  for (; r + kDotRows <= rows; r += kDotRows)
    dot_block<T, kDotRows, C>(k + r * kStride, v, count, acc + r * s, s);
  for (; r < rows; ++r) dot_block<T, 1, C>(k + r * kStride, v, count, acc + r * s, s);
}

// Column j of the tile gets sum_r K_rj v_r: registers of columns, one column of V at a time.
template <class T> void dot_across(const T* k, int rows, const T* v, int count, double* acc, int64_t s) {
  constexpr int W = Simd<T>::W, C = 4;
  for (int j = 0; j < count; j += C * W) {
    Reg<T> sum[C];
    for (int c = 0; c < C; ++c) sum[c] = Reg<T>{};
    for (int r = 0; r < rows; ++r) {
      const Reg<T> x = set(v[r]);
      for (int c = 0; c < C; ++c) sum[c] = fma(load(k + r * kStride + j + c * W), x, sum[c]);
    }
    T values[C * W];
    for (int c = 0; c < C; ++c) store<T>(values + c * W, sum[c]);
    const int width = count - j < C * W ? count - j : C * W;
    double* out = acc + j * s;
    if (s == 1)
      for (int i = 0; i < width; ++i) out[i] += double(values[i]);
    else
      for (int i = 0; i < width; ++i) out[i * s] += double(values[i]);
  }
}

template <class T, bool Across>
const T* multiply_registers(const T* k, int outputs, const T* packed, int first, int64_t s, int depth, double* acc) {
  each_chunk<T>(s, [&](int chunk, int64_t column) {
    const int64_t width = chunk * Simd<T>::W, real = s - column < width ? s - column : width;
    const T* v = packed + first * width;
    if (chunk == 1) outer_rows<T, 1, Across>(k, outputs, v, depth, acc + column, s, real);
    if (chunk == 2) outer_rows<T, 2, Across>(k, outputs, v, depth, acc + column, s, real);
#if SGGP_BYTES == 64 || defined(__aarch64__)
    if (chunk == 3) outer_rows<T, 3, Across>(k, outputs, v, depth, acc + column, s, real);
    if (chunk == 4) outer_rows<T, 4, Across>(k, outputs, v, depth, acc + column, s, real);
#endif
    packed += width * kTile;
  });
  return packed;
}

template <class T> void multiply(const T* k, int rows, const T* packed, int64_t s, int count, double* acc) {
  packed = multiply_registers<T, false>(k, rows, packed, 0, s, count, acc);
  int64_t column = full_registers<T>(s) * Simd<T>::W;
  for (; column + kDotCols <= s; column += kDotCols, packed += kDotCols * kTile)
    dot_rows<T, kDotCols>(k, rows, packed, count, acc + column, s);
  for (; column < s; ++column, packed += kTile) dot_rows<T, 1>(k, rows, packed, count, acc + column, s);
}

template <class T>
void multiply_transposed(const T* k, int rows, const T* packed, int first, int64_t s, int count, double* acc) {
  packed = multiply_registers<T, true>(k, count, packed, first, s, rows, acc);
  for (int64_t column = full_registers<T>(s) * Simd<T>::W; column < s; ++column, packed += kTile)
    dot_across<T>(k, rows, packed + first, count, acc + column, s);
}

}  // namespace SGGP_ISA
