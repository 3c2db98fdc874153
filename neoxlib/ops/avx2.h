// Products in the numbers that AVX2 multiplies itself, whole numbers of 16 bits; CPUs with neither it nor AVX-512 take
// floats instead (WHOLE).

#pragma once

#include "tiles.h"

namespace {

constexpr bool HALF = false;
struct Pairs {};
struct Double {};

// INT4, a group for each lane at a time, by x in whole numbers of 16 bits with a scale for the row. What the nibbles' 8
// too many come to, group by group, follows the numbers of such a step.
struct Groups : AsFloats {
    using X = int16_t;
    using Row = RowOfGroups;
    using Value = RowOfGroups;
    static constexpr bool ENTERS = true;
    static constexpr int GROUP = 32, STEP = GROUP * LANES, SPAN = STEP + 2 * LANES, BITS = 4;
    static constexpr float MOST = 32767;
    using Rest = RestOfGroups<STEP>;

    static INLINE Value load(Row row, int64_t k) { return {row.nibbles + k / 2, row.scale + k / GROUP}; }
    static INLINE const X* take(const X* x) { return x; }
    static INLINE Floats add(Floats sum, const X* x, Value w) {
        float each[LANES];
        const Floats scales = Float16::load(w.scale);
        write(each, scales);
        sum += scales * read<Floats>(x + STEP);
#pragma GCC unroll 8
        for (int g = 0; g < LANES; g++, x += GROUP) {
            Ints products = {};
            for (int c = 0; c < GROUP / 2; c += 2 * LANES) {
                const Twos both = twos(w.nibbles + g * GROUP / 2 + c);
                products = dot(products, read<Twos>(x + c), both & 15);
                products = dot(products, read<Twos>(x + GROUP / 2 + c), both >> 4);
            }
            sum += __builtin_convertvector(products, Floats) * each[g];
        }
        return sum;
    }

    static int64_t size(int64_t n) { return (n + STEP - 1) / STEP * SPAN + 16; }
    static float scale(const X* x, int64_t n) { return read<float>(x + (n + STEP - 1) / STEP * SPAN); }
    static void enter(const float* x, int64_t n, X* to) {
        const float top = magnitude(x, n), inverse = top > 0 ? MOST / top : 0;
        for (int64_t k = 0; k < n; k += STEP, to += SPAN) {
            memset(to, 0, SPAN * sizeof *to);
            for (int64_t c = 0; c < std::min<int64_t>(STEP, n - k); c += LANES)
                round_to(to + c, read<Floats>(x + k + c) * inverse);
            for (int g = 0; g < LANES; g++) {
                int32_t total = 0;
                for (int c = 0; c < GROUP; c++) total += to[g * GROUP + c];
                write(to + STEP + 2 * g, -8.0f * total);
            }
        }
        write(to, top / MOST);
    }
};

}  // namespace
