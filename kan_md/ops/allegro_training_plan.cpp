#include "allegro_training_plan.h"

#include <c10/util/Exception.h>

namespace kan_md::ops {
namespace {

constexpr const char *kName = "kan_md::allegro_training";

// Takes numbers, weights and indices one after the other.
template <typename T> class FlatReader {
 public:
  FlatReader(const at::Tensor &weights, const at::Tensor &program, c10::IntArrayRef shape) :
      weights_(weights), program_(program), shape_(shape)
  {
    TORCH_CHECK(weights.dim() == 1 && weights.is_contiguous() && program.dim() == 1 &&
                    program.is_contiguous() && program.scalar_type() == at::kInt,
                kName, ": weights [n] and program [n] int32, got ", weights.sizes(), " and ",
                program.sizes(), " of ", program.scalar_type());
  }

  int64_t number()
  {
    TORCH_CHECK(number_ < shape_.size(), kName, ": shape is too short");
    return shape_[number_++];
  }

  int64_t size()
  {
    const int64_t value = number();
    TORCH_CHECK(value >= 0, kName, ": sizes are not negative, got ", value);
    return value;
  }

  int64_t width()
  {
    const int64_t value = number();
    TORCH_CHECK(value > 0 && value % Simd<T>::kBlock == 0, kName, ": widths are multiples of ",
                Simd<T>::kBlock, ", got ", value);
    return value;
  }

  // Where the next weights begin; `data` becomes their place in memory.
  int64_t take(int64_t count, const T *&data)
  {
    TORCH_CHECK(place_ + count <= weights_.numel(), kName, ": too few weights");
    data = weights_.const_data_ptr<T>() + place_;
    place_ += count;
    return place_ - count;
  }

  const int32_t *indices(int64_t count)
  {
    TORCH_CHECK(index_ + count <= program_.numel(), kName, ": too few indices");
    index_ += count;
    return program_.const_data_ptr<int32_t>() + index_ - count;
  }

  TrainedStep<T> matrix(StepKind kind, int64_t in, int64_t out)
  {
    TrainedStep<T> step{.kind = kind, .in = in, .out = out};
    step.place = take(in * out, step.weight);
    step.transposed.resize(in * out / Simd<T>::kLanes);
    T *transposed = reinterpret_cast<T *>(step.transposed.data());
    for (int64_t i = 0; i < in; ++i)
      for (int64_t o = 0; o < out; ++o) transposed[o * in + i] = step.weight[i * out + o];
    return step;
  }

  KanFunctions<T> functions(int64_t in)
  {
    KanFunctions<T> f{.in = in};
    const int64_t basis = number();
    TORCH_CHECK(basis >= 0 && basis <= static_cast<int64_t>(Basis::kFourier), kName,
                ": unknown basis ", basis);
    f.basis = static_cast<Basis>(basis);
    f.rows = size();
    f.powers = size();
    f.steps = size();
    f.shifted = number() != 0;
    f.silu = number() != 0;
    TORCH_CHECK(f.rows >= 1 &&
                    (f.basis == Basis::kBSpline ? f.powers >= 2 && f.powers <= kMostOrder + 1
                                                : f.powers == 1),
                kName, ": a KAN has rows and one power, or 2 to 6 in a B-spline, got ", f.rows,
                " and ", f.powers);
    f.place = take(f.rows * f.powers * in, f.w);
    take(3 * in, f.rest);
    take(in, f.scale);
    take(2 * in, f.grid);
    return f;
  }

  TrainedStep<T> expansion(int64_t in)
  {
    TrainedStep<T> step{.kind = StepKind::kExpansion, .in = in};
    KanLayer<T> &layer = step.expansion;
    layer.in = in;
    const int64_t basis = number();
    TORCH_CHECK(basis >= 0 && basis <= static_cast<int64_t>(Basis::kFourier), kName,
                ": unknown basis ", basis);
    layer.basis = static_cast<Basis>(basis);
    layer.num_basis = size();
    layer.order = size();
    layer.steps = size();
    layer.silu = number() != 0;
    TORCH_CHECK(layer.num_basis >= 1 && layer.steps >= 1 && layer.order >= 1 &&
                    layer.order <= kMostOrder,
                kName, ": a KAN has functions, steps and an order up to ", kMostOrder, ", got ",
                layer.num_basis, ", ", layer.steps, " and ", layer.order);
    step.place = take(3 * in, layer.grid);
    take(layer.num_basis * in, layer.at_zero);
    if (layer.basis == Basis::kBSpline) take(width(), layer.pieces);
    step.out = layer.num_rows() * in;
    return step;
  }

  TrainedNetwork<T> network(int64_t in)
  {
    TrainedNetwork<T> steps;
    const int64_t count = size();
    for (int64_t n = 0; n < count; ++n) {
      const int64_t kind = number();
      TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(StepKind::kExpansion), kName,
                  ": unknown step ", kind);
      if (static_cast<StepKind>(kind) == StepKind::kExpansion) {
        steps.push_back(expansion(in));
      } else if (static_cast<StepKind>(kind) == StepKind::kFunctions) {
        const int64_t out = width();
        steps.push_back(
            {.kind = StepKind::kFunctions, .in = in, .out = out, .functions = functions(in)});
      } else {
        steps.push_back(matrix(static_cast<StepKind>(kind), in, width()));
      }
      in = steps.back().out;
    }
    return steps;
  }

