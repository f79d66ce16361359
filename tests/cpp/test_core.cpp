// Checks of the parts that need neither torch nor LAMMPS. Prints one line per failure.
//
// usage: test_core ARCHIVE.zip EXPECTED.txt ROOTS MANIFEST.txt
//
// A plain program, because Catch2 is in neither pip nor every system that runs the tests.

#include "core/error.h"
#include "core/graph.h"
#include "core/manifest.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/same_atoms.h"
#include "core/sha256.h"
#include "core/tensor_output.h"
#include "core/text.h"
#include "core/zip_directory.h"

#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <locale>
#include <new>
#include <string>
#include <vector>

namespace {

int failures = 0;

void expect(bool truth, const std::string &what)
{
  if (truth) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

std::string message_of(const std::function<void()> &body)
{
  try {
    body();
  } catch (const kan_md::Error &error) {
    return error.what();
  }
  return "";
}

std::string sha256(const std::string &bytes)
{
  kan_md::Sha256 digest;
  digest.add(bytes);
  return digest.hex();
}

// Examples of FIPS 180-4 (NIST CSRC, "SHA-256 examples").
void test_sha256()
{
  expect(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
         "sha256 of abc");
  expect(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
         "sha256 of nothing");
  expect(sha256(std::string(1000000, 'a')) ==
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
         "sha256 of a million a");
}

// The archive was written by Python's zipfile: one entry stored, one deflated.
void test_zip_directory(const std::string &path, const std::string &expected_path)
{
  std::ifstream file(expected_path, std::ios::binary);
  const std::string expected((std::istreambuf_iterator<char>(file)), {});
  const auto entries = kan_md::read_zip_directory(path);
  expect(entries.size() == 2, "two entries");
  const char *const names[] = {"model/stored.txt", "model/deflated.txt"};
  for (std::size_t k = 0; k < entries.size(); ++k) {
    expect(entries[k].name == names[k], names[k]);
    expect(entries[k].size == expected.size(), "size of an entry");
    expect(entries[k].crc == kan_md::crc32(expected), "checksum of an entry");
  }
}

// The process has a decimal comma here, see main.
void test_numbers_know_no_locale()
{
  expect(kan_md::number_in("4.5") == 4.5 && kan_md::number_in("-1e-05") == -1e-5, "numbers");
  expect(kan_md::number_in("+2") == 2.0, "plus sign");
  for (const char *const text : {"", "4,5", "4.5 ", "x", "0x10", "+-1", "1e999", "."})
    expect(!kan_md::number_in(text), std::string("no number: ") + text);
  expect(kan_md::text_of(10.25) == "10.25" && kan_md::text_of(12.0) == "12", "text of numbers");
  expect(kan_md::words_of(" a  b\tc\n") == std::vector<std::string>({"a", "b", "c"}), "words");
  expect(kan_md::words_of("").empty(), "no words");
  expect(kan_md::utf8_of("1 Å, größe ⊗ 😀") == "1 Å, größe ⊗ 😀", "characters");
  expect(kan_md::utf8_of("gr\xb6\x9f"
                         "e \xc3") == "gr??e ?",
         "bytes that are no characters");
  expect(kan_md::utf8_of("\xe2\x8a"
                         "a") == "??a",
         "a cut character");
}

kan_md::Manifest tensor_manifest(const std::string &outputs)
{
  kan_md::Manifest manifest;
  manifest.kind = "tensor";
  manifest.type_names = {"Si"};
  manifest.outputs = outputs;
  return manifest;
}

// Escapes as Python's json writes them, UTF-8 as people do.
void test_outputs_are_any_json()
{
  const std::string outputs = R"({"num_columns": 2, "receptive_field": 6.5, "leg_r_max": 2.5e0,
    "isolated": [[0.5, -1e-3]], "tensors": {"\u03bc": {"unit": "e\u00c5 \"Å\" \ud835\udf07",
    "rank": 0, "per": "atom", "reduction": "mean", "acoustic_sum_rule": true, "first_column": 1,
    "num_columns": 1}}})";
  const auto found = kan_md::find_tensor(tensor_manifest(outputs), "μ");
  expect(found.unit == "eÅ \"Å\" 𝜇", "escapes, got " + found.unit);
  expect(found.receptive_field == 6.5 && found.leg_r_max == 2.5, "numbers of the outputs");
  expect(found.isolated == std::vector<std::vector<double>>({{0.5, -1e-3}}), "isolated rows");
  expect(found.first_column == 1 && found.acoustic_sum_rule && found.per_atom, "entries");
  const auto said = [](const std::string &text) {
    return message_of([&] { kan_md::find_tensor(tensor_manifest(text), "dipole"); });
  };
  expect(said(outputs) == "tensor of the model, got dipole; allowed: μ; name one of these",
         "names, got " + said(outputs));
  for (const char *const text :
       {"", "{", "[1]", "{\"tensors\": 1}", "{\"tensors\": {\"dipole\": 3}}"})
    expect(said(text).find("deploy the model again") != std::string::npos,
           std::string("outputs ") + text + ", got " + said(text));
}

