// A matrix by few rows or many: y = x Wᵀ, a thread's outputs at a time.
//
// Few rows are bound by memory: each byte of the matrix is read once, in order, and widened in registers. Many rows are
// bound by arithmetic: a panel of the matrix is unpacked into the first-level cache, and meets all rows there.

#pragma once

#include "dots.h"
#include "team.h"

namespace {

constexpr int FEW = 4;
constexpr int64_t SLAB = 64;       // outputs that a thread finishes at a time
constexpr int64_t BLOCK = 256;     // rows of x that it does so for: as deep as a panel they fit the second-level cache
constexpr int64_t PANEL = 8;       // outputs of a panel
constexpr int64_t DEEP = 2048;     // bytes of its columns: it fits the first-level cache with a few rows of x
constexpr int64_t LONG = 1 << 14;  // bytes of a row of x that the first-level cache does not keep

// Values from one row to the next: rows that are used together shall not compete for the same places of a cache.
constexpr int64_t pitch(int64_t n) { return (n + 31) / 32 * 32 + 32; }

struct Desk {  // a thread's own
    alignas(64) float y[BLOCK * SLAB];
    alignas(64) float panel[PANEL * pitch(DEEP / sizeof(float))];
    Buffer split, scratch;
};

template <class Use>
void with_format(Format format, Use use) {
    switch (format) {
        case FLOAT32: return use(Wide<Float32>{});
        case FLOAT16: return use(Wide<Float16>{});
        case BFLOAT16: return use(Wide<BFloat16>{});
        case INT8: return use(Line{});
        case INT4: return use(Group{});
    }
}

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

// y [rows, SLAB] = x · w's rows [r, r + outputs), as they are and in order
template <class K>
void as_stored(const Matrix& w, int64_t r, int64_t outputs, const typename K::X* x, int64_t stride, int64_t rows,
               float* y) {
    in_groups<FEW>(rows, [&](int64_t i, auto m) {
        constexpr int M = decltype(m)::value, U = K::STEP < 128 ? 4 / M : 1;
        const bool wide = w.in * K::WIDTH * int64_t(sizeof *x) >= LONG;
        for (int64_t j = 0; j < outputs; j += 4) {
            const int some = std::min<int64_t>(4, outputs - j);
            typename K::Row row[4];
            Floats acc[4 * M];
            float sums[4 * M + LANES];
            for (int c = 0; c < 4; c++) row[c] = K::row(w, r + j + std::min(c, some - 1), 0);
            if (wide) meet<K, M, 4, 1>(x + i * stride, stride, row, w.in, acc);  // they share what they read of x
            for (int c = 0; c < 4 && !wide; c++) {
                Floats one[M];
                meet<K, M, 1, U>(x + i * stride, stride, row + c, w.in, one);
                for (int p = 0; p < M; p++) acc[p * 4 + c] = one[p];
            }
            add_up<4 * M>(acc, sums);
            for (int p = 0; p < M; p++)
                for (int c = 0; c < some; c++) y[(i + p) * SLAB + j + c] = sums[p * 4 + c] * K::UNIT;
        }
    });
}

INLINE void put(float* to, Floats v) { write(to, v); }
INLINE void put(uint16_t* to, Floats v) { BFloat16::store(to, v); }
template <class X>
INLINE void put(X* to, const Group::Value& v) {
    put(to, v.low), put(to + LANES, v.high);
}
#if defined(__AVX512VBMI__)
template <class X>
INLINE void put(X* to, const Line::Value& v) {
    for (int i = 0; i < 4; i++) put(to + i * LANES, v.part[i] * Line::UNIT);
}
#endif

template <class X>
constexpr int64_t DEPTH = DEEP / sizeof(X);  // columns of a panel

// w's rows [r, r + outputs) and columns [k, k + n) as X, pitch(DEPTH<X>) apart
template <class X>
void unpack(const Matrix& w, int64_t r, int64_t outputs, int64_t k, int64_t n, X* panel) {
    with_format(w.format, [&](auto kind) {
        using K = decltype(kind);
        for (int64_t j = 0; j < outputs; j++, panel += pitch(DEPTH<X>)) {
            const auto row = K::row(w, r + j, k);
            int64_t c = 0;
            for (; c + K::STEP <= n; c += K::STEP) put(panel + c, K::load(row, c));
            typename K::Rest rest;
            if (c < n) put(panel + c, K::load(rest.copy(row, c, n - c), 0));
        }
    });
}

// desk.y [rows, SLAB] = x · w's rows [r, r + outputs), by panels
template <class K>
void by_panel(const Matrix& w, int64_t r, int64_t outputs, const typename K::X* x, int64_t rows, Desk& desk) {
    using X = typename K::X;
    const int64_t stride = pitch(w.in), depth = DEPTH<X>;
    auto* panel = reinterpret_cast<X*>(desk.panel);
    for (int64_t j = 0; j < outputs; j += PANEL)
        for (int64_t k = 0; k < w.in; k += depth) {
            const int64_t some = std::min(PANEL, outputs - j), n = std::min(depth, w.in - k);
            unpack(w, r + j, some, k, n, panel);
            in_groups<6>(rows, [&](int64_t i, auto m) {  // 6 x 4 sums leave registers for what makes them
                for (int64_t c = 0; c < some; c += 4) {  // of what is past `some` nobody reads the outcome
                    typename K::Row row[4];
                    for (int p = 0; p < 4; p++) row[p] = {panel + (c + p) * pitch(depth)};
                    constexpr int M = decltype(m)::value;
                    Floats acc[4 * M];
                    float sums[4 * M + LANES];
                    meet<K, M, 4, 1>(x + i * stride + k, stride, row, n, acc);
                    add_up<4 * M>(acc, sums);
                    for (int q = 0; q < M; q++)
                        for (int p = 0; p < 4; p++) {
                            float& y = desk.y[(i + q) * SLAB + j + c + p];
                            y = sums[q * 4 + p] + (k ? y : 0);
                        }
                }
            });
        }
}

// As by_panel, in the way that suits so many rows of this x.
void multiply(const Matrix& w, int64_t r, int64_t outputs, const float* x, int64_t rows, bool few, Desk& desk) {
    if (!few) return by_panel<Wide<Float32>>(w, r, outputs, x, rows, desk);
#if defined(__AVX512BF16__)
    if (w.format == INT4)
        return as_stored<Groups>(w, r, outputs, desk.split.get<uint16_t>(), Groups::pitch(w.in), rows, desk.y);
#endif
    with_format(w.format, [&](auto kind) { as_stored<decltype(kind)>(w, r, outputs, x, pitch(w.in), rows, desk.y); });
}

// Room for `prepare`, where the widest matrix has so many columns.
void hold_split([[maybe_unused]] Desk& desk, [[maybe_unused]] int64_t in) {
#if defined(__AVX512BF16__)
    desk.split.hold<uint16_t>(FEW * Groups::pitch(in));
#endif
}

void prepare([[maybe_unused]] const Matrix& w, [[maybe_unused]] const float* x, [[maybe_unused]] int64_t rows,
             [[maybe_unused]] Desk& desk) {
#if defined(__AVX512BF16__)
    if (w.format != INT4 || rows > FEW) return;
    for (int64_t i = 0; i < rows; i++)
        Groups::split(x + i * pitch(w.in), w.in, desk.split.get<uint16_t>() + i * Groups::pitch(w.in));
#endif
}

#if defined(__AVX512BF16__)
void multiply(const Matrix& w, int64_t r, int64_t outputs, const uint16_t* x, int64_t rows, bool few, Desk& desk) {
    if (!few || w.format != BFLOAT16) return by_panel<Pairs>(w, r, outputs, x, rows, desk);
    as_stored<Pairs>(w, r, outputs, x, pitch(w.in), rows, desk.y);
}

void prepare(const Matrix&, const uint16_t*, int64_t, Desk&) {}
#endif

// The outputs `mine` of x Wᵀ + bias, x [rows, in] in rows of pitch(in): done(row, output, n, y) gets n of them at a
// time, in whole vectors that it may write over.
template <class X, class Done>
void product(const Matrix& w, Range mine, const X* x, int64_t rows, Desk& desk, Done done) {
    prepare(w, x, rows, desk);
    for (int64_t r = mine.first; r < mine.last; r += SLAB)
        for (int64_t i = 0; i < rows; i += BLOCK) {
            const int64_t outputs = std::min(SLAB, mine.last - r), some = std::min(BLOCK, rows - i);
            multiply(w, r, outputs, x + i * pitch(w.in), some, rows <= FEW, desk);
            for (int64_t c = 0; c < some; c++) {
                float* y = desk.y + c * SLAB;
                if (w.format == INT8)
                    for (int64_t j = 0; j < outputs; j++) y[j] *= static_cast<const float*>(w.scale)[r + j];
                for (int64_t j = 0; w.bias && j < outputs; j++) y[j] += w.bias[r + j];
                done(i + c, r, outputs, y);
            }
        }
}

}  // namespace
