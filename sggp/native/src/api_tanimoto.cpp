// Tanimoto (min-max) kernels of packed bits and of counts behind the C interface.
#include <vector>

#include "api.h"
#include "counts.h"
#include "driver.h"

namespace {

constexpr int kBitChunk = 96, kListChunk = 192;

template <class T> void ratio_of_tile(const RatioKernels<T>& kernels, const int32_t* counts, const int32_t* sum_a,
                                      const int32_t* sum_b, int64_t first, int rows, int count, T* k) {
  alignas(64) int32_t tail[kTile];  // sums of the columns, zero beyond the last
  std::memset(tail, 0, sizeof tail);
  std::memcpy(tail, sum_b + first, sizeof(int32_t) * size_t(count));
  kernels.ratio(counts, sum_a, tail, rows, count, k);
}

// Rows of `words` 64-bit words; sums of the rows given, since a thermometer code may leave out what the others lack.
template <class T> class BitSource final : public Source<T> {
 public:
  BitSource(const Isa& isa, const uint64_t* a, const uint64_t* b, int64_t words, const int32_t* sum_a,
            const int32_t* sum_b)
      : isa_(isa), a_(a), b_(b), words_(words), sum_a_(sum_a), sum_b_(sum_b) {}

  size_t packed_bytes() const override { return round_up(sizeof(uint64_t) * size_t(kTile * words_), 64); }
  int chunk_rows() const override { return kBitChunk; }
  double entry_cost() const override { return double(words_) / 2.0 + 2.0; }

  void pack(int64_t first, int count, unsigned char* out) const override {
    const int panel = isa_.bits.panel;
    uint64_t* packed = reinterpret_cast<uint64_t*>(out);
    for (int start = 0; start < count; start += panel, packed += panel * words_) {
      const int width = std::min(panel, count - start);
      if (width < panel) std::memset(packed, 0, sizeof(uint64_t) * size_t(panel * words_));
      for (int j = 0; j < width; ++j) {
        const uint64_t* row = b_ + (first + start + j) * words_;
        for (int64_t w = 0; w < words_; ++w) packed[w * panel + j] = row[w];
      }
    }
  }

  void fill(int64_t row, int rows, int64_t first, int count, const unsigned char* packed, T* k) const override {
    Buffer<int32_t> counts(size_t(rows) * kStride);
    isa_.bits.intersections(a_ + row * words_, words_, rows, reinterpret_cast<const uint64_t*>(packed), count,
                            counts.data());
    ratio_of_tile(kernels_of<T>(isa_).ratio, counts.data(), sum_a_ + row, sum_b_, first, rows, count, k);
  }

 private:
  const Isa& isa_;
  const uint64_t *a_, *b_;
  int64_t words_;
  const int32_t *sum_a_, *sum_b_;
};

// Rows as lists of their non-zero counts.
struct Lists {
  std::vector<int64_t> starts;
  std::vector<int32_t> keys, sums;
  std::vector<uint8_t> values;
  bool ones = true;
};

Lists lists_of(const uint8_t* x, int64_t n, int64_t d, int threads) {
  Lists lists;
  lists.starts.assign(size_t(n) + 1, 0);
  lists.sums.assign(size_t(n), 0);
  const int64_t part = 256, parts = ceil_div(n, part);
  std::vector<Lists> pieces(static_cast<size_t>(parts));
  parallel_for(threads, parts, [&](int64_t p) {
    Lists& piece = pieces[size_t(p)];
    for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) {
      int32_t sum = 0;
      each_count(x + i * d, d, [&](int64_t k, uint8_t value) {
        piece.keys.push_back(int32_t(k));
        piece.values.push_back(value);
        piece.ones = piece.ones && value == 1;
        sum += value;
      });
      lists.sums[size_t(i)] = sum;
      lists.starts[size_t(i) + 1] = int64_t(piece.keys.size());
    }
  });
  for (int64_t p = 0; p < parts; ++p) {
    const Lists& piece = pieces[size_t(p)];
    const int64_t before = int64_t(lists.keys.size());
    for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) lists.starts[size_t(i) + 1] += before;
    lists.keys.insert(lists.keys.end(), piece.keys.begin(), piece.keys.end());
    lists.values.insert(lists.values.end(), piece.values.begin(), piece.values.end());
    lists.ones = lists.ones && piece.ones;
  }
  return lists;
}