// ROOTS has the files of systems; see test_core.py.
void test_control_groups_limit_what_is_available(const std::string &root)
{
  const auto expect_bytes = [&](const char *name, std::int64_t bytes) {
    const std::int64_t found = kan_md::available_bytes(root + "/" + name);
    expect(found == bytes, std::string(name) + ": available, got " + std::to_string(found));
  };
  expect_bytes("no groups", 1000 * 1024);
  expect_bytes("version 2", 500000);    // of the parent: 800000 - 400000 + 100000 of files
  expect_bytes("version 1", 300000);
  expect_bytes("no limit", 1000 * 1024);
  expect_bytes("container", 200000);    // its own group is the root that it sees
  expect_bytes("full", 0);
  expect_bytes("nothing known", 0);
  expect(kan_md::available_bytes() > 0 && kan_md::resident_bytes() > 0, "this system");
}

void test_manifest_errors()
{
  auto said = [](const std::string &text) {
    return message_of([&] { kan_md::Manifest::from_text(text); });
  };
  expect(said("nonsense").find("key=value") != std::string::npos, "line without =");
  expect(said("contract_version=99\n").find("got 99; allowed: 1") != std::string::npos, "version");
  expect(said("contract_version=1\n").find("must have every key") != std::string::npos, "keys");
}

// A decimal comma and dots between thousands, in C and in C++.
struct Comma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

// Whether C has such a locale here: test_core.py makes one where it can.
void use_decimal_comma(bool in_c_too)
{
  std::locale::global(std::locale(std::locale::classic(), new Comma));
  if (!in_c_too) return;
  const char *const name = std::setlocale(LC_ALL, "");
  expect(name && std::strtod("1,5", nullptr) == 1.5, "a locale with a decimal comma");
}

// What Python's Manifest.to_text writes, see test_core.py.
void test_manifest_numbers(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto found = kan_md::Manifest::from_text(text);
  expect(found.r_max == 4.25 && found.num_layers == 2, "numbers of the manifest");
  expect(found.masses == std::vector<double>({63.546, 196.967}), "masses");
  expect(found.cutoffs == std::vector<double>({4.25, 4.125, 4.0, 3.5}), "cutoffs");
  expect(found.isolated_energies == std::vector<double>({-1.5, -2e-05}), "energies");
  expect(found.min_distances == std::vector<double>({0.0, 2.125, 2.0, 1e-3}), "distances");
  expect(found.operators == std::vector<std::string>({"kan_md::allegro"}), "operators");
  const auto later = kan_md::Manifest::from_text(text + "colour=red\n");
  expect(later.r_max == found.r_max, "a key of later is left alone");
  const std::string line = "format_version=1\n";
  const auto at = text.find(line);
  expect(at != std::string::npos, "the format has a number");
  const std::string before = text.substr(0, at), after = text.substr(at + line.size());
  expect(kan_md::Manifest::from_text(before + after).r_max == 4.25, "a manifest of before");
  const std::string said =
      message_of([&] { kan_md::Manifest::from_text(before + "format_version=2\n" + after); });
  expect(said.find("got 2; allowed: up to 1; install a newer kan-md") != std::string::npos,
         "a newer format, got " + said);
}

