// Dot products of a few rows of x with a few rows of a matrix, in registers, for every way a matrix is stored.

#pragma once

#include <type_traits>

#include "vectors.h"

enum Format : int32_t { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4 };

struct Matrix {          // y = x Wᵀ + bias
    const void* weight;  // [out, in]; INT4: [out, in / 2]
    const void* scale;   // INT8: float [out]; INT4: half [out, in / 32]
    const float* bias;   // [out]
    int64_t out, in;
    Format format;
};

namespace {

// Reads x once into a register; GCC would read it again for each output.
INLINE Floats once(const float* x) {
    Floats v = read<Floats>(x);
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#endif
    return v;
}

// A kind of dot product says how a row of a matrix is read, STEP columns at a time, and how these meet x, which has
// WIDTH values a column; the sum counts UNITs. Its Rest copies the columns of a row from k on, fewer than STEP, and has
// zeros after them.

template <class T>
struct Row {
    const T* values;
};

template <class T, int STEP>
struct RestOfRow {
    T values[STEP] = {};
    Row<T> copy(Row<T> row, int64_t k, int64_t n) {
        memcpy(values, row.values + k, n * sizeof(T));
        return {values};
    }
};

template <class F>
struct Wide {  // any plain format, widened to float32
    using X = float;
    using Row = ::Row<typename F::Type>;
    using Value = Floats;
    static constexpr int STEP = LANES, WIDTH = 1;
    static constexpr float UNIT = 1;
    using Rest = RestOfRow<typename F::Type, STEP>;
    static INLINE Row row(const Matrix& w, int64_t r, int64_t k) {
        return {static_cast<const typename F::Type*>(w.weight) + r * w.in + k};
    }
    static INLINE Value load(Row row, int64_t k) { return F::load(row.values + k); }
    static INLINE Floats take(const X* x) { return once(x); }
    static INLINE Floats add(Floats sum, Floats x, Value w) { return sum + x * w; }
};

#if defined(__AVX512VBMI__)
struct Line {  // INT8, a cache line at a time: as the top bytes of 32-bit numbers, which are 2^24 times too large
    using X = float;
    using Row = ::Row<int8_t>;
    struct Value {
        Floats part[4];
    };
    static constexpr int STEP = 64, WIDTH = 1;
    static constexpr float UNIT = 1.0f / (1 << 24);
    using Rest = RestOfRow<int8_t, STEP>;
    static INLINE Row row(const Matrix& w, int64_t r, int64_t k) { return Wide<Int8>::row(w, r, k); }
    static INLINE Value load(Row row, int64_t k) {
        const __m512i line = read<__m512i>(row.values + k);
        const __m512i fours = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Value value;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m512i from = _mm512_slli_epi32(_mm512_add_epi32(fours, _mm512_set1_epi32(16 * i)), 24);
            const __m512i tops = _mm512_maskz_permutexvar_epi8(0x8888888888888888, from, line);
            value.part[i] = (Floats)_mm512_cvtepi32_ps(tops);
        }
        return value;
    }
    static INLINE Value take(const X* x) {
        return {{once(x), once(x + LANES), once(x + 2 * LANES), once(x + 3 * LANES)}};
    }
    static INLINE Floats add(Floats sum, const Value& x, const Value& w) {
        return sum + x.part[0] * w.part[0] + x.part[1] * w.part[1] + x.part[2] * w.part[2] + x.part[3] * w.part[3];
    }
};
#else
using Line = Wide<Int8>;
#endif

// INT4: 16 bytes are a group of 32 weights. Byte i holds weight i in its low and weight i + 16 in its high nibble; a
// nibble n stands for (n - 8) * the group's scale.

