/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#ifndef LMP_KANMD_FILES_H
#define LMP_KANMD_FILES_H

#include "utils.h"

#include <filesystem>
#include <string>
#include <system_error>

namespace LAMMPS_NS {

// Where the model file is that an input names: found as LAMMPS finds its potential files, and absolute,
// because `shell cd` may come before it is opened again.
inline std::string find_model_file(const std::string &name)
{
  const std::string found = utils::get_potential_file_path(name);
  const std::string &path = found.empty() ? name : found;
  std::error_code failure;    // a present folder that is gone: the path stays as it is
  const auto absolute = std::filesystem::absolute(path, failure);
  return failure ? path : absolute.string();
}

}    // namespace LAMMPS_NS

#endif
