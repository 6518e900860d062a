#include "parallel.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "api.h"

namespace {

// GOMP_parallel of an OpenMP runtime: runs work(data) on a team of `threads`, the caller among them, and waits.
using Team = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<Team> shared_team{nullptr};

template <class Run> void call(void* run) { (*static_cast<Run*>(run))(); }

}  // namespace

SGGP_API void sggp_use_team(void* team) {
#if defined(__unix__) || defined(__APPLE__)
  static const int watched = pthread_atfork(nullptr, nullptr, [] { shared_team = nullptr; });
  if (watched == 0) shared_team = reinterpret_cast<Team>(team);
#else
  (void)team;
#endif
}

void parallel_for(int threads, int64_t count, const std::function<void(int64_t)>& work) {
  if (threads > count) threads = int(count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex guard;
  auto run = [&] {
    try {
      for (int64_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> lock(guard);
      if (!failure) failure = std::current_exception();
    }
  };
  if (const Team team = shared_team) {
    team(call<decltype(run)>, &run, unsigned(threads), 0);
    if (failure) std::rethrow_exception(failure);
    return;
  }
  std::vector<std::thread> others;
  others.reserve(size_t(threads) - 1);
  try {
    while (int(others.size()) < threads - 1) others.emplace_back(run);
  } catch (const std::system_error&) {
    // fewer threads than asked for
  }
  run();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

void expect_writes(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}
