/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "pair_kan.h"

#include "fix_kanmd_ghosts.h"
#include "guard.h"
#include "kanmd_files.h"
#include "kanmd_node.h"

#include "core/error.h"
#include "core/text.h"
#include "core/type_map.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace LAMMPS_NS;
using kan_md::Convention;
using kan_md::Layout;
using kan_md::text_of;

/* ---------------------------------------------------------------------- */

PairKAN::PairKAN(LAMMPS *lmp, const char *style) :
    Pair(lmp), style_(style), who_("pair_style " + style_), accepted_(false), ready_(false),
    local_rank_(KanmdNode(world).rank()), local_compared_(false), exchange_(lmp), num_exchanges_(0),
    return_width_(0), lists_seen_(-1), start_reported_(false), cuda_peak_allocated_(0.0),
    cuda_peak_reserved_(0.0), close_edges_(0), warned_of_close_(false), warned_of_virial_(false),
    warned_of_bonds_(false)
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;    // ghosts of the halo would count with the wrong positions
  centroidstressflag = CENTROID_AVAIL;
  comm_forward = 1;         // identities
  comm_reverse_off = 18;    // force, per-atom virials
}

PairKAN::~PairKAN()
{
  FixKanmdGhosts::forget(lmp, this);
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
}

/* ----------------------------------------------------------------------
   pair_style allegro | nequip | mace [device auto|cpu|cuda] [mass check|ignore]
              [keep step|list|nothing] [direct yes|no] [halo auto|exchange|recompute]
   The command may come again without a new pair_coeff. One that is refused changes nothing.
------------------------------------------------------------------------- */

void PairKAN::settings(int narg, char **arg)
{
  Settings settings;
  std::unique_ptr<kan_md::CompiledModel> model;
  guard_together(lmp, who_, [&] {
    settings = read_settings(narg, arg);
    if (model_ && settings.device != settings_.device) {
      model = open_model(path_, settings.device);
      model->choose_types(kan_md::chosen_types(types_));
    }
  });
  accepted_ = true;
  ready_ = false;
  settings_ = settings;
  if (model) take_model(std::move(model));
  resident_.reset();
}

// Words of other packages' pair styles mean something: what to write instead.
void PairKAN::refuse_keyword(const std::string &key, const std::string &value) const
{
  std::string remedy = "correct it; the model file is named in pair_coeff";
  if (key == "no_domain_decomposition")
    remedy = "write: pair_style " + style_ +
             " (one rank always takes ghosts for their owners; on several the domain is decomposed "
             "and the numbers are the same)";
  else if (key == "unified")
    remedy = "write: pair_style " + style_ + ", and name the file of kan-md deploy in pair_coeff";
  else if (key.find(".pt") != std::string::npos || key.find(".model") != std::string::npos)
    remedy = "write: pair_style " + style_ + ", and: pair_coeff * * " + key + " ELEMENT ...";
  throw kan_md::Error(
      "keywords of the pair_style command", value.empty() ? key : key + " " + value,
      "device auto|cpu|cuda, mass check|ignore, keep step|list|nothing, direct yes|no, "
      "halo auto|exchange|recompute",
      remedy);
}

PairKAN::Settings PairKAN::read_settings(int narg, char **arg) const
{
  Settings settings;
  for (int i = 0; i < narg; i += 2) {
    const std::string key = arg[i];
    const std::string value = i + 1 < narg ? arg[i + 1] : "";
    if (key == "device" && !value.empty())
      settings.device = value;
    else if (key == "keep" && value == "step")
      settings.keep = kan_md::Keep::STEP;
    else if (key == "keep" && value == "list")
      settings.keep = kan_md::Keep::LIST;
    else if (key == "keep" && value == "nothing")
      settings.keep = kan_md::Keep::NOTHING;
    else if (key == "direct" && (value == "yes" || value == "no"))
      settings.direct = value == "yes";
    else if (key == "halo" && (value == "auto" || value == "exchange" || value == "recompute"))
      settings.halo = value;
    else if (key == "mass" && (value == "check" || value == "ignore"))
      settings.check_mass = value == "check";
    else
      refuse_keyword(key, value);
  }
  return settings;
}

/* ----------------------------------------------------------------------
   pair_coeff * * FILE ELEMENT|NULL ... (one for each atom type)
   One that is refused, on any rank, changes nothing.
------------------------------------------------------------------------- */

