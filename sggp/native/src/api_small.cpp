// Many small Tanimoto Gram matrices behind the C interface.
#include <algorithm>
#include <vector>

#include "api.h"
#include "counts.h"
#include "parallel.h"

namespace {

enum TanimotoKind : int { kMinMax = 0, kDotProduct = 1 };

struct Entry {
  int32_t key;
  int32_t value;
};

// One (m, m) matrix: every row in turn is laid out densely and met by the short lists of the rows before it.
class SmallTanimoto {
 public:
  SmallTanimoto(int kind, int64_t m, int64_t d) : kind_(kind), m_(m), d_(d), starts_(size_t(m) + 1), totals_(size_t(m)) {}

  void run(const uint8_t* x, double* out) {
    lists(x);
    for (int64_t i = 0; i < m_; ++i) {
      const uint8_t* row = x + i * d_;
      out[i * m_ + i] = 1.0;
      for (int64_t j = 0; j < i; ++j) {
        const int64_t common = kind_ == kMinMax ? shared_minimum(row, j) : shared_product(row, j);
        const int64_t joined = totals_[size_t(i)] + totals_[size_t(j)] - common;
        const double value = joined == 0 ? 1.0 : double(common) / double(joined);
        out[i * m_ + j] = value;
        out[j * m_ + i] = value;
      }
    }
  }

 private:
  void lists(const uint8_t* x) {
    entries_.clear();
    for (int64_t i = 0; i < m_; ++i) {
      starts_[size_t(i)] = entries_.size();
      int64_t total = 0;
      each_count(x + i * d_, d_, [&](int64_t k, uint8_t value) {
        entries_.push_back({int32_t(k), int32_t(value)});
        total += kind_ == kMinMax ? int64_t(value) : int64_t(value) * value;
      });
      totals_[size_t(i)] = total;
    }
    starts_[size_t(m_)] = entries_.size();
  }

  int64_t shared_minimum(const uint8_t* row, int64_t j) const {
    int64_t sum = 0;
    for (size_t e = starts_[size_t(j)]; e < starts_[size_t(j) + 1]; ++e)
      sum += std::min<int32_t>(row[entries_[e].key], entries_[e].value);
    return sum;
  }

  int64_t shared_product(const uint8_t* row, int64_t j) const {
    int64_t sum = 0;
    for (size_t e = starts_[size_t(j)]; e < starts_[size_t(j) + 1]; ++e)
      sum += int64_t(row[entries_[e].key]) * entries_[e].value;
    return sum;
  }

  int kind_;
  int64_t m_, d_;
  std::vector<size_t> starts_;
  std::vector<int64_t> totals_;
  std::vector<Entry> entries_;
};

}  // namespace

// out (batch, m, m): the similarities among the m rows of counts of every x (batch, m, d); 1 where both rows are empty.
SGGP_API int sggp_small_tanimoto(int threads, int kind, const uint8_t* x, int64_t batch, int64_t m, int64_t d,
                                 double* out) {
  return guarded([&]() -> int {
    if (batch < 0 || m < 0 || d < 0 || (kind != kMinMax && kind != kDotProduct)) return kBadArgument;
    constexpr int64_t kAtATime = 16;
    parallel_for(threads, (batch + kAtATime - 1) / kAtATime, [&](int64_t job) {
      SmallTanimoto small(kind, m, d);
      const int64_t last = std::min(batch, (job + 1) * kAtATime);
      for (int64_t b = job * kAtATime; b < last; ++b) small.run(x + b * m * d, out + b * m * m);
    });
    return kOk;
  });
}
