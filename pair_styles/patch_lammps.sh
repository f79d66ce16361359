#!/bin/sh
# Puts pair_style allegro, nequip and mace, compute kanmd/tensor and fix kanmd/efield into a LAMMPS
# source tree, or takes them out again. Such a LAMMPS has the operators, too, and runs the same files as
# the plug-in.
#
#   pair_styles/patch_lammps.sh LAMMPS_DIR            patch (again: brings the sources up to date)
#   pair_styles/patch_lammps.sh --revert LAMMPS_DIR   leave the tree as it was
#
# Then: cmake -S LAMMPS_DIR/cmake -B build -DCMAKE_PREFIX_PATH="$(python3 -c \
#         'import torch; print(torch.utils.cmake_prefix_path)')" && cmake --build build
set -eu

begin="# >>> kan-md (pair_styles/patch_lammps.sh)"
end="# <<< kan-md"
here=$(cd "$(dirname "$0")" && pwd)
operators=$here/../kan_md/ops    # in a checkout and beside the installed package

fail() {
  echo "patch_lammps.sh: error: $1" >&2
  exit 1
}

revert=no
if [ "${1:-}" = "--revert" ]; then
  revert=yes
  shift
fi
[ $# -eq 1 ] || fail "got $# folders; usage: patch_lammps.sh [--revert] LAMMPS_DIR"
lammps=$1
cmakelists=$lammps/cmake/CMakeLists.txt
[ "$revert" = yes ] || [ -f "$operators/library.cpp" ] ||
  fail "got no operators in $operators; run the script of a checkout or of an installed kan-md"
[ -f "$lammps/src/pair.h" ] && [ -f "$cmakelists" ] ||
  fail "got $lammps, which has no src/pair.h and cmake/CMakeLists.txt; name the root of a LAMMPS source tree"
# pair_kan.cpp uses interfaces of this age: Pair::finish, NeighConst, centroid stress.
[ -f "$lammps/src/platform.h" ] && grep -q "centroidstressflag" "$lammps/src/pair.h" ||
  fail "got a LAMMPS that is too old; use 22 Jul 2025 or later"

sources="pair_kan.h pair_kan.cpp pair_kan_compute.cpp pair_kan_report.cpp pair_allegro.h
  pair_allegro.cpp pair_nequip.h pair_nequip.cpp pair_mace.h pair_mace.cpp compute_kanmd_tensor.h
  compute_kanmd_tensor.cpp fix_kanmd_efield.h fix_kanmd_efield.cpp fix_kanmd_ghosts.h
  fix_kanmd_ghosts.cpp kanmd_checks.h kanmd_checks.cpp kanmd_comm.h kanmd_exchange.h
  kanmd_exchange.cpp kanmd_files.h kanmd_node.h"
for name in $sources; do
  if [ -f "$lammps/src/$name" ] && ! grep -q "kan-md" "$lammps/src/$name"; then
    fail "$lammps/src/$name exists and is not ours; revert that patch first"
  fi
done

# Out with what an earlier run put in; nothing happens on a fresh tree.
for name in $sources; do
  rm -f "$lammps/src/$name"
done
rm -rf "$lammps/lib/kan-md"
if grep -qF "$begin" "$cmakelists"; then
  awk -v b="$begin" -v e="$end" '
    $0 == b { inside = 1 } !inside { print } $0 == e { inside = 0 }' "$cmakelists" >"$cmakelists.new"
  mv "$cmakelists.new" "$cmakelists"
fi
if [ "$revert" = yes ]; then
  echo "kan-md is out of $lammps"
  exit 0
fi

for name in $sources; do
  cp "$here/lammps/$name" "$lammps/src/"
done
mkdir -p "$lammps/lib/kan-md"
cp -r "$here/core" "$here/lammps/guard.h" "$lammps/lib/kan-md/"
# Models open and operators run through linked code instead of libraries that are loaded later.
rm -f "$lammps/lib/kan-md/core/backend_loader.cpp" "$lammps/lib/kan-md/core/operators_loader.cpp"
mkdir "$lammps/lib/kan-md/ops"
cp "$operators"/*.cpp "$operators"/*.h "$operators/CMakeLists.txt" "$lammps/lib/kan-md/ops/"
cat >>"$cmakelists" <<BLOCK
$begin
find_package(Torch REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
file(GLOB kan_md_core \${LAMMPS_LIB_SOURCE_DIR}/kan-md/core/*.cpp)
list(FILTER kan_md_core EXCLUDE REGEX "_stub\\\\.cpp\$")
add_library(kan_md_core STATIC \${kan_md_core})
set_target_properties(kan_md_core PROPERTIES CXX_STANDARD 20 POSITION_INDEPENDENT_CODE ON)
add_library(kan_md_torch INTERFACE)
target_link_libraries(kan_md_torch INTERFACE \${TORCH_LIBRARIES})
set(KAN_MD_PAIR_STYLES \${LAMMPS_LIB_SOURCE_DIR}/kan-md)
add_subdirectory(\${LAMMPS_LIB_SOURCE_DIR}/kan-md/ops kan-md-ops)
target_link_libraries(kan_md_core PUBLIC kan_md_torch kan_md_ops OpenMP::OpenMP_CXX)
target_include_directories(kan_md_core PUBLIC \${LAMMPS_LIB_SOURCE_DIR}/kan-md)
target_include_directories(kan_md_core PRIVATE \${LAMMPS_SOURCE_DIR})    # json.h
if(TARGET torch_cuda)    # whose headers come with it: steps can be replayed
  target_compile_definitions(kan_md_core PRIVATE KAN_MD_CUDA=1)
endif()
set_target_properties(lammps PROPERTIES CXX_STANDARD 20)
target_link_libraries(lammps PRIVATE kan_md_core)
foreach(name kan_md_ops \${KAN_MD_KERNELS})
  install(TARGETS \${name} LIBRARY DESTINATION \${CMAKE_INSTALL_LIBDIR})
endforeach()
$end
BLOCK
echo "kan-md is in $lammps; configure with -DCMAKE_PREFIX_PATH=\$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)')"
