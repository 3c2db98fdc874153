// Vectors of floats, the number formats they are read from, and the few functions of them that a model needs.
//
// GCC's vector types compile for any CPU; the few intrinsics say what GCC 12 would otherwise do one value at a time. A
// vector fills a register: of one that needs two, GCC keeps every step in memory.

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
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 8, REGISTERS = 16;
#endif

using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));
using Words = uint32_t __attribute__((vector_size(4 * LANES)));
using Shorts = uint16_t __attribute__((vector_size(2 * LANES)));
using Signed = int8_t __attribute__((vector_size(LANES)));
using Bytes = uint8_t __attribute__((vector_size(LANES)));
using Numbers = std::make_integer_sequence<int, LANES>;  // of the lanes

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
#elif defined(__AVX2__)
INLINE Words widen(Shorts v) { return (Words)_mm256_cvtepu16_epi32((__m128i)v); }
INLINE Words widen(Bytes v) { return (Words)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)v)); }
INLINE Ints widen(Signed v) { return (Ints)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)v)); }
#elif defined(__aarch64__)
INLINE Words widen(Shorts v) { return (Words)vmovl_u16((uint16x4_t)v); }
INLINE Words widen(Bytes v) { return (Words)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(read<uint32_t>(&v))))); }
INLINE Ints widen(Signed v) { return (Ints)vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(read<uint32_t>(&v))))); }
#else
INLINE Words widen(Shorts v) { return __builtin_convertvector(v, Words); }
INLINE Words widen(Bytes v) { return __builtin_convertvector(v, Words); }
INLINE Ints widen(Signed v) { return __builtin_convertvector(v, Ints); }
#endif

