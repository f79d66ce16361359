// Between two layers of message passing: features of nodes that other ranks own, from their owners.
//
//   exchanging   [1] int64: 1 where they come by an exchange, 0 where the model computes them
//   exchange     blocked features of the first nodes, own ones at least -> of all nodes; without an
//                exchange a copy of what goes in
//   exchange_backward  gradient by what comes out -> by what goes in
//
// Who exchanges is set from outside, for the calls of one thread: see core/exchange.h.

#include "core/exchange.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace kan_md::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

thread_local const kan_md_exchange *current = nullptr;

int64_t width_of(c10::IntArrayRef sizes)
{
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
}

// Blocked features of `num_rows` nodes: for each size a block [num_rows, size].
template <typename T> struct Blocks {
  T *data;
  int64_t num_rows;
};

// The same in the words of core/exchange.h.
class BlocksInBytes {
 public:
  BlocksInBytes(int64_t num_rows, c10::IntArrayRef sizes, int64_t value_bytes) :
      bytes_(sizes.vec()), blocks_{num_rows, bytes_.data(), static_cast<int>(sizes.size())}
  {
    for (int64_t &bytes : bytes_) bytes *= value_bytes;
  }
  const kan_md_blocks *get() const { return &blocks_; }

 private:
  std::vector<int64_t> bytes_;
  kan_md_blocks blocks_;
};

// The first `count` nodes of blocks of two lengths.
template <typename T>
void copy_first(Blocks<const T> from, c10::IntArrayRef sizes, int64_t count, Blocks<T> to)
{
  int64_t at = 0;
  for (const int64_t size : sizes) {
    const T *const block = from.data + from.num_rows * at;
    std::copy(block, block + count * size, to.data + to.num_rows * at);
    at += size;
  }
}

// Zeros for the nodes after the first `count`.
template <typename T> void clear_rest(Blocks<T> blocks, c10::IntArrayRef sizes, int64_t count)
{
  int64_t at = 0;
  for (const int64_t size : sizes) {
    at += size;
    T *const end = blocks.data + blocks.num_rows * at;
    std::fill(end - (blocks.num_rows - count) * size, end, T(0));
  }
}

struct Counts {
  int64_t own, in, out;    // nodes: of this rank, in x, in all
};

Counts count_nodes(const at::Tensor &x, c10::IntArrayRef sizes, const at::Tensor &num_local,
                   int64_t num_all)
{
  const int64_t width = width_of(sizes);
  TORCH_CHECK(x.is_contiguous() && x.dim() == 1 && width > 0 && x.numel() % width == 0,
              "kan_md::exchange: blocked features of ", width, " numbers per node, got ",
              x.sizes());
  const Counts counts{*num_local.const_data_ptr<int64_t>(), x.numel() / width, num_all};
  TORCH_CHECK(counts.own <= counts.in && counts.in <= counts.out,
              "kan_md::exchange: features of at least the ", counts.own, " own and at most the ",
              counts.out, " nodes, got ", counts.in);
  return counts;
}

at::Tensor exchanging(const at::Tensor &num_local)
{
  return at::full_like(num_local, current ? 1 : 0);
}

at::Tensor exchange(const at::Tensor &x, c10::IntArrayRef sizes, const at::Tensor &num_local,
                    const at::Tensor &atom_types)
{
  const Counts counts = count_nodes(x, sizes, num_local, atom_types.numel());
  if (!current) return x.clone();
  const int64_t width = width_of(sizes);
  const at::Tensor out = at::empty({counts.out * width}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "kan_md::exchange", [&] {
    const Blocks<const scalar_t> from{x.const_data_ptr<scalar_t>(), counts.in};
    const Blocks<scalar_t> to{out.mutable_data_ptr<scalar_t>(), counts.out};
    copy_first(from, sizes, counts.own, to);
    const BlocksInBytes blocks(counts.out, sizes, sizeof(scalar_t));
    const int failed = current->forward(current->context, to.data, blocks.get(), counts.own);
    TORCH_CHECK(!failed, "kan_md::exchange: features of other ranks' atoms did not arrive");
  });
  return out;
}

