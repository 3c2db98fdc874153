// SIMD vectors: types, arithmetic, integer dot products, reductions and e^x. Nothing else knows an
// instruction set except formats.h, avx2.h, avx512.h and a few lines of the other headers.
//
// GCC's vector types compile for any CPU. Intrinsics stand where GCC 12 would otherwise work on one
// value at a time. A vector fills exactly one register: GCC keeps wider vectors in memory.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int REGISTERS = 32;
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int REGISTERS = 32;
#else
constexpr int LANES = 8;
constexpr int REGISTERS = 16;
#endif

// One register: LANES values of 32 bits, or LANES narrower values in a part of it.
using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));
using Words = uint32_t __attribute__((vector_size(4 * LANES)));
using Shorts = uint16_t __attribute__((vector_size(2 * LANES)));
using Int8s = int8_t __attribute__((vector_size(LANES)));
using Bytes = uint8_t __attribute__((vector_size(LANES)));
using LaneIndices = std::make_integer_sequence<int, LANES>;

// Prefetches one cache line into the second-level cache.
INLINE void prefetch(const void* from) { __builtin_prefetch(from, 0, 2); }

int64_t round_up_to_lanes(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

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
INLINE Ints widen(Int8s v) { return (Ints)_mm512_cvtepi8_epi32((__m128i)v); }
#elif defined(__AVX2__)
INLINE Words widen(Shorts v) { return (Words)_mm256_cvtepu16_epi32((__m128i)v); }
INLINE Words widen(Bytes v) { return (Words)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)v)); }
INLINE Ints widen(Int8s v) { return (Ints)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)v)); }
#elif defined(__aarch64__)
INLINE Words widen(Shorts v) { return (Words)vmovl_u16((uint16x4_t)v); }
INLINE Words widen(Bytes v) {
    return (Words)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(read<uint32_t>(&v)))));
}
INLINE Ints widen(Int8s v) {
    return (Ints)vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(read<uint32_t>(&v)))));
}
#else
INLINE Words widen(Shorts v) { return __builtin_convertvector(v, Words); }
INLINE Words widen(Bytes v) { return __builtin_convertvector(v, Words); }
INLINE Ints widen(Int8s v) { return __builtin_convertvector(v, Ints); }
#endif

// Two int16 per lane. `dot` adds both products to the lane's int32 sum. `round_to` rounds to the
// nearest integer and saturates.
using Int16s = int16_t __attribute__((vector_size(4 * LANES)));

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool HAS_INT16_DOT = true;  // int16 products are faster than float products
INLINE Int16s load_int16s(const int8_t* from) {
    return (Int16s)_mm512_cvtepi8_epi16(read<__m256i>(from));
}
INLINE Int16s load_int16s(const uint8_t* from) {
    return (Int16s)_mm512_cvtepu8_epi16(read<__m256i>(from));
}
INLINE Ints dot(Ints sum, Int16s x, Int16s w) {
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
INLINE void round_to(int16_t* to, Floats v) {
    write(to, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32((__m512)v)));
}
#elif defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool HAS_INT16_DOT = true;
INLINE Int16s load_int16s(const int8_t* from) {
    return (Int16s)_mm256_cvtepi8_epi16(read<__m128i>(from));
}
INLINE Int16s load_int16s(const uint8_t* from) {
    return (Int16s)_mm256_cvtepu8_epi16(read<__m128i>(from));
}
INLINE Ints dot(Ints sum, Int16s x, Int16s w) {
    return sum + (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)w);
}
INLINE void round_to(int16_t* to, Floats v) {
    const __m256i all = _mm256_cvtps_epi32((__m256)v);
    write(to, _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
#else
constexpr bool HAS_INT16_DOT = false;
template <class T>
INLINE Int16s load_int16s(const T* from) {
    Int16s v;
    for (int i = 0; i < 2 * LANES; i++) v[i] = from[i];
    return v;
}
INLINE Ints dot(Ints sum, Int16s x, Int16s w) {
    const auto odd = [](Int16s v) {
        return (Ints)v >> 16;
    };
    const auto even = [](Int16s v) {
        return (Ints)((Words)v << 16) >> 16;
    };
    return sum + even(x) * even(w) + odd(x) * odd(w);
}
INLINE void round_to(int16_t* to, Floats v) {
    for (int i = 0; i < LANES; i++)
        to[i] = int16_t(std::nearbyint(std::fmin(std::fmax(v[i], -32768.0f), 32767.0f)));
}
#endif

// Four int8 per lane. `dot_int8` adds the products of unsigned `a` and signed `b` to the lane's
// int32 sum. Where INT8_DOT_SATURATES, two neighbours of `b` must sum to a value in [-128, 128].
// `round_to` rounds to signed int8 and saturates.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool HAS_INT8_DOT = true;
constexpr bool INT8_DOT_SATURATES = false;
INLINE Ints dot_int8(Ints sum, Words a, Words b) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}
INLINE void round_to(int8_t* to, Floats v) {
    write(to, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)v)));
}
#elif defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool HAS_INT8_DOT = true,
               INT8_DOT_SATURATES = true;  // pairs are summed in int16: 255 * 128 fits
