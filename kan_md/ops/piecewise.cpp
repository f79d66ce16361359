// kan_md::piecewise_sum and kan_md::piecewise_values, see ops.h.

#include "piecewise.h"
#include "ops.h"
#include "simd.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace kan_md::ops {
namespace {

// x [n, in], pieces [in, num_pieces, ...], inverse_step [in]; one dtype; origin is one of the pieces.
void check_arguments(const char *name, const at::Tensor &x, const at::Tensor &pieces,
                     const at::Tensor &inverse_step, int64_t origin)
{
  TORCH_CHECK(x.dim() == 2 && pieces.dim() >= 3 && pieces.size(0) == x.size(1), name,
              ": x must be [n, in] and pieces [in, num_pieces, ...], got ", x.sizes(), " and ",
              pieces.sizes());
  TORCH_CHECK(inverse_step.numel() == x.size(1), name, ": inverse_step must be [", x.size(1),
              "], got ", inverse_step.sizes());
  TORCH_CHECK(origin >= 0 && origin < pieces.size(1), name, ": origin must be below ",
              pieces.size(1), ", the number of pieces, got ", origin);
  for (const at::Tensor &t : {pieces, inverse_step})
    TORCH_CHECK(t.scalar_type() == x.scalar_type(), name, ": all tensors must be ", x.scalar_type(),
                " as x is, got ", t.scalar_type());
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, name,
              ": x must be float32 or float64, got ", x.scalar_type());
}

template <typename T, bool Slopes>
void sum_rows(const at::Tensor &x, const at::Tensor &pieces, const at::Tensor &inverse_step,
              int32_t origin, at::Tensor &y, at::Tensor &slope)
{
  const int64_t rows = x.size(0), in = x.size(1);
  const T *x_data = x.const_data_ptr<T>();
  const Pieces<T> f{.pieces = pieces.const_data_ptr<T>(),
                    .inverse_step = inverse_step.const_data_ptr<T>(),
                    .num_pieces = static_cast<int32_t>(pieces.size(1)),
                    .origin = origin};
  T *y_data = y.mutable_data_ptr<T>(), *slope_data = slope.mutable_data_ptr<T>();
  in_parallel_parts(at::get_num_threads(), rows, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      y_data[n] =
          piecewise_row<T, Slopes>(in, x_data + n * in, f, Slopes ? slope_data + n * in : nullptr);
  });
}

// Many outputs are the lanes of a vector: a place is found once and serves all of them. Four inputs at a
// time go through many rows, so that the pieces in use stay in the first cache.
constexpr int kOutputs = 8;       // come in blocks of so many, OUTPUT_BLOCK in layout.py
constexpr int kInputs = 4;        // at a time
constexpr int64_t kRows = 128;    // of these inputs at a time

template <typename T> struct Functions {
  const T *pieces, *inverse_step;    // [in, num_pieces, kPiecePowers, out], [in]
  int64_t in, num_pieces, out, origin;
};

// Number of the piece and the place inside it, of Lanes inputs. NaN fails both comparisons: it goes to
// a piece that there is and stays NaN in the place.
template <typename T, int Lanes> struct PiecePlaces {
  typedef T Values __attribute__((vector_size(Lanes * sizeof(T))));
  typedef int32_t Numbers __attribute__((vector_size(Lanes * sizeof(int32_t))));
  Numbers piece;
  Values u;

  KAN_MD_INLINE PiecePlaces(Values steps, int64_t origin, int64_t num_pieces)
  {
    const Values nothing{}, first = nothing + static_cast<T>(origin);
    const Values last = nothing + static_cast<T>(num_pieces - 1);
    Values number = steps + first;
    number = number > nothing ? number : nothing;
    number = number < last ? number : last;
    piece = __builtin_convertvector(number, Numbers);
    u = steps - (__builtin_convertvector(piece, Values) - first);
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
    typename PiecePlaces<T, kInputs>::Values steps{}, step{};
    std::memcpy(&steps, x + n * f.in, Count * sizeof(T));
    std::memcpy(&step, inverse_step, Count * sizeof(T));
    const PiecePlaces<T, kInputs> at(steps * step, f.origin, f.num_pieces);
    Vector term[Count], sum;
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
      const T *c = pieces + i * table + at.piece[i] * piece_size;
      term[i] = quintic<Vector>(at.u[i], [&](int power) __attribute__((always_inline)) {
        Vector coefficient;
        std::memcpy(&coefficient, c + power * f.out, sizeof(Vector));
        return coefficient;
      });
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
at::Tensor values_of(const at::Tensor &x, const at::Tensor &pieces, const at::Tensor &inverse_step,
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

std::tuple<at::Tensor, at::Tensor> piecewise_sum(const at::Tensor &x, const at::Tensor &pieces,
                                                 const at::Tensor &inverse_step, int64_t origin,
                                                 bool slopes)
{
  check_arguments("kan_md::piecewise_sum", x, pieces, inverse_step, origin);
  TORCH_CHECK(pieces.dim() == 3 && pieces.size(2) == kPieceRow,
              "kan_md::piecewise_sum: pieces must be [in, num_pieces, ", kPieceRow, "], got ",
              pieces.sizes());
  const at::Tensor x_ = x.contiguous(), c = pieces.contiguous();
  const at::Tensor inverse = inverse_step.contiguous();
  at::Tensor y = at::empty({x.size(0), 1}, x.options());
  at::Tensor slope = at::empty({slopes ? x.size(0) : 0, x.size(1)}, x.options());
  const auto first = static_cast<int32_t>(origin);
  const auto call = [&]<typename T>(T) {
    if (slopes)
      sum_rows<T, true>(x_, c, inverse, first, y, slope);
    else
      sum_rows<T, false>(x_, c, inverse, first, y, slope);
  };
  if (x.scalar_type() == at::kFloat)
    call(0.0f);
  else
    call(0.0);
  return {y, slope};
}

at::Tensor piecewise_values(const at::Tensor &x, const at::Tensor &pieces,
                            const at::Tensor &inverse_step, int64_t origin)
{
  check_arguments("kan_md::piecewise_values", x, pieces, inverse_step, origin);
  TORCH_CHECK(pieces.dim() == 4 && pieces.size(2) == kPiecePowers && pieces.size(3) % kOutputs == 0,
              "kan_md::piecewise_values: pieces must be [in, num_pieces, ", kPiecePowers,
              ", a multiple of ", kOutputs, "], got ", x.sizes(), " and ", pieces.sizes());
  const at::Tensor x_ = x.contiguous(), c = pieces.contiguous(), step = inverse_step.contiguous();
  return x.scalar_type() == at::kFloat ? values_of<float>(x_, c, step, origin)
                                       : values_of<double>(x_, c, step, origin);
}

}    // namespace kan_md::ops
