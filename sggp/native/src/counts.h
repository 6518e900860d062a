// Walks over the few non-zero bytes of a row of counts.
#pragma once

#include <cstdint>
#include <cstring>

constexpr bool kLittleEndian = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

// The top bit of every byte that is not zero.
inline uint64_t nonzero_bytes(uint64_t word) {
  constexpr uint64_t low = 0x7f7f7f7f7f7f7f7fu;
  return (((word & low) + low) | word) & ~low;
}

// Calls visit(column, value) for every non-zero byte, columns ascending.
template <class Visit> void each_count(const uint8_t* row, int64_t d, const Visit& visit) {
  int64_t k = 0;
  for (; k + 8 <= d; k += 8) {
    uint64_t word;
    std::memcpy(&word, row + k, 8);
    if (word == 0) continue;
    if (!kLittleEndian) {
      for (int h = 0; h < 8; ++h)
        if (row[k + h]) visit(k + h, row[k + h]);
      continue;
    }
    for (uint64_t some = nonzero_bytes(word); some != 0; some &= some - 1) {
      const int64_t at = k + __builtin_ctzll(some) / 8;
      visit(at, row[at]);
    }
  }
  for (; k < d; ++k)
    if (row[k]) visit(k, row[k]);
}