// A packed tile: sums of its columns (kTile), whether all its counts are one, places (d), then lines of kTile bytes: line
// 0 is zero, one more for every coordinate present in the tile.
template <class T> class CountSource final : public Source<T> {
 public:
  CountSource(const Isa& isa, const Lists& a, const uint8_t* b, int64_t d) : isa_(isa), a_(a), b_(b), d_(d) {}

  size_t packed_bytes() const override { return lines_at() + size_t(d_ + 1) * kTile; }
  int chunk_rows() const override { return kListChunk; }
  double entry_cost() const override { return 4.0; }

  void pack(int64_t first, int count, unsigned char* out) const override {
    int32_t* sums = reinterpret_cast<int32_t*>(out);
    int32_t* places = sums + kHeader;
    uint8_t* lines = out + lines_at();
    std::memset(out, 0, lines_at());
    std::memset(lines, 0, kTile);
    int32_t used = 0, largest = 0;
    for (int j = 0; j < count; ++j)
      each_count(b_ + (first + j) * d_, d_, [&](int64_t k, int32_t value) {
        if (places[k] == 0) {
          places[k] = ++used;
          std::memset(lines + size_t(used) * kTile, 0, kTile);
        }
        lines[size_t(places[k]) * kTile + size_t(j)] = uint8_t(value);
        sums[j] += value;
        largest = std::max(largest, value);
      });
    sums[kTile] = largest <= 1;
  }

  void fill(int64_t row, int rows, int64_t, int count, const unsigned char* packed, T* k) const override {
    const int32_t* sums = reinterpret_cast<const int32_t*>(packed);
    const uint8_t* values = a_.ones && sums[kTile] ? nullptr : a_.values.data();
    Buffer<int32_t> counts(size_t(rows) * kStride);
    isa_.lists.intersections(a_.starts.data() + row, a_.keys.data(), values, rows, sums + kHeader, packed + lines_at(),
                             count, counts.data());
    kernels_of<T>(isa_).ratio.ratio(counts.data(), a_.sums.data() + row, sums, rows, count, k);
  }

 private:
  static constexpr int kHeader = kTile + 16;
  size_t lines_at() const { return round_up(sizeof(int32_t) * size_t(kHeader + d_), 64); }

  const Isa& isa_;
  const Lists& a_;
  const uint8_t* b_;
  int64_t d_;
};

// A thermometer code is written in pieces of at most kPiece bits: those of a column's levels above `below`.
struct Piece {
  int32_t column;
  uint8_t below, width;
};
constexpr int kPiece = 16;

std::vector<Piece> pieces_of(const int32_t* levels, int64_t d) {
  std::vector<Piece> pieces;
  for (int64_t k = 0; k < d; ++k)
    for (int below = 0; below < levels[k]; below += kPiece)
      pieces.push_back({int32_t(k), uint8_t(below), uint8_t(std::min(kPiece, levels[k] - below))});
  return pieces;
}

// One row's code, as a stream whose only branch depends on the pieces, so that it is the same for every row.
void pack_levels(const uint8_t* x, const std::vector<Piece>& pieces, uint64_t* row) {
  uint64_t word = 0;
  int at = 0;  // bits of it taken
  for (const Piece& piece : pieces) {
    const int set = std::min<int>(std::max(x[piece.column] - piece.below, 0), piece.width);
    const uint64_t ones = (uint64_t(1) << set) - 1;
    word |= ones << at;
    at += piece.width;
    if (at < 64) continue;
    *row++ = word;
    at -= 64;
    word = ones >> (piece.width - at);
  }
  if (at > 0) *row = word;
}

void larger_of(uint8_t* __restrict own, const uint8_t* __restrict x, int64_t d) {
  for (int64_t k = 0; k < d; ++k) own[k] = std::max(own[k], x[k]);
}

int32_t total_of(const uint8_t* x, int64_t d) {
  int32_t sum = 0;
  for (int64_t k = 0; k < d; ++k) sum += x[k];
  return sum;
}

// Sets bit k where x_k is not zero; returns how many.
int32_t pack_presence(const uint8_t* x, int64_t d, uint64_t* row) {
  int32_t sum = 0;
  for (int64_t k0 = 0; k0 < d; k0 += 64) {
    const int64_t width = std::min<int64_t>(64, d - k0);
    uint64_t bits = 0, some = 0;  // some: how many, byte by byte
    int64_t k = 0;
    for (; kLittleEndian && k + 8 <= width; k += 8) {
      uint64_t word;
      std::memcpy(&word, x + k0 + k, 8);
      const uint64_t ones = nonzero_bytes(word) >> 7;
      some += ones;
      bits |= ((ones * 0x0102040810204080u) >> 56) << k;  // byte h to bit h
    }
    sum += int32_t((some * 0x0101010101010101u) >> 56);
    for (; k < width; ++k)
      if (x[k0 + k]) {
        bits |= uint64_t(1) << k;
        ++sum;
      }
    row[k0 / 64] = bits;
  }
  return sum;
}

template <class T>
void run(const Isa& isa, const Source<T>& source, int threads, int64_t n, int64_t m, const T* v, int64_t s, T* out,
         int64_t pack_bytes) {
  if (v == nullptr)
    block_of<T>(source, n, m, T(1), out, threads, pack_bytes);
  else
    matmul_of<T>(source, kernels_of<T>(isa).product, n, m, v, s, T(1), out, threads, pack_bytes);
}

