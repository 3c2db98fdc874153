// Products in the numbers that AVX-512 multiplies: bfloat16, and INT4 weights times int8.

#pragma once

#include "tile.h"

namespace {

#if defined(__AVX512BF16__)
constexpr bool HAS_BF16_DOT = true;  // bfloat16 products, float32 sums

INLINE Floats dot(Floats sum, __m512bh x, __m512bh w) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, x, w);
}

struct BF16Dot : F32Input {  // bfloat16 weights times x as bfloat16
    using X = uint16_t;
    using Row = ::Row<uint16_t>;
    using Value = __m512bh;
    static constexpr bool QUANTIZES = true;
    static constexpr int STEP = 32;
    static constexpr int SPAN = 32;
    static constexpr int BITS = 16;
    using Tail = RowTail<uint16_t, STEP>;
    static INLINE Value load(Row row, int64_t k) { return read<Value>(row.values + k); }
    static INLINE Value load_x(const X* x) { return read<Value>(x); }
    static INLINE Floats add(Floats sum, Value x, Value w) { return dot(sum, x, w); }
    static int64_t size(int64_t n) { return row_stride(n); }
    static void quantize_activation(const float* x, int64_t n, X* to) {
        for (int64_t k = 0; k < n; k += STEP)
            write(to + k, _mm512_cvtne2ps_pbh(read<__m512>(x + k + LANES), read<__m512>(x + k)));
    }
};

struct PackBF16x2 : BF16Dot {
    static constexpr bool PREFETCH_BY_ROWS = false;
    static INLINE Words pack_words(Row row, int64_t k) { return (Words)load(row, k); }
};

struct PackInt4AsBF16x2 : F32DotInt4 {
    static constexpr bool PREFETCH_BY_ROWS = false;
    static INLINE Words pack_words(Row row, int64_t k) {
        const auto value = load(row, k);
        return (Words)_mm512_cvtne2ps_pbh((__m512)value.part[1], (__m512)value.part[0]);
    }
};

struct BF16Tile : BF16Dot, Unscaled<uint16_t, Floats> {  // two bfloat16 per word
    static constexpr int COLUMNS_PER_WORD = 2;
    static constexpr int FLUSH_WORDS = PANEL_WORDS;
    static INLINE Floats add(Floats sum, Words x, Words w) {
        return dot(sum, (__m512bh)x, (__m512bh)w);
    }
    static INLINE Floats to_floats(Sum sum, Floats) { return sum; }
    template <class Use>
    static void with_packer(Format format, Use use) {
        format == INT4 ? use(PackInt4AsBF16x2{}) : use(PackBF16x2{});
    }
};
#else
constexpr bool HAS_BF16_DOT = false;
using BF16Dot = Unavailable;
using BF16Tile = Unavailable;
#endif
using I8TileInt4 = Unavailable;

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
// INT4 weights times x as 15-bit integers, with one scale for the row of x. A step is four groups,
// 128 columns. An x value is 128 * upper + lower, both int8. x's layout per step, in bytes:
//   0    upper of the columns in low nibbles    64   upper of the columns in high nibbles
//   128  lower of the columns in low nibbles    192  lower of the columns in high nibbles
//   256  for each lane an int32, -8 times its sum of x: nibbles are stored with 8 added
struct IntDotInt4 : F32Input {
    using X = int8_t;
    using Row = Int4Row;
    struct Value {
        __m512i low, high;
        Floats scale;  // each group's scale in the four lanes of its 128 bits
    };
    static constexpr bool QUANTIZES = true;
    static constexpr int STEP = 128;
    static constexpr int SPAN = 320;
    static constexpr int BITS = 4;
    using Tail = Int4RowTail<STEP>;

    static INLINE Value load(Row row, int64_t k) {
        const __m512i both = read<__m512i>(row.nibbles + k / 2);
        const __m512i four = _mm512_set1_epi8(15);
        const __m256i scales =
            _mm256_set1_epi64x(read<int64_t>(row.scale + k / 32));  // the four scales, four times
        const __m256i order = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3,  //
                                               4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7);
        return {_mm512_and_si512(both, four), _mm512_and_si512(_mm512_srli_epi16(both, 4), four),
                (Floats)_mm512_cvtph_ps(_mm256_shuffle_epi8(scales, order))};
    }

    static INLINE const X* load_x(const X* x) { return x; }
    static INLINE Floats add(Floats sum, const X* x, const Value& w) {
        __m512i upper = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.low, read<__m512i>(x));
        __m512i lower = _mm512_dpbusd_epi32(read<__m512i>(x + 256), w.low, read<__m512i>(x + 128));
        upper = _mm512_dpbusd_epi32(upper, w.high, read<__m512i>(x + 64));
        lower = _mm512_dpbusd_epi32(lower, w.high, read<__m512i>(x + 192));
        return sum + __builtin_convertvector((Ints)lower + ((Ints)upper << 7), Floats) * w.scale;
    }

    static int64_t size(int64_t n) { return (n + STEP - 1) / STEP * SPAN + 64; }
    static float scale(const X* x, int64_t n) {
        return read<float>(x + (n + STEP - 1) / STEP * SPAN);
    }
    static void quantize_activation(const float* x, int64_t n, X* to) {
        constexpr float LARGEST = 16255;  // 127 * 128 - 1: + 64 and >> 7 gives 127 at most
        const float top = largest_magnitude(x, n);
        const float inverse = top > 0 ? LARGEST / top : 0;
        for (int64_t k = 0; k < n; k += STEP, to += SPAN) {
            memset(to, 0, SPAN);
            for (int64_t c = 0; c < std::min<int64_t>(STEP, n - k); c += LANES) {
                const int64_t at = c % 32 / LANES * 64 + c / 32 * LANES;
                const Ints all =
                    (Ints)_mm512_cvtps_epi32((__m512)(read<Floats>(x + k + c) * inverse));
                const Ints upper = (all + 64) >> 7;
                const Ints lower = all - (upper << 7);
                write(to + at, _mm512_cvtsepi32_epi8((__m512i)upper));
                write(to + 128 + at, _mm512_cvtsepi32_epi8((__m512i)lower));
            }
            const auto lanes = [&](int64_t at) {  // 8 times the sum of each four bytes
                const __m512i zero = _mm512_setzero_si512();
                const __m512i eight = _mm512_set1_epi8(8);
                return (Ints)_mm512_dpbusd_epi32(
                    _mm512_dpbusd_epi32(zero, eight, read<__m512i>(to + at)), eight,
                    read<__m512i>(to + at + 64));
            };
            write(to + 256, -((lanes(0) << 7) + lanes(128)));
        }
        write(to, top / LARGEST);
    }
};
#else
using IntDotInt4 = Unavailable;
#endif

}  // namespace
