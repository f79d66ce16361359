// Steps of a model whose neighbour list stays on the device; the only place that works there.
//
// The list holds the skin's pairs too. Each step finds those within the cutoff and moves them to the
// front of arrays of a fixed size, without the host looking at anything, so that the launches of a
// whole step can be recorded and replayed. What such an array has too many of are edges between two
// atoms without energy that are out of each other's reach.

#include "backend.h"
#include "replay.h"
#include "text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <optional>
#include <type_traits>

namespace kan_md {

namespace {

constexpr std::int64_t NUM_SCALARS = 4 + 9;    // energy, edges, close, coincident edges; virial
constexpr std::int64_t NUM_IDLE = 2;           // nodes of the edges that are too many
constexpr int NUM_TRIALS = 2;                  // torch sets itself up in a shape's first calls
// Sums on a GPU have no fixed order: forces differ a little, also where they cancel to nothing.
constexpr double REPLAY_TOLERANCE = 1e-4;    // of the largest force
constexpr double REPLAY_ROUNDING = 1e-3;     // eV/Å

// A size for `needed` things that lasts while their number changes a little.
std::int64_t grown(std::int64_t needed, std::int64_t present)
{
  constexpr std::int64_t STEP = 64;
  const std::int64_t wanted = (needed + needed / 10 + STEP) / STEP * STEP;
  return needed <= present && present <= 2 * wanted ? present : wanted;
}

const at::TensorOptions F64 = at::TensorOptions().dtype(at::kDouble);
const at::TensorOptions I64 = at::TensorOptions().dtype(at::kLong);

class DeviceResident final : public ResidentModel {
 public:
  DeviceResident(Forward forward, const Manifest &manifest, c10::Device device, Keep keep) :
      forward_(std::move(forward)), manifest_(manifest), device_(device), keep_(keep)
  {
    if (keep_ == Keep::STEP && manifest_.static_shapes && make_replay(device_)) {
      // Recording needs a stream of its own.
      stream_ = c10::impl::VirtualGuardImpl(device_.type()).getStreamFromGlobalPool(device_);
    }
  }

  std::string description() const override
  {
    if (stream_) return "list on the device, steps replayed";
    if (keep_ != Keep::STEP) return "list on the device";
    return manifest_.static_shapes
               ? "list on the device (this torch or build cannot replay steps)"
               : "list on the device (deploy with --static-shapes to replay steps)";
  }

  void set_list(const Graph &list, int num_atoms) override
  {
    translate_torch_errors("sending the neighbour list", [&] {
      const Place here(device_, stream_);
      num_atoms_ = num_atoms;
      const Sizes needed{num_atoms + NUM_IDLE, list.num_nodes + NUM_IDLE, list.num_edges + 1,
                         edges_within_cutoff(list)};
      reserve({grown(needed.atoms, sizes_.atoms), grown(needed.nodes, sizes_.nodes),
               grown(needed.pairs, sizes_.pairs), grown(needed.edges, sizes_.edges)});
      send(list);
    });
  }

  StepResult step(const double *const *positions, bool per_atom) override
  {
    return translate_torch_errors("evaluating the model", [&] {
      const Place here(device_, stream_);
      copy_positions(positions);
      StepResult result = fetch(launch(per_atom), per_atom);
      if (result.num_edges > sizes_.edges) {    // the arrays were too small for them
        Sizes larger = sizes_;
        larger.edges = grown(result.num_edges, 0);
        reserve(larger);
        result = fetch(launch(per_atom), per_atom);
      }
      return result;
    });
  }

 private:
  struct Sizes {
    std::int64_t atoms = 0, nodes = 0, pairs = 0, edges = 0;
    bool operator==(const Sizes &) const = default;
  };

  // All work is done on one stream.
  struct Place {
    Place(c10::Device device, const std::optional<c10::Stream> &stream) : device(device)
    {
      if (stream) this->stream.reset_stream(*stream);
    }
    c10::DeviceGuard device;
    c10::OptionalStreamGuard stream;
  };

  struct Recording {
    std::unique_ptr<Replay> replay;
    at::Tensor results;
    int num_calls = 0;
  };

  double cutoff_of(const Graph &list, std::int64_t pair) const
  {
    return manifest_.cutoffs[type_pair(list, pair)];
  }

  std::size_t type_pair(const Graph &list, std::int64_t pair) const
  {
    const std::int64_t centre = list.atom_types[list.edge_index[pair]];
    const std::int64_t neighbour = list.atom_types[list.edge_index[list.num_edges + pair]];
    return static_cast<std::size_t>(centre * manifest_.num_types() + neighbour);
  }

