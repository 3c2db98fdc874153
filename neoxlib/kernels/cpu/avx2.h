// Products in the numbers that AVX2 multiplies itself, whole numbers of 8 and 16 bits; CPUs with neither it nor AVX-512
// take floats instead (WHOLE).

#pragma once

#include "tile.h"

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

#if defined(__AVX2__)
struct FoursOfGroups {  // without their scale, and with 8 more, so that no number is negative
    using Row = RowOfGroups;
    static constexpr bool BY_ROWS = false;
    static constexpr int STEP = 32;
    using Rest = RestOfGroups<STEP>;
    static INLINE Words words(Row row, int64_t k) {
        const __m128i both = read<__m128i>(row.nibbles + k / 2);
        return (Words)_mm256_set_m128i(_mm_srli_epi16(both, 4), both) & 0x0f0f0f0f;
    }
};

// Four whole numbers of 8 bits, a group of INT4 at a time. Each group of x has a scale and a start, which follow the
// numbers: 8 times its sum less, for the 8 too many of each nibble. With it no half of a word, 16 products, comes to
// more than 32 * 8 * 127, which 16 bits hold.
struct QuadrupleOfGroups : Unscaled<int8_t, Twos> {
    using X = int8_t;
    using Sum = Twos;
    static constexpr bool ENTERS = true, SCALED = true;
    static constexpr int COLUMNS = 4, GROUP = 32, PIECE = GROUP / COLUMNS;
    static INLINE Twos add(Twos sum, Words x, Words w) {
        return sum + (Twos)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
    }
    static INLINE Floats floats(Twos sum, Floats scale) {
        return __builtin_convertvector(dot(Ints{}, sum, Twos{} + 1), Floats) * scale;
    }
    static INLINE Twos start(const X* x, int64_t n, int64_t word) { return (Twos)spread(x + n + word + 4); }
    static INLINE Scales scales(const X* x, int64_t n, int64_t word, const Floats* of) {
        const auto all = (Floats)spread(x + n + word);
        return {of[0] * all, of[1] * all};
    }
    static float scale(const X*, int64_t) { return 1; }
    static int64_t size(int64_t n) { return (n + n / GROUP * 8 + 63) / 64 * 64; }
    static void enter(const float* x, int64_t n, X* to) {
        for (int64_t k = 0; k < n; k += GROUP) {
            const float top = magnitude(x + k, GROUP), inverse = top > 0 ? 127 / top : 0;
            int32_t total = 0;
            for (int64_t c = 0; c < GROUP; c += LANES) round_to(to + k + c, read<Floats>(x + k + c) * inverse);
            for (int64_t c = 0; c < GROUP; c++) total += to[k + c];
            write(to + n + k / COLUMNS, top / 127);
            write(to + n + k / COLUMNS + 4, -8 * total & 0xffff);
        }
    }
    template <class Use>
    static void with_source(Format, Use use) {
        use(FoursOfGroups{});
    }
};
#else
struct QuadrupleOfGroups {};
#endif

}  // namespace