// Two atoms 1 Å apart in a periodic box of 3 Å along x, with their images as ghosts.
struct Chain {
  std::vector<std::vector<double>> positions{{0, 0, 0}, {1, 0, 0}, {3, 0, 0}, {-2, 0, 0}};
  std::vector<int> types{1, 1, 1, 1}, ilist{0, 1}, counts{3, 3}, first_image{0, 1, 0, 1};
  std::vector<std::vector<int>> lists{{1, 2, 3}, {0, 2, 3}};
  std::vector<const double *> x;
  std::vector<const int *> first;
  kan_md::TypeTable table{{-1, 0}, {0, 0, 0, 2.25 * 2.25}, {0, 0, 0, 1.5 * 1.5}, 2};

  kan_md::AtomView view()
  {
    x.clear();
    first.clear();
    for (const auto &row : positions) x.push_back(row.data());
    for (const auto &list : lists) first.push_back(list.data());
    return {x.data(), types.data(), 4, ilist.data(), 2, counts.data(), first.data(), 0x1fffffff};
  }
};

void test_images()
{
  const auto here = [](int index) { return kan_md::identity_of(0, index); };
  const auto there = [](int index) { return kan_md::identity_of(1, index); };
  std::vector<int> first;
  kan_md::find_same_atoms({here(0), here(1), there(0), here(1), there(1), there(0)}, first);
  expect(first == std::vector<int>({0, 1, 2, 1, 4, 2}), "first images");
}

// The chain above on two ranks, seen from the owner of the first atom: 0, its neighbours at 1 and -2,
// which are one atom, and that atom's neighbours, which are 0 again.
void test_halo_has_one_node_per_atom()
{
  std::vector<std::vector<double>> positions{
      {0, 0, 0}, {1, 0, 0}, {3, 0, 0}, {-2, 0, 0}, {-3, 0, 0}};
  std::vector<int> types(5, 1), ilist{0}, counts{2, 2, 2, 2, 0};
  std::vector<std::vector<int>> lists{{3, 1}, {0, 2}, {1, 0}, {4, 0}, {}};
  std::vector<const double *> x;
  std::vector<const int *> neighbours;
  for (const auto &row : positions) x.push_back(row.data());
  for (const auto &list : lists) neighbours.push_back(list.data());
  const kan_md::AtomView view{x.data(),      types.data(),      5,         ilist.data(), 1,
                              counts.data(), neighbours.data(), 0x1fffffff};
  const kan_md::TypeTable table{{-1, 0}, {0, 0, 0, 2.25 * 2.25}, {0, 0, 0, 0}, 2};
  const std::vector<int> first_image{0, 1, 0, 1, 0};
  kan_md::GraphBuilder halo(kan_md::Layout::HALO, 2);
  const auto &graph = halo.build(view, table, first_image.data(), 1);
  expect(graph.num_local == 1 && graph.num_nodes == 2, "images share a node");
  expect(graph.node_atoms == std::vector<int>({0, 3}), "the image that was met first");
  expect(graph.edge_index == std::vector<std::int64_t>({0, 0, 1, 1, 1, 1, 0, 0}), "edges of both");
  expect(graph.edge_vectors[0] == -2.0 && graph.edge_vectors[6] == -1.0, "vectors to the images");
}

// The same with the features of the second atom from its owner: it has no edges of its own.
void test_exchange_has_edges_of_own_atoms_alone()
{
  std::vector<std::vector<double>> positions{{0, 0, 0}, {1, 0, 0}, {3, 0, 0}, {-2, 0, 0}};
  std::vector<int> types(4, 1), ilist{0}, counts{2};
  const std::vector<int> neighbours{3, 1};
  std::vector<const double *> x;
  for (const auto &row : positions) x.push_back(row.data());
  const int *const first = neighbours.data();
  const kan_md::AtomView view{x.data(), types.data(),  4,      ilist.data(),
                              1,        counts.data(), &first, 0x1fffffff};
  const kan_md::TypeTable table{{-1, 0}, {0, 0, 0, 2.25 * 2.25}, {0, 0, 0, 0}, 2};
  const std::vector<int> first_image{0, 1, 0, 1};
  kan_md::GraphBuilder exchange(kan_md::Layout::EXCHANGE, 2);
  const auto &graph = exchange.build(view, table, first_image.data(), 1);
  expect(graph.num_local == 1 && graph.num_nodes == 2 && graph.num_edges == 2, "one hop");
  expect(graph.edge_index == std::vector<std::int64_t>({0, 0, 1, 1}), "both images are one node");
}

