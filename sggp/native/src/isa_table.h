// Gathers this translation unit's functions into its table; included last by isa_*.cpp.
#pragma once

#include "conditional_kernels.h"
#include "local_kernels.h"
#include "neighbour_kernels.h"
#include "product_kernels.h"
#include "search_kernels.h"
#include "stationary_kernels.h"
#include "tanimoto_kernels.h"

namespace SGGP_ISA {

template <class T> constexpr Kernels<T> kernels() {
  return {{panel_width<T>(), pack_points<T>, tile<T>, gradient<T>},
          {Simd<T>::W, packed_size<T>, pack_values<T>, multiply<T>, multiply_transposed<T>},
          {ratio<T>}};
}

constexpr NeighbourKernels kNeighbours = {column_work, column, score_work, scores};
constexpr ConditionalKernels kConditionals = {conditional_work, conditional};
constexpr LocalKernels kLocal = {gram_work, gram, local_work, local};
constexpr SearchKernels kSearch = {squared_distances, append_below, keep_smallest, sparse_square};

}  // namespace SGGP_ISA
