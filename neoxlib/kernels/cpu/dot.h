// Dot products of a few rows of x with a few rows of a weight matrix, in registers, one struct for
// each pair of number types. A name says accumulator inputs and weights: I16DotInt8 multiplies x as
// int16 with INT8 weights.

#pragma once

#include <algorithm>
#include <type_traits>

#include "abi.h"
#include "formats.h"

namespace {

struct Unavailable {};  // a kind of product that this CPU has no instructions for

// Floats from one row of x to the next. The padding holds zeros; 32 floats more than a multiple of
// 64 keep rows that are used together out of the same cache sets.
constexpr int64_t row_stride(int64_t n) { return (n + 63) / 64 * 64 + 32; }

// Loads x into a register once; GCC would load it again for each output.
INLINE Floats load_once(const float* x) {
    Floats v = read<Floats>(x);
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#endif
    return v;
}

// Prefetches a row 2 KB ahead: the hardware prefetcher stops at page ends when several rows are
// read side by side. On CPUs without AVX-512 it pays for 4-bit rows only (measured on Zen 3).
template <class K>
INLINE void prefetch_ahead(const void* from) {
    if (REGISTERS < 32 && K::BITS > 4) return;
#pragma GCC unroll 4
    for (int at = 0; at < K::STEP * K::BITS / 8; at += 64)
        prefetch(static_cast<const char*>(from) + at + (2 << 10));
}

// Members of a kind of dot product K:
//   STEP, BITS       columns of a weight row that `load` reads at a time, and bits of a column
//   SPAN             values of x that belong to one STEP
//   Tail             a zero-padded copy of a row's last columns, fewer than STEP
//   CHUNK            columns after which the accumulators are flushed to float
//   QUANTIZES        whether x is quantized first: `quantize_activation` turns a row of n floats
//                    into `size(n)` values X, and results are multiplied by the row's `scale`

template <class T>
struct Row {  // one row of a matrix
    const T* values;
    static INLINE Row of(const Matrix& w, int64_t r) {
        return {static_cast<const T*>(w.weight) + r * w.in};
    }
    INLINE const void* at(int64_t k) const { return values + k; }
};

template <class T, int STEP>
struct RowTail {
    T values[STEP] = {};
    Row<T> copy(Row<T> row, int64_t k, int64_t n) {
        memcpy(values, row.values + k, n * sizeof(T));
        return {values};
    }
};

struct F32Input {  // x stays float32
    using X = float;
    using Sum = Floats;
    static constexpr bool QUANTIZES = false;
    static constexpr int64_t CHUNK = INT64_MAX;
    static INLINE Floats to_floats(Sum sum) { return sum; }
    static float scale(const void*, int64_t) { return 1; }
};

template <class F>
struct F32Dot : F32Input {  // any plain format, widened to float32
    using Row = ::Row<typename F::Type>;
    using Value = Floats;
    static constexpr int STEP = LANES;
    static constexpr int SPAN = LANES;
    static constexpr int BITS = 8 * sizeof(typename F::Type);
    using Tail = RowTail<typename F::Type, STEP>;
    static INLINE Value load(Row row, int64_t k) { return F::load(row.values + k); }
    static INLINE Floats load_x(const X* x) { return load_once(x); }
    static INLINE Floats add(Floats sum, Floats x, Value w) { return sum + x * w; }
};

// INT4: a group of 32 weights is 16 bytes and a scale. Byte i holds weight i in its low and weight
// i + 16 in its high nibble; nibble n is the weight (n - 8) * scale.

struct Int4Row {
    const uint8_t* nibbles;
    const uint16_t* scale;
    static INLINE Int4Row of(const Matrix& w, int64_t r) {
        const int64_t k = r * w.in;
        return {static_cast<const uint8_t*>(w.weight) + k / 2,
                static_cast<const uint16_t*>(w.scale) + k / 32};
    }
    INLINE const void* at(int64_t k) const { return nibbles + k / 2; }
};

template <int STEP>
struct Int4RowTail {
    uint8_t nibbles[STEP / 2] = {};
    uint16_t scale[STEP / 32] = {};
    Int4Row copy(Int4Row row, int64_t k, int64_t n) {
        memcpy(nibbles, row.nibbles + k / 2, n / 2);
        memcpy(scale, row.scale + k / 32, n / 32 * sizeof *scale);
        return {nibbles, scale};
    }
};

struct F32DotInt4 : F32Input {  // one group at a time, widened to float32
    using Row = Int4Row;
    static constexpr int STEP = 32;
    static constexpr int SPAN = 32;
    static constexpr int BITS = 4;
    static constexpr int PARTS = STEP / LANES;
    struct Value {
        Floats part[PARTS];
    };
    using Tail = Int4RowTail<STEP>;
    static INLINE Value load(Row row, int64_t k) {
        const Floats scale = Float16::broadcast(row.scale + k / 32);
#if defined(__AVX512F__)  // the permutation reads the low four bits only
        const Floats table = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
        const auto value = [&](Words n) {
            return (Floats)_mm512_permutexvar_ps((__m512i)n, (__m512)table) * scale;
        };
#else
        const auto value = [&](Words n) {
            return __builtin_convertvector((Ints)(n & 15) - 8, Floats) * scale;
        };
#endif
        Value found;
        for (int i = 0; i < PARTS / 2; i++) {
            const Words both = widen(read<Bytes>(row.nibbles + k / 2 + i * LANES));
            found.part[i] = value(both), found.part[i + PARTS / 2] = value(both >> 4);
        }
        return found;
    }
    static INLINE Value load_x(const X* x) {
        Value found;
        for (int i = 0; i < PARTS; i++) found.part[i] = load_once(x + i * LANES);
        return found;
    }
    static INLINE Floats add(Floats sum, Value x, Value w) {
        for (int i = 0; i < PARTS; i++) sum += x.part[i] * w.part[i];
        return sum;
    }
};

// The largest magnitude of n values, and with PAIRS of the sums of two neighbours. NaN if a value
// is NaN or infinite.
template <bool PAIRS = false>
float largest_magnitude(const float* x, int64_t n) {
    Floats top = {};
    Floats not_finite = {};
    for (int64_t k = 0; k < n; k += LANES) {
        const Floats v = read<Floats>(x + k);
        top = larger(top, absolute(v)), not_finite += v - v;
        if (PAIRS) top = larger(top, absolute(v + swap_neighbours(v, LaneIndices())));
    }
    return largest(top) + sum(not_finite);
}

// INT8 weights times x as int16, with one scale for the row of x.
struct I16DotInt8 {
    using X = int16_t;
    using Sum = Ints;
    using Row = ::Row<int8_t>;
    using Value = Int16s;
    static constexpr bool QUANTIZES = true;
    static constexpr int STEP = 2 * LANES;
    static constexpr int SPAN = STEP;
    static constexpr int BITS = 8;
    static constexpr int64_t CHUNK = 512 * LANES;  // an int32 holds the sum of 512 products
    static constexpr float LARGEST = 32767;
    static_assert(int64_t(LARGEST) * 127 * (CHUNK / LANES) <= INT32_MAX);
    using Tail = RowTail<int8_t, STEP>;
    static INLINE Value load(Row row, int64_t k) { return load_int16s(row.values + k); }
    static INLINE Value load_x(const X* x) { return read<Value>(x); }
    static INLINE Ints add(Ints sum, Value x, Value w) { return dot(sum, x, w); }
    static INLINE Floats to_floats(Ints sum) { return __builtin_convertvector(sum, Floats); }
    static int64_t size(int64_t n) { return row_stride(n) + 2; }
    static float scale(const X* x, int64_t n) { return read<float>(x + row_stride(n)); }
    static void quantize_activation(const float* x, int64_t n, X* to) {
        const float top = largest_magnitude(x, n);
        const float inverse = top > 0 ? LARGEST / top : 0;
        for (int64_t k = 0; k < n; k += LANES) round_to(to + k, read<Floats>(x + k) * inverse);
        for (int64_t k = round_up_to_lanes(n); k < (n + STEP - 1) / STEP * STEP; k++) to[k] = 0;
        write(to + row_stride(n), top / LARGEST);
    }
};

// Dot products over n columns of M rows of x and N rows of w: x[i] · w[j] is the sum of the lanes
// of sums[i * N + j].
template <class K, int M, int N>
INLINE void dot_kernel(const typename K::X* x, int64_t stride, const typename K::Row* w, int64_t n,
                       Floats* sums) {
    using X = typename K::X;
    using Row = typename K::Row;
    typename K::Sum acc[M * N] = {};
    const auto add = [&](const X* x, const Row* w, int64_t k) __attribute__((always_inline)) {
        typename K::Value value[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) {
            prefetch_ahead<K>(w[j].at(k));
            value[j] = K::load(w[j], k);
        }
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) {
            const auto x_value = K::load_x(x + i * stride);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) acc[i * N + j] = K::add(acc[i * N + j], x_value, value[j]);
        }
    };
    const auto flush_accumulators = [&](bool first) __attribute__((always_inline)) {
#pragma GCC unroll 24
        for (int i = 0; i < M * N; i++)
            sums[i] = K::to_floats(acc[i]) + (first ? Floats{} : sums[i]);
    };
    int64_t k = 0;
    for (int64_t end = K::CHUNK; end < n; end += K::CHUNK) {
        for (; k < end; k += K::STEP, x += K::SPAN) add(x, w, k);
        flush_accumulators(end == K::CHUNK);
        std::fill_n(acc, M * N, typename K::Sum{});
    }
    for (; k + K::STEP <= n; k += K::STEP, x += K::SPAN) add(x, w, k);
    if (k < n) {
        typename K::Tail tails[N];
        Row rows[N];
        for (int j = 0; j < N; j++) rows[j] = tails[j].copy(w[j], k, n - k);
        add(x, rows, 0);
    }
    flush_accumulators(n <= K::CHUNK);
}

// to[i] = the sum of all lanes of v[i]; writes whole vectors.
template <int COUNT>
INLINE void sum_lanes(Floats* v, float* to) {
    if constexpr (COUNT > LANES) sum_lanes<COUNT - LANES>(v + LANES, to + LANES);
    write(to, sums<(COUNT > LANES ? LANES : COUNT)>(v));
}

}  // namespace