void test_graph_layouts()
{
  Chain chain;
  kan_md::GraphBuilder images(kan_md::Layout::PERIODIC_IMAGES, 2);
  const auto &graph = images.build(chain.view(), chain.table, chain.first_image.data(), 1);
  expect(graph.num_nodes == 2 && graph.num_local == 2, "images are no nodes");
  expect(graph.edge_index == std::vector<std::int64_t>({0, 0, 1, 1, 1, 1, 0, 0}),
         "edges to owners");
  expect(graph.edge_vectors[3] == -2.0 && graph.edge_vectors[9] == 2.0, "vectors to the images");
  expect(graph.neighbour_atoms == std::vector<int>({1, 3, 0, 2}), "atoms of the images");
  expect(graph.num_close_edges == 2, "pairs closer than 1.5 Å");

  kan_md::GraphBuilder local(kan_md::Layout::LOCAL_WITH_GHOSTS, 1);
  const auto &ghosts = local.build(chain.view(), chain.table, nullptr, 2);
  expect(ghosts.num_nodes == 4 && ghosts.num_edges == 4, "ghosts are nodes");

  chain.positions[1][1] = std::numeric_limits<double>::quiet_NaN();
  expect(kan_md::find_lost_atom(chain.view()) == 1, "NaN position");
}

// What a thread throws comes out of the region once, and no phase follows.
void test_exceptions_leave_parallel_regions()
{
  for (const int thrower : {0, 2, 3}) {
    std::vector<int> first(4, 0), second(4, 0);
    const std::string said = message_of([&] {
      kan_md::in_parallel(
          4,
          [&](int thread, int) {
            first[thread] = 1;
            if (thread == thrower) throw kan_md::Error("thread " + std::to_string(thread));
          },
          [&](int thread, int) { second[thread] = 1; });
    });
    expect(said == "thread " + std::to_string(thrower), "message of a thread, got " + said);
    expect(first[thrower] == 1 && second == std::vector<int>(4, 0), "no phase after a failed one");
  }
  bool out_of_memory = false;
  try {
    kan_md::in_parallel_parts(3, 100, [](std::int64_t, std::int64_t) {
      const std::vector<char> workspace(std::size_t(1) << 60);
    });
  } catch (const std::bad_alloc &) {
    out_of_memory = true;
  }
  expect(out_of_memory, "out of memory in a workspace");
}

void test_parallel_parts_cover_everything_once()
{
  for (const int threads : {1, 2, 5})
    for (const int count : {0, 1, 4, 17}) {
      std::vector<int> visits(count, 0);
      kan_md::in_parallel_parts(threads, count, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) ++visits[k];
      });
      expect(visits == std::vector<int>(count, 1), "every part once");
    }
  std::vector<int> first(3, 0);
  bool in_order = true;
  kan_md::in_parallel(
      3, [&](int thread, int) { first[thread] = 1; },
      [&](int thread, int threads) {
        if (first[(thread + 1) % threads] != 1) in_order = false;
      });
  expect(in_order, "a phase waits for the one before");
}

}    // namespace

int main(int argc, char **argv)
{
  if (argc < 5) return 2;
  use_decimal_comma(std::getenv("LOCPATH") != nullptr);
  test_sha256();
  test_zip_directory(argv[1], argv[2]);
  test_numbers_know_no_locale();
  test_outputs_are_any_json();
  test_control_groups_limit_what_is_available(argv[3]);
  test_manifest_errors();
  test_manifest_numbers(argv[4]);
  test_images();
  test_graph_layouts();
  test_halo_has_one_node_per_atom();
  test_exchange_has_edges_of_own_atoms_alone();
  test_exceptions_leave_parallel_regions();
  test_parallel_parts_cover_everything_once();
  return failures;
}