at::Tensor exchange_backward(const at::Tensor &out_grad, c10::IntArrayRef sizes,
                             const at::Tensor &num_local, const at::Tensor &x)
{
  const at::Tensor grad = out_grad.contiguous();
  const int64_t width = width_of(sizes);
  const Counts counts =
      count_nodes(x, sizes, num_local, grad.numel() / std::max<int64_t>(width, 1));
  if (!current) return grad.clone();
  const at::Tensor in_grad = at::empty({counts.in * width}, grad.options());
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "kan_md::exchange_backward", [&] {
    const Blocks<const scalar_t> from{grad.const_data_ptr<scalar_t>(), counts.out};
    const Blocks<scalar_t> to{in_grad.mutable_data_ptr<scalar_t>(), counts.in};
    copy_first(from, sizes, counts.own, to);
    clear_rest(to, sizes, counts.own);
    const BlocksInBytes blocks(counts.out, sizes, sizeof(scalar_t));
    const BlocksInBytes own_blocks(counts.in, sizes, sizeof(scalar_t));
    const int failed = current->reverse(current->context, from.data, blocks.get(), to.data,
                                        own_blocks.get(), counts.own, sizeof(scalar_t));
    TORCH_CHECK(!failed, "kan_md::exchange: gradients of other ranks did not arrive");
  });
  return in_grad;
}

at::Tensor exchanging_meta(const at::Tensor &num_local)
{
  return at::empty_like(num_local);
}

at::Tensor exchange_meta(const at::Tensor &x, c10::IntArrayRef sizes, const at::Tensor &,
                         const at::Tensor &atom_types)
{
  return at::empty_symint({atom_types.sym_numel() * width_of(sizes)}, x.options());
}

at::Tensor exchange_backward_meta(const at::Tensor &, c10::IntArrayRef, const at::Tensor &,
                                  const at::Tensor &x)
{
  return at::empty_like(x);
}

class Exchange : public torch::autograd::Function<Exchange> {
 public:
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, std::vector<int64_t> sizes,
                            const at::Tensor &num_local, const at::Tensor &atom_types)
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("kan_md::exchange", "")
                               .typed<decltype(exchange)>();
    ctx->save_for_backward({num_local, x});
    ctx->saved_data["sizes"] = sizes;
    return op.call(x, sizes, num_local, atom_types);
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads)
  {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("kan_md::exchange_backward", "")
                               .typed<decltype(exchange_backward)>();
    const variable_list s = ctx->get_saved_variables();
    variable_list result(4);
    result[0] = op.call(grads[0], ctx->saved_data["sizes"].toIntVector(), s[0], s[1]);
    return result;
  }
};

at::Tensor exchange_autograd(const at::Tensor &x, c10::IntArrayRef sizes,
                             const at::Tensor &num_local, const at::Tensor &atom_types)
{
  return Exchange::apply(x, sizes.vec(), num_local, atom_types);
}

}    // namespace

extern "C" __attribute__((visibility("default"))) int
kan_md_set_exchange(const kan_md_exchange *exchange)
{
  if (exchange && exchange->version != EXCHANGE_VERSION) return 0;
  current = exchange;
  return 1;
}

TORCH_LIBRARY_FRAGMENT(kan_md, m)
{
  m.def("exchanging(Tensor num_local) -> Tensor");
  m.def("exchange(Tensor x, int[] sizes, Tensor num_local, Tensor atom_types) -> Tensor");
  m.def("exchange_backward(Tensor out_grad, int[] sizes, Tensor num_local, Tensor x) -> Tensor");
}

TORCH_LIBRARY_IMPL(kan_md, CPU, m)
{
  m.impl("exchanging", exchanging);
  m.impl("exchange", exchange);
  m.impl("exchange_backward", exchange_backward);
}

TORCH_LIBRARY_IMPL(kan_md, Autograd, m)
{
  m.impl("exchange", exchange_autograd);
}

TORCH_LIBRARY_IMPL(kan_md, Meta, m)
{
  m.impl("exchanging", exchanging_meta);
  m.impl("exchange", exchange_meta);
  m.impl("exchange_backward", exchange_backward_meta);
}

}    // namespace kan_md::ops
