// The one exception of the core: a message that a user can act on.

#pragma once

#include <stdexcept>
#include <string>

namespace kan_md {

// Says what is wrong, what was found, what is allowed, and the remedy, on one line.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string &message) : std::runtime_error(message) {}

  // An empty `allowed` is left out.
  Error(const std::string &what, const std::string &found, const std::string &allowed,
        const std::string &remedy) :
      std::runtime_error(what + ", got " + found +
                         (allowed.empty() ? std::string() : "; allowed: " + allowed) + "; " +
                         remedy)
  {
  }
};

}    // namespace kan_md
