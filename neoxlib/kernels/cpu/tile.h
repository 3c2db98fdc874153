// Products of many rows of x with a panel of a matrix, in tiles of registers.
//
// A panel is PANEL rows of the matrix, unpacked and turned: one word of 32 bits after the other, each of all those
// rows. A word holds a column as float32, or two or four as smaller numbers. A tile meets it with some rows of x, a
// word of each at a time, which is the same for all lanes.

#pragma once

#include <array>

#include "dot.h"

namespace {

constexpr int PANEL = 2 * LANES;               // outputs of a panel
constexpr int64_t DEEP = 2048 / LANES;         // words of its depth: with a few rows of x it fits the first-level cache
constexpr int TALL = REGISTERS == 32 ? 8 : 6;  // rows of x that a tile takes: its sums stay in registers

struct Panel {
    Words words[DEEP][2];        // LANES rows each
    Floats scales[DEEP / 8][2];  // of INT4, a group after the other
};

INLINE Words spread(const void* from) { return read<uint32_t>(from) + Words{}; }

// How a matrix' rows become words, LANES words at a time.
template <class F>
struct Floating {
    using Row = ::Row<typename F::Type>;
    static constexpr bool BY_ROWS = REGISTERS < 32 && sizeof(typename F::Type) == 4;  // faster there (Zen 3)
    static constexpr int STEP = LANES;
    using Rest = RestOfRow<typename F::Type, STEP>;
    static INLINE Words words(Row row, int64_t k) { return (Words)F::load(row.values + k); }
};

struct FloatingGroups {  // a part of a group
    using Row = RowOfGroups;
    static constexpr bool BY_ROWS = false;
    static constexpr int STEP = LANES;
    using Rest = RestOfGroups<32>;
    static INLINE Words words(Row row, int64_t k) { return (Words)Group::load(row, k / 32 * 32).part[k % 32 / STEP]; }
};

struct TwosOfBytes {
    using Row = ::Row<int8_t>;
    static constexpr bool BY_ROWS = false;
    static constexpr int STEP = 2 * LANES;
    using Rest = RestOfRow<int8_t, STEP>;
    static INLINE Words words(Row row, int64_t k) { return (Words)twos(row.values + k); }
};

struct TwosOfGroups {  // without their scale
    using Row = RowOfGroups;
    static constexpr bool BY_ROWS = false;
    static constexpr int STEP = 2 * LANES;
    using Rest = RestOfGroups<32>;
    static INLINE Words words(Row row, int64_t k) {
        using Nibbles = uint8_t __attribute__((vector_size(16)));
        const auto both = read<Nibbles>(row.nibbles + k / 32 * 16);
        uint8_t codes[32];
        write(codes, both & 15), write(codes + 16, both >> 4);
        return (Words)(twos(codes + k % 32) - 8);
    }
};

// A kind of tile: what a word of x holds (COLUMNS), and in which pieces of so many words its sums are added to y, which
// begins with a `shift`. A piece's sums begin with `start`, and what they come to is multiplied by `scales`; it is the
// one with that `word` of x. Where these are SCALED they are a group long, and the panel has scales for them.

using Scales = std::array<Floats, 2>;

template <class X, class Sum>
struct Unscaled {
    static constexpr bool SCALED = false;
    static INLINE Sum start(const X*, int64_t, int64_t) { return Sum{}; }
    static INLINE Scales scales(const X*, int64_t, int64_t, const Floats*) { return {}; }
    static float shift(const X*, int64_t) { return 0; }
};

struct Single : AsFloats, Unscaled<float, Floats> {  // a float32
    static constexpr int COLUMNS = 1, PIECE = DEEP;
    static INLINE Floats add(Floats sum, Words x, Words w) { return sum + (Floats)x * (Floats)w; }
    static INLINE Floats floats(Sum sum, Floats) { return sum; }
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

struct Couple : Lines, Unscaled<int16_t, Ints> {  // two whole numbers of 16 bits
    static constexpr int COLUMNS = 2, PIECE = std::min<int64_t>(DEEP, 256);
    static_assert(PIECE * COLUMNS <= CHUNK / LANES);  // a lane has all columns of a piece
    static INLINE Ints add(Ints sum, Words x, Words w) { return dot(sum, (Twos)x, (Twos)w); }
    static INLINE Floats floats(Ints sum, Floats) { return Lines::floats(sum); }
    template <class Use>
    static void with_source(Format, Use use) {
        use(TwosOfBytes{});
    }
};

struct CoupleOfGroups : Couple {
    static constexpr bool SCALED = true;
    static constexpr int PIECE = 16;
    static INLINE Scales scales(const X*, int64_t, int64_t, const Floats* of) { return {of[0], of[1]}; }
    static INLINE Floats floats(Ints sum, Floats scale) { return Lines::floats(sum) * scale; }
    template <class Use>
    static void with_source(Format, Use use) {
        use(TwosOfGroups{});
    }
};

struct Fours {  // INT8 with 128 more, so that no number is negative
    using Row = ::Row<int8_t>;
    static constexpr bool BY_ROWS = false;
    static constexpr int STEP = 4 * LANES;
    using Rest = RestOfRow<int8_t, STEP>;
    static INLINE Words words(Row row, int64_t k) { return read<Words>(row.values + k) ^ 0x80808080; }
};

// Four whole numbers of 8 bits. Each GROUP columns of a row of x have a scale; these follow the numbers, and then comes
// what the 128 too many of each weight add up to.
struct Quadruple : Unscaled<int8_t, Ints> {
    using X = int8_t;
    using Sum = Ints;
    static constexpr bool ENTERS = true;
    static constexpr int COLUMNS = 4, PIECE = TIGHT ? 16 : 32;
    static constexpr int64_t GROUP = PIECE * COLUMNS;
    static INLINE Ints add(Ints sum, Words x, Words w) { return dot_bytes(sum, w, x); }
    static int64_t groups(int64_t n) { return (n + GROUP - 1) / GROUP; }
    static int64_t size(int64_t n) { return (groups(n) * (GROUP + 4) + 4 + 63) / 64 * 64; }
    static INLINE Scales scales(const X* x, int64_t n, int64_t word, const Floats*) {
        const auto all = (Floats)spread(x + groups(n) * GROUP + word / PIECE * 4);
        return {all, all};
    }
    static INLINE Floats floats(Sum sum, Floats scale) { return __builtin_convertvector(sum, Floats) * scale; }
    static float scale(const X*, int64_t) { return 1; }
    static float shift(const X* x, int64_t n) { return read<float>(x + groups(n) * (GROUP + 4)); }
    static void enter(const float* x, int64_t n, X* to) {
        X* scales = to + groups(n) * GROUP;
        float shift = 0;
        for (int64_t k = 0; k < n; k += GROUP, scales += 4) {
            const int64_t some = std::min(GROUP, n - k);
            const float top = magnitude<TIGHT>(x + k, some), inverse = top > 0 ? 127 / top : 0;
            memset(to + k, 0, GROUP);
            for (int64_t c = 0; c < some; c += LANES) round_to(to + k + c, read<Floats>(x + k + c) * inverse);
            Ints total = {};
            for (int64_t c = 0; c < GROUP; c += 4 * LANES)
                total = dot_bytes(total, 0x01010101 + Words{}, read<Words>(to + k + c));
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

struct Corner {  // where a panel begins in its matrix
    int64_t row, column;
};

// The panel of columns [k, k + n) of w's rows from r on; past `outputs` the last of them again. What the next panel
// will be made of is asked for, a row after the other or a column after the other: it comes while this one is used.
template <class Source>
void turn(const Matrix& w, int64_t r, int64_t outputs, int64_t k, int64_t n, Corner next, Panel& panel) {
    using Row = typename Source::Row;
    for (int64_t c = 0; c < n; c += Source::STEP)
        for (int half = 0; half < 2; half++) {
            Words words[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                if (!Source::BY_ROWS) soon(Row::of(w, next.row + half * LANES + i).at(next.column + c));
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
            for (int i = 0; i < LANES; i++) panel.words[c / Source::STEP * LANES + i][half] = words[i];
        }
    for (int i = 0; Source::BY_ROWS && i < PANEL; i++)
        for (int64_t c = 0; c < n; c += 2 * Source::STEP) soon(Row::of(w, next.row + i).at(next.column + c));
}

// The scales of the same part of w, whose columns are in groups of 32.
inline void turn_scales(const Matrix& w, int64_t r, int64_t outputs, int64_t k, int64_t n, Panel& panel) {
    for (int64_t g = 0; g < n / 32; g++)
        for (int half = 0; half < 2; half++) {
            uint16_t each[LANES];
            for (int i = 0; i < LANES; i++)
                each[i] = RowOfGroups::of(w, r + std::min<int64_t>(half * LANES + i, outputs - 1)).scale[k / 32 + g];
            panel.scales[g][half] = Float16::load(each);
        }
}

// y [M, PANEL], its rows `line` values apart, += x [M rows, words] · panel [words, PANEL]; x's column k comes first
template <class K, int M>
INLINE void tile(const typename K::X* x, int64_t stride, int64_t n, int64_t k, const Panel& panel, int64_t words,
                 bool anew, float* y, int64_t line) {
    for (int row = 0; anew && row < M; row++) std::fill_n(y + row * line, PANEL, K::shift(x + row * stride, n));
    for (int64_t first = 0; first < words; first += K::PIECE) {
        typename K::Sum acc[M][2];
        const int64_t word = k / K::COLUMNS + first;
        const auto* at = reinterpret_cast<const char*>(x) + word * 4;
#pragma GCC unroll 8
        for (int row = 0; row < M; row++) acc[row][0] = acc[row][1] = K::start(x + row * stride, n, word);
        for (int64_t i = first; i < std::min<int64_t>(first + K::PIECE, words); i++, at += 4)
#pragma GCC unroll 8
            for (int row = 0; row < M; row++) {
                const Words mine = spread(at + row * stride * sizeof *x);
                acc[row][0] = K::add(acc[row][0], mine, panel.words[i][0]);
                acc[row][1] = K::add(acc[row][1], mine, panel.words[i][1]);
            }
        const Floats* of = panel.scales[K::SCALED ? first / K::PIECE : 0];
        float* to = y;
        asm("" : "+r"(to));  // else GCC keeps twelve addresses for all pieces, in memory
#pragma GCC unroll 8
        for (int row = 0; row < M; row++, to += line) {
            const auto* its = x + row * stride;
            const Scales scales = K::scales(its, n, word, of);
            const Floats low = read<Floats>(to), high = read<Floats>(to + LANES);
            write(to, low + K::floats(acc[row][0], scales[0]));
            write(to + LANES, high + K::floats(acc[row][1], scales[1]));
        }
    }
}

}  // namespace
