#include "manifest.h"

#include "contract.h"
#include "error.h"
#include "text.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace kan_md {

namespace {

const std::string AGAIN = "deploy the model again with this version of kan-md";

using Fields = std::map<std::string, std::string>;

Fields split_lines(const std::string &text)
{
  Fields fields;
  for (const std::string &line : words_of(text, "\r\n")) {
    const auto at = line.find('=');
    if (at == std::string::npos) throw Error("manifest line must be key=value", line, "", AGAIN);
    fields[line.substr(0, at)] = line.substr(at + 1);
  }
  return fields;
}

void check_keys(const Fields &fields)
{
  for (const auto key : contract::manifest_keys)
    if (!fields.count(std::string(key)))
      throw Error("manifest must have every key", "none named " + std::string(key), "", AGAIN);
}

template <typename T> std::vector<T> list_of(const Fields &fields, const std::string &key)
{
  std::vector<T> values;
  for (const std::string &word : words_of(fields.at(key))) {
    if constexpr (std::is_same_v<T, std::string>) {
      values.push_back(word);
    } else {
      const auto number = number_in(word);
      if (!number || !std::isfinite(*number))
        throw Error("manifest entry " + key + " must be finite numbers", word, "", AGAIN);
      if (std::is_same_v<T, int> && (*number != std::round(*number) || std::abs(*number) > 1e9))
        throw Error("manifest entry " + key + " must be whole numbers", word, "", AGAIN);
      values.push_back(static_cast<T>(*number));
    }
  }
  return values;
}

template <typename T> T number_of(const Fields &fields, const std::string &key)
{
  const auto values = list_of<T>(fields, key);
  if (values.size() != 1)
    throw Error("manifest entry " + key + " must be one number", "'" + fields.at(key) + "'", "",
                AGAIN);
  return values[0];
}

template <typename Names>
std::string one_of(const Fields &fields, const std::string &key, const Names &allowed)
{
  const std::string &value = fields.at(key);
  std::string known;
  for (const auto name : allowed) {
    if (name == value) return value;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  throw Error("manifest entry " + key, value, known, AGAIN);
}

void check_size(std::size_t size, std::size_t expected, const std::string &key)
{
  if (size != expected)
    throw Error("manifest entry " + key + " must have " + std::to_string(expected) + " values",
                std::to_string(size), "", AGAIN);
}

}    // namespace

int Manifest::type_of(const std::string &name) const
{
  const auto found = std::find(type_names.begin(), type_names.end(), name);
  return found == type_names.end() ? -1 : static_cast<int>(found - type_names.begin());
}

std::string Manifest::known_types() const
{
  std::string names;
  for (const auto &name : type_names) names += (names.empty() ? "" : ", ") + name;
  return names;
}

Manifest Manifest::from_text(const std::string &text)
{
  const Fields fields = split_lines(text);
  const auto version = fields.find("contract_version");
  const std::string found = version == fields.end() ? "none" : version->second;
  if (found != std::to_string(contract::version))
    throw Error("contract version of the file", found, std::to_string(contract::version), AGAIN);
  if (fields.count("format_version")) {
    const int format = number_of<int>(fields, "format_version");
    if (format > contract::format_version)
      throw Error("format of the file's manifest", std::to_string(format),
                  "up to " + std::to_string(contract::format_version),
                  "install a newer kan-md and run kan-md build");
  }
  check_keys(fields);

  Manifest m;
  m.kind = one_of(fields, "kind", contract::kinds);
  m.backend = one_of(fields, "backend", contract::backends);
  m.device = fields.at("device");
  m.backbone = one_of(fields, "backbone", contract::backbones);
  m.r_max = number_of<double>(fields, "r_max");
  m.num_layers = number_of<int>(fields, "num_layers");
  m.threads = number_of<int>(fields, "threads");
  m.static_shapes = number_of<int>(fields, "static_shapes") != 0;
  m.tf32 = number_of<int>(fields, "tf32") != 0;
  m.type_names = list_of<std::string>(fields, "type_names");
  m.masses = list_of<double>(fields, "masses");
  m.cutoffs = list_of<double>(fields, "cutoffs");
  m.min_distances = list_of<double>(fields, "min_distances");
  m.isolated_energies = list_of<double>(fields, "isolated_energies");
  m.outputs = fields.at("outputs");
  if (fields.count("operators")) m.operators = list_of<std::string>(fields, "operators");

  const std::size_t types = m.type_names.size();
  if (types == 0) throw Error("manifest entry type_names must name a type", "none", "", AGAIN);
  check_size(m.masses.size(), types, "masses");
  check_size(m.cutoffs.size(), types * types, "cutoffs");
  check_size(m.min_distances.size(), types * types, "min_distances");
  if (m.kind == "potential") check_size(m.isolated_energies.size(), types, "isolated_energies");
  if (!(m.r_max > 0.0))
    throw Error("manifest entry r_max must be > 0 Å", fields.at("r_max"), "", AGAIN);
  if (m.num_layers < 1)
    throw Error("manifest entry num_layers must be >= 1", fields.at("num_layers"), "", AGAIN);
  return m;
}

}    // namespace kan_md
