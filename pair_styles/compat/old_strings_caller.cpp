/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Functions of LAMMPS that take or give the new std::string, which this LAMMPS does not have.

#include "old_strings.h"

#include "error.h"
#include "fmt/format.h"
#include "modify.h"
#include "utils.h"

#include <string>

namespace {

void take(void *target, const char *text, unsigned long size)
{
  static_cast<std::string *>(target)->assign(text, size);
}

}    // namespace

namespace LAMMPS_NS {

void Error::all(const std::string &file, int line, const std::string &text)
{
  kanmd_error_all(this, file.c_str(), line, text.c_str());
}

void Error::one(const std::string &file, int line, const std::string &text)
{
  kanmd_error_one(this, file.c_str(), line, text.c_str());
}

void Error::warning(const std::string &file, int line, const std::string &text)
{
  kanmd_error_warning(this, file.c_str(), line, text.c_str());
}

Fix *Modify::add_fix(const std::string &command, int try_suffix)
{
  return static_cast<Fix *>(kanmd_add_fix(this, command.c_str(), try_suffix));
}

Compute *Modify::add_compute(const std::string &command, int try_suffix)
{
  return static_cast<Compute *>(kanmd_add_compute(this, command.c_str(), try_suffix));
}

void Modify::delete_fix(const std::string &id)
{
  kanmd_delete_fix(this, id.c_str());
}

void Modify::delete_compute(const std::string &id)
{
  kanmd_delete_compute(this, id.c_str());
}

Fix *Modify::get_fix_by_id(const std::string &id) const
{
  return static_cast<Fix *>(kanmd_get_fix(this, id.c_str()));
}

Compute *Modify::get_compute_by_id(const std::string &id) const
{
  return static_cast<Compute *>(kanmd_get_compute(this, id.c_str()));
}

bool utils::strmatch(const std::string &text, const std::string &pattern)
{
  return kanmd_strmatch(text.c_str(), pattern.c_str()) != 0;
}

std::string utils::get_potential_file_path(const std::string &path)
{
  std::string found;
  kanmd_potential_file_path(path.c_str(), take, &found);
  return found;
}

}    // namespace LAMMPS_NS

FMT_BEGIN_NAMESPACE

std::string vformat(string_view format, format_args arguments)
{
  std::string text;
  kanmd_format(&format, &arguments, take, &text);
  return text;
}

FMT_END_NAMESPACE
