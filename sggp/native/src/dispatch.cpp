// Which instruction sets this machine can run, decided once by cpuid.
#include "kernels.h"

extern const Isa kIsaPortable;
#if defined(SGGP_WITH_AVX2)
extern const Isa kIsaAvx2;
#endif
#if defined(SGGP_WITH_AVX512)
extern const Isa kIsaAvx512;
extern const Isa kIsaAvx512Popcount;
#endif

namespace {

struct Supported {
  const Isa* isas[4];
  int count = 0;

  Supported() {
    isas[count++] = &kIsaPortable;
#if defined(SGGP_WITH_AVX2) || defined(SGGP_WITH_AVX512)
    __builtin_cpu_init();
#endif
#if defined(SGGP_WITH_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas[count++] = &kIsaAvx2;
#endif
#if defined(SGGP_WITH_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
      isas[count++] = &kIsaAvx512;
      if (__builtin_cpu_supports("avx512vpopcntdq")) isas[count++] = &kIsaAvx512Popcount;
    }
#endif
  }
};

}  // namespace

const Isa* const* supported_isas(int* count) {
  static const Supported supported;  // thread-safe initialisation, never changed afterwards
  *count = supported.count;
  return supported.isas;
}
