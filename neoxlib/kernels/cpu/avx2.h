// Products in the integers that AVX2 multiplies: int8 and int16. CPUs without AVX2 and AVX-512 have
// no HAS_INT16_DOT and multiply floats instead.

#pragma once

#include "tile.h"

namespace {

constexpr bool HAS_BF16_DOT = false;
using BF16Dot = Unavailable;
using BF16Tile = Unavailable;

// INT4 weights times x as int16, with one scale for the row of x. A step is LANES groups of 32
// columns. x's layout per step: 32 * LANES int16, then for each group a float, -8 times its sum:
// nibbles are stored with 8 added.
struct IntDotInt4 : F32Input {
    using X = int16_t;
    using Row = Int4Row;
    using Value = Int4Row;
    static constexpr bool QUANTIZES = true;
    static constexpr int GROUP = 32;
    static constexpr int STEP = GROUP * LANES;
    static constexpr int SPAN = STEP + 2 * LANES;
    static constexpr int BITS = 4;
    static constexpr float LARGEST = 32767;
    using Tail = Int4RowTail<STEP>;

    static INLINE Value load(Row row, int64_t k) {
        return {row.nibbles + k / 2, row.scale + k / GROUP};
    }
    static INLINE const X* load_x(const X* x) { return x; }
    static INLINE Floats add(Floats sum, const X* x, Value w) {
        float each[LANES];
        const Floats scales = Float16::load(w.scale);
        write(each, scales);
        sum += scales * read<Floats>(x + STEP);
#pragma GCC unroll 8
        for (int g = 0; g < LANES; g++, x += GROUP) {
            Ints products = {};
            for (int c = 0; c < GROUP / 2; c += 2 * LANES) {
                const Int16s both = load_int16s(w.nibbles + g * GROUP / 2 + c);
                products = dot(products, read<Int16s>(x + c), both & 15);
                products = dot(products, read<Int16s>(x + GROUP / 2 + c), both >> 4);
            }
            sum += __builtin_convertvector(products, Floats) * each[g];
        }
        return sum;
    }

    static int64_t size(int64_t n) { return (n + STEP - 1) / STEP * SPAN + 16; }
    static float scale(const X* x, int64_t n) {
        return read<float>(x + (n + STEP - 1) / STEP * SPAN);
    }
    static void quantize_activation(const float* x, int64_t n, X* to) {
        const float top = largest_magnitude(x, n);
        const float inverse = top > 0 ? LARGEST / top : 0;
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
        write(to, top / LARGEST);
    }
};

#if defined(__AVX2__)
struct PackInt4x4 {  // the nibbles as stored: unsigned, 8 too large, without their scale
    using Row = Int4Row;
    static constexpr bool PREFETCH_BY_ROWS = false;
    static constexpr int STEP = 32;
    using Tail = Int4RowTail<STEP>;
    static INLINE Words pack_words(Row row, int64_t k) {
        const __m128i both = read<__m128i>(row.nibbles + k / 2);
        return (Words)_mm256_set_m128i(_mm_srli_epi16(both, 4), both) & 0x0f0f0f0f;
    }
};

// Four int8 of x per word times INT4, one group of 32 columns at a time, summed in int16. x's
// layout: n int8, then for each group its scale (float) and its initial sum, -8 times the sum of
// its int8: it corrects the nibbles, which are 8 too large. Starting there, half a word (16
// products) stays within 32 * 8 * 127, which int16 holds.
struct I8TileInt4 : Unscaled<int8_t, Int16s> {
    using X = int8_t;
    using Sum = Int16s;
    static constexpr bool QUANTIZES = true;
    static constexpr bool HAS_GROUP_SCALES = true;
    static constexpr int COLUMNS_PER_WORD = 4;
    static constexpr int GROUP = 32;
    static constexpr int FLUSH_WORDS = GROUP / COLUMNS_PER_WORD;
    static INLINE Int16s add(Int16s sum, Words x, Words w) {
        return sum + (Int16s)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
    }
    static INLINE Floats to_floats(Int16s sum, Floats scale) {
        return __builtin_convertvector(dot(Ints{}, sum, Int16s{} + 1), Floats) * scale;
    }
    static INLINE Int16s initial_sum(const X* x, int64_t n, int64_t word) {
        return (Int16s)broadcast(x + n + word + 4);
    }
    static INLINE Scales scales(const X* x, int64_t n, int64_t word, const Floats* of) {
        const auto all = (Floats)broadcast(x + n + word);
        return {of[0] * all, of[1] * all};
    }
    static float scale(const X*, int64_t) { return 1; }
    static int64_t size(int64_t n) { return (n + n / GROUP * 8 + 63) / 64 * 64; }
    static void quantize_activation(const float* x, int64_t n, X* to) {
        for (int64_t k = 0; k < n; k += GROUP) {
            const float top = largest_magnitude(x + k, GROUP);
            const float inverse = top > 0 ? 127 / top : 0;
            int32_t total = 0;
            for (int64_t c = 0; c < GROUP; c += LANES)
                round_to(to + k + c, read<Floats>(x + k + c) * inverse);
            for (int64_t c = 0; c < GROUP; c++) total += to[k + c];
            write(to + n + k / COLUMNS_PER_WORD, top / 127);
            write(to + n + k / COLUMNS_PER_WORD + 4, -8 * total & 0xffff);
        }
    }
    template <class Use>
    static void with_packer(Format, Use use) {
        use(PackInt4x4{});
    }
};
#else
using I8TileInt4 = Unavailable;
#endif

}  // namespace
