// Dot products of a few rows of x with a few rows of a matrix, in registers, for every way a matrix is stored.

#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

enum Format : int32_t { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4 };

struct Matrix {          // y = x Wᵀ + bias
    const void* weight;  // [out, in]; INT4: [out, in / 2]
    const void* scale;   // INT8: float [out]; INT4: half [out, in / 32]
    const float* bias;   // [out]
    int64_t out, in;
    Format format;
};

namespace {

// Values from one row of x to the next: rows that are used together shall not compete for the same places of a cache,
// and what is past a row's end is zero.
constexpr int64_t pitch(int64_t n) { return (n + 63) / 64 * 64 + 32; }

// Reads x once into a register; GCC would read it again for each output.
INLINE Floats once(const float* x) {
    Floats v = read<Floats>(x);
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#endif
    return v;
}

// Asks for what comes after these bytes of a row: rows read side by side are more than a CPU foresees at the edge of a
// page. Those without AVX-512 were slower for it but for rows of four bits (Zen 3).
template <class K>
INLINE void ahead(const void* from) {
    if (REGISTERS < 32 && K::BITS > 4) return;
#pragma GCC unroll 4
    for (int at = 0; at < K::STEP * K::BITS / 8; at += 64) soon(static_cast<const char*>(from) + at + (2 << 10));
}

// A kind of dot product says how a row of a matrix is read, STEP columns of BITS each at a time, and how these meet x,
// which has SPAN values for them. Its Rest copies the columns of a row from k on, fewer than STEP, and has zeros after
// them. Sums hold CHUNK columns. Where x is not taken as the floats it is, `enter` makes `size(n)` values X of a row of
// it, and what comes out is to be multiplied by their `scale`.

template <class T>
struct Row {
    const T* values;
    static INLINE Row of(const Matrix& w, int64_t r) { return {static_cast<const T*>(w.weight) + r * w.in}; }
    INLINE const void* at(int64_t k) const { return values + k; }
};

template <class T, int STEP>
struct RestOfRow {
    T values[STEP] = {};
    Row<T> copy(Row<T> row, int64_t k, int64_t n) {
        memcpy(values, row.values + k, n * sizeof(T));
        return {values};
    }
};

struct AsFloats {
    using X = float;
    using Sum = Floats;
    static constexpr bool ENTERS = false;
    static constexpr int64_t CHUNK = INT64_MAX;
    static INLINE Floats floats(Sum sum) { return sum; }
    static float scale(const void*, int64_t) { return 1; }
};

template <class F>
struct Wide : AsFloats {  // any plain format, widened to float32
    using Row = ::Row<typename F::Type>;
    using Value = Floats;
    static constexpr int STEP = LANES, SPAN = LANES, BITS = 8 * sizeof(typename F::Type);
    using Rest = RestOfRow<typename F::Type, STEP>;
    static INLINE Value load(Row row, int64_t k) { return F::load(row.values + k); }
    static INLINE Floats take(const X* x) { return once(x); }
    static INLINE Floats add(Floats sum, Floats x, Value w) { return sum + x * w; }
};

// INT4: 16 bytes are a group of 32 weights. Byte i holds weight i in its low and weight i + 16 in its high nibble; a
// nibble n stands for (n - 8) * the group's scale.

struct RowOfGroups {
    const uint8_t* nibbles;
    const uint16_t* scale;
    static INLINE RowOfGroups of(const Matrix& w, int64_t r) {
        const int64_t k = r * w.in;
        return {static_cast<const uint8_t*>(w.weight) + k / 2, static_cast<const uint16_t*>(w.scale) + k / 32};
    }
    INLINE const void* at(int64_t k) const { return nibbles + k / 2; }
};

template <int STEP>
struct RestOfGroups {
    uint8_t nibbles[STEP / 2] = {};
    uint16_t scale[STEP / 32] = {};
    RowOfGroups copy(RowOfGroups row, int64_t k, int64_t n) {
        memcpy(nibbles, row.nibbles + k / 2, n / 2);
        memcpy(scale, row.scale + k / 32, n / 32 * sizeof *scale);
        return {nibbles, scale};
    }
};

struct Group : AsFloats {  // one group at a time, widened to float32
    using Row = RowOfGroups;
    static constexpr int STEP = 32, SPAN = 32, BITS = 4, PARTS = STEP / LANES;
    struct Value {
        Floats part[PARTS];
    };
    using Rest = RestOfGroups<STEP>;
    static INLINE Value load(Row row, int64_t k) {
        const Floats scale = Float16::spread(row.scale + k / 32);
#if defined(__AVX512F__)  // a table of 16 looks at the low four bits only
        const Floats table = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
        const auto value = [&](Words n) { return (Floats)_mm512_permutexvar_ps((__m512i)n, (__m512)table) * scale; };
#else
        const auto value = [&](Words n) { return __builtin_convertvector((Ints)(n & 15) - 8, Floats) * scale; };
#endif
        Value found;
        for (int i = 0; i < PARTS / 2; i++) {
            const Words both = widen(read<Bytes>(row.nibbles + k / 2 + i * LANES));
            found.part[i] = value(both), found.part[i + PARTS / 2] = value(both >> 4);
        }
        return found;
    }
    static INLINE Value take(const X* x) {
        Value found;
        for (int i = 0; i < PARTS; i++) found.part[i] = once(x + i * LANES);
        return found;
    }
    static INLINE Floats add(Floats sum, Value x, Value w) {
        for (int i = 0; i < PARTS; i++) sum += x.part[i] * w.part[i];
        return sum;
    }
};

// The largest magnitude of n values, or of the sum of two neighbours; not a number where one is none, or infinite.
template <bool PAIRS = false>
float magnitude(const float* x, int64_t n) {
    Floats most = {}, nothing = {};
    for (int64_t k = 0; k < n; k += LANES) {
        const Floats v = read<Floats>(x + k);
        most = larger(most, size(v)), nothing += v - v;
        if (PAIRS) most = larger(most, size(v + neighbours(v, Numbers())));
    }
    return largest(most) + sum(nothing);
}

// INT8 by x as whole numbers of 16 bits, with a scale for the row.
struct Lines {
    using X = int16_t;
    using Sum = Ints;
    using Row = ::Row<int8_t>;
    using Value = Twos;
    static constexpr bool ENTERS = true;
    static constexpr int STEP = 2 * LANES, SPAN = STEP, BITS = 8;
    static constexpr int64_t CHUNK = 512 * LANES;  // a lane's sum of 512 such products: 32 bits hold it
    static constexpr float MOST = 32767;
    static_assert(int64_t(MOST) * 127 * (CHUNK / LANES) <= INT32_MAX);
    using Rest = RestOfRow<int8_t, STEP>;
    static INLINE Value load(Row row, int64_t k) { return twos(row.values + k); }
    static INLINE Value take(const X* x) { return read<Value>(x); }
    static INLINE Ints add(Ints sum, Value x, Value w) { return dot(sum, x, w); }
    static INLINE Floats floats(Ints sum) { return __builtin_convertvector(sum, Floats); }
    static int64_t size(int64_t n) { return pitch(n) + 2; }
    static float scale(const X* x, int64_t n) { return read<float>(x + pitch(n)); }
    static void enter(const float* x, int64_t n, X* to) {
        const float top = magnitude(x, n), inverse = top > 0 ? MOST / top : 0;
        for (int64_t k = 0; k < n; k += LANES) round_to(to + k, read<Floats>(x + k) * inverse);
        for (int64_t k = whole(n); k < (n + STEP - 1) / STEP * STEP; k++) to[k] = 0;
        write(to + pitch(n), top / MOST);
    }
};

// sums[i * N + j], all lanes together, = x[i] · w[j] over n columns
template <class K, int M, int N>
INLINE void meet(const typename K::X* x, int64_t stride, const typename K::Row* w, int64_t n, Floats* sums) {
    typename K::Sum acc[M * N] = {};
    const auto add = [&](const typename K::X* x, const typename K::Row* w, int64_t k) __attribute__((always_inline)) {
        typename K::Value value[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) ahead<K>(w[j].at(k)), value[j] = K::load(w[j], k);
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) {
            const auto mine = K::take(x + i * stride);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) acc[i * N + j] = K::add(acc[i * N + j], mine, value[j]);
        }
    };
    const auto pour = [&](bool anew) __attribute__((always_inline)) {
#pragma GCC unroll 24
        for (int i = 0; i < M * N; i++) sums[i] = K::floats(acc[i]) + (anew ? Floats{} : sums[i]);
    };
    int64_t k = 0;
    for (int64_t end = K::CHUNK; end < n; end += K::CHUNK) {
        for (; k < end; k += K::STEP, x += K::SPAN) add(x, w, k);
        pour(end == K::CHUNK);
        std::fill_n(acc, M * N, typename K::Sum{});
    }
    for (; k + K::STEP <= n; k += K::STEP, x += K::SPAN) add(x, w, k);
    if (k < n) {
        typename K::Rest rests[N];
        typename K::Row rows[N];
        for (int j = 0; j < N; j++) rows[j] = rests[j].copy(w[j], k, n - k);
        add(x, rows, 0);
    }
    pour(n <= K::CHUNK);
}

// to[i] = the sum of all lanes of v[i]; in whole vectors.
template <int COUNT>
INLINE void add_up(Floats* v, float* to) {
    if constexpr (COUNT > LANES) add_up<COUNT - LANES>(v + LANES, to + LANES);
    write(to, sums<(COUNT > LANES ? LANES : COUNT)>(v));
}

}  // namespace
