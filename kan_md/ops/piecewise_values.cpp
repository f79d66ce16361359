// kan_md::piecewise_values, see ops.h.
//
// Outputs are the lanes of a vector: a place is found once and serves all of them. Four inputs at a
// time go through many rows, so that the pieces in use stay in the first cache.

#include "ops.h"
#include "piecewise.h"
#include "piecewise_arguments.h"
#include "simd.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace kan_md::ops {
namespace {

constexpr int kOutputs = 8;       // come in blocks of so many, OUTPUT_BLOCK in layout.py
constexpr int kInputs = 4;        // at a time
constexpr int64_t kRows = 128;    // of these inputs at a time

template <typename T> struct Functions {
  const T *pieces, *inverse_step;    // [in, num_pieces, kPiecePowers, out], [in]
  int64_t in, num_pieces, out, origin;
};

// The places of four inputs: number of the piece, and where inside it.
template <typename T> struct Places {
  typedef T Values __attribute__((vector_size(kInputs * sizeof(T))));
  typedef int32_t Numbers __attribute__((vector_size(kInputs * sizeof(int32_t))));
  Numbers piece;
  Values u;
  Places(const Functions<T> &f, const T *x, const T *inverse_step, int count)
  {
    Values place{}, step{};
    std::memcpy(&place, x, count * sizeof(T));
    std::memcpy(&step, inverse_step, count * sizeof(T));
    place *= step;
    // NaN fails both comparisons: it goes to a piece that there is and stays NaN in the place.
    const Values nothing{}, first = nothing + static_cast<T>(f.origin);
    const Values last = nothing + static_cast<T>(f.num_pieces - 1);
    Values number = place + first;
    number = number > nothing ? number : nothing;
    number = number < last ? number : last;
    piece = __builtin_convertvector(number, Numbers);
    u = place - (__builtin_convertvector(piece, Values) - first);
  }
};

// Adds Count inputs' functions to Lanes outputs of some rows. x: [rows, in]; y: [rows, out].
template <typename T, int Lanes, int Count>
void add_inputs(const Functions<T> &f, const T *x, const T *pieces, const T *inverse_step,
                int64_t rows, T *y)
{
  typedef T Vector __attribute__((vector_size(Lanes * sizeof(T))));
  const int64_t piece_size = kPiecePowers * f.out, table = f.num_pieces * piece_size;
  for (int64_t n = 0; n < rows; ++n) {
    const Places<T> at(f, x + n * f.in, inverse_step, Count);
    Vector term[Count], sum;
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
      const T *c = pieces + i * table + at.piece[i] * piece_size;
      const T u = at.u[i];
      Vector coefficient;
      std::memcpy(&term[i], c + (kPiecePowers - 1) * f.out, sizeof(Vector));
#pragma GCC unroll 6
      for (int power = kPiecePowers - 2; power >= 0; --power) {
        std::memcpy(&coefficient, c + power * f.out, sizeof(Vector));
        term[i] = term[i] * u + coefficient;
      }
    }
    std::memcpy(&sum, y + n * f.out, sizeof(Vector));
    for (int i = 0; i < Count; ++i) sum += term[i];
    std::memcpy(y + n * f.out, &sum, sizeof(Vector));
  }
}

// Lanes outputs from the first one on, of all inputs.
template <typename T, int Lanes>
void add_outputs(const Functions<T> &f, const T *x, int64_t rows, int64_t first, T *y)
{
  const int64_t table = f.num_pieces * kPiecePowers * f.out;
  int64_t i = 0;
  for (; i + kInputs <= f.in; i += kInputs)
    add_inputs<T, Lanes, kInputs>(f, x + i, f.pieces + i * table + first, f.inverse_step + i, rows,
                                  y + first);
  for (; i < f.in; ++i)
    add_inputs<T, Lanes, 1>(f, x + i, f.pieces + i * table + first, f.inverse_step + i, rows,
                            y + first);
}

template <typename T>
at::Tensor evaluate(const at::Tensor &x, const at::Tensor &pieces, const at::Tensor &inverse_step,
                    int64_t origin)
{
  constexpr int kLanes = Simd<T>::kBlock;
  const Functions<T> f{pieces.const_data_ptr<T>(),
                       inverse_step.const_data_ptr<T>(),
                       x.size(1),
                       pieces.size(1),
                       pieces.size(3),
                       origin};
  const int64_t rows = x.size(0);
  at::Tensor y = at::zeros({rows, f.out}, x.options());
  const T *x_data = x.const_data_ptr<T>();
  T *y_data = y.mutable_data_ptr<T>();
  in_parallel_parts(
      at::get_num_threads(), (rows + kRows - 1) / kRows, [&](int64_t begin, int64_t end) {
        for (int64_t start = begin * kRows; start < std::min(rows, end * kRows); start += kRows) {
          const int64_t count = std::min(kRows, rows - start);
          const T *mine = x_data + start * f.in;
          T *out = y_data + start * f.out;
          int64_t first = 0;
          for (; first + kLanes <= f.out; first += kLanes)
            add_outputs<T, kLanes>(f, mine, count, first, out);
          if (first < f.out) add_outputs<T, kLanes / 2>(f, mine, count, first, out);
        }
      });
  return y;
}

}    // namespace

at::Tensor piecewise_values(const at::Tensor &x, const at::Tensor &pieces,
                            const at::Tensor &inverse_step, int64_t origin)
{
  check_piecewise("kan_md::piecewise_values", x, pieces, inverse_step, origin);
  TORCH_CHECK(pieces.dim() == 4 && pieces.size(2) == kPiecePowers && pieces.size(3) % kOutputs == 0,
              "kan_md::piecewise_values: pieces must be [in, num_pieces, ", kPiecePowers,
              ", a multiple of ", kOutputs, "], got ", x.sizes(), " and ", pieces.sizes());
  const at::Tensor x_ = x.contiguous(), c = pieces.contiguous(), step = inverse_step.contiguous();
  return x.scalar_type() == at::kFloat ? evaluate<float>(x_, c, step, origin)
                                       : evaluate<double>(x_, c, step, origin);
}

}    // namespace kan_md::ops
