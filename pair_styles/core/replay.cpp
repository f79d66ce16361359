// torch's recorders: its own for CUDA, which needs CUDA's headers, and one interface for all other
// devices, from torch 2.11 on.

#include "replay.h"

#if KAN_MD_CUDA
#include <ATen/cuda/CUDAGraph.h>
#endif

#if __has_include(<ATen/core/GraphImplInterface.h>)
#include <ATen/core/GraphImplInterface.h>
#define KAN_MD_GRAPHS 1
#endif

namespace kan_md {

namespace {

#if KAN_MD_CUDA
class CUDAReplay final : public Replay {
 public:
  void begin() override { graph_.capture_begin(); }
  void end() override { graph_.capture_end(); }
  void run() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};
#endif

#if KAN_MD_GRAPHS
class DeviceReplay final : public Replay {
 public:
  explicit DeviceReplay(c10::DeviceType type) : graph_(at::create_graph_impl(type)) {}
  void begin() override { graph_->capture_begin(); }
  void end() override { graph_->capture_end(); }
  void run() override { graph_->replay(); }

 private:
  std::unique_ptr<at::GraphImplInterface> graph_;
};
#endif

}    // namespace

std::unique_ptr<Replay> make_replay([[maybe_unused]] c10::Device device)
{
#if KAN_MD_CUDA
  if (device.is_cuda()) return std::make_unique<CUDAReplay>();
#endif
#if KAN_MD_GRAPHS
  if (at::has_graph_impl(device.type())) return std::make_unique<DeviceReplay>(device.type());
#endif
  return nullptr;
}

}    // namespace kan_md
