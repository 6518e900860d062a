// The baseline of the target: NEON on aarch64, SSE2 on x86-64, whatever the compiler makes of 16-byte vectors elsewhere.
#define SGGP_ISA sggp_portable
#include "isa_table.h"

#if defined(__aarch64__)
#define SGGP_BASELINE "neon"
#else
#define SGGP_BASELINE "portable"
#endif

extern const Isa kIsaPortable = {SGGP_BASELINE, SGGP_ISA::kernels<float>(), SGGP_ISA::kernels<double>(),
                                 {SGGP_ISA::kBitPanel, SGGP_ISA::bits}, {SGGP_ISA::lists}, SGGP_ISA::kNeighbours,
                                 SGGP_ISA::kConditionals, SGGP_ISA::kLocal, SGGP_ISA::kSearch};
