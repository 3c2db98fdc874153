// Dot products of a few rows of x with a few rows of a matrix, in registers, for every way a matrix is stored.

#pragma once

#include <algorithm>
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

// The same for what comes after `from`: rows read side by side are more than a CPU foresees at the edge of a page.
INLINE void ahead(const void* from) { soon(static_cast<const char*>(from) + (2 << 10)); }

// A kind of dot product says how a row of a matrix is read, STEP columns at a time, and how these meet x, which has
// SPAN values for them. Its Rest copies the columns of a row from k on, fewer than STEP, and has zeros after them. Where
// x is not taken as the floats it is, `enter` makes `size(n)` values X of a row of it, and what comes out is to be
// multiplied by their `scale`.

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
    static INLINE Floats floats(Sum sum) { return sum; }
    static float scale(const void*, int64_t) { return 1; }
};

template <class F>
struct Wide : AsFloats {  // any plain format, widened to float32
    using Row = ::Row<typename F::Type>;
    using Value = Floats;
    static constexpr int STEP = LANES, SPAN = LANES;
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
    struct Value {
        Floats low, high;
    };
    static constexpr int STEP = 32, SPAN = 32;
    using Rest = RestOfGroups<STEP>;
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

// The largest magnitude of n values; not a number where one of them is none, or infinite.
inline float magnitude(const float* x, int64_t n) {
    Floats most = {}, nothing = {};
    for (int64_t k = 0; k < n; k += LANES) {
        const Floats v = read<Floats>(x + k);
        most = larger(most, v < 0.0f ? -v : v), nothing += v - v;
    }
    return largest(most) + sum(nothing);
}

#if defined(__AVX512BF16__)
constexpr bool HALF = true;  // this CPU multiplies bfloat16, and sums in float32

INLINE Floats dot(Floats sum, __m512bh x, __m512bh w) { return (Floats)_mm512_dpbf16_ps((__m512)sum, x, w); }

struct Pairs : AsFloats {  // bfloat16 by bfloat16
    using X = uint16_t;
    using Row = ::Row<uint16_t>;
    using Value = __m512bh;
    static constexpr bool ENTERS = true;
    static constexpr int STEP = 32, SPAN = 32;
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
#else
constexpr bool HALF = false;
struct Pairs {};
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool WHOLE = true;  // this CPU multiplies whole numbers, and sums in 32 bits

template <class T>
INLINE void round_to(T* to, const float* x, float inverse) {
    const __m512i whole = _mm512_cvtps_epi32((__m512)(read<Floats>(x) * inverse));
    if constexpr (sizeof(T) == 1) write(to, _mm512_cvtsepi32_epi8(whole));
    else write(to, _mm512_cvtsepi32_epi16(whole));
}

// INT8 by x as whole numbers of 16 bits, with a scale for the row.
struct Lines {
    using X = int16_t;
    using Sum = Ints;
    using Row = ::Row<int8_t>;
    using Value = __m512i;
    static constexpr bool ENTERS = true;
    static constexpr int STEP = 32, SPAN = 32;
    using Rest = RestOfRow<int8_t, STEP>;
    static INLINE Value load(Row row, int64_t k) { return _mm512_cvtepi8_epi16(read<__m256i>(row.values + k)); }
    static INLINE Value take(const X* x) { return read<Value>(x); }
    static INLINE Ints add(Ints sum, Value x, Value w) { return (Ints)_mm512_dpwssd_epi32((__m512i)sum, x, w); }
    static INLINE Floats floats(Ints sum) { return __builtin_convertvector(sum, Floats); }
    static int64_t size(int64_t n) { return pitch(n) + 2; }
    static float scale(const X* x, int64_t n) { return read<float>(x + pitch(n)); }
    static void enter(const float* x, int64_t n, X* to) {
        const int64_t a_lane = (n + LANES - 1) / LANES + 2;  // columns in a sum, which 32 bits shall hold
        const float most = std::min<float>(32767, (INT32_MAX / 127) / a_lane), top = magnitude(x, n);
        for (int64_t k = 0; k < n; k += LANES) round_to(to + k, x + k, top > 0 ? most / top : 0);
        for (int64_t k = whole(n); k < (n + STEP - 1) / STEP * STEP; k++) to[k] = 0;
        write(to + pitch(n), top / most);
    }
};

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
    static constexpr int STEP = 128, SPAN = 320;
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
constexpr bool WHOLE = false;
struct Lines {};
struct Groups {};
#endif

// sums[i * N + j], all lanes together, = x[i] · w[j] over n columns
template <class K, int M, int N>
INLINE void meet(const typename K::X* x, int64_t stride, const typename K::Row* w, int64_t n, Floats* sums) {
    typename K::Sum acc[M * N] = {};
    const auto add = [&](const typename K::X* x, const typename K::Row* w, int64_t k) __attribute__((always_inline)) {
        typename K::Value value[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) ahead(w[j].at(k)), value[j] = K::load(w[j], k);
#pragma GCC unroll 6
        for (int i = 0; i < M; i++) {
            const auto mine = K::take(x + i * stride);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) acc[i * N + j] = K::add(acc[i * N + j], mine, value[j]);
        }
    };
    int64_t k = 0;
    for (; k + K::STEP <= n; k += K::STEP, x += K::SPAN) add(x, w, k);
    if (k < n) {
        typename K::Rest rests[N];
        typename K::Row rows[N];
        for (int j = 0; j < N; j++) rows[j] = rests[j].copy(w[j], k, n - k);
        add(x, rows, 0);
    }
#pragma GCC unroll 24
    for (int i = 0; i < M * N; i++) sums[i] = K::floats(acc[i]);
}

// to[i] = the sum of all lanes of v[i]; in whole vectors.
template <int COUNT>
INLINE void add_up(Floats* v, float* to) {
    if constexpr (COUNT > LANES) add_up<COUNT - LANES>(v + LANES, to + LANES);
    write(to, sums<(COUNT > LANES ? LANES : COUNT)>(v));
}

}  // namespace
