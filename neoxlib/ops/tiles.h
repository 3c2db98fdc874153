// Products of many rows of x with a panel of a matrix, in tiles of registers.
//
// A panel is 32 rows of the matrix, unpacked and turned: one word of 32 bits after the other, each of all 32 rows. A
// word holds a column as float32, two as bfloat16 or four as whole numbers. A tile meets it with some rows of x, a word
// of each at a time, which is the same for all lanes.

#pragma once

#include "dots.h"

namespace {

constexpr int PANEL = 2 * LANES;  // outputs of a panel
constexpr int64_t DEEP = 128;     // words of its depth: it fits the first-level cache with a few rows of x
constexpr int TALL = 8;           // rows of x that a tile takes

INLINE Words spread(const void* from) { return read<uint32_t>(from) + Words{}; }

// How a matrix' rows become words, LANES words at a time.
template <class F>
struct Floating {
    using Row = ::Row<typename F::Type>;
    static constexpr int STEP = LANES;
    using Rest = RestOfRow<typename F::Type, STEP>;
    static INLINE Words words(Row row, int64_t k) { return (Words)F::load(row.values + k); }
};

struct FloatingGroups {  // half a group
    using Row = RowOfGroups;
    static constexpr int STEP = LANES;
    using Rest = RestOfGroups<2 * STEP>;
    static INLINE Words words(Row row, int64_t k) {
        const auto value = Group::load(row, k / 32 * 32);
        return (Words)(k % 32 ? value.high : value.low);
    }
};

// A kind of tile: what a word of x holds (COLUMNS), and in which pieces of so many words its sums are added to y.

struct Single : AsFloats {  // a float32
    static constexpr int COLUMNS = 1, PIECE = DEEP;
    static INLINE Floats add(Floats sum, Words x, Words w) { return sum + (Floats)x * (Floats)w; }
    static INLINE Floats floats(Sum sum, const X*, int64_t, int64_t) { return sum; }
    static float shift(const X*, int64_t) { return 0; }
    template <class Use>
    static void with_source(Format format, Use use) {
        switch (format) {
            case FLOAT32: return use(Floating<Float32>{});
            case FLOAT16: return use(Floating<Float16>{});
            case BFLOAT16: return use(Floating<BFloat16>{});
            case INT8: return use(Floating<Int8>{});
            case INT4: return use(FloatingGroups{});
        }
    }
};

#if defined(__AVX512BF16__)
struct BytesOfPairs : Pairs {
    static INLINE Words words(Row row, int64_t k) { return (Words)load(row, k); }
};

struct PairsOfGroups : Group {
    static INLINE Words words(Row row, int64_t k) {
        const auto value = load(row, k);
        return (Words)_mm512_cvtne2ps_pbh((__m512)value.high, (__m512)value.low);
    }
};

struct Double : Pairs {  // two bfloat16
    static constexpr int COLUMNS = 2, PIECE = DEEP;
    static INLINE Floats add(Floats sum, Words x, Words w) { return dot(sum, (__m512bh)x, (__m512bh)w); }
    static INLINE Floats floats(Sum sum, const X*, int64_t, int64_t) { return sum; }
    static float shift(const X*, int64_t) { return 0; }
    template <class Use>
    static void with_source(Format format, Use use) {
        format == INT4 ? use(PairsOfGroups{}) : use(BytesOfPairs{});
    }
};
#else
struct Double {};
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
struct Fours {  // INT8 with 128 more, so that no number is negative
    using Row = ::Row<int8_t>;
    static constexpr int STEP = 4 * LANES;
    using Rest = RestOfRow<int8_t, STEP>;
    static INLINE Words words(Row row, int64_t k) { return read<Words>(row.values + k) ^ 0x80808080; }
};

// Four whole numbers of 8 bits. Each 128 columns of a row of x have a scale; these follow the numbers, and then comes
// what the 128 too many of each weight add up to.
struct Quadruple {
    using X = int8_t;
    using Sum = Ints;
    static constexpr bool ENTERS = true;
    static constexpr int COLUMNS = 4, PIECE = 32;
    static constexpr int64_t GROUP = PIECE * COLUMNS;
    static INLINE Ints add(Ints sum, Words x, Words w) {
        return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
    }
    static int64_t groups(int64_t n) { return (n + GROUP - 1) / GROUP; }
    static int64_t size(int64_t n) { return (groups(n) * (GROUP + 4) + 4 + 63) / 64 * 64; }
    static INLINE Floats floats(Sum sum, const X* x, int64_t n, int64_t group) {
        return __builtin_convertvector(sum, Floats) * read<float>(x + groups(n) * GROUP + group * 4);
    }
    static float shift(const X* x, int64_t n) { return read<float>(x + groups(n) * (GROUP + 4)); }
    static void enter(const float* x, int64_t n, X* to) {
        X* scales = to + groups(n) * GROUP;
        float shift = 0;
        for (int64_t k = 0; k < n; k += GROUP, scales += 4) {
            const int64_t some = std::min(GROUP, n - k);
            const float top = magnitude(x + k, some), inverse = top > 0 ? 127 / top : 0;
            memset(to + k, 0, GROUP);
            for (int64_t c = 0; c < some; c += LANES) round_to(to + k + c, x + k + c, inverse);
            Ints total = {};
            for (int64_t c = 0; c < GROUP; c += 64)
                total = (Ints)_mm512_dpbusd_epi32((__m512i)total, _mm512_set1_epi8(1), read<__m512i>(to + k + c));
            write(scales, top / 127);
            shift += sum(__builtin_convertvector(total, Floats)) * (top / 127);
        }
        write(scales, -128 * shift);
    }
    template <class Use>
    static void with_source(Format, Use use) {
        use(Fours{});
    }
};
#else
struct Quadruple {};
#endif

struct Corner {  // where a panel begins in its matrix
    int64_t row, column;
};

// panel [words, PANEL] = columns [k, k + n) of w's rows from r on; past `outputs` the last of them again. What the next
// panel will be made of is asked for: it comes while this one is used.
template <class Source>
void turn(const Matrix& w, int64_t r, int64_t outputs, int64_t k, int64_t n, Corner next, Words* panel) {
    using Row = typename Source::Row;
    for (int64_t c = 0; c < n; c += Source::STEP)
        for (int half = 0; half < 2; half++) {
            Words words[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                soon(Row::of(w, next.row + half * LANES + i).at(next.column + c));
                const auto row = Row::of(w, r + std::min<int64_t>(half * LANES + i, outputs - 1));
                if (c + Source::STEP <= n) {
                    words[i] = Source::words(row, k + c);
                } else {
                    typename Source::Rest rest;
                    words[i] = Source::words(rest.copy(row, k + c, n - c), 0);
                }
            }
            transpose(words);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) panel[c / Source::STEP * PANEL + 2 * i + half] = words[i];
        }
}

