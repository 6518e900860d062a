// What the parts of the sanitizers' program share: the C interface, random numbers, and checks that are counted.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "families.h"

extern "C" {
int sggp_abi_version();
int sggp_isa_count();
const char* sggp_isa_name(int isa);
int sggp_stationary_f32(int, int, int, double, double, const float*, int64_t, const float*, int64_t, int64_t,
                        const float*, const float*, int64_t, float*, int64_t, int64_t);
int sggp_stationary_f64(int, int, int, double, double, const double*, int64_t, const double*, int64_t, int64_t,
                        const double*, const double*, int64_t, double*, int64_t, int64_t);
int sggp_gradient_f32(int, int, int, double, double, const float*, int64_t, const float*, int64_t, int64_t,
                      const float*, const float*, int64_t, double*, int64_t);
int sggp_gradient_f64(int, int, int, double, double, const double*, int64_t, const double*, int64_t, int64_t,
                      const double*, const double*, int64_t, double*, int64_t);
int sggp_counts_f32(int, int, const uint8_t*, int64_t, const uint8_t*, int64_t, int64_t, const float*, int64_t, float*,
                    int64_t);
int sggp_counts_f64(int, int, const uint8_t*, int64_t, const uint8_t*, int64_t, int64_t, const double*, int64_t,
                    double*, int64_t);
int sggp_bits_f32(int, int, const uint64_t*, int64_t, const uint64_t*, int64_t, int64_t, const int32_t*, const int32_t*,
                  const float*, int64_t, float*, int64_t);
int sggp_bits_f64(int, int, const uint64_t*, int64_t, const uint64_t*, int64_t, int64_t, const int32_t*, const int32_t*,
                  const double*, int64_t, double*, int64_t);
int sggp_pack(int, const uint8_t*, int64_t, int64_t, const int32_t*, int64_t, uint64_t*, int32_t*);
void sggp_use_team(void*);
int sggp_largest(int, const uint8_t*, int64_t, int64_t, uint8_t*);
int sggp_small_tanimoto(int, int, const uint8_t*, int64_t, int64_t, int64_t, double*);
int sggp_small_stationary(int, int, int, double, double, const double*, const double*, int64_t, int64_t, int64_t,
                          double*);
int sggp_local_posteriors(int, int, const double*, const int64_t*, int64_t, int64_t, const double*, int64_t,
                          const double*, int64_t, double*, double*);
int sggp_neighbour_columns(int, int, int, double, double, const double*, int64_t, const double*, const double*, int64_t,
                           const int64_t*, const uint8_t*, int64_t, int64_t, double*);
int sggp_neighbour_scores(int, int, int, double, double, const double*, int64_t, const float*, int64_t, const float*,
                          const int64_t*, const int64_t*, int64_t, int64_t, float*);
int sggp_conditionals(int, int, int, double, const double*, int64_t, const double*, int64_t, const int64_t*, int64_t,
                      int64_t, const double*, int64_t, const double*, int, double*, double*, double*, double*, double*);
int sggp_nearest(int, int, const float*, int64_t, int64_t, const float*, int64_t, int64_t, const int64_t*, int64_t*);
int sggp_coarse_to_fine(int, int, const float*, int64_t, int64_t, int64_t*);
int sggp_sparse_square(int, int, const int64_t*, const double*, int64_t, int64_t, const double*, int64_t, double*);
int sggp_near_f32(int, int, int, double, double, const double*, int64_t, const double*, int64_t, int64_t, const float*,
                  int64_t, const int64_t*, const int64_t*, int64_t, const int64_t*, float*);
int sggp_near_f64(int, int, int, double, double, const double*, int64_t, const double*, int64_t, int64_t, const double*,
                  int64_t, const int64_t*, const int64_t*, int64_t, const int64_t*, double*);
int sggp_ceiling_evaluate_f32(int, int, int, int64_t, int64_t);
int sggp_ceiling_evaluate_f64(int, int, int, int64_t, int64_t);
int sggp_ceiling_multiply_f32(int, int, int64_t, int64_t);
int sggp_ceiling_multiply_f64(int, int, int64_t, int64_t);
int sggp_ceiling_intersect(int, int, int64_t, int64_t);
int sggp_ceiling_fill(int, float*, int64_t);
}

extern std::mt19937 engine;

// Counts and prints a check that failed.
void expect(bool good, const char* what, int isa);

// Runs `call` from several threads at once, five times each; false is a failure.
void concurrently(const std::function<bool(int)>& call);

template <class T> std::vector<T> normal(int64_t size) {
  std::normal_distribution<double> draw(0.0, 0.5);
  std::vector<T> x(static_cast<size_t>(size));
  for (T& value : x) value = T(draw(engine));
  return x;
}

inline double rbf(double q) { return std::exp(-q / 2); }

// In sanitize_parts.cpp.
void newer_functions(int isa);
void local_posteriors(int isa);  // in sanitize_local.cpp
void near_products(int isa);
void functions_without_instruction_set();
void many_callers();
