// What an External<StagedPages> is known by, so that no other handle is taken for one.
#pragma once

#include <napi.h>

namespace romulus {

constexpr napi_type_tag kStagedPagesTag = {0x524f4d554c555353ULL, 0x5441474544303031ULL};

}  // namespace romulus
