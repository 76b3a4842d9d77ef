#pragma once
// Defines for a host what the fused kernels need of CUDA and of torch's launcher of this name: one block of one thread.
// The launcher itself cannot be compiled without nvcc.

#include <ATen/core/Tensor.h>
#include <math.h>

#include <algorithm>
#include <functional>

#define __host__
#define __device__
#define __forceinline__ inline

struct Index {
  int x;
};

namespace at::native {

constexpr Index threadIdx{0}, blockDim{1};
inline thread_local Index blockIdx{0};

constexpr int64_t kILP = 4;

template <int n>
struct TensorListMetadata;
template <typename T, int n>
struct TensorListScalarListMetadata;

template <int n>
struct FusedOptimizerTensorListMetadata {
  const void* addresses[n][1];
  int64_t numel_for_tensor[1];
  const void* state_steps_addresses[1];
  int block_to_tensor[1];
  int block_to_chunk[1];
};

template <typename T>
bool is_aligned(T* p) {
  return reinterpret_cast<uintptr_t>(p) % (kILP * sizeof(T)) == 0;
}

template <typename T>
void load_store(T* dst, T* src, int64_t dst_offset, int64_t src_offset) {
  std::copy_n(src + kILP * src_offset, kILP, dst + kILP * dst_offset);
}

} // namespace at::native
