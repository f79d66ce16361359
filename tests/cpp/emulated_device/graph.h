// Graph capture of the emulated device: what a CUDA graph would refuse, this refuses.
//
// An operator that runs while a graph is captured is carried out, which gives its outputs their
// shapes, and recorded with host views of the memory that it reads and writes. At the end of the
// capture its traces are removed, because CUDA only records: memory that existed before gets its
// contents back, memory that was allocated meanwhile is filled with NaN. So a program that reads
// results of a capture that it has not replayed fails here too.

#pragma once

#include <ATen/core/GraphImplInterface.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace emulated {

inline const c10::Device device(c10::DeviceType::PrivateUse1, 0);

// ---- counters ----------------------------------------------------------------------------------

enum Counter {
  HostToDevice,
  DeviceToHost,
  HostToDeviceBytes,
  DeviceToHostBytes,
  ScalarReads,    // of the host, which has to wait: .item(), equal, sizes that depend on data
  Captures,
  Replays,
  Operators,    // run one by one, copies on the device among them; views and allocations are none
  NumCounters
};

inline constexpr const char *counter_names[NumCounters] = {
    "host_to_device",
    "device_to_host",
    "host_to_device_bytes",
    "device_to_host_bytes",
    "scalar_reads",
    "captures",
    "replays",
    "operators",
};

inline std::array<std::atomic<int64_t>, NumCounters> counters{};

// ---- capture -----------------------------------------------------------------------------------

inline thread_local c10::StreamId current_stream = 0;    // 0 is the default stream

struct Step {
  std::string name;
  std::vector<std::pair<c10::Storage, const void *>> memory;    // where each storage was
  std::function<void()> run;
};

struct Capture {
  c10::StreamId stream;
  std::vector<Step> steps;
  std::string refusal;
  std::unordered_map<void *, size_t> fresh;    // bytes of memory allocated meanwhile
  std::unordered_map<void *, std::pair<c10::Storage, std::string>> overwritten;

  void remove_traces()
  {
    for (auto &[memory, saved] : overwritten)
      if (saved.first.data() == memory)    // not resized since
        std::memcpy(memory, saved.second.data(), saved.second.size());
    for (auto &[memory, bytes] : fresh) std::memset(memory, 0xff, bytes);
  }
};

// Operators of the backward pass run in a thread of the autograd engine.
inline std::mutex capture_mutex;
inline std::unique_ptr<Capture> *const running = new std::unique_ptr<Capture>;
inline std::atomic<bool> is_capturing{false};

// Throw if a graph is captured; what: named in the message, with the reason.
inline void refuse_in_capture(const std::string &what, const std::string &reason)
{
  const std::lock_guard lock(capture_mutex);
  if (!*running) return;
  const std::string refusal = what + " cannot be part of a captured graph: " + reason;
  if ((*running)->refusal.empty()) (*running)->refusal = refusal;
  TORCH_CHECK(false, refusal);
}

// CUDA would run work of another stream without recording it.
inline void check_stream(const std::string &name)
{
  if (!is_capturing) return;
  c10::StreamId captured;
  {
    const std::lock_guard lock(capture_mutex);
    if (!*running) return;
    captured = (*running)->stream;
  }
  if (current_stream != captured)
    refuse_in_capture(name, "it runs on stream " + std::to_string(current_stream) +
                                ", the capture is of stream " + std::to_string(captured));
}

inline void note_allocation(void *memory, size_t bytes)
{
  if (!is_capturing) return;
  const std::lock_guard lock(capture_mutex);
  if (*running) (*running)->fresh[memory] = bytes;
}

inline void note_release(void *memory)
{
  if (!is_capturing) return;
  const std::lock_guard lock(capture_mutex);
  if (*running) (*running)->fresh.erase(memory);
}

// Keep what a captured operator is about to overwrite.
inline void save_contents(const at::Tensor &tensor)
{
  const c10::Storage &storage = tensor.storage();
  void *const memory = storage.mutable_data();
  const std::lock_guard lock(capture_mutex);
  if (!*running || !memory || (*running)->fresh.count(memory)) return;
  (*running)->overwritten.try_emplace(
      memory, storage, std::string(static_cast<const char *>(memory), storage.nbytes()));
}

inline void record(Step step)
{
  const std::lock_guard lock(capture_mutex);
  if (*running) (*running)->steps.push_back(std::move(step));
}

// ---- graph -------------------------------------------------------------------------------------

class Graph final : public at::GraphImplInterface {
 public:
  explicit Graph(const at::GraphImplArgs &) {}
  ~Graph() override { reset(); }

  void capture_begin(at::MempoolId_t, at::GraphCaptureMode) override
  {
    TORCH_CHECK(!captured_, "this graph is captured already; reset it before another capture");
    TORCH_CHECK(current_stream != 0,
                "a graph cannot be captured on the default stream; make another one current");
    const std::lock_guard lock(capture_mutex);
    TORCH_CHECK(!*running, "a graph is being captured already");
    *running = std::make_unique<Capture>();
    (*running)->stream = current_stream;
    mine_ = running->get();
    is_capturing = true;
  }

  void capture_end() override
  {
    TORCH_CHECK(mine_, "capture_end without capture_begin");
    const c10::StreamId stream = mine_->stream;
    const auto done = end();
    TORCH_CHECK(current_stream == stream, "capture_end runs on another stream than capture_begin");
    TORCH_CHECK(done->refusal.empty(), "the capture has failed: ", done->refusal);
    steps_ = std::move(done->steps);
    captured_ = true;
    ++counters[Captures];
  }

  void instantiate() override {}

  void replay() override
  {
    TORCH_CHECK(captured_, "there is no captured graph to replay");
    refuse_in_capture("replay", "another graph is being captured");
    const at::AutoDispatchBelowADInplaceOrView guard;
    for (const Step &step : steps_) {
      for (const auto &[storage, place] : step.memory)
        TORCH_CHECK(storage.data() == place, "a tensor of ", step.name,
                    " in the captured graph was resized or moved since the capture");
      step.run();
    }
    ++counters[Replays];
  }

  void reset() override
  {
    if (mine_) end();
    steps_.clear();
    captured_ = false;
  }

  at::MempoolId_t pool() const override { return {0, reinterpret_cast<std::uintptr_t>(this)}; }
  void enable_debug_mode() override {}

  // The operators of the graph, one a line.
  void debug_dump(const std::string &path) override
  {
    std::ofstream file(path);
    for (const Step &step : steps_) file << step.name << "\n";
  }

 private:
  std::unique_ptr<Capture> end()
  {
    mine_ = nullptr;
    // Under the lock: a thread of the autograd engine may still release memory of the capture.
    const std::lock_guard lock(capture_mutex);
    (*running)->remove_traces();
    is_capturing = false;
    return std::move(*running);
  }

  std::vector<Step> steps_;
  Capture *mine_ = nullptr;
  bool captured_ = false;
};

}    // namespace emulated
