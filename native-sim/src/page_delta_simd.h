// Vector intrinsics. GCC 12 warns about its own "undefined" operands inside them (GCC bug 105593);
// the silence is limited to that header.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
