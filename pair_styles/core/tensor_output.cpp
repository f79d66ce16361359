#include "tensor_output.h"

#include "error.h"

#include "json.h"    // of LAMMPS, which brings nlohmann/json

namespace kan_md {

namespace {

using Json = LAMMPS_NS::json;

std::string names_in(const Json &object)
{
  std::string names;
  for (const auto &member : object.items()) names += (names.empty() ? "" : ", ") + member.key();
  return names;
}

TensorOutput read_tensor(const Json &outputs, const std::string &name, int num_types)
{
  const Json &tensors = outputs.at("tensors");
  tensors.get_ref<const Json::object_t &>();    // throws where it is none
  if (!tensors.contains(name))
    throw Error("tensor of the model", name, names_in(tensors), "name one of these");
  const Json &entry = tensors.at(name);
  TensorOutput output;
  output.name = name;
  output.unit = entry.at("unit").get<std::string>();
  output.rank = entry.at("rank").get<int>();
  output.per_atom = entry.at("per").get<std::string>() == "atom";
  output.sum = entry.at("reduction").get<std::string>() == "sum";
  output.acoustic_sum_rule = entry.at("acoustic_sum_rule").get<bool>();
  output.first_column = entry.at("first_column").get<int>();
  output.num_columns = entry.at("num_columns").get<int>();
  output.all_columns = outputs.at("num_columns").get<int>();
  output.receptive_field = outputs.at("receptive_field").get<double>();
  output.leg_r_max = outputs.at("leg_r_max").get<double>();
  output.isolated = outputs.at("isolated").get<std::vector<std::vector<double>>>();
  bool complete = static_cast<int>(output.isolated.size()) == num_types;
  for (const auto &row : output.isolated)
    complete = complete && static_cast<int>(row.size()) == output.all_columns;
  if (!complete)
    throw Error("outputs of the model file must list every type's row without neighbours",
                "another number of values", "", "deploy the model again");
  return output;
}

}    // namespace

TensorOutput find_tensor(const Manifest &manifest, const std::string &name)
{
  if (manifest.kind != "tensor")
    throw Error("model file must predict tensors", "a potential (" + manifest.backbone + ")", "",
                "use pair_style " + manifest.backbone + " for it");
  try {
    return read_tensor(Json::parse(manifest.outputs), name, manifest.num_types());
  } catch (const Json::exception &error) {
    throw Error("outputs of the model file must be the JSON of kan-md deploy", error.what(), "",
                "deploy the model again with this version of kan-md");
  }
}

}    // namespace kan_md
