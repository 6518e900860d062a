// Intersections of fingerprints on a tile, and the Tanimoto ratio.
//
// Bits: a register holds one 64-bit word of several columns, so no sum across lanes is ever taken; rows are broadcast.
// Lists: a row of molecular counts has a few dozen entries, so min(a_k, b_k) is summed over those only, one byte per
// column and 64 (32, 16) columns at a time; bytes are widened before they can overflow.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace SGGP_ISA {

typedef uint64_t Words __attribute__((vector_size(SGGP_BYTES)));
constexpr int kWordLanes = SGGP_BYTES / 8;
#if SGGP_BYTES == 64 || defined(__aarch64__)
constexpr int kBitRows = 4, kBitCols = 4;
#else
constexpr int kBitRows = 2, kBitCols = 2;
#endif
constexpr int kBitPanel = kWordLanes * kBitCols;
constexpr int kBytesFull = 31;  // 8 bits per byte and word: 31 words stay below 256

SGGP_INLINE Words words_of(uint64_t x) { return x - Words{}; }

// The number of set bits of every byte.
SGGP_INLINE Words count_bytes(Words x) {
#if defined(__AVX512BW__)
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i a = _mm512_and_si512((__m512i)x, low);
  const __m512i b = _mm512_and_si512(_mm512_srli_epi16((__m512i)x, 4), low);
  return (Words)_mm512_add_epi8(_mm512_shuffle_epi8(table, a), _mm512_shuffle_epi8(table, b));
#elif defined(__AVX2__)
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i a = _mm256_and_si256((__m256i)x, low);
  const __m256i b = _mm256_and_si256(_mm256_srli_epi16((__m256i)x, 4), low);
  return (Words)_mm256_add_epi8(_mm256_shuffle_epi8(table, a), _mm256_shuffle_epi8(table, b));
#elif defined(__aarch64__) && defined(__ARM_NEON)
  return (Words)vcntq_u8((uint8x16_t)x);
#else
  x = x - ((x >> 1) & words_of(0x5555555555555555u));
  x = (x & words_of(0x3333333333333333u)) + ((x >> 2) & words_of(0x3333333333333333u));
  return (x + (x >> 4)) & words_of(0x0f0f0f0f0f0f0f0fu);
#endif
}

// The sum of the eight bytes of every word.
SGGP_INLINE Words sum_bytes(Words x) {
#if defined(__AVX512BW__)
  return (Words)_mm512_sad_epu8((__m512i)x, _mm512_setzero_si512());
#elif defined(__AVX2__)
  return (Words)_mm256_sad_epu8((__m256i)x, _mm256_setzero_si256());
#elif defined(__SSE2__)
  return (Words)_mm_sad_epu8((__m128i)x, _mm_setzero_si128());
#else
  const Words even = words_of(0x00ff00ff00ff00ffu);
  x = (x & even) + ((x >> 8) & even);
  x = (x & words_of(0x0000ffff0000ffffu)) + ((x >> 16) & words_of(0x0000ffff0000ffffu));
  return (x + (x >> 32)) & words_of(0xffffffffu);
#endif
}

SGGP_INLINE void store_counts(int32_t* at, Words x) {
  typedef int32_t Half __attribute__((vector_size(SGGP_BYTES / 2)));
  const Half half = __builtin_convertvector(x, Half);
  std::memcpy(at, &half, sizeof half);
}

template <int R>
void bits_block(const uint64_t* a, int64_t words, const uint64_t* panel, int32_t* counts) {
  Words total[R][kBitCols];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kBitCols; ++c) total[r][c] = Words{};
  for (int64_t w0 = 0; w0 < words; w0 += kBytesFull) {
    const int64_t w1 = w0 + kBytesFull < words ? w0 + kBytesFull : words;
    Words bytes[R][kBitCols];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kBitCols; ++c) bytes[r][c] = Words{};
    for (int64_t w = w0; w < w1; ++w) {
      Words b[kBitCols];
      for (int c = 0; c < kBitCols; ++c) std::memcpy(&b[c], panel + w * kBitPanel + c * kWordLanes, sizeof(Words));
      for (int r = 0; r < R; ++r) {
        const Words x = words_of(a[r * words + w]);
        for (int c = 0; c < kBitCols; ++c) bytes[r][c] = bytes[r][c] + count_bytes(x & b[c]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kBitCols; ++c) total[r][c] = total[r][c] + sum_bytes(bytes[r][c]);
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kBitCols; ++c) store_counts(counts + r * kStride + c * kWordLanes, total[r][c]);
}

static void bits(const uint64_t* a, int64_t words, int rows, const uint64_t* packed, int count, int32_t* counts) {
  for (int first = 0; first < count; first += kBitPanel, packed += kBitPanel * words) {
    int r = 0;
    for (; r + kBitRows <= rows; r += kBitRows)
      bits_block<kBitRows>(a + r * words, words, packed, counts + r * kStride + first);
    for (; r < rows; ++r) bits_block<1>(a + r * words, words, packed, counts + r * kStride + first);
  }
}

