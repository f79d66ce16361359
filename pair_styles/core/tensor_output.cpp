#include "tensor_output.h"

#include "error.h"
#include "json.h"

namespace kan_md {

TensorOutput find_tensor(const Manifest &manifest, const std::string &name)
{
  if (manifest.kind != "tensor")
    throw Error("model file must predict tensors", "a potential (" + manifest.backbone + ")", "",
                "use pair_style " + manifest.backbone + " for it");
  const Json outputs = Json::parse(manifest.outputs);
  const Json &tensors = outputs.at("tensors");
  if (!tensors.has(name)) {
    std::string known;
    for (const auto &key : tensors.keys()) known += (known.empty() ? "" : ", ") + key;
    throw Error("tensor of the model", name, known, "name one of these");
  }
  const Json &entry = tensors.at(name);
  TensorOutput output;
  output.name = name;
  output.unit = entry.at("unit").string();
  output.rank = static_cast<int>(entry.at("rank").number());
  output.per_atom = entry.at("per").string() == "atom";
  output.sum = entry.at("reduction").string() == "sum";
  output.acoustic_sum_rule = entry.at("acoustic_sum_rule").boolean();
  output.first_column = static_cast<int>(entry.at("first_column").number());
  output.num_columns = static_cast<int>(entry.at("num_columns").number());
  output.all_columns = static_cast<int>(outputs.at("num_columns").number());
  output.receptive_field = outputs.at("receptive_field").number();
  output.leg_r_max = outputs.at("leg_r_max").number();
  const Json &isolated = outputs.at("isolated");
  for (int type = 0; type < manifest.num_types(); ++type) {
    const Json &row = isolated.at(static_cast<std::size_t>(type));
    output.isolated.emplace_back();
    for (int column = 0; column < output.all_columns; ++column)
      output.isolated.back().push_back(row.at(static_cast<std::size_t>(column)).number());
  }
  return output;
}

}    // namespace kan_md
