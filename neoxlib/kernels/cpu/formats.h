// Number formats as they are stored: loads LANES of them as float32, stores LANES float32.

#pragma once

#include "simd.h"

namespace {

// The bits of float32 numbers, rounded to bfloat16 (ties to even), in the low halves. NaN may
// become another value: callers check for it themselves. W: uint32_t or Words.
template <class W>
INLINE W round_to_bfloat16(W bits) {
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

struct Float32 {
    using Type = float;
    static INLINE Floats load(const float* from) { return read<Floats>(from); }
    static INLINE void store(float* to, Floats v) { write(to, v); }
};

struct BFloat16 {
    using Type = uint16_t;
    static INLINE Floats load(const uint16_t* from) {
        return (Floats)(widen(read<Shorts>(from)) << 16);
    }
    static INLINE void store(uint16_t* to, Floats v) {
#if defined(__AVX512BF16__)
        write(to, _mm512_cvtneps_pbh((__m512)v));
#else
        write(to, __builtin_convertvector(round_to_bfloat16((Words)v), Shorts));
#endif
    }
};

// bfloat16 by integer arithmetic: the instruction of AVX-512 flushes subnormals to zero, and NaN
// stays NaN here.
struct BFloat16Exact : BFloat16 {
    static INLINE void store(uint16_t* to, Floats v) {
        const Words bits = (Words)v;
        const Words rounded = round_to_bfloat16(bits);
        const Words nan = (bits >> 16) | 0x40;
        write(to,
              __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded, Shorts));
    }
};

struct Float16 {
    using Type = uint16_t;
#if defined(__AVX512F__)
    static INLINE Floats load(const uint16_t* from) {
        return (Floats)_mm512_cvtph_ps(read<__m256i>(from));
    }
    static INLINE Floats broadcast(const uint16_t* one) {
        return (Floats)_mm512_cvtph_ps(_mm256_set1_epi16(*one));
    }
    static INLINE void store(uint16_t* to, Floats v) { write(to, _mm512_cvtps_ph((__m512)v, 0)); }
#elif defined(__AVX2__) && defined(__F16C__)
    static INLINE Floats load(const uint16_t* from) {
        return (Floats)_mm256_cvtph_ps(read<__m128i>(from));
    }
    static INLINE Floats broadcast(const uint16_t* one) {
        return (Floats)_mm256_cvtph_ps(_mm_set1_epi16(*one));
    }
    static INLINE void store(uint16_t* to, Floats v) { write(to, _mm256_cvtps_ph((__m256)v, 0)); }
#elif defined(__aarch64__)
    static INLINE Floats load(const uint16_t* from) {
        return (Floats)vcvt_f32_f16((float16x4_t)read<Shorts>(from));
    }
    static INLINE Floats broadcast(const uint16_t* one) {
        return (Floats)vcvt_f32_f16((float16x4_t)(*one + Shorts{}));
    }
    static INLINE void store(uint16_t* to, Floats v) {
        write(to, (Shorts)vcvt_f16_f32((float32x4_t)v));
    }
#else
    using Halves = _Float16 __attribute__((vector_size(2 * LANES)));
    static INLINE Floats load(const uint16_t* from) {
        return __builtin_convertvector(read<Halves>(from), Floats);
    }
    static INLINE Floats broadcast(const uint16_t* one) {
        return float(read<_Float16>(one)) + Floats{};
    }
    static INLINE void store(uint16_t* to, Floats v) {
        write(to, __builtin_convertvector(v, Halves));
    }
#endif
};

struct Int8 {
    using Type = int8_t;
    static INLINE Floats load(const int8_t* from) {
        return __builtin_convertvector(widen(read<Int8s>(from)), Floats);
    }
};

// F::load of the next LANES values; where only `left` < LANES remain, the rest are zeros.
template <class F>
INLINE Floats load(const typename F::Type* from, int64_t left) {
    if (left >= LANES) return F::load(from);
    typename F::Type padded[LANES] = {};
    memcpy(padded, from, left * sizeof *from);
    return F::load(padded);
}

// Stores n floats in format F.
template <class F>
void store(typename F::Type* to, const float* from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) F::store(to + i, read<Floats>(from + i));
    if (i == n) return;
    typename F::Type padded[LANES];
    F::store(padded, load<Float32>(from + i, n - i));
    memcpy(to + i, padded, (n - i) * sizeof *to);
}

}  // namespace