  std::int64_t edges_within_cutoff(const Graph &list) const
  {
    std::int64_t count = 0;
    for (std::int64_t pair = 0; pair < list.num_edges; ++pair) {
      const double *const r = list.edge_vectors.data() + 3 * pair;
      const double cutoff = cutoff_of(list, pair);
      if (r[0] * r[0] + r[1] * r[1] + r[2] * r[2] < cutoff * cutoff) ++count;
    }
    return count;
  }

  // Arrays of these sizes. What was recorded for others is gone.
  void reserve(const Sizes &sizes)
  {
    if (sizes == sizes_) return;
    recordings_ = {};
    const at::TensorOptions real = F64.device(device_), whole = I64.device(device_);
    if (sizes.atoms != sizes_.atoms) {
      host_positions_ = at::zeros({sizes.atoms, 3}, F64).pin_memory();
      host_positions_.mutable_data_ptr<double>()[3 * sizes.atoms - 3] = 1.5 * manifest_.r_max;
      positions_ = at::empty({sizes.atoms, 3}, real);
    }
    if (sizes.nodes != sizes_.nodes) {
      types_ = at::zeros({sizes.nodes}, whole);
      node_number_ = at::arange(sizes.nodes, whole);
    }
    if (sizes.pairs != sizes_.pairs) {
      pair_number_ = at::arange(sizes.pairs, whole);
      pair_atoms_ = at::empty({2, sizes.pairs}, whole);
      pair_nodes_ = at::empty({2, sizes.pairs}, whole);
      cutoff_sq_ = at::empty({sizes.pairs}, real);
      min_distance_sq_ = at::empty({sizes.pairs}, real);
    }
    if (!num_local_.defined()) num_local_ = at::zeros({1}, whole);
    sizes_ = sizes;
  }

  // The list, filled up with pairs that are never within their cutoff of zero.
  void send(const Graph &list)
  {
    const std::int64_t pairs = sizes_.pairs;
    std::vector<std::int64_t> atoms(2 * pairs, sizes_.atoms - 2),
        nodes(2 * pairs, sizes_.nodes - 2);
    std::fill(atoms.begin() + pairs, atoms.end(), sizes_.atoms - 1);
    std::fill(nodes.begin() + pairs, nodes.end(), sizes_.nodes - 1);
    std::vector<double> cutoff_sq(pairs, 0.0), min_distance_sq(pairs, 0.0);
    for (std::int64_t pair = 0; pair < list.num_edges; ++pair) {
      const std::int64_t centre = list.edge_index[pair];
      nodes[pair] = centre;
      nodes[pairs + pair] = list.edge_index[list.num_edges + pair];
      atoms[pair] = list.node_atoms[centre];
      atoms[pairs + pair] = list.neighbour_atoms[pair];
      const std::size_t types = type_pair(list, pair);
      cutoff_sq[pair] = manifest_.cutoffs[types] * manifest_.cutoffs[types];
      min_distance_sq[pair] = manifest_.min_distances[types] * manifest_.min_distances[types];
    }
    std::vector<std::int64_t> types(list.atom_types);
    types.resize(sizes_.nodes, 0);

    fill(pair_atoms_, atoms);
    fill(pair_nodes_, nodes);
    fill(cutoff_sq_, cutoff_sq);
    fill(min_distance_sq_, min_distance_sq);
    fill(types_, types);
    num_local_.fill_(list.num_local);
  }

  template <typename T> static void fill(at::Tensor &target, const std::vector<T> &values)
  {
    const auto options = std::is_same_v<T, double> ? F64 : I64;
    target.copy_(at::from_blob(const_cast<T *>(values.data()), target.sizes(), options));
  }

  void copy_positions(const double *const *positions)
  {
    double *const host = host_positions_.mutable_data_ptr<double>();
    if (num_atoms_ > 0) std::copy_n(positions[0], 3 * static_cast<std::int64_t>(num_atoms_), host);
    positions_.copy_(host_positions_, /*non_blocking=*/true);
  }

  // One step's results on the device, see fetch().
  at::Tensor launch(bool per_atom)
  {
    Recording &recording = recordings_[per_atom];
    if (!stream_ || ++recording.num_calls <= NUM_TRIALS) return evaluate(per_atom);
    if (!recording.replay) record(recording, per_atom);
    recording.replay->run();
    return recording.results;
  }

  void record(Recording &recording, bool per_atom)
  {
    const at::Tensor expected = evaluate(per_atom).to(at::kCPU);
    auto replay = make_replay(device_);
    stream_->synchronize();
    try {
      replay->begin();
      recording.results = evaluate(per_atom);
      replay->end();
      replay->run();
    } catch (const std::exception &error) {
      throw Error("recording a step for replay failed", message_of(error), "",
                  "use the pair_style keyword: keep list");
    }
    const at::Tensor forces = expected.narrow(0, NUM_SCALARS, 3 * sizes_.nodes);
    const at::Tensor found =
        recording.results.to(at::kCPU).narrow(0, NUM_SCALARS, 3 * sizes_.nodes);
    const double difference = (found - forces).abs().max().item<double>();
    const double allowed = REPLAY_ROUNDING + REPLAY_TOLERANCE * forces.abs().max().item<double>();
    if (!(difference <= allowed))
      throw Error("a replayed step must give the forces of a launched one",
                  "a difference of " + text_of(difference) + " eV/Å",
                  "up to " + text_of(allowed) + " eV/Å", "use the pair_style keyword: keep list");
    recording.replay = std::move(replay);
  }