template <class T>
int tanimoto_bits(int isa_index, int threads, const uint64_t* a, int64_t n, const uint64_t* b, int64_t m, int64_t words,
                  const int32_t* sum_a, const int32_t* sum_b, const T* v, int64_t s, T* out, int64_t pack_bytes) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || m < 0 || words < 0 || s < 0) return kBadArgument;
    run<T>(*isa, BitSource<T>(*isa, a, b, words, sum_a, sum_b), threads, n, m, v, s, out, pack_bytes);
    return kOk;
  });
}

template <class T>
int tanimoto_counts(int isa_index, int threads, const uint8_t* a, int64_t n, const uint8_t* b, int64_t m, int64_t d,
                    const T* v, int64_t s, T* out, int64_t pack_bytes) noexcept {
  return guarded([&]() -> int {
    const Isa* isa = isa_at(isa_index);
    if (isa == nullptr || n < 0 || m < 0 || d < 0 || s < 0) return kBadArgument;
    const Lists lists = lists_of(a, n, d, threads);
    run<T>(*isa, CountSource<T>(*isa, lists, b, d), threads, n, m, v, s, out, pack_bytes);
    return kOk;
  });
}

}  // namespace

// Rows of bytes to rows of bits. levels null: one bit per column, set where the byte is not zero. Otherwise the
// thermometer code: column k takes levels[k] bits, of which the first min(x, levels[k]) are set; `words` holds
// ceil(sum of levels / 64). sums[i] is the sum of the row's counts (of its bits without levels).
SGGP_API int sggp_pack(int threads, const uint8_t* x, int64_t n, int64_t d, const int32_t* levels, int64_t words,
                       uint64_t* bits, int32_t* sums) {
  return guarded([&]() -> int {
    if (n < 0 || d < 0 || words < 0) return kBadArgument;
    int64_t width = 0;
    for (int64_t k = 0; k < d; ++k) {
      if (levels && (levels[k] < 0 || levels[k] > 255)) return kBadArgument;
      width += levels ? levels[k] : 1;
    }
    if (width > words * 64) return kBadArgument;
    const bool single = levels && std::all_of(levels, levels + d, [](int32_t level) { return level == 1; });
    const std::vector<Piece> pieces = levels && !single ? pieces_of(levels, d) : std::vector<Piece>();
    const int64_t part = 256;
    parallel_for(n * d < kSmallWork ? 1 : threads, ceil_div(n, part), [&](int64_t p) {
      for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) {
        uint64_t* row = bits + i * words;
        std::fill(row, row + words, uint64_t(0));
        if (levels && !single) {
          pack_levels(x + i * d, pieces, row);
          sums[i] = total_of(x + i * d, d);
          continue;
        }
        sums[i] = pack_presence(x + i * d, d, row);
        if (levels) sums[i] = total_of(x + i * d, d);
      }
    });
    return kOk;
  });
}

// largest[k] = max_i x_ik.
SGGP_API int sggp_largest(int threads, const uint8_t* x, int64_t n, int64_t d, uint8_t* largest) {
  return guarded([&]() -> int {
    if (n < 0 || d < 0) return kBadArgument;
    const int64_t part = 1024, parts = ceil_div(n, part);
    std::vector<uint8_t> all(size_t(parts * d), 0);
    parallel_for(n * d < kSmallWork ? 1 : threads, parts, [&](int64_t p) {
      for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) larger_of(all.data() + p * d, x + i * d, d);
    });
    std::fill(largest, largest + d, uint8_t(0));
    for (int64_t p = 0; p < parts; ++p)
      for (int64_t k = 0; k < d; ++k) largest[k] = std::max(largest[k], all[size_t(p * d + k)]);
    return kOk;
  });
}

#define SGGP_TANIMOTO(suffix, T)                                                                                     \
  SGGP_API int sggp_bits_##suffix(int isa, int threads, const uint64_t* a, int64_t n, const uint64_t* b, int64_t m,  \
                                  int64_t words, const int32_t* sum_a, const int32_t* sum_b, const T* v, int64_t s,  \
                                  T* out, int64_t pack_bytes) {                                                                          \
    return tanimoto_bits<T>(isa, threads, a, n, b, m, words, sum_a, sum_b, v, s, out, pack_bytes);                               \
  }                                                                                                                  \
  SGGP_API int sggp_counts_##suffix(int isa, int threads, const uint8_t* a, int64_t n, const uint8_t* b, int64_t m,  \
                                    int64_t d, const T* v, int64_t s, T* out, int64_t pack_bytes) {                                      \
    return tanimoto_counts<T>(isa, threads, a, n, b, m, d, v, s, out, pack_bytes);                                               \
  }

SGGP_TANIMOTO(f32, float)
SGGP_TANIMOTO(f64, double)
