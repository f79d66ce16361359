/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Compiled with the std::string of before C++11, as this LAMMPS was.

#define _GLIBCXX_USE_CXX11_ABI 0

#include "old_strings.h"

#include "error.h"
#include "fmt/format.h"
#include "modify.h"
#include "utils.h"

#include <string>

using namespace LAMMPS_NS;

extern "C" {

void kanmd_error_all(void *error, const char *file, int line, const char *text)
{
  static_cast<Error *>(error)->all(std::string(file), line, std::string(text));
}

void kanmd_error_one(void *error, const char *file, int line, const char *text)
{
  static_cast<Error *>(error)->one(std::string(file), line, std::string(text));
}

void kanmd_error_warning(void *error, const char *file, int line, const char *text)
{
  static_cast<Error *>(error)->warning(std::string(file), line, std::string(text));
}

void *kanmd_add_fix(void *modify, const char *command, int try_suffix)
{
  return static_cast<Modify *>(modify)->add_fix(std::string(command), try_suffix);
}

void *kanmd_add_compute(void *modify, const char *command, int try_suffix)
{
  return static_cast<Modify *>(modify)->add_compute(std::string(command), try_suffix);
}

void kanmd_delete_fix(void *modify, const char *id)
{
  static_cast<Modify *>(modify)->delete_fix(std::string(id));
}

void kanmd_delete_compute(void *modify, const char *id)
{
  static_cast<Modify *>(modify)->delete_compute(std::string(id));
}

void *kanmd_get_fix(const void *modify, const char *id)
{
  return static_cast<const Modify *>(modify)->get_fix_by_id(id);
}

void *kanmd_get_compute(const void *modify, const char *id)
{
  return static_cast<const Modify *>(modify)->get_compute_by_id(id);
}

int kanmd_strmatch(const char *text, const char *pattern)
{
  return utils::strmatch(text, pattern);
}

void kanmd_potential_file_path(const char *path, kanmd_take *take, void *target)
{
  const std::string found = utils::get_potential_file_path(path);
  take(target, found.data(), found.size());
}

void kanmd_format(const void *format, const void *arguments, kanmd_take *take, void *target)
{
  const std::string text = fmt::vformat(*static_cast<const fmt::string_view *>(format),
                                        *static_cast<const fmt::format_args *>(arguments));
  take(target, text.data(), text.size());
}

}    // extern "C"