  at::Tensor evaluate(bool per_atom) const
  {
    const std::int64_t edges = sizes_.edges, nodes = sizes_.nodes;
    const at::Tensor r_pair = positions_.index_select(0, pair_atoms_.select(0, 1)) -
                              positions_.index_select(0, pair_atoms_.select(0, 0));
    const at::Tensor rsq = r_pair.square().sum(1);
    const at::Tensor within = rsq < cutoff_sq_;

    // The n-th pair within its cutoff becomes edge n; one more place takes all that do not fit.
    const at::Tensor place = within.cumsum(0) - 1;
    const at::Tensor edge = place.masked_fill(within.logical_not(), edges).clamp_max(edges);
    const at::Tensor pair_of_edge = at::full({edges + 1}, sizes_.pairs - 1, I64.device(device_))
                                        .scatter_(0, edge, pair_number_)
                                        .narrow(0, 0, edges);
    const at::Tensor r = r_pair.index_select(0, pair_of_edge);
    const at::Tensor edge_index = pair_nodes_.index_select(1, pair_of_edge);

    const auto [energy, gradient] = forward_({r.detach(), edge_index, types_, num_local_});
    const at::Tensor g = gradient.detach(), energies = energy.detach().view({-1});
    const at::Tensor centre = edge_index.select(0, 0), neighbour = edge_index.select(0, 1);
    const at::Tensor forces = at::zeros({nodes, 3}, F64.device(device_))
                                  .index_add_(0, centre, g)
                                  .index_add_(0, neighbour, g, -1);
    const at::Tensor local = node_number_ < num_local_;
    const at::Tensor close = within.logical_and(rsq < min_distance_sq_);
    const at::Tensor coincident = within.logical_and(rsq < COINCIDENT * COINCIDENT);
    std::vector<at::Tensor> results = {
        energies.masked_fill(local.logical_not(), 0.0).sum().view({1}),
        within.sum().to(at::kDouble).view({1}),
        close.sum().to(at::kDouble).view({1}),
        coincident.sum().to(at::kDouble).view({1}),
        at::matmul(r.t(), g).neg().view({-1}),
        forces.view({-1})};
    if (per_atom) {
      results.push_back(energies);
      results.push_back(at::zeros({nodes, 3, 3}, F64.device(device_))
                            .index_add_(0, neighbour, r.unsqueeze(2) * g.unsqueeze(1), -1)
                            .view({-1}));
    }
    return at::cat(results);
  }

  // The one way down. Waits for the device.
  StepResult fetch(const at::Tensor &results, bool per_atom)
  {
    if (!host_results_.defined() || host_results_.numel() < results.numel())
      host_results_ = at::empty(results.sizes(), F64).pin_memory();
    at::Tensor host = host_results_.narrow(0, 0, results.numel());
    host.copy_(results);
    const double *const values = host.const_data_ptr<double>();
    StepResult result;
    result.energy = values[0];
    result.num_edges = std::llround(values[1]);
    result.num_close_edges = std::llround(values[2]);
    result.coincident_atoms = values[3] > 0.0;
    result.virial = values + 4;
    result.forces = values + NUM_SCALARS;
    if (per_atom) {
      result.energies = result.forces + 3 * sizes_.nodes;
      result.virials = result.energies + sizes_.nodes;
    }
    return result;
  }

  Forward forward_;
  Manifest manifest_;
  c10::Device device_;
  Keep keep_;
  std::optional<c10::Stream> stream_;
  Sizes sizes_;
  int num_atoms_ = 0;
  at::Tensor host_positions_, host_results_;
  at::Tensor positions_, types_, node_number_, num_local_;
  at::Tensor pair_number_, pair_atoms_, pair_nodes_, cutoff_sq_, min_distance_sq_;
  std::array<Recording, 2> recordings_;    // without and with what is per atom
};

}    // namespace

std::unique_ptr<ResidentModel> make_resident(Forward forward, const Manifest &manifest,
                                             c10::Device device, Keep keep)
{
  if (device.is_cpu() || keep == Keep::NOTHING || manifest.convention != Convention::EDGE_FORCES ||
      manifest.kind != "potential")
    return nullptr;
  return std::make_unique<DeviceResident>(std::move(forward), manifest, device, keep);
}

}    // namespace kan_md
