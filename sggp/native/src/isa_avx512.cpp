// AVX-512 (F, BW, DQ, VL), and the same with the population count of VPOPCNTDQ.
#define SGGP_ISA sggp_avx512
#include "isa_table.h"

extern const Isa kIsaAvx512 = {"avx512", SGGP_ISA::kernels<float>(), SGGP_ISA::kernels<double>(),
                               {SGGP_ISA::kBitPanel, SGGP_ISA::bits}, {SGGP_ISA::lists}, SGGP_ISA::kNeighbours,
                               SGGP_ISA::kConditionals, SGGP_ISA::kLocal, SGGP_ISA::kSearch};
extern const Isa kIsaAvx512Popcount = {"avx512-popcnt", SGGP_ISA::kernels<float>(), SGGP_ISA::kernels<double>(),
                                       {SGGP_ISA::kBitPanel, SGGP_ISA::popcount_bits}, {SGGP_ISA::lists}, SGGP_ISA::kNeighbours,
                                       SGGP_ISA::kConditionals, SGGP_ISA::kLocal, SGGP_ISA::kSearch};