  int64_t finish() const
  {
    TORCH_CHECK(number_ == shape_.size() && place_ == weights_.numel() &&
                    index_ == program_.numel(),
                kName, ": shape and weights do not belong together");
    return place_;
  }

 private:
  const at::Tensor &weights_, &program_;
  c10::IntArrayRef shape_;
  size_t number_ = 0;
  int64_t place_ = 0, index_ = 0;
};

}    // namespace

template <typename T>
AllegroTrainingPlan<T>::AllegroTrainingPlan(const at::Tensor &weights, const at::Tensor &program,
                                            c10::IntArrayRef shape)
{
  FlatReader<T> read(weights, program, shape);
  l_max = static_cast<int>(read.size());
  channels = read.width();
  layers.resize(read.size());
  radial_width = read.width();
  num_pairs = read.size();
  const int64_t first = read.width();
  for (int64_t pair = 0; pair < num_pairs; ++pair)
    pairs.push_back(read.matrix(StepKind::kMatrix, radial_width, first));
  radial = read.network(first);
  const int64_t components = (l_max + 1) * (l_max + 1);
  for (TrainedLayer<T> &layer : layers) {
    layer.dim_in = read.size();
    layer.dim_out = read.size();
    layer.num_terms = read.size();
    layer.program = read.indices(3 * layer.num_terms);
    for (int64_t n = 0; n < layer.num_terms; ++n) {
      const int32_t *ijk = layer.program + 3 * n;
      TORCH_CHECK(ijk[0] >= 0 && ijk[0] < layer.dim_in && ijk[1] >= 0 && ijk[1] < components &&
                      ijk[2] >= 0 && ijk[2] < layer.dim_out,
                  kName, ": a term names components that are not there");
    }
    layer.terms_place = read.take(layer.num_terms * channels, layer.terms);
    layer.reads = read.network(channels);
    TORCH_CHECK(!layer.reads.empty(), kName, ": a layer reads its scalars");
    layer.network = read.network(layer.sum_width());
  }
  TORCH_CHECK(!layers.empty() && layers[0].dim_in == components, kName,
              ": the first layer reads all harmonics");
  for (size_t l = 1; l < layers.size(); ++l)
    TORCH_CHECK(layers[l].dim_in == layers[l - 1].dim_out, kName, ": layers do not fit together");
  readout_width = read.width();
  readout = read.network(readout_width);
  const bool functions = read.number() != 0;
  TORCH_CHECK(!functions || readout.empty(), kName, ": nothing follows a readout's functions");
  const int64_t scalars = functions ? read.width() : 0;
  const size_t readers = layers.size() + 1;
  for (size_t source = 0; source < readers; ++source) {
    block_at.emplace_back(readers, -1);
    links.emplace_back(readers);
    for (size_t reader = source; reader < readers; ++reader) {
      const bool last = reader + 1 == readers;
      const int64_t at = read.size();
      const int64_t sum_width = last ? readout_width : layers[reader].sum_width();
      int64_t width = last && functions ? scalars : sum_width;
      const bool linked = read.number() != 0;
      if (linked) {
        width = read.width();
        links[source][reader] = read.network(width);
        TORCH_CHECK(!links[source][reader].empty() && links[source][reader].back().out == sum_width,
                    kName, ": what reads a block gives the reader's sum");
      }
      TORCH_CHECK(at + width <= result_width(source), kName, ": a block beyond the result");
      block_at[source][reader] = at;
    }
    if (functions) readout_functions.push_back(read.functions(scalars));
  }
  size = read.finish();
}

template <typename T> int64_t AllegroTrainingPlan<T>::result_width(size_t source) const
{
  const TrainedNetwork<T> &network = network_of(source);
  return network.empty() ? pairs[0].out : network.back().out;
}

template struct AllegroTrainingPlan<float>;
template struct AllegroTrainingPlan<double>;

}    // namespace kan_md::ops
