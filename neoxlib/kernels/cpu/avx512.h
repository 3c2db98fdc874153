// Products in the numbers that AVX-512 multiplies itself: bfloat16, and INT4 by whole numbers of 8 bits.

#pragma once

#include "tile.h"

namespace {

#if defined(__AVX512BF16__)
constexpr bool HALF = true;  // this CPU multiplies bfloat16, and sums in float32

INLINE Floats dot(Floats sum, __m512bh x, __m512bh w) { return (Floats)_mm512_dpbf16_ps((__m512)sum, x, w); }

struct Pairs : AsFloats {  // bfloat16 by bfloat16
    using X = uint16_t;
    using Row = ::Row<uint16_t>;
    using Value = __m512bh;
    static constexpr bool ENTERS = true;
    static constexpr int STEP = 32, SPAN = 32, BITS = 16;
    using Rest = RestOfRow<uint16_t, STEP>;
    static INLINE Value load(Row row, int64_t k) { return read<Value>(row.values + k); }
    static INLINE Value take(const X* x) { return read<Value>(x); }
    static INLINE Floats add(Floats sum, Value x, Value w) { return dot(sum, x, w); }
    static int64_t size(int64_t n) { return pitch(n); }
    static void enter(const float* x, int64_t n, X* to) {
        for (int64_t k = 0; k < n; k += STEP)
            write(to + k, _mm512_cvtne2ps_pbh(read<__m512>(x + k + LANES), read<__m512>(x + k)));
    }
};

struct BytesOfPairs : Pairs {
    static constexpr bool BY_ROWS = false;
    static INLINE Words words(Row row, int64_t k) { return (Words)load(row, k); }
};

struct PairsOfGroups : Group {
    static constexpr bool BY_ROWS = false;
    static INLINE Words words(Row row, int64_t k) {
        const auto value = load(row, k);
        return (Words)_mm512_cvtne2ps_pbh((__m512)value.part[1], (__m512)value.part[0]);
    }
};

struct Double : Pairs, Unscaled<uint16_t, Floats> {  // two bfloat16
    static constexpr int COLUMNS = 2, PIECE = DEEP;
    static INLINE Floats add(Floats sum, Words x, Words w) { return dot(sum, (__m512bh)x, (__m512bh)w); }
    static INLINE Floats floats(Sum sum, Floats) { return sum; }
    template <class Use>
    static void with_source(Format format, Use use) {
        format == INT4 ? use(PairsOfGroups{}) : use(BytesOfPairs{});
    }
};
#else
constexpr bool HALF = false;
struct Pairs {};
struct Double {};
#endif
struct QuadrupleOfGroups {};

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
// Four groups of INT4 at a time, by x in whole numbers of 15 bits with a scale for the row. Per 128 columns: the upper
// bits (times 128) of those in low nibbles, of those in high ones, then their lower bits, then what the nibbles' 8 too
// many come to in each lane.
struct Groups : AsFloats {
    using X = int8_t;
    using Row = RowOfGroups;
    struct Value {
        __m512i low, high;
        Floats scale;  // a group's in all four lanes of its 128 bits
    };
    static constexpr bool ENTERS = true;
    static constexpr int STEP = 128, SPAN = 320, BITS = 4;
    using Rest = RestOfGroups<STEP>;

    static INLINE Value load(Row row, int64_t k) {
        const __m512i both = read<__m512i>(row.nibbles + k / 2), four = _mm512_set1_epi8(15);
        const __m256i scales = _mm256_set1_epi64x(read<int64_t>(row.scale + k / 32));  // its four, four times
        const __m256i order = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3,  //
                                               4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7);
        return {_mm512_and_si512(both, four), _mm512_and_si512(_mm512_srli_epi16(both, 4), four),
                (Floats)_mm512_cvtph_ps(_mm256_shuffle_epi8(scales, order))};
    }

    static INLINE const X* take(const X* x) { return x; }
    static INLINE Floats add(Floats sum, const X* x, const Value& w) {
        __m512i upper = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.low, read<__m512i>(x));
        __m512i lower = _mm512_dpbusd_epi32(read<__m512i>(x + 256), w.low, read<__m512i>(x + 128));
        upper = _mm512_dpbusd_epi32(upper, w.high, read<__m512i>(x + 64));
        lower = _mm512_dpbusd_epi32(lower, w.high, read<__m512i>(x + 192));
        return sum + __builtin_convertvector((Ints)lower + ((Ints)upper << 7), Floats) * w.scale;
    }

    static int64_t size(int64_t n) { return (n + STEP - 1) / STEP * SPAN + 64; }
    static float scale(const X* x, int64_t n) { return read<float>(x + (n + STEP - 1) / STEP * SPAN); }
    static void enter(const float* x, int64_t n, X* to) {
        constexpr float MOST = 16255;  // 127 * 128 - 1: half of 128 more rounds up to no more than 127
        const float top = magnitude(x, n), inverse = top > 0 ? MOST / top : 0;
        for (int64_t k = 0; k < n; k += STEP, to += SPAN) {
            memset(to, 0, SPAN);
            for (int64_t c = 0; c < std::min<int64_t>(STEP, n - k); c += LANES) {
                const int64_t at = c % 32 / LANES * 64 + c / 32 * LANES;
                const Ints all = (Ints)_mm512_cvtps_epi32((__m512)(read<Floats>(x + k + c) * inverse));
                const Ints upper = (all + 64) >> 7, lower = all - (upper << 7);
                write(to + at, _mm512_cvtsepi32_epi8((__m512i)upper));
                write(to + 128 + at, _mm512_cvtsepi32_epi8((__m512i)lower));
            }
            const auto lanes = [&](int64_t at) {  // of each four bytes the sum, 8 times
                const __m512i zero = _mm512_setzero_si512(), eight = _mm512_set1_epi8(8);
                return (Ints)_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, eight, read<__m512i>(to + at)), eight,
                                                 read<__m512i>(to + at + 64));
            };
            write(to + 256, -((lanes(0) << 7) + lanes(128)));
        }
        write(to, top / MOST);
    }
};
#else
struct Groups {};
#endif

}  // namespace