void PairKAN::coeff(int narg, char **arg)
{
  std::unique_ptr<kan_md::CompiledModel> model;
  kan_md::TypeTable types;
  std::string who = "pair_style " + style_, path;
  guard_together(lmp, who, [&] {
    if (narg < 3 || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
      throw kan_md::Error("pair_coeff must be: pair_coeff * * FILE ELEMENT ...",
                          narg < 3 ? std::to_string(narg) + " arguments"
                                   : std::string(arg[0]) + " " + arg[1],
                          "", "one model file serves all atom types");
    who += std::string(": ") + arg[2];
    path = find_model_file(arg[2]);
    model = open_model(path, settings_.device);
    check_model(model->manifest());
    types = kan_md::map_types(model->manifest(), {arg + 3, arg + narg}, atom->ntypes);
    model->choose_types(kan_md::chosen_types(types));
  });
  file_ = arg[2];
  path_ = path;
  who_ = who;
  take_model(std::move(model));
  types_ = std::move(types);
  allocate();
  for (int i = 1; i <= atom->ntypes; ++i)
    for (int j = i; j <= atom->ntypes; ++j)
      setflag[i][j] = types_.model_type[i] >= 0 && types_.model_type[j] >= 0;
}

void PairKAN::allocate()
{
  if (allocated) return;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  memory->create(cutghost, n, n, "pair:cutghost");
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      setflag[i][j] = 0;
      cutsq[i][j] = cutghost[i][j] = 0.0;
    }
  allocated = 1;
}

std::unique_ptr<kan_md::CompiledModel> PairKAN::open_model(const std::string &path,
                                                           const std::string &device) const
{
  return kan_md::load_compiled_model(path, {device, local_rank_});
}

void PairKAN::take_model(std::unique_ptr<kan_md::CompiledModel> model)
{
  ready_ = false;
  resident_.reset();
  local_.reset();
  model_ = std::move(model);
  start_reported_ = false;
}

void PairKAN::check_model(const kan_md::Manifest &manifest) const
{
  if (manifest.kind != "potential")
    throw kan_md::Error("model file must be a potential",
                        "a model of tensor properties (" + manifest.backbone + ")", "",
                        "use compute kanmd/tensor for it");
  if (manifest.backbone != style_)
    throw kan_md::Error((manifest.backbone == "allegro" ? "this is an " : "this is a ") +
                        manifest.backbone + " model; use pair_style " + manifest.backbone);
}

/* ---------------------------------------------------------------------- */

void PairKAN::init_style()
{
  lists_seen_ = -1;
  ready_ = false;
  warned_of_bonds_ = false;
  guard_together(lmp, who_, [&] {
    if (!accepted_)
      throw kan_md::Error("a pair_style command must be accepted", "one that was refused", "",
                          "give pair_style again, then pair_coeff");
    if (!model_)
      throw kan_md::Error("pair_coeff must name a model file", "no pair_coeff command", "",
                          "add: pair_coeff * * FILE ELEMENT ...");
    if (strcmp(update->unit_style, "metal") != 0)
      throw kan_md::Error("units must be metal", update->unit_style, "metal",
                          "set units metal at the top of the input");
    if (settings_.check_mass) check_masses();
    const auto &manifest = model_->manifest();
    prepare_local();
    const Layout layout =
        local_ ? Layout::LOCAL_WITH_GHOSTS
               : layout_on_many_ranks(choose_layout(manifest.num_layers, comm->nprocs));
    if (layout == Layout::HALO && manifest.convention == Convention::NODE_FORCES)
      throw kan_md::Error("a message-passing file of nequip-compile runs on one rank",
                          std::to_string(comm->nprocs) + " ranks", "1",
                          "deploy the model with kan-md deploy to use several");
    builder_ = std::make_unique<kan_md::GraphBuilder>(layout, manifest.num_layers);
    if (layout == Layout::HALO)    // its nodes depend on the positions
      resident_.reset();
    else if (!resident_)
      resident_ = model_->make_resident(settings_.keep);
    request_ghosts();
  });
  model_->set_num_threads(comm->nthreads);
  const auto &manifest = model_->manifest();
  if (manifest.threads > 0 && manifest.threads != comm->nthreads && comm->me == 0)
    error->warning(
        FLERR, one_line(who_, "the file was compiled for " + std::to_string(manifest.threads) +
                                  " threads per rank, this run has " +
                                  std::to_string(comm->nthreads) + "; deploy it again for these"));
  ready_ = true;
}

