// Tanimoto (min-max) kernels of packed bits and of counts behind the C interface.
#include <vector>

#include "api.h"
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

// Calls visit(column, value) for every non-zero byte.
template <class Visit> void each_count(const uint8_t* row, int64_t d, const Visit& visit) {
  int64_t k = 0;
  for (; k + 8 <= d; k += 8) {
    uint64_t word;
    std::memcpy(&word, row + k, 8);
    if (word == 0) continue;
    for (int h = 0; h < 8; ++h)
      if (row[k + h]) visit(k + h, row[k + h]);
  }
  for (; k < d; ++k)
    if (row[k]) visit(k, row[k]);
}

Lists lists_of(const uint8_t* x, int64_t n, int64_t d, int threads) {
  Lists lists;
  lists.starts.assign(size_t(n) + 1, 0);
  lists.sums.assign(size_t(n), 0);
  const int64_t part = 256, parts = ceil_div(n, part);
  parallel_for(threads, parts, [&](int64_t p) {
    for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) {
      int64_t entries = 0, sum = 0;
      each_count(x + i * d, d, [&](int64_t, uint8_t value) { ++entries, sum += value; });
      lists.starts[size_t(i) + 1] = entries;
      lists.sums[size_t(i)] = int32_t(sum);
    }
  });
  for (int64_t i = 0; i < n; ++i) {
    lists.ones = lists.ones && lists.starts[size_t(i) + 1] == lists.sums[size_t(i)];
    lists.starts[size_t(i) + 1] += lists.starts[size_t(i)];
  }
  lists.keys.resize(size_t(lists.starts.back()));
  lists.values.resize(size_t(lists.starts.back()));
  parallel_for(threads, parts, [&](int64_t p) {
    for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) {
      size_t at = size_t(lists.starts[size_t(i)]);
      each_count(x + i * d, d, [&](int64_t k, uint8_t value) {
        lists.keys[at] = int32_t(k);
        lists.values[at++] = value;
      });
    }
  });
  return lists;
}

template <class T> class CountSource final : public Source<T> {
 public:
  CountSource(const Isa& isa, const Lists& a, const uint8_t* b, const int32_t* sum_b, bool binary, int64_t d)
      : isa_(isa), a_(a), b_(b), sum_b_(sum_b), binary_(binary), d_(d) {}

  // places (d), then lines of kTile bytes: line 0 is zero, one more for every coordinate present in the tile.
  size_t places_bytes() const { return round_up(sizeof(int32_t) * size_t(d_), 64); }
  size_t packed_bytes() const override { return places_bytes() + size_t(d_ + 1) * kTile; }
  int chunk_rows() const override { return kListChunk; }
  double entry_cost() const override { return 4.0; }

  void pack(int64_t first, int count, unsigned char* out) const override {
    int32_t* places = reinterpret_cast<int32_t*>(out);
    uint8_t* lines = out + places_bytes();
    std::memset(places, 0, sizeof(int32_t) * size_t(d_));
    std::memset(lines, 0, kTile);
    int32_t used = 0;
    for (int j = 0; j < count; ++j)
      each_count(b_ + (first + j) * d_, d_, [&](int64_t k, uint8_t value) {
        if (places[k] == 0) {
          places[k] = ++used;
          std::memset(lines + size_t(used) * kTile, 0, kTile);
        }
        lines[size_t(places[k]) * kTile + size_t(j)] = value;
      });
  }

  void fill(int64_t row, int rows, int64_t first, int count, const unsigned char* packed, T* k) const override {
    Buffer<int32_t> counts(size_t(rows) * kStride);
    isa_.lists.intersections(a_.starts.data() + row, a_.keys.data(), binary_ ? nullptr : a_.values.data(), rows,
                             reinterpret_cast<const int32_t*>(packed), packed + places_bytes(), count, counts.data());
    ratio_of_tile(kernels_of<T>(isa_).ratio, counts.data(), a_.sums.data() + row, sum_b_, first, rows, count, k);
  }

 private:
  const Isa& isa_;
  const Lists& a_;
  const uint8_t* b_;
  const int32_t* sum_b_;
  bool binary_;
  int64_t d_;
};

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
    std::vector<int32_t> sum_b(size_t(m), 0);
    std::vector<uint8_t> counts_b(size_t(ceil_div(m, kTile)), 0);  // 1 where a tile has a count above one
    parallel_for(threads, ceil_div(m, kTile), [&](int64_t t) {
      for (int64_t j = t * kTile; j < std::min(m, (t + 1) * kTile); ++j)
        each_count(b + j * d, d, [&](int64_t, uint8_t value) {
          sum_b[size_t(j)] += value;
          if (value > 1) counts_b[size_t(t)] = 1;
        });
    });
    bool binary = lists.ones;
    for (uint8_t flag : counts_b) binary = binary && flag == 0;
    run<T>(*isa, CountSource<T>(*isa, lists, b, sum_b.data(), binary, d), threads, n, m, v, s, out, pack_bytes);
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
    std::vector<int64_t> starts(size_t(d) + 1, 0);
    for (int64_t k = 0; k < d; ++k) starts[size_t(k) + 1] = starts[size_t(k)] + (levels ? levels[k] : 1);
    if (starts.back() > words * 64) return kBadArgument;
    const int64_t part = 256;
    parallel_for(n * d < kSmallWork ? 1 : threads, ceil_div(n, part), [&](int64_t p) {
      for (int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) {
        uint64_t* row = bits + i * words;
        std::memset(row, 0, sizeof(uint64_t) * size_t(words));
        int64_t sum = 0;
        each_count(x + i * d, d, [&](int64_t k, uint8_t value) {
          const int64_t first = starts[size_t(k)], width = starts[size_t(k) + 1] - first;
          const int64_t set = std::min<int64_t>(value, width);
          for (int64_t bit = first; bit < first + set; ++bit) row[bit / 64] |= uint64_t(1) << (bit % 64);
          sum += levels ? value : 1;
        });
        sums[i] = int32_t(sum);
      }
    });
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
