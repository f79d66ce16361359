// kan_md::piecewise_values, see ops.h.
//
// Outputs are the lanes of a vector: a place is found once and serves all of them. Four inputs at a
// time go through many rows, so that the pieces in use stay in the first cache.

#include "ops.h"
#include "simd.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace kan_md::ops {
namespace {

constexpr int kPowers = 6;
constexpr int kOutputs = 8;       // come in blocks of so many, OUTPUT_BLOCK in layout.py
constexpr int kInputs = 4;        // at a time
constexpr int64_t kRows = 128;    // of these inputs at a time

template <typename T> struct Functions {
  const T *pieces, *inverse_step;    // [in, num_pieces, kPowers, out], [in]
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
  const int64_t piece_size = kPowers * f.out, table = f.num_pieces * piece_size;
  for (int64_t n = 0; n < rows; ++n) {
    const Places<T> at(f, x + n * f.in, inverse_step, Count);
    Vector term[Count], sum;
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
      const T *c = pieces + i * table + at.piece[i] * piece_size;
      const T u = at.u[i];
      Vector coefficient;
      std::memcpy(&term[i], c + (kPowers - 1) * f.out, sizeof(Vector));
#pragma GCC unroll 6
      for (int power = kPowers - 2; power >= 0; --power) {
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
  const int64_t table = f.num_pieces * kPowers * f.out;
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
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    const T *mine = x_data + start * f.in;
    T *out = y_data + start * f.out;
    int64_t first = 0;
    for (; first + kLanes <= f.out; first += kLanes)
      add_outputs<T, kLanes>(f, mine, count, first, out);
    if (first < f.out) add_outputs<T, kLanes / 2>(f, mine, count, first, out);
  }
  return y;
}

}    // namespace

at::Tensor piecewise_values(const at::Tensor &x, const at::Tensor &pieces,
                            const at::Tensor &inverse_step, int64_t origin)
{
  TORCH_CHECK(x.dim() == 2 && pieces.dim() == 4 && pieces.size(0) == x.size(1) &&
                  pieces.size(1) >= 1 && pieces.size(2) == kPowers &&
                  pieces.size(3) % kOutputs == 0,
              "kan_md::piecewise_values: x [n, in] and pieces [in, num_pieces, ", kPowers,
              ", a multiple of ", kOutputs, "], got ", x.sizes(), " and ", pieces.sizes());
  TORCH_CHECK(inverse_step.numel() == x.size(1), "kan_md::piecewise_values: one step per input");
  TORCH_CHECK(origin >= 0 && origin < pieces.size(1),
              "kan_md::piecewise_values: origin must be a piece, got ", origin);
  for (const at::Tensor &t : {pieces, inverse_step})
    TORCH_CHECK(t.scalar_type() == x.scalar_type(),
                "kan_md::piecewise_values: all tensors must share one dtype");
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
              "kan_md::piecewise_values: float32 or float64, got ", x.scalar_type());
  const at::Tensor x_ = x.contiguous(), c = pieces.contiguous(), step = inverse_step.contiguous();
  return x.scalar_type() == at::kFloat ? evaluate<float>(x_, c, step, origin)
                                       : evaluate<double>(x_, c, step, origin);
}

}    // namespace kan_md::ops