struct RowOfGroups {
    const uint8_t* nibbles;
    const uint16_t* scale;
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

struct Group {  // one group at a time, widened to float32
    using X = float;
    using Row = RowOfGroups;
    struct Value {
        Floats low, high;
    };
    static constexpr int STEP = 32, WIDTH = 1;
    static constexpr float UNIT = 1;
    using Rest = RestOfGroups<STEP>;
    static INLINE Row row(const Matrix& w, int64_t r, int64_t k) {
        const int64_t at = r * w.in + k;
        return {static_cast<const uint8_t*>(w.weight) + at / 2, static_cast<const uint16_t*>(w.scale) + at / 32};
    }
    static INLINE Value load(Row row, int64_t k) {
        const Words both = widen(read<Bytes>(row.nibbles + k / 2));
        const Floats scale = Float16::spread(row.scale + k / 32);
#if defined(__AVX512F__)  // a table of 16 looks at the low four bits only
        const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        const auto value = [&](Words n) { return (Floats)_mm512_permutexvar_ps((__m512i)n, table) * scale; };
#else
        const auto value = [&](Words n) { return __builtin_convertvector((Ints)(n & 15) - 8, Floats) * scale; };
#endif
        return {value(both), value(both >> 4)};
    }
    static INLINE Value take(const X* x) { return {once(x), once(x + LANES)}; }
    static INLINE Floats add(Floats sum, Value x, Value w) { return sum + x.low * w.low + x.high * w.high; }
};

#if defined(__AVX512BF16__)
constexpr bool HALF = true;  // this CPU multiplies bfloat16, and sums in float32

INLINE Floats dot(Floats sum, __m512bh x, __m512bh w) { return (Floats)_mm512_dpbf16_ps((__m512)sum, x, w); }

struct Pairs {  // bfloat16 by bfloat16
    using X = uint16_t;
    using Row = ::Row<uint16_t>;
    using Value = __m512bh;
    static constexpr int STEP = 32, WIDTH = 1;
    static constexpr float UNIT = 1;
    using Rest = RestOfRow<uint16_t, STEP>;
    static INLINE Row row(const Matrix& w, int64_t r, int64_t k) { return Wide<BFloat16>::row(w, r, k); }
    static INLINE Value load(Row row, int64_t k) { return read<Value>(row.values + k); }
    static INLINE Value take(const X* x) { return read<Value>(x); }
    static INLINE Floats add(Floats sum, Value x, Value w) { return dot(sum, x, w); }
};

// Four groups of INT4 at a time. A nibble is exact in bfloat16, and each x comes as the sum of two bfloat16, so that 16
// of its bits count: per 128 columns first their coarse, then their fine parts, in the order in which `load` has them.
struct Groups {
    using X = uint16_t;
    using Row = RowOfGroups;
    struct Value {
        __m512bh part[4];
        Floats scale;  // a group's in all four lanes of its 128 bits
    };
    static constexpr int STEP = 128, WIDTH = 2;
    static constexpr float UNIT = 1;
    using Rest = RestOfGroups<STEP>;

    static INLINE Row row(const Matrix& w, int64_t r, int64_t k) { return Group::row(w, r, k); }

    static INLINE Value load(Row row, int64_t k) {
        __builtin_prefetch(row.nibbles + k / 2 + 512);  // a CPU that has so much to do does not look that far ahead
        // -8 ... 7 in bfloat16, twice: vpermw looks at five bits, and the fifth is the next nibble's.
        const __m256i values = _mm256_setr_epi16(-16128, -16160, -16192, -16224, -16256, -16320, -16384, -16512,  //
                                                 0, 16256, 16384, 16448, 16512, 16544, 16576, 16608);
        const __m512i table = _mm512_broadcast_i64x4(values), words = read<__m512i>(row.nibbles + k / 2);
        const auto value = [&](__m512i nibbles) { return (__m512bh)_mm512_permutexvar_epi16(nibbles, table); };
        const __m256i scales = _mm256_set1_epi64x(read<int64_t>(row.scale + k / 32));  // its four, four times
        const __m256i order = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3,  //
                                               4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7);
        return {{value(words), value(_mm512_srli_epi16(words, 4)), value(_mm512_srli_epi16(words, 8)),
                 value(_mm512_srli_epi16(words, 12))},
                (Floats)_mm512_cvtph_ps(_mm256_shuffle_epi8(scales, order))};
    }

