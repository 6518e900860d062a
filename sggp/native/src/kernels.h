// What one instruction set offers: tables of plain functions over raw pointers, filled by isa_*.cpp.
//
// A tile is `rows` by kTile columns of K in memory, row-major with stride kStride. Points of a tile's columns are packed
// in panels of `panel` columns: panel p holds coordinate k of its columns at [p][k][0..panel). Columns past the end are
// zero points; callers multiply them by zero or drop them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "families.h"

constexpr int kTile = 256;          // columns of a tile
constexpr int kStride = kTile + 16; // not a power of two: rows of a tile fall into different cache sets
constexpr int kTileRows = 24;       // rows of a tile, few enough for the first cache; a multiple of every row block

template <class T> struct StationaryKernels {
  int panel;  // columns per panel, a divisor of kTile
  // `count` <= kTile points of dimension d, row-major, into ceil(count / panel) panels.
  void (*pack)(const T* points, int64_t d, int count, T* packed);
  // phi of squared distances between `rows` points and the panels that hold `count` columns. `weights` (d) or null:
  // distances of weighted differences.
  void (*tile)(int family, T alpha, const T* a, const T* weights, int64_t d, int rows, const T* packed, int count,
               T* k);
  // Adds sum_ij w_ij psi_ij (a_ik - b_jk)^2 to lengths[k] and sum_ij w_ij phi_ij to *scale, w = left right^T.
  // `left` (rows, s) row-major, `right` packed as points of dimension s, `work` of (d + 1) * 64 + rows * kStride values.
  void (*gradient)(int family, T alpha, const T* a, int64_t d, const T* left, int64_t s, int rows, const T* packed,
                   const T* right, int count, T* work, double* lengths, double* scale);
};

// K V for one tile. Column chunks of V (registers of columns) are multiplied by broadcast entries of K; the few columns
// left over by dot products along the tile.
template <class T> struct ProductKernels {
  int lanes;
  int64_t (*packed_size)(int64_t s);  // values that one packed tile of V takes
  void (*pack)(const T* v, int64_t s, int count, T* packed);
  // acc (rows, s) += K V in double, each tile summed in T first.
  void (*multiply)(const T* k, int rows, const T* packed, int64_t s, int count, double* acc);
  // acc (count, s) += K^T V in double, where the rows of K stand for rows first.. of the packed tile of V.
  void (*multiply_transposed)(const T* k, int rows, const T* packed, int first, int64_t s, int count, double* acc);
};

struct BitKernels {
  int panel;  // columns per panel
  // counts[r * kStride + j] = |a_r & b_j|: `rows` rows of `words` 64-bit words, and panels [p][word][column].
  void (*intersections)(const uint64_t* a, int64_t words, int rows, const uint64_t* packed, int count, int32_t* counts);
};

// Sums of min(a, b) where rows of `a` are lists: entry e of row r, starts[r] <= e < starts[r + 1], is values[e] (1 where
// values is null) in column keys[e]. The columns of a tile are bytes: line places[k] (kTile bytes, line 0 all zero) holds
// coordinate k. count[r * kStride + j] for all kTile columns.
struct ListKernels {
  void (*intersections)(const int64_t* starts, const int32_t* keys, const uint8_t* values, int rows,
                        const int32_t* places, const uint8_t* lines, int count, int32_t* counts);
};

template <class T> struct RatioKernels {
  // k = c / (sum_a + sum_b - c), 1 where both rows are zero.
  void (*ratio)(const int32_t* counts, const int32_t* sum_a, const int32_t* sum_b, int rows, int count, T* k);
};

// Points, noise and low-rank part of many small residual systems K - F F^T + noise.
struct SmallSystems {
  int family;
  double scale, alpha;
  const double* points;  // (n, d) divided by length scales
  int64_t d;
  const double* noise;     // (n)
  const double* low_rank;  // (n, rank)
  int64_t rank;
};

struct NeighbourKernels {
  int64_t (*column_work)(int64_t d, int64_t rank, int width);
  // One column of the sparse inverse factor; false where even a large jitter leaves it without a factor.
  bool (*column)(const SmallSystems& s, const int64_t* index, const uint8_t* real, int width, double* work,
                 double* out);
  int64_t (*score_work)(int64_t d, int64_t count);
  void (*scores)(const SmallSystems& s, const float* low_rank, const float* left, int64_t row,
                 const int64_t* candidates, int count, double* work, float* out);
};

// Noise and targets of the rows that queries are conditioned on.
struct LocalSystems {
  const double* noise;    // (n)
  const double* targets;  // (n, num_targets)
  int64_t num_targets;
  int width;  // rows a query
};

struct LocalKernels {
  int64_t (*gram_work)(int64_t d, int width);
  // One small Gram matrix; of `s` only the kernel counts.
  bool (*gram)(const SmallSystems& s, const double* weights, const double* x, int width, double* work, double* out);
  int64_t (*work)(int width);
  void (*local)(const LocalSystems& s, const int64_t* index, const double* block, double* work, double* variance,
                double* deviation);
};

// Rows with their neighbours, whose conditional densities are wanted: see conditional_kernels.h.
struct Conditionals {
  int family;  // without a shape
  double scale;
  const double* x;        // (n, d)
  const double* weights;  // (d) inverse length scales
  int64_t d, width, t;    // width: neighbours and the row itself; t: targets
  bool shared_noise;      // one number for all
};

// Of one row: its value, and derivatives where the pointer is not null.
struct ConditionalOut {
  double *value, *lengths, *scale;  // lengths (d)
  double *noise, *residuals;        // (1) where it is shared or (width), (width, t)
};

struct ConditionalKernels {
  int64_t (*work)(int64_t d, int64_t width, int64_t t);
  void (*conditional)(const Conditionals& s, const int64_t* index, const double* residuals, const double* noise,
                      double* work, const ConditionalOut& out);
};

struct SearchKernels {
  // out (4, kTile): squared distances of 4 rows to kTile points packed by coordinates.
  void (*squared_distances)(const float* lines, int64_t d, const float* rows, float* out);
  // Appends the first `count` values of a tile that lie below `bound`, with their places; returns how many there are
  // then. Overwrites up to a register past them.
  int64_t (*append_below)(const float* values, int count, float bound, int32_t first, float* kept, int32_t* places,
                          int64_t found);
  // Keeps at least k and at most `most` of the smallest of `count` > k values with their places: returns how many, and
  // the bound that they lie below; -1 where too many are equal. Overwrites a register past them.
  int64_t (*keep_smallest)(float* values, int32_t* places, int64_t count, int64_t k, int64_t most, float* bound);
  // Columns [from, to) of out += U U^T v.
  void (*sparse_square)(const int64_t* index, const double* values, int64_t n, int64_t width, const double* v,
                        int64_t s, int64_t from, int64_t to, double* half, double* out);
};

template <class T> struct Kernels {
  StationaryKernels<T> stationary;
  ProductKernels<T> product;
  RatioKernels<T> ratio;
};

struct Isa {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
  BitKernels bits;
  ListKernels lists;
  NeighbourKernels neighbours;
  ConditionalKernels conditionals;
  LocalKernels local;
  SearchKernels search;
};

template <class T> const Kernels<T>& kernels_of(const Isa& isa);
template <> inline const Kernels<float>& kernels_of<float>(const Isa& isa) { return isa.f32; }
template <> inline const Kernels<double>& kernels_of<double>(const Isa& isa) { return isa.f64; }

// The instruction sets this machine can run, slowest first; the last is the default.
const Isa* const* supported_isas(int* count);
