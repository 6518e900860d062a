// The C interface that sggp/native/cpu.py loads. Every function returns one of the codes below and throws nothing.
#pragma once

#include <cstdint>
#include <exception>
#include <new>

#include "kernels.h"

#define SGGP_API extern "C" __attribute__((visibility("default")))

enum Code : int { kOk = 0, kBadArgument = 1, kNoMemory = 2, kFailed = 3, kUnknownFamily = 4 };

constexpr int kAbiVersion = 7;

// The table for index `isa`, or null. A negative index is the best one.
inline const Isa* isa_at(int isa) {
  int count = 0;
  const Isa* const* isas = supported_isas(&count);
  if (isa >= count) return nullptr;
  return isas[isa < 0 ? count - 1 : isa];
}

template <class Work> int guarded(const Work& work) noexcept {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kFailed;
  }
}
