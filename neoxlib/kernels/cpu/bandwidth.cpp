// Memory read bandwidth, with the access pattern of the dot kernels: four streams side by side.

#include "simd.h"

// Reads n bytes (whole kilobytes) and returns the OR of all 32-bit words, so that no read is
// optimized away.
extern "C" uint32_t reading_through(const char* from, int64_t n) {
    Words seen[4] = {};
    for (int64_t i = 0; i < n / 4; i += 64)
#pragma GCC unroll 4
        for (int place = 0; place < 4; place++)
#pragma GCC unroll 4
            for (int64_t at = i; at < i + 64; at += sizeof(Words))
                seen[place] |= read<Words>(from + place * (n / 4) + at);
    const Words all = seen[0] | seen[1] | seen[2] | seen[3];
    uint32_t any = 0;
    for (int i = 0; i < LANES; i++) any |= all[i];
    return any;
}
