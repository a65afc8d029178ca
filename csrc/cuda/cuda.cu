// What the library is built for, and the texts of its errors.

#include "launch.h"

// "9.0a", "9.0+PTX", joined by semicolons.
extern "C" const char* unot_fast_architectures() { return ARCHITECTURES; }
extern "C" const char* unot_fast_error(int error) { return error_text(error); }
