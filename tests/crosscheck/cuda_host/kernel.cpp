// Compiles torch's CUDA kernel of fused Adam for the host and offers it to Python.

#include <ATen/Dispatch.h>
// This is the file in stand_ins, which defines the names of CUDA that the code below needs.
#include <ATen/native/cuda/MultiTensorApply.cuh>

#include <ATen/native/cuda/fused_adam_utils.cuh>
#include <torch/library.h>

namespace {

using namespace at::native;

template <typename T, int depth, ADAM_MODE mode>
void update(
    at::TensorList tensors, const at::Tensor& step, double lr, double beta1, double beta2, double weight_decay,
    double eps, bool maximize, const float* grad_scale, const float* found_inf) {
  FusedOptimizerTensorListMetadata<depth> list{};
  for (int i = 0; i < depth; i++) {
    list.addresses[i][0] = tensors[i].data_ptr<T>();
  }
  const auto all = tensors[0].numel();  // one chunk
  list.numel_for_tensor[0] = all;
  list.state_steps_addresses[0] = step.data_ptr<float>();
  FusedAdamMathFunctor<T, depth, mode, depth == 5>()(
      all, list, nullptr, lr, beta1, beta2, weight_decay, eps, maximize, grad_scale, found_inf);
}

void fused_adam(
    at::TensorList tensors, const at::Tensor& step, bool decoupled, double lr, double beta1, double beta2,
    double weight_decay, double eps, bool maximize, const std::optional<at::Tensor>& grad_scale,
    const std::optional<at::Tensor>& found_inf) {
  const float* scale = grad_scale ? grad_scale->data_ptr<float>() : nullptr;
  const float* inf = found_inf ? found_inf->data_ptr<float>() : nullptr;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, tensors[0].scalar_type(), "fused_adam", [&] {
    const auto run = [&](auto depth, auto mode) {
      update<scalar_t, depth(), mode()>(tensors, step, lr, beta1, beta2, weight_decay, eps, maximize, scale, inf);
    };
    using Plain = std::integral_constant<int, 4>;
    using AMSGrad = std::integral_constant<int, 5>;
    using Coupled = std::integral_constant<ADAM_MODE, ADAM_MODE::ORIGINAL>;
    using Decoupled = std::integral_constant<ADAM_MODE, ADAM_MODE::ADAMW>;
    if (tensors.size() == 5) {
      decoupled ? run(AMSGrad(), Decoupled()) : run(AMSGrad(), Coupled());
    } else {
      decoupled ? run(Plain(), Decoupled()) : run(Plain(), Coupled());
    }
  });
}

} // namespace

TORCH_LIBRARY(NAME, m) {
  m.def(
      "fused_adam(Tensor[] tensors, Tensor step, bool decoupled, float lr, float beta1, float beta2, "
      "float weight_decay, float eps, bool maximize, Tensor? grad_scale, Tensor? found_inf) -> ()",
      fused_adam);
}