INLINE Ints dot_int8(Ints sum, Words a, Words b) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
INLINE void round_to(int8_t* to, Floats v) {
    int16_t twos[LANES];
    round_to(twos, v);
    const __m128i all = read<__m128i>(twos);
    write(to, _mm_cvtsi128_si64(_mm_packs_epi16(all, all)));
}
#else
constexpr bool HAS_INT8_DOT = false;
constexpr bool INT8_DOT_SATURATES = false;
INLINE Ints dot_int8(Ints sum, Words a, Words b) {
    for (int at = 0; at < 32; at += 8)
        sum += (Ints)(a >> at & 255) * ((Ints)(b << (24 - at)) >> 24);
    return sum;
}
INLINE void round_to(int8_t* to, Floats v) {
    int16_t twos[LANES];
    round_to(twos, v);
    for (int i = 0; i < LANES; i++) to[i] = int8_t(twos[i]);
}
#endif

INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

INLINE Floats absolute(Floats v) { return v < 0.0f ? -v : v; }

// The k-th lane index that does not contain `bit`.
constexpr int without(int bit, int k) { return (k & (bit - 1)) | (k & -bit) << 1; }

// op(a, b): `a` holds the lanes whose index lacks BIT, first those of x, then those of y; `b` the
// others.
template <int BIT, class Op, int... I>
INLINE Floats halves(Floats x, Floats y, Op op, std::integer_sequence<int, I...>) {
    constexpr int HALF = LANES / 2;
    return op(__builtin_shufflevector(x, y, (I / HALF * LANES + without(BIT, I % HALF))...),
              __builtin_shufflevector(x, y, (I / HALF * LANES + without(BIT, I % HALF) + BIT)...));
}

// Lane i of the result is v[i] reduced by op, for up to LANES vectors; v is overwritten. Halves of
// a vector are combined, then halves of the result, down to one value.
template <int COUNT, int BIT = LANES / 2, class Op>
INLINE Floats fold(Floats* v, Op op) {
#pragma GCC unroll 8
    for (int i = 0; 2 * i < COUNT; i++)
        v[i] = halves<BIT>(v[2 * i], v[2 * i + 1 < COUNT ? 2 * i + 1 : 2 * i], op, LaneIndices());
    if constexpr (BIT > 1) return fold<(COUNT + 1) / 2, BIT / 2>(v, op);
    else return v[0];
}

INLINE Floats plus(Floats a, Floats b) { return a + b; }

template <int... I>
INLINE Floats swap_neighbours(Floats v, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(v, v, (I ^ 1)...);
}

// Lane i of the result is the sum of all lanes of v[i], for up to LANES vectors; v is overwritten.
template <int COUNT>
INLINE Floats sums(Floats* v) {
    return fold<COUNT>(v, plus);
}

template <int STEP, int... I>
INLINE void exchange(Words& a, Words& b, std::integer_sequence<int, I...>) {
    const Words low = __builtin_shufflevector(a, b, (I & STEP ? LANES + I - STEP : I)...);
    b = __builtin_shufflevector(a, b, (I & STEP ? LANES + I : I + STEP)...);
    a = low;
}

// Transposes LANES x LANES words: 2 x 2 squares first, then squares twice as wide, and so on.
template <int STEP = 1>
INLINE void transpose(Words* v) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) exchange<STEP>(v[i], v[i + STEP], LaneIndices());
    if constexpr (2 * STEP < LANES) transpose<2 * STEP>(v);
}

INLINE float sum(Floats v) { return sums<1>(&v)[0]; }

INLINE float largest(Floats v) { return fold<1>(&v, larger)[0]; }

// Adding it to a float of magnitude below 2^22 rounds that to an integer, ties to even: 1.5 * 2^23.
constexpr float ROUNDING_SHIFT = 12582912.0f;

// e^x for x <= 88, as Cephes' expf: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. 0 below -87.
INLINE Floats exponential(Floats x) {
    const Floats magic = ROUNDING_SHIFT + Floats{};
    const Floats shifted = x * 1.44269504f + magic;
    const Floats n = shifted - magic;
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f, y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f, y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const Ints power = ((Ints)shifted - (Ints)magic + 127) << 23;
    return x < -87.0f ? Floats{} : y * (Floats)power;
}

}  // namespace