    static INLINE const X* take(const X* x) { return x; }
    static INLINE Floats add(Floats sum, const X* x, const Value& w) {
        Floats coarse = {}, fine = {};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            coarse = dot(coarse, read<__m512bh>(x + 32 * i), w.part[i]);
            fine = dot(fine, read<__m512bh>(x + STEP + 32 * i), w.part[i]);
        }
        return sum + (coarse + fine) * w.scale;
    }

    static int64_t pitch(int64_t n) { return (n + STEP - 1) / STEP * STEP * WIDTH; }

    // to [pitch(n)] = x [n] as `add` takes it: of each half group the even columns are one nibble, the odd another
    static void split(const float* x, int64_t n, uint16_t* to) {
        memset(to, 0, pitch(n) * sizeof *to);
        for (int64_t k = 0; k < n; k += LANES) {
            uint16_t coarse[LANES], fine[LANES];
            Floats v = read<Floats>(x + k);
            v = __builtin_shufflevector(v, v, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            BFloat16::store(coarse, v);
            BFloat16::store(fine, v - BFloat16::load(coarse));
            uint16_t* at = to + k / STEP * STEP * WIDTH + k % 32 / LANES * 32 + k % STEP / 32 * 8;
            for (int odd = 0; odd < 2; odd++) {
                memcpy(at + 64 * odd, coarse + 8 * odd, 8 * sizeof *at);
                memcpy(at + STEP + 64 * odd, fine + 8 * odd, 8 * sizeof *at);
            }
        }
    }
};
#else
constexpr bool HALF = false;
#endif

// sums[i * N + j], all lanes together, = x[i] · w[j] over n columns, both being at the first of these. U sums of each
// run side by side.
template <class K, int M, int N, int U>
INLINE void meet(const typename K::X* x, int64_t stride, const typename K::Row* w, int64_t n, Floats* sums) {
    Floats acc[U][M * N] = {};
    const auto add = [&](int u, const typename K::X* x, int64_t stride, const typename K::Row* w, int64_t k)
                         __attribute__((always_inline)) {
        typename K::Value value[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) value[j] = K::load(w[j], k);
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) {
            const auto mine = K::take(x + i * stride + k * K::WIDTH);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) acc[u][i * N + j] = K::add(acc[u][i * N + j], mine, value[j]);
        }
    };
    int64_t k = 0;
    for (; k + U * K::STEP <= n; k += U * K::STEP)
#pragma GCC unroll 4
        for (int u = 0; u < U; u++) add(u, x, stride, w, k + u * K::STEP);
    for (; k + K::STEP <= n; k += K::STEP) add(0, x, stride, w, k);
    if (k < n) {
        typename K::X some[M * K::STEP * K::WIDTH] = {};
        const int64_t left = K::WIDTH == 1 ? n - k : K::STEP * K::WIDTH;  // split x has its zeros
        for (int i = 0; i < M; i++)
            memcpy(some + i * K::STEP * K::WIDTH, x + i * stride + k * K::WIDTH, left * sizeof *x);
        typename K::Rest rests[N];
        typename K::Row rows[N];
        for (int j = 0; j < N; j++) rows[j] = rests[j].copy(w[j], k, n - k);
        add(0, some, K::STEP * K::WIDTH, rows, 0);
    }
#pragma GCC unroll 24
    for (int i = 0; i < M * N; i++) {
        sums[i] = acc[0][i];
#pragma GCC unroll 4
        for (int u = 1; u < U; u++) sums[i] += acc[u][i];
    }
}

// to[i] = the sum of all lanes of v[i]; in whole vectors.
template <int COUNT>
INLINE void add_up(Floats* v, float* to) {
    if constexpr (COUNT > LANES) add_up<COUNT - LANES>(v + LANES, to + LANES);
    write(to, sums<(COUNT > LANES ? LANES : COUNT)>(v));
}

}  // namespace
