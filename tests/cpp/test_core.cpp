// Checks of the parts that need neither torch nor LAMMPS. Prints one line per failure.
//
// usage: test_core ARCHIVE.zip EXPECTED.txt [SEALED.pth]

#include "core/archive.h"
#include "core/error.h"
#include "core/graph.h"
#include "core/images.h"
#include "core/manifest.h"
#include "core/parallel.h"
#include "core/seal.h"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
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

// Examples of FIPS 180-4 (NIST CSRC, "SHA-256 examples").
void test_sha256()
{
  expect(kan_md::sha256("abc") ==
             "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
         "sha256 of abc");
  expect(kan_md::sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
         "sha256 of nothing");
  expect(kan_md::sha256(std::string(1000000, 'a')) ==
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
         "sha256 of a million a");
}

// The archive was written by Python's zipfile: one entry stored, one deflated.
void test_archive(const std::string &path, const std::string &expected_path)
{
  std::ifstream file(expected_path, std::ios::binary);
  const std::string expected((std::istreambuf_iterator<char>(file)), {});
  const kan_md::Archive archive(path);
  for (const char *name : {"model/stored.txt", "model/deflated.txt"})
    expect(archive.read(name) == expected, name);
  archive.verify();
  expect(archive.find("/stored.txt") == "model/stored.txt", "find by suffix");
  expect(archive.find("/absent").empty(), "find nothing");
  expect(archive.mentions("deflated", expected.substr(100, 20)), "mentions");
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
  kan_md::find_first_images({here(0), here(1), there(0), here(1), there(1), there(0)}, first);
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
  if (argc < 3) return 2;
  test_sha256();
  test_archive(argv[1], argv[2]);
  test_manifest_errors();
  test_images();
  test_graph_layouts();
  test_halo_has_one_node_per_atom();
  test_exceptions_leave_parallel_regions();
  test_parallel_parts_cover_everything_once();
  if (argc > 3) kan_md::check_seal(kan_md::Archive(argv[3]));
  return failures;
}
