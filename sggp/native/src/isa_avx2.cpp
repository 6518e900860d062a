// AVX2 with FMA.
#define SGGP_ISA sggp_avx2
#include "isa_table.h"

extern const Isa kIsaAvx2 = {"avx2", SGGP_ISA::kernels<float>(), SGGP_ISA::kernels<double>(),
                             {SGGP_ISA::kBitPanel, SGGP_ISA::bits}, {SGGP_ISA::lists}, SGGP_ISA::kNeighbours,
                             SGGP_ISA::kConditionals, SGGP_ISA::kLocal, SGGP_ISA::kSearch};
