// Work of a GPU that is recorded once and launched again as a whole.

#pragma once

#include <c10/core/Device.h>

#include <memory>

namespace kan_md {

// Between begin() and end(), what the current stream is given is recorded (on some devices not run).
// The tensors made meanwhile belong to the recording and hold the results of each run().
class Replay {
 public:
  virtual ~Replay() = default;
  virtual void begin() = 0;
  virtual void end() = 0;
  virtual void run() = 0;
};

// Nothing where torch cannot record on this device, or where this was compiled without its headers.
std::unique_ptr<Replay> make_replay(c10::Device device);

}    // namespace kan_md
