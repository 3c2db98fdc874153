// A matrix by few rows or many: y = x Wᵀ, some outputs at a time.
//
// Few rows are bound by memory: each byte of the matrix is read once, in order, and widened in registers. Many rows are
// bound by arithmetic: a panel of the matrix is unpacked into the caches, and meets all rows there.

#pragma once

#if defined(__AVX512F__)
#include "avx512.h"
#else
#include "avx2.h"
#endif
#include "thread_pool.h"

namespace {

constexpr bool LARGE = REGISTERS == 32;
constexpr int WIDE = REGISTERS / 8;        // rows of x that meet a few of the matrix at a time
constexpr int64_t FEW = 16;                // rows that weights meet as they are stored
constexpr int64_t FEW_4 = LARGE ? 16 : 9;  // the same for weights of four bits
constexpr int64_t SOME = LARGE ? 22 : 28;  // rows from which weights of 32 bits are turned into panels
constexpr int64_t MANY = 64;               // the same for any weights
constexpr int64_t SLAB = 64;               // outputs that a few rows meet at a time: they stay in a cache meanwhile
constexpr int64_t LONG = 512;              // the same for WIDE rows, which meet each output once
constexpr int64_t BROAD = 128;             // the same for panels: each meets the same columns of x, still in a cache
constexpr int64_t BLOCK = 256;             // rows that a panel meets before the next one

static_assert(MANY * SLAB <= BLOCK * BROAD && WIDE * LONG <= BLOCK * BROAD);

int64_t slab_of(int64_t rows) { return rows <= WIDE ? LONG : SLAB; }

struct Desk {  // a thread's own
    alignas(64) float y[BLOCK * BROAD];
    alignas(64) Panel panel;
    Buffer entered[2], scratch;
};

template <int N>
using Count = std::integral_constant<int, N>;

template <int MOST, class Use>
void with_count(int64_t count, Use use) {
    if (count == MOST) return use(Count<MOST>{});
    if constexpr (MOST > 1) with_count<MOST - 1>(count, use);
}

// Calls use(i, Count<M>) for groups of M rows, at most MOST, all of about the same size.
template <int MOST, class Use>
void in_groups(int64_t rows, Use use) {
    for (int64_t i = 0, left = rows; left > 0; left = rows - i) {
        const int64_t groups = (left + MOST - 1) / MOST, m = (left + groups - 1) / groups;
        with_count<MOST>(m, [&](auto count) { use(i, count); });
        i += m;
    }
}

// y [rows, slab] = x · w's rows [r, r + outputs), as they are. Four long runs of memory are read side by side, which a
// CPU foresees better than four neighbours that share a page.
template <class K>
void by_dots(const Matrix& w, int64_t r, int64_t outputs, const typename K::X* x, int64_t stride, int64_t rows,
             int64_t slab, float* y) {
    const int64_t quarter = (outputs + 3) / 4;
    in_groups<WIDE>(rows, [&](int64_t i, auto m) {
        constexpr int M = decltype(m)::value;
        for (int64_t j = 0; j < quarter; j++) {
            typename K::Row row[4];
            Floats acc[4 * M];
            float sums[4 * M + LANES];
            for (int c = 0; c < 4; c++) row[c] = K::Row::of(w, r + std::min(j + c * quarter, outputs - 1));
            meet<K, M, 4>(x + i * stride, stride, row, w.in, acc);
            add_up<4 * M>(acc, sums);
            for (int p = 0; p < M; p++)
                for (int64_t c = 0, at = j; c < 4 && at < outputs; c++, at += quarter)
                    y[(i + p) * slab + at] = sums[p * 4 + c];
        }
    });
}

// y [rows, BROAD] = x · w's rows [r, r + outputs), by one panel after the other
template <class K>
void by_tiles(const Matrix& w, int64_t r, int64_t outputs, const typename K::X* x, int64_t stride, int64_t rows,
              Panel& panel, float* y) {
    constexpr int64_t depth = DEEP * K::COLUMNS;
    for (int64_t k = 0; k < w.in; k += depth)
        for (int64_t p = 0; p < outputs; p += PANEL) {
            const int64_t n = std::min(depth, w.in - k), words = (n + K::COLUMNS - 1) / K::COLUMNS;
            const bool last = p + PANEL >= outputs, end = last && k + n >= w.in;
            const Corner next = {end ? r + outputs : last ? r : r + p + PANEL, end ? 0 : last ? k + n : k};
            K::with_source(w.format, [&](auto source) {
                turn<decltype(source)>(w, r + p, std::min<int64_t>(PANEL, outputs - p), k, n, next, panel);
            });
            if constexpr (K::SCALED) turn_scales(w, r + p, std::min<int64_t>(PANEL, outputs - p), k, n, panel);
            in_groups<TALL>(rows, [&](int64_t i, auto m) {
                constexpr int M = decltype(m)::value;
                tile<K, M>(x + i * stride, stride, w.in, k, panel, words, k == 0, y + i * BROAD + p, BROAD);
            });
        }
}

template <class K>
struct Dots {
    using Kind = K;
    static constexpr bool TILED = false, SHARED = false;
};

template <class K>
struct Tiles {
    using Kind = K;
    static constexpr bool TILED = true, SHARED = K::ENTERS;  // rows that enter do so once for all threads, beforehand
};

struct Crowd {
    int64_t rows, coarse_from;  // from so many rows on x may be rounded: to bfloat16, or to 8 bits for packed weights
    bool wide;                  // where weights of 16 bits stand for their like of 32: all sums are then in their order
};

// Calls use(way) with the way in which so many rows of x meet w.
template <class Use>
void with_way(const Matrix& w, const Crowd& of, Use use) {
    [[maybe_unused]] const bool few = of.rows <= (w.format == INT4 ? FEW_4 : FEW), many = of.rows >= MANY;
    [[maybe_unused]] const bool coarse = of.rows >= of.coarse_from, as_stored = of.wide ? of.rows < SOME : few;
    if (w.format == FLOAT32 && as_stored) return use(Dots<Wide<Float32>>{});
    if constexpr (HALF) {
        if (w.format == BFLOAT16 && coarse) return many ? use(Tiles<Double>{}) : use(Dots<Pairs>{});
        if (w.format == INT4 && coarse && !few) return use(Tiles<Double>{});
    }
    if constexpr (WHOLE) {
        if constexpr (BYTES)
            if (w.format == INT8 && many && coarse) return use(Tiles<Quadruple>{});
        if (w.format == INT8) return few || LARGE ? use(Dots<Lines>{}) : use(Tiles<Couple>{});
        if constexpr (TIGHT)
            if (w.format == INT4 && many && coarse) return use(Tiles<QuadrupleOfGroups>{});
        if (w.format == INT4) return few ? use(Dots<Groups>{}) : use(Tiles<CoupleOfGroups>{});
    } else {
        if (w.format == INT8 && few) return use(Dots<Wide<Int8>>{});
        if (w.format == INT4 && few) return use(Dots<Group>{});
    }
    if (w.format == FLOAT16 && as_stored) return use(Dots<Wide<Float16>>{});
    if (w.format == BFLOAT16 && as_stored) return use(Dots<Wide<BFloat16>>{});
    return use(Tiles<Single>{});
}

// x [rows, pitch(in)], or what became of it for a product: rows so many values apart.
struct Input {
    const void* values;
    int64_t stride;
};

template <class K>
int64_t stride_of(const Matrix& w) {
    if constexpr (K::ENTERS) return K::size(w.in);
    return pitch(w.in);
}

// Whether x enters once for all threads.
bool shared(const Matrix& w, const Crowd& of) {
    bool found = false;
    with_way(w, of, [&](auto way) { found = way.SHARED; });
    return found;
}

// Makes room in `all` for rows that enter once for all threads.
void hold_input(const Matrix& w, const Crowd& of, Buffer& all) {
    with_way(w, of, [&](auto way) {
        using K = typename decltype(way)::Kind;
        if constexpr (way.SHARED) all.hold<typename K::X>(of.rows * K::size(w.in));
    });
}

// Enters one row, if x enters once for all threads.
void enter_row(const Matrix& w, const Crowd& of, const float* x, int64_t row, Buffer& all) {
    with_way(w, of, [&](auto way) {
        using K = typename decltype(way)::Kind;
        if constexpr (way.SHARED) K::enter(x, w.in, all.get<typename K::X>() + row * K::size(w.in));
    });
}

// What a product with w takes of x: x itself, `all`, or this thread's `own`, which is filled here.
Input input(const Matrix& w, const Crowd& of, const float* x, Buffer& all, Buffer& own) {
    Input found = {x, pitch(w.in)};
    with_way(w, of, [&](auto way) {
        using K = typename decltype(way)::Kind;
        using X = typename K::X;
        if constexpr (K::ENTERS) {
            const int64_t size = K::size(w.in);
            found = {all.get<X>(), size};
            if constexpr (way.SHARED) return;
            X* to = own.hold<X>(of.rows * size);
            for (int64_t i = 0; i < of.rows; i++) K::enter(x + i * pitch(w.in), w.in, to + i * size);
            found.values = to;
        }
    });
    return found;
}

// y [outputs] times the scales of x's row and of w's rows from r on, and their biases
inline void finish(const Matrix& w, int64_t r, int64_t outputs, float scale, float* y) {
    const auto* scales = w.format == INT8 ? static_cast<const float*>(w.scale) + r : nullptr;
    const float* bias = w.bias ? w.bias + r : nullptr;
    for (int64_t j = 0; j < outputs; j += LANES) {
        Floats v = read<Floats>(y + j) * scale;
        if (scales) v *= load<Float32>(scales + j, outputs - j);
        if (bias) v += load<Float32>(bias + j, outputs - j);
        write(y + j, v);
    }
}

// The outputs `mine` of x Wᵀ + bias: done(row, output, n, y) gets n of them at a time, in whole vectors that it may
// write over.
template <class Done>
void product(const Matrix& w, const Crowd& of, const Input& x, Range mine, Desk& desk, Done done) {
    with_way(w, of, [&](auto way) {
        using K = typename decltype(way)::Kind;
        const int64_t slab = way.TILED ? BROAD : slab_of(of.rows), block = way.TILED ? BLOCK : MANY;
        for (int64_t r = mine.first; r < mine.last; r += slab)
            for (int64_t i = 0; i < of.rows; i += block) {
                const int64_t outputs = std::min(slab, mine.last - r), some = std::min(block, of.rows - i);
                const auto* values = static_cast<const typename K::X*>(x.values) + i * x.stride;
                if constexpr (way.TILED) by_tiles<K>(w, r, outputs, values, x.stride, some, desk.panel, desk.y);
                else by_dots<K>(w, r, outputs, values, x.stride, some, slab, desk.y);
                for (int64_t c = 0; c < some; c++) {
                    float* y = desk.y + c * slab;
                    finish(w, r, outputs, K::scale(values + c * x.stride, w.in), y);
                    done(i + c, r, outputs, y);
                }
            }
    });
}

}  // namespace