// y [M, PANEL], its rows `line` values apart, += x [M rows, words] · panel [words, PANEL]; x's column k comes first
template <class K, int M>
INLINE void tile(const typename K::X* x, int64_t stride, int64_t n, int64_t k, const Words* panel, int64_t words,
                 bool anew, float* y, int64_t line) {
    for (int64_t first = 0; first < words; first += K::PIECE) {
        typename K::Sum acc[M][2] = {};
        const auto* at = reinterpret_cast<const char*>(x) + (k / K::COLUMNS + first) * 4;
        for (int64_t i = first; i < std::min<int64_t>(first + K::PIECE, words); i++, at += 4)
#pragma GCC unroll 8
            for (int row = 0; row < M; row++) {
                const Words mine = spread(at + row * stride * sizeof *x);
                acc[row][0] = K::add(acc[row][0], mine, panel[2 * i]);
                acc[row][1] = K::add(acc[row][1], mine, panel[2 * i + 1]);
            }
#pragma GCC unroll 8
        for (int row = 0; row < M; row++)
            for (int half = 0; half < 2; half++) {
                float* to = y + row * line + half * LANES;
                const Floats before = anew && first == 0 ? K::shift(x + row * stride, n) + Floats{} : read<Floats>(to);
                const int64_t group = (k / K::COLUMNS + first) / K::PIECE;
                write(to, before + K::floats(acc[row][half], x + row * stride, n, group));
            }
    }
}

}  // namespace