// Ghosts' features come from their owners or are computed, which is chosen by the keyword halo.
Layout PairKAN::layout_on_many_ranks(Layout layout)
{
  num_exchanges_ = 0;
  const bool exchanges =
      layout == Layout::HALO &&
      (settings_.halo == "exchange" || (settings_.halo == "auto" && model_->can_exchange()));
  if (exchanges && !model_->can_exchange())
    throw kan_md::Error("halo exchange needs a file that asks for its ghosts' features",
                        "one without the operator kan_md::exchange", "",
                        "deploy the model again, not --portable, or write: pair_style " + style_ +
                            " halo recompute");
  if (exchanges) num_exchanges_ = KanmdExchange::count_of(*model_);
  return exchanges ? Layout::EXCHANGE : layout;
}

// A strictly local model that can computes on LAMMPS' own list.
void PairKAN::prepare_local()
{
  if (!settings_.direct) local_.reset();
  if (!settings_.direct || local_) return;
  local_ = model_->make_local_potential();
  local_compared_ = false;
}

void PairKAN::check_masses() const
{
  const auto &manifest = model_->manifest();
  if (!atom->mass || atom->rmass_flag || manifest.masses.empty()) return;
  for (int i = 1; i <= atom->ntypes; ++i) {
    const int type = types_.model_type[i];
    if (type < 0 || !atom->mass_setflag[i] || manifest.masses[type] <= 0.0) continue;
    const double known = manifest.masses[type];
    if (!kan_md::is_mass_of(known, atom->mass[i]))
      throw kan_md::Error(
          "mass of atom type " + std::to_string(i) + ", mapped to " + manifest.type_names[type],
          text_of(atom->mass[i]) + " u", text_of(known) + " u",
          "list the elements in pair_coeff in the order of the atom types, mend the "
          "mass command, or, where masses differ on purpose (isotopes, statics with "
          "mass 1), write: pair_style " +
              style_ + " mass ignore");
  }
}

// In layout HALO asks LAMMPS for ghosts out to the last hop and for the neighbours of ghosts.
void PairKAN::request_ghosts()
{
  const Layout layout = builder_->layout();
  const bool halo = layout == Layout::HALO;
  if ((halo || layout == Layout::EXCHANGE) && neighbor->includegroup)
    throw kan_md::Error("message passing on several ranks needs the neighbours of all ghosts",
                        "neigh_modify include", "",
                        "remove it, use one rank, or give the other atoms another pair style");
  ghostneigh = halo;
  neighbor->add_request(this,
                        halo ? NeighConst::REQ_FULL | NeighConst::REQ_GHOST : NeighConst::REQ_FULL);
  if (!halo) {
    FixKanmdGhosts::forget(lmp, this);
    return;
  }
  const double cutoff = halo_cutoff();
  const std::string need = std::to_string(model_->manifest().num_layers) + " layers x " +
                           text_of(model_->manifest().r_max) + " Å + skin = " + text_of(cutoff) +
                           " Å";
  if (comm->mode != Comm::SINGLE)
    throw kan_md::Error("comm_modify mode must be single for message passing on several ranks",
                        "multi", "single", "remove comm_modify mode multi");
  if (neighbor->style != Neighbor::BIN && neighbor->style != Neighbor::NSQ)
    throw kan_md::Error("neighbor style must be bin or nsq for message passing on several ranks",
                        "multi", "bin, nsq", "set neighbor SKIN bin");
  if (comm->style == Comm::TILED)
    for (int d = 0; d < 3; ++d)
      if (const double height = FixKanmdGhosts::height(lmp, d);
          domain->periodicity[d] && cutoff > height)
        throw kan_md::Error("ghost cutoff of the halo (" + need +
                                ") must fit into the box with comm_style tiled",
                            "a periodic height of " + text_of(height) + " Å", "",
                            "use comm_style brick, a larger box, or one rank");
  FixKanmdGhosts::want(lmp, this, cutoff);
}

void PairKAN::check_ghosts() const
{
  const double found = FixKanmdGhosts::ghost_distance(lmp);
  if (found < halo_cutoff() * (1.0 - 1e-9))
    throw kan_md::Error("ghosts must reach " + text_of(halo_cutoff()) +
                            " Å out for message passing on several ranks",
                        text_of(found) + " Å", "",
                        "set comm_modify cutoff " + text_of(halo_cutoff()));
}

double PairKAN::halo_cutoff() const
{
  const auto &manifest = model_->manifest();
  return manifest.num_layers * manifest.r_max + neighbor->skin;
}

double PairKAN::init_one(int i, int j)
{
  const auto &cutoff_sq = types_.cutoff_sq;
  const int n = types_.stride;
  const double cutoff = std::sqrt(std::max(cutoff_sq[i * n + j], cutoff_sq[j * n + i]));
  cutghost[i][j] = cutghost[j][i] = cutoff;
  return cutoff;
}