#if defined(__AVX512F__)
// The same with the population count of AVX-512 VPOPCNTDQ; this copy alone is compiled for it.
#define SGGP_POPCOUNT __attribute__((target("avx512vpopcntdq")))

template <int R>
SGGP_POPCOUNT void popcount_block(const uint64_t* a, int64_t words, const uint64_t* panel, int32_t* counts) {
  __m512i total[R][kBitCols];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kBitCols; ++c) total[r][c] = _mm512_setzero_si512();
  for (int64_t w = 0; w < words; ++w) {
    __m512i b[kBitCols];
    for (int c = 0; c < kBitCols; ++c) b[c] = _mm512_loadu_si512(panel + w * kBitPanel + c * kWordLanes);
    for (int r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi64((long long)a[r * words + w]);
      for (int c = 0; c < kBitCols; ++c)
        total[r][c] = _mm512_add_epi64(total[r][c], _mm512_popcnt_epi64(_mm512_and_si512(x, b[c])));
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kBitCols; ++c)
      _mm256_storeu_si256((__m256i*)(counts + r * kStride + c * kWordLanes), _mm512_cvtepi64_epi32(total[r][c]));
}

SGGP_POPCOUNT static void popcount_bits(const uint64_t* a, int64_t words, int rows, const uint64_t* packed, int count,
                                        int32_t* counts) {
  for (int first = 0; first < count; first += kBitPanel, packed += kBitPanel * words) {
    int r = 0;
    for (; r + kBitRows <= rows; r += kBitRows)
      popcount_block<kBitRows>(a + r * words, words, packed, counts + r * kStride + first);
    for (; r < rows; ++r) popcount_block<1>(a + r * words, words, packed, counts + r * kStride + first);
  }
}
#endif

// --- lists --------------------------------------------------------------------------------------------------------

typedef uint8_t Bytes __attribute__((vector_size(SGGP_BYTES)));
constexpr int kStrip = 8 * SGGP_BYTES < kTile ? 8 * SGGP_BYTES : kTile;  // columns whose sums stay in registers
constexpr int kStripRegs = kStrip / SGGP_BYTES;

SGGP_INLINE void widen(Bytes (&sum)[kStripRegs], int32_t* counts) {
  uint8_t bytes[kStrip];
  std::memcpy(bytes, sum, sizeof bytes);
  for (int j = 0; j < kStrip; ++j) counts[j] += bytes[j];
  for (int c = 0; c < kStripRegs; ++c) sum[c] = Bytes{};
}

template <bool Ones>
void list_strip(const int32_t* keys, const uint8_t* values, int64_t entries, const int32_t* places,
                const uint8_t* lines, int32_t* counts) {
  Bytes sum[kStripRegs];
  for (int c = 0; c < kStripRegs; ++c) sum[c] = Bytes{};
  for (int j = 0; j < kStrip; ++j) counts[j] = 0;
  int room = 255;
  for (int64_t e = 0; e < entries; ++e) {
    const int value = Ones ? 1 : values[e];
    if (value > room) {
      widen(sum, counts);
      room = 255;
    }
    room -= value;
    const uint8_t* line = lines + int64_t(places[keys[e]]) * kTile;
    const Bytes bound = uint8_t(value) - Bytes{};
    for (int c = 0; c < kStripRegs; ++c) {
      Bytes b;
      std::memcpy(&b, line + c * SGGP_BYTES, sizeof b);
      sum[c] = sum[c] + (Ones ? b : (b < bound ? b : bound));
    }
  }
  widen(sum, counts);
}

static void lists(const int64_t* starts, const int32_t* keys, const uint8_t* values, int rows, const int32_t* places,
                  const uint8_t* lines, int count, int32_t* counts) {
  for (int first = 0; first < count; first += kStrip)
    for (int r = 0; r < rows; ++r) {
      const int64_t entries = starts[r + 1] - starts[r];
      int32_t* out = counts + r * kStride + first;
      if (values)
        list_strip<false>(keys + starts[r], values + starts[r], entries, places, lines + first, out);
      else
        list_strip<true>(keys + starts[r], nullptr, entries, places, lines + first, out);
    }
}

// --- the ratio ----------------------------------------------------------------------------------------------------

template <class T>
void ratio(const int32_t* counts, const int32_t* sum_a, const int32_t* sum_b, int rows, int count, T* k) {
  constexpr int W = Simd<T>::W;
  typedef int32_t Counts __attribute__((vector_size(4 * W)));
  for (int r = 0; r < rows; ++r) {
    const int32_t* row = counts + r * kStride;
    T* out = k + r * kStride;
    for (int j = 0; j < count; j += W) {
      Counts both, sum;
      std::memcpy(&both, row + j, sizeof both);
      std::memcpy(&sum, sum_b + j, sizeof sum);
      sum = sum + sum_a[r] - both;
      const Reg<T> top = __builtin_convertvector(both, Reg<T>), bottom = __builtin_convertvector(sum, Reg<T>);
      const auto some = bottom > Reg<T>{};
      store<T>(out + j, some ? top / bottom : set(T(1)));
    }
  }
}

}  // namespace SGGP_ISA