// Two whole numbers of 16 bits a lane. `dot` adds the products of both to the lane's sum of 32 bits; `round_to` rounds
// to the nearest, within the bounds of 16 bits.
using Twos = int16_t __attribute__((vector_size(4 * LANES)));

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool WHOLE = true;  // this CPU multiplies whole numbers faster than floats
INLINE Twos twos(const int8_t* from) { return (Twos)_mm512_cvtepi8_epi16(read<__m256i>(from)); }
INLINE Twos twos(const uint8_t* from) { return (Twos)_mm512_cvtepu8_epi16(read<__m256i>(from)); }
INLINE Ints dot(Ints sum, Twos x, Twos w) { return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)x, (__m512i)w); }
INLINE void round_to(int16_t* to, Floats v) { write(to, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32((__m512)v))); }
#elif defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool WHOLE = true;
INLINE Twos twos(const int8_t* from) { return (Twos)_mm256_cvtepi8_epi16(read<__m128i>(from)); }
INLINE Twos twos(const uint8_t* from) { return (Twos)_mm256_cvtepu8_epi16(read<__m128i>(from)); }
INLINE Ints dot(Ints sum, Twos x, Twos w) { return sum + (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)w); }
INLINE void round_to(int16_t* to, Floats v) {
    const __m256i all = _mm256_cvtps_epi32((__m256)v);
    write(to, _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
#else
constexpr bool WHOLE = false;
template <class T>
INLINE Twos twos(const T* from) {
    Twos v;
    for (int i = 0; i < 2 * LANES; i++) v[i] = from[i];
    return v;
}
INLINE Ints dot(Ints sum, Twos x, Twos w) {
    const auto odd = [](Twos v) { return (Ints)v >> 16; };
    const auto even = [](Twos v) { return (Ints)((Words)v << 16) >> 16; };
    return sum + even(x) * even(w) + odd(x) * odd(w);
}
INLINE void round_to(int16_t* to, Floats v) {
    for (int i = 0; i < LANES; i++) to[i] = int16_t(std::nearbyint(std::fmin(std::fmax(v[i], -32768.0f), 32767.0f)));
}
#endif

// Four whole numbers of 8 bits a lane. `dot_bytes` adds the products of numbers without a sign and numbers with one to
// the lane's sum of 32 bits; where it is TIGHT, two neighbours with a sign shall make 128 at most, or -128. `round_to`
// is for those with a sign.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool BYTES = true, TIGHT = false;
INLINE Ints dot_bytes(Ints sum, Words a, Words b) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}
INLINE void round_to(int8_t* to, Floats v) { write(to, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)v))); }
#elif defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool BYTES = true, TIGHT = true;  // two products make a sum of 16 bits on the way: 255 * 128 fits
INLINE Ints dot_bytes(Ints sum, Words a, Words b) {
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
constexpr bool BYTES = false, TIGHT = false;
INLINE Ints dot_bytes(Ints sum, Words a, Words b) {
    for (int at = 0; at < 32; at += 8) sum += (Ints)(a >> at & 255) * ((Ints)(b << (24 - at)) >> 24);
    return sum;
}
INLINE void round_to(int8_t* to, Floats v) {
    int16_t twos[LANES];
    round_to(twos, v);
    for (int i = 0; i < LANES; i++) to[i] = int8_t(twos[i]);
}
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
#elif defined(__AVX2__) && defined(__F16C__)
    static INLINE Floats load(const uint16_t* from) { return (Floats)_mm256_cvtph_ps(read<__m128i>(from)); }
    static INLINE Floats spread(const uint16_t* one) { return (Floats)_mm256_cvtph_ps(_mm_set1_epi16(*one)); }
    static INLINE void store(uint16_t* to, Floats v) { write(to, _mm256_cvtps_ph((__m256)v, 0)); }
#elif defined(__aarch64__)
    static INLINE Floats load(const uint16_t* from) { return (Floats)vcvt_f32_f16((float16x4_t)read<Shorts>(from)); }
    static INLINE Floats spread(const uint16_t* one) { return (Floats)vcvt_f32_f16((float16x4_t)(*one + Shorts{})); }
    static INLINE void store(uint16_t* to, Floats v) { write(to, (Shorts)vcvt_f16_f32((float32x4_t)v)); }
#else
    using Halves = _Float16 __attribute__((vector_size(2 * LANES)));
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

INLINE Floats size(Floats v) { return v < 0.0f ? -v : v; }

// The k-th of the lanes whose number does not have `bit`.
constexpr int without(int bit, int k) { return (k & (bit - 1)) | (k & -bit) << 1; }

// op(a, b), where `a` are the lanes without BIT, x's and then y's, and `b` are those with it.
template <int BIT, class Op, int... I>
INLINE Floats halves(Floats x, Floats y, Op op, std::integer_sequence<int, I...>) {
    constexpr int HALF = LANES / 2;
    return op(__builtin_shufflevector(x, y, (I / HALF * LANES + without(BIT, I % HALF))...),
              __builtin_shufflevector(x, y, (I / HALF * LANES + without(BIT, I % HALF) + BIT)...));
}

// Lane i of the answer is v[i] folded by op, for up to LANES vectors, which are used up: its halves, then the halves of
// that, down to one value.
template <int COUNT, int BIT = LANES / 2, class Op>
INLINE Floats fold(Floats* v, Op op) {
#pragma GCC unroll 8
    for (int i = 0; 2 * i < COUNT; i++)
        v[i] = halves<BIT>(v[2 * i], v[2 * i + 1 < COUNT ? 2 * i + 1 : 2 * i], op, Numbers());
    if constexpr (BIT > 1) return fold<(COUNT + 1) / 2, BIT / 2>(v, op);
    else return v[0];
}

INLINE Floats plus(Floats a, Floats b) { return a + b; }

template <int... I>
INLINE Floats neighbours(Floats v, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(v, v, (I ^ 1)...);
}

// Lane i of the answer is the sum over all lanes of v[i], for up to LANES vectors, which are used up.
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

// LANES x LANES words, mirrored at the diagonal: first each four neighbours, then squares twice as wide, and so on.
template <int STEP = 1>
INLINE void transpose(Words* v) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) exchange<STEP>(v[i], v[i + STEP], Numbers());
    if constexpr (2 * STEP < LANES) transpose<2 * STEP>(v);
}

INLINE float sum(Floats v) { return sums<1>(&v)[0]; }

INLINE float largest(Floats v) { return fold<1>(&v, larger)[0]; }

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
    const Floats far = size(x);
    Floats tail;  // of the normal distribution, or what GPT-2's approximation takes for it: twice the part above |x|
    if (form == TANH) {
        const Floats e = exponential(-1.5957691216f * far * (1.0f + 0.044715f * x * x));
        tail = 2.0f * e / (1.0f + e);  // 1 - tanh u = 2 e^-2u / (1 + e^-2u)
    } else {
        const Floats z = far * 0.7071067812f, t = 1.0f / (1.0f + 0.3275911f * z);  // Abramowitz and Stegun 7.1.26
        Floats y = 1.061405429f * t - 1.453152027f;
        y = y * t + 1.421413741f, y = y * t - 0.284496736f, y = y * t + 0.254829592f;
        tail = y * t * exponential(-z * z);  // 1 - erf z, to 1.5e-7
    }
    return 0.5f * x * (x < 0.0f ? tail : 2.0f - tail);
}

}  // namespace
