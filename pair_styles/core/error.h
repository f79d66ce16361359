// The one exception of the core: a message that a user can act on, and where it was raised.

#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace kan_md {

// Says what is wrong, what was found, what is allowed, and the remedy, on one line.
class Error : public std::runtime_error {
 public:
  using Where = std::source_location;

  explicit Error(const std::string &message, Where where = Where::current()) :
      std::runtime_error(message), where_(where)
  {
  }

  // An empty `allowed` is left out.
  Error(const std::string &what, const std::string &found, const std::string &allowed,
        const std::string &remedy, Where where = Where::current()) :
      std::runtime_error(what + ", got " + found +
                         (allowed.empty() ? std::string() : "; allowed: " + allowed) + "; " +
                         remedy),
      where_(where)
  {
  }

  const Where &where() const { return where_; }

 private:
  Where where_;
};

}    // namespace kan_md
