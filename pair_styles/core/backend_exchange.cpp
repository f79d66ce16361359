// Hands the exchange of features to the operators' library.

#include "backend.h"

#include <algorithm>

namespace kan_md {

bool calls_exchange(const Manifest &manifest)
{
  const auto &called = manifest.operators;
  return called && std::find(called->begin(), called->end(), "kan_md::exchange") != called->end();
}

ExchangeScope::ExchangeScope(const kan_md_exchange *exchange)
{
  if (!exchange) return;
  const auto set = reinterpret_cast<kan_md_set_exchange_function *>(
      find_in_operator_library("kan_md_set_exchange"));
  if (!set || !set(exchange))
    throw Error("operators must exchange features as the plug-in does, version",
                set ? "another" : "none", std::to_string(EXCHANGE_VERSION),
                "run kan-md build --force");
  set_ = set;
}

ExchangeScope::~ExchangeScope()
{
  if (set_) set_(nullptr);
}

}    // namespace kan_md
