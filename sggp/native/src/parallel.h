// Threads for one call, and memory that frees itself.
//
// Threads are the caller's OpenMP team where `sggp_use_team` has named one, so that a call between two of torch's finds
// torch's threads awake instead of competing with them for the cores while they spin; otherwise they are made for the
// call. No pool is kept here, and a forked child, in which a team would wait for threads that the fork left behind,
// makes its own: a fork is always safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>

// Runs work(0..count-1) on up to `threads` threads, next index first come first served. An exception in any of them is
// rethrown here after all have stopped. Threads that the system refuses are done without.
void parallel_for(int threads, int64_t count, const std::function<void(int64_t)>& work);

// Asks for large pages under memory that is about to be written for the first time: an output of many megabytes would
// otherwise cost more in page faults than in arithmetic. A hint, without effect where the system has none.
void expect_writes(void* data, size_t bytes);

template <class T> class Buffer {
 public:
  explicit Buffer(size_t size)
      : data_(static_cast<T*>(::operator new((size + 64) * sizeof(T), std::align_val_t(64)))), size_(size) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  T* data_;
  size_t size_;
};
