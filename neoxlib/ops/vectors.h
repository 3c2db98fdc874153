// Vectors of 16 floats, the number formats they are read from, and the few functions of them that a model needs.
//
// GCC's vector types compile for any CPU; the few intrinsics say what GCC 12 would otherwise do one value at a time.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int LANES = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Shorts = uint16_t __attribute__((vector_size(32)));
using Signed = int8_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));

// Asks the second-level cache for what will be used soon.
INLINE void soon(const void* from) { __builtin_prefetch(from, 0, 2); }

int64_t whole(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

template <class V>
INLINE V read(const void* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
INLINE void write(void* to, V v) {
    memcpy(to, &v, sizeof v);
}

#if defined(__AVX512F__)
INLINE Words widen(Shorts v) { return (Words)_mm512_cvtepu16_epi32((__m256i)v); }
INLINE Words widen(Bytes v) { return (Words)_mm512_cvtepu8_epi32((__m128i)v); }
INLINE Ints widen(Signed v) { return (Ints)_mm512_cvtepi8_epi32((__m128i)v); }
#else
INLINE Words widen(Shorts v) { return __builtin_convertvector(v, Words); }
INLINE Words widen(Bytes v) { return __builtin_convertvector(v, Words); }
INLINE Ints widen(Signed v) { return __builtin_convertvector(v, Ints); }
#endif

// ---- Formats: how LANES stored values become floats, and floats stored values -------------------------------------

struct Float32 {
    using Type = float;
    static INLINE Floats load(const float* from) { return read<Floats>(from); }
    static INLINE void store(float* to, Floats v) { write(to, v); }
};

struct BFloat16 {
    using Type = uint16_t;
    static INLINE Floats load(const uint16_t* from) { return (Floats)(widen(read<Shorts>(from)) << 16); }
    static INLINE void store(uint16_t* to, Floats v) {
#if defined(__AVX512BF16__)
        write(to, _mm512_cvtneps_pbh((__m512)v));
#else
        const Words bits = (Words)v;
        write(to, __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Shorts));  // ties to even
#endif
    }
};

struct Float16 {
    using Type = uint16_t;
#if defined(__AVX512F__)
    static INLINE Floats load(const uint16_t* from) { return (Floats)_mm512_cvtph_ps(read<__m256i>(from)); }
    static INLINE Floats spread(const uint16_t* one) { return (Floats)_mm512_cvtph_ps(_mm256_set1_epi16(*one)); }
    static INLINE void store(uint16_t* to, Floats v) { write(to, _mm512_cvtps_ph((__m512)v, 0)); }
#else
    using Halves = _Float16 __attribute__((vector_size(32)));
    static INLINE Floats load(const uint16_t* from) { return __builtin_convertvector(read<Halves>(from), Floats); }
    static INLINE Floats spread(const uint16_t* one) { return float(read<_Float16>(one)) + Floats{}; }
    static INLINE void store(uint16_t* to, Floats v) { write(to, __builtin_convertvector(v, Halves)); }
#endif
};

struct Int8 {
    using Type = int8_t;
    static INLINE Floats load(const int8_t* from) { return __builtin_convertvector(widen(read<Signed>(from)), Floats); }
};

// As F::load where at least LANES values are left, else those that are and zeros.
template <class F>
INLINE Floats load(const typename F::Type* from, int64_t left) {
    if (left >= LANES) return F::load(from);
    typename F::Type some[LANES] = {};
    memcpy(some, from, left * sizeof *from);
    return F::load(some);
}

template <class F>
void store(typename F::Type* to, const float* from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) F::store(to + i, read<Floats>(from + i));
    if (i == n) return;
    typename F::Type some[LANES];
    F::store(some, load<Float32>(from + i, n - i));
    memcpy(to + i, some, (n - i) * sizeof *to);
}

// ---- Functions ----------------------------------------------------------------------------------------------------

INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Half as many vectors: fold(a, b) of each two neighbours.
template <int COUNT, class Fold>
INLINE void halve(Floats* v, Fold fold) {
#pragma GCC unroll 8
    for (int i = 0; 2 * i < COUNT; i++) v[i] = fold(v[2 * i], v[2 * i + 1 < COUNT ? 2 * i + 1 : 2 * i]);
}

// Lane i of the answer is the sum over all lanes of v[i], for up to 16 vectors, which are used up.
template <int COUNT>
INLINE Floats sums(Floats* v) {
    constexpr int TWO = (COUNT + 1) / 2, FOUR = (TWO + 1) / 2, EIGHT = (FOUR + 1) / 2;
    halve<COUNT>(v, [](Floats a, Floats b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    });
    halve<TWO>(v, [](Floats a, Floats b) {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    });
    halve<FOUR>(v, [](Floats a, Floats b) {
        return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
               __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    });
    halve<EIGHT>(v, [](Floats a, Floats b) {
        return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
               __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    });
    return v[0];
}

template <int STEP, int... I>
INLINE void exchange(Words& a, Words& b, std::integer_sequence<int, I...>) {
    const Words low = __builtin_shufflevector(a, b, (I & STEP ? LANES + I - STEP : I)...);
    b = __builtin_shufflevector(a, b, (I & STEP ? LANES + I : I + STEP)...);
    a = low;
}

// 16 x 16 words, mirrored at the diagonal: first each four neighbours, then squares twice as wide, and so on.
template <int STEP = 1>
INLINE void transpose(Words* v) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) exchange<STEP>(v[i], v[i + STEP], std::make_integer_sequence<int, LANES>());
    if constexpr (2 * STEP < LANES) transpose<2 * STEP>(v);
}

INLINE float sum(Floats v) { return sums<1>(&v)[0]; }

INLINE float largest(Floats v) {
    v = larger(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return std::fmax(v[0], v[1]);
}

// e^x for x up to 88, as Cephes' expf: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. 0 below -87.
INLINE Floats exponential(Floats x) {
    const Floats magic = 12582912.0f + Floats{};  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats shifted = x * 1.44269504f + magic, n = shifted - magic;
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f, y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f, y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const Ints power = ((Ints)shifted - (Ints)magic + 127) << 23;
    return x < -87.0f ? Floats{} : y * (Floats)power;
}

enum Activation : int32_t { GELU, TANH, RELU };

INLINE Floats activate(Floats x, Activation form) {
    if (form == RELU) return larger(x, Floats{});
    const Floats size = x < 0.0f ? -x : x;
    Floats tail;  // of the normal distribution, or what GPT-2's approximation takes for it: twice the part above |x|
    if (form == TANH) {
        const Floats e = exponential(-1.5957691216f * size * (1.0f + 0.044715f * x * x));
        tail = 2.0f * e / (1.0f + e);  // 1 - tanh u = 2 e^-2u / (1 + e^-2u)
    } else {
        const Floats z = size * 0.7071067812f, t = 1.0f / (1.0f + 0.3275911f * z);  // Abramowitz and Stegun 7.1.26
        Floats y = 1.061405429f * t - 1.453152027f;
        y = y * t + 1.421413741f, y = y * t - 0.284496736f, y = y * t + 0.254829592f;
        tail = y * t * exponential(-z * z);  // 1 - erf z, to 1.5e-7
    }
    return 0.5f * x * (x < 0.0f ? tail : 2.0f - tail);
}

}  // namespace
