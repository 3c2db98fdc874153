// Products of many rows of x with a panel of a matrix, in tiles of registers (docs/kernels.md draws
// both).
//
// A panel is PANEL rows of the matrix, unpacked and transposed: word 0 of all rows, then word 1 of
// all rows, and so on. A 32-bit word holds one column as float32, or two or four columns as smaller
// numbers. A tile multiplies a panel with TILE_ROWS rows of x: a word of x is broadcast to all
// lanes.

#pragma once

#include <array>

#include "dot.h"

namespace {

constexpr int PANEL = 2 * LANES;               // rows of the matrix in a panel
constexpr int64_t PANEL_WORDS = 2048 / LANES;  // words of each: 16 KB, half a first-level cache
constexpr int TILE_ROWS = REGISTERS == 32 ? 8 : 6;  // rows of x: the sums fill most registers

struct Panel {
    Words words[PANEL_WORDS][2];        // LANES rows each
    Floats scales[PANEL_WORDS / 8][2];  // INT4 only: one for each group
};

INLINE Words broadcast(const void* from) { return read<uint32_t>(from) + Words{}; }

// A packer P turns STEP columns of a matrix row into LANES words. Number types are in its name:
// PackInt8x4 puts four INT8 into a word.
template <class F>
struct PackAsFloat {
    using Row = ::Row<typename F::Type>;
    // Faster for float32 with AVX2 (measured on Zen 3).
    static constexpr bool PREFETCH_BY_ROWS = REGISTERS < 32 && sizeof(typename F::Type) == 4;
    static constexpr int STEP = LANES;
    using Tail = RowTail<typename F::Type, STEP>;
    static INLINE Words pack_words(Row row, int64_t k) { return (Words)F::load(row.values + k); }
};

struct PackInt4AsFloat {  // LANES columns of a group
    using Row = Int4Row;
    static constexpr bool PREFETCH_BY_ROWS = false;
    static constexpr int STEP = LANES;
    using Tail = Int4RowTail<32>;
    static INLINE Words pack_words(Row row, int64_t k) {
        return (Words)F32DotInt4::load(row, k / 32 * 32).part[k % 32 / STEP];
    }
};

struct PackInt8x2 {
    using Row = ::Row<int8_t>;
    static constexpr bool PREFETCH_BY_ROWS = false;
    static constexpr int STEP = 2 * LANES;
    using Tail = RowTail<int8_t, STEP>;
    static INLINE Words pack_words(Row row, int64_t k) {
        return (Words)load_int16s(row.values + k);
    }
};

struct PackInt4x2 {  // int16, without their scale
    using Row = Int4Row;
    static constexpr bool PREFETCH_BY_ROWS = false;
    static constexpr int STEP = 2 * LANES;
    using Tail = Int4RowTail<32>;
    static INLINE Words pack_words(Row row, int64_t k) {
        using Nibbles = uint8_t __attribute__((vector_size(16)));
        const auto both = read<Nibbles>(row.nibbles + k / 32 * 16);
        uint8_t codes[32];
        write(codes, both & 15), write(codes + 16, both >> 4);
        return (Words)(load_int16s(codes + k % 32) - 8);
    }
};

// Members of a kind of tile K, beside those of a dot product (dot.h):
//   COLUMNS_PER_WORD  columns that a 32-bit word of x or of the panel holds
//   FLUSH_WORDS       words after which the accumulators are scaled and added to y
//   initial_y         value that y starts with
//   initial_sum       value that the accumulators start with, for the words from `word` on
//   scales            factors of the two halves of an accumulator, for the words from `word` on
//   HAS_GROUP_SCALES  whether FLUSH_WORDS words are one INT4 group, with scales in the panel

using Scales = std::array<Floats, 2>;

template <class X, class Sum>
struct Unscaled {
    static constexpr bool HAS_GROUP_SCALES = false;
    static INLINE Sum initial_sum(const X*, int64_t, int64_t) { return Sum{}; }
    static INLINE Scales scales(const X*, int64_t, int64_t, const Floats*) { return {}; }
    static float initial_y(const X*, int64_t) { return 0; }
};

struct F32Tile : F32Input, Unscaled<float, Floats> {  // one float32 per word
    static constexpr int COLUMNS_PER_WORD = 1;
    static constexpr int FLUSH_WORDS = PANEL_WORDS;
    static INLINE Floats add(Floats sum, Words x, Words w) { return sum + (Floats)x * (Floats)w; }
    static INLINE Floats to_floats(Sum sum, Floats) { return sum; }
    template <class Use>
    static void with_packer(Format format, Use use) {
        switch (format) {
            case FLOAT32: return use(PackAsFloat<Float32>{});
            case FLOAT16: return use(PackAsFloat<Float16>{});
            case BFLOAT16: return use(PackAsFloat<BFloat16>{});
            case INT8: return use(PackAsFloat<Int8>{});
            case INT4: return use(PackInt4AsFloat{});
        }
    }
};

struct I16Tile : I16DotInt8, Unscaled<int16_t, Ints> {  // two int16 per word
    static constexpr int COLUMNS_PER_WORD = 2;
    static constexpr int FLUSH_WORDS = std::min<int64_t>(PANEL_WORDS, 256);
    static_assert(FLUSH_WORDS * COLUMNS_PER_WORD <= CHUNK / LANES);  // all of them in one lane
    static INLINE Ints add(Ints sum, Words x, Words w) { return dot(sum, (Int16s)x, (Int16s)w); }
    static INLINE Floats to_floats(Ints sum, Floats) { return I16DotInt8::to_floats(sum); }
    template <class Use>
    static void with_packer(Format, Use use) {
        use(PackInt8x2{});
    }
};

struct I16TileInt4 : I16Tile {
    static constexpr bool HAS_GROUP_SCALES = true;
    static constexpr int FLUSH_WORDS = 16;
    static INLINE Scales scales(const X*, int64_t, int64_t, const Floats* panel_scales) {
        return {panel_scales[0], panel_scales[1]};
    }
    static INLINE Floats to_floats(Ints sum, Floats scale) {
        return I16DotInt8::to_floats(sum) * scale;
    }
    template <class Use>
    static void with_packer(Format, Use use) {
        use(PackInt4x2{});
    }
};

struct PackInt8x4 {  // INT8 + 128: unsigned, as dot_int8 takes them
    using Row = ::Row<int8_t>;
    static constexpr bool PREFETCH_BY_ROWS = false;
    static constexpr int STEP = 4 * LANES;
    using Tail = RowTail<int8_t, STEP>;
    static INLINE Words pack_words(Row row, int64_t k) {
        return read<Words>(row.values + k) ^ 0x80808080;
    }
};

// Four int8 of x per word times INT8 weights. x's layout: the int8, then a float scale for each
// GROUP columns, then a float, -128 times the scaled sum of x: packed weights are 128 too large.
struct I8Tile : Unscaled<int8_t, Ints> {
    using X = int8_t;
    using Sum = Ints;
    static constexpr bool QUANTIZES = true;
    static constexpr int COLUMNS_PER_WORD = 4;
    static constexpr int FLUSH_WORDS = INT8_DOT_SATURATES ? 16 : 32;
    static constexpr int64_t GROUP = FLUSH_WORDS * COLUMNS_PER_WORD;
    static INLINE Ints add(Ints sum, Words x, Words w) { return dot_int8(sum, w, x); }
    static int64_t groups(int64_t n) { return (n + GROUP - 1) / GROUP; }
    static int64_t size(int64_t n) { return (groups(n) * (GROUP + 4) + 4 + 63) / 64 * 64; }
    static INLINE Scales scales(const X* x, int64_t n, int64_t word, const Floats*) {
        const auto all = (Floats)broadcast(x + groups(n) * GROUP + word / FLUSH_WORDS * 4);
        return {all, all};
    }
    static INLINE Floats to_floats(Sum sum, Floats scale) {
        return __builtin_convertvector(sum, Floats) * scale;
    }
    static float scale(const X*, int64_t) { return 1; }
    static float initial_y(const X* x, int64_t n) {
        return read<float>(x + groups(n) * (GROUP + 4));
    }
    static void quantize_activation(const float* x, int64_t n, X* to) {
        X* scales = to + groups(n) * GROUP;
        float shift = 0;
        for (int64_t k = 0; k < n; k += GROUP, scales += 4) {
            const int64_t columns = std::min(GROUP, n - k);
            const float top = largest_magnitude<INT8_DOT_SATURATES>(x + k, columns);
            const float inverse = top > 0 ? 127 / top : 0;
            memset(to + k, 0, GROUP);
            for (int64_t c = 0; c < columns; c += LANES)
                round_to(to + k + c, read<Floats>(x + k + c) * inverse);
            Ints total = {};
            for (int64_t c = 0; c < GROUP; c += 4 * LANES)
                total = dot_int8(total, 0x01010101 + Words{}, read<Words>(to + k + c));
            write(scales, top / 127);
            shift += sum(__builtin_convertvector(total, Floats)) * (top / 127);
        }
        write(scales, -128 * shift);
    }
    template <class Use>
    static void with_packer(Format, Use use) {
        use(PackInt8x4{});
    }
};

struct PanelOrigin {  // the matrix element where a panel begins
    int64_t row, column;
};

// Packs columns [k, k + n) of w's rows from r on; past `outputs` rows the last one is repeated.
// Also prefetches what the next panel is made of, row by row or column by column, so that it
// arrives while this panel is used.
template <class Packer>
void pack_panel(const Matrix& w, int64_t r, int64_t outputs, int64_t k, int64_t n, PanelOrigin next,
                Panel& panel) {
    using Row = typename Packer::Row;
    for (int64_t c = 0; c < n; c += Packer::STEP)
        for (int half = 0; half < 2; half++) {
            Words words[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                if (!Packer::PREFETCH_BY_ROWS)
                    prefetch(Row::of(w, next.row + half * LANES + i).at(next.column + c));
                const auto row = Row::of(w, r + std::min<int64_t>(half * LANES + i, outputs - 1));
                if (c + Packer::STEP <= n) {
                    words[i] = Packer::pack_words(row, k + c);
                } else {
                    typename Packer::Tail tail;
                    words[i] = Packer::pack_words(tail.copy(row, k + c, n - c), 0);
                }
            }
            transpose(words);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                panel.words[c / Packer::STEP * LANES + i][half] = words[i];
        }
    for (int i = 0; Packer::PREFETCH_BY_ROWS && i < PANEL; i++)
        for (int64_t c = 0; c < n; c += 2 * Packer::STEP)
            prefetch(Row::of(w, next.row + i).at(next.column + c));
}

// Packs the scales of the same part of w, whose columns are in groups of 32.
inline void pack_panel_scales(const Matrix& w, int64_t r, int64_t outputs, int64_t k, int64_t n,
                              Panel& panel) {
    for (int64_t g = 0; g < n / 32; g++)
        for (int half = 0; half < 2; half++) {
            uint16_t each[LANES];
            for (int i = 0; i < LANES; i++)
                each[i] = Int4Row::of(w, r + std::min<int64_t>(half * LANES + i, outputs - 1))
                              .scale[k / 32 + g];
            panel.scales[g][half] = Float16::load(each);
        }
}

// y [M, PANEL] += x [M, words] · panel [words, PANEL], from column k of x's n on. Rows of x are
// `stride` values apart, rows of y `y_stride`. The first panel initializes y.
template <class K, int M>
INLINE void tile(const typename K::X* x, int64_t stride, int64_t n, int64_t k, const Panel& panel,
                 int64_t words, bool first_panel, float* y, int64_t y_stride) {
    for (int row = 0; first_panel && row < M; row++)
        std::fill_n(y + row * y_stride, PANEL, K::initial_y(x + row * stride, n));
    for (int64_t first = 0; first < words; first += K::FLUSH_WORDS) {
        typename K::Sum acc[M][2];
        const int64_t word = k / K::COLUMNS_PER_WORD + first;
        const auto* at = reinterpret_cast<const char*>(x) + word * 4;
#pragma GCC unroll 8
        for (int row = 0; row < M; row++)
            acc[row][0] = acc[row][1] = K::initial_sum(x + row * stride, n, word);
        for (int64_t i = first; i < std::min<int64_t>(first + K::FLUSH_WORDS, words); i++, at += 4)
#pragma GCC unroll 8
            for (int row = 0; row < M; row++) {
                const Words x_word = broadcast(at + row * stride * sizeof *x);
                acc[row][0] = K::add(acc[row][0], x_word, panel.words[i][0]);
                acc[row][1] = K::add(acc[row][1], x_word, panel.words[i][1]);
            }
        const Floats* panel_scales = panel.scales[K::HAS_GROUP_SCALES ? first / K::FLUSH_WORDS : 0];
        float* to = y;
        asm("" : "+r"(to));  // otherwise GCC keeps twelve addresses in memory
#pragma GCC unroll 8
        for (int row = 0; row < M; row++, to += y_stride) {
            const auto* x_row = x + row * stride;
            const Scales scales = K::scales(x_row, n, word, panel_scales);
            const Floats low = read<Floats>(to);
            const Floats high = read<Floats>(to + LANES);
            write(to, low + K::to_floats(acc[row][0], scales[0]));
            write(to + LANES, high + K::to_floats(acc[row][1], scales[1]));
        }
    }
}

}  // namespace
