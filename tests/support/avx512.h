// The AVX-512 instructions that neoxlib/kernels/cpu uses, emulated one number at a time, so that its
// AVX-512 kernels run on any CPU.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace emulated {

template <class To, class From>
To bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// to[i] = each(i), as a register of type To
template <class To, class T, class Each>
To lanes(Each each) {
    T to[sizeof(To) / sizeof(T)];
    for (size_t i = 0; i < sizeof(To) / sizeof(T); i++) to[i] = each(i);
    return bits<To>(to);
}

template <class T, class From>
T lane(const From& from, size_t i) {
    T value;
    memcpy(&value, reinterpret_cast<const char*>(&from) + i * sizeof value, sizeof value);
    return value;
}

template <class From, class To, class Register, class Source>
Register convert(const Source& v) {
    return lanes<Register, To>([&](size_t i) { return To(lane<From>(v, i)); });
}

template <class T>
T saturated(int32_t v) {
    constexpr int32_t most = (1 << (8 * sizeof(T) - 1)) - 1;
    return T(v > most ? most : v < -most - 1 ? -most - 1 : v);
}

inline uint16_t brain(float v) {  // the instruction takes the smallest numbers for zeros
    const auto raw = bits<uint32_t>(v);
    if (std::isnan(v)) return uint16_t(raw >> 16 | 0x40);
    if (std::fpclassify(v) == FP_SUBNORMAL) return uint16_t(raw >> 16 & 0x8000);
    return uint16_t((raw + 0x7fff + (raw >> 16 & 1)) >> 16);
}

inline float widened(uint16_t v) { return bits<float>(uint32_t(v) << 16); }

inline int32_t nearest(float v) {
    return std::fabs(v) < 2147483648.0f ? int32_t(std::nearbyint(v)) : INT32_MIN;  // NaN, too
}

// Each lane's sum of 32 bits and the products of COUNT numbers beside it.
template <class A, class B, int COUNT>
__m512i dot(__m512i sum, __m512i a, __m512i b) {
    return lanes<__m512i, int32_t>([&](size_t i) {
        int32_t total = lane<int32_t>(sum, i);
        for (size_t c = i * COUNT; c < (i + 1) * COUNT; c++) total += int32_t(lane<A>(a, c)) * lane<B>(b, c);
        return total;
    });
}

inline __m512 dot_brains(__m512 sum, __m512bh a, __m512bh b) {
    return lanes<__m512, float>([&](size_t i) {
        float total = lane<float>(sum, i);
        for (size_t c = 2 * i; c < 2 * i + 2; c++)
            total += widened(lane<uint16_t>(a, c)) * widened(lane<uint16_t>(b, c));
        return total;
    });
}

}  // namespace emulated

#define _mm512_setzero_si512() (__m512i{})
#define _mm512_set1_epi8(n) emulated::lanes<__m512i, int8_t>([&](size_t) { return int8_t(n); })
#define _mm512_and_si512(a, b) (__m512i)((a) & (b))
#define _mm512_srli_epi16(a, n) \
    emulated::lanes<__m512i, uint16_t>([&](size_t i) { return uint16_t(emulated::lane<uint16_t>(a, i) >> (n)); })
#define _mm512_cvtepu16_epi32(v) emulated::convert<uint16_t, uint32_t, __m512i>(v)
#define _mm512_cvtepu8_epi32(v) emulated::convert<uint8_t, uint32_t, __m512i>(v)
#define _mm512_cvtepi8_epi32(v) emulated::convert<int8_t, int32_t, __m512i>(v)
#define _mm512_cvtepu8_epi16(v) emulated::convert<uint8_t, uint16_t, __m512i>(v)
#define _mm512_cvtepi8_epi16(v) emulated::convert<int8_t, int16_t, __m512i>(v)
#define _mm512_cvtph_ps(v) emulated::convert<_Float16, float, __m512>(v)
#define _mm512_cvtps_ph(v, _) emulated::convert<float, _Float16, __m256i>(v)
#define _mm512_cvtps_epi32(v) \
    emulated::lanes<__m512i, int32_t>([&](size_t i) { return emulated::nearest(emulated::lane<float>(v, i)); })
#define _mm512_cvtsepi32_epi16(v)            \
    emulated::lanes<__m256i, int16_t>(       \
        [&, all = v](size_t i) { return emulated::saturated<int16_t>(emulated::lane<int32_t>(all, i)); })
#define _mm512_cvtsepi32_epi8(v)             \
    emulated::lanes<__m128i, int8_t>(        \
        [&, all = v](size_t i) { return emulated::saturated<int8_t>(emulated::lane<int32_t>(all, i)); })
#define _mm512_cvtneps_pbh(v) \
    emulated::lanes<__m256bh, uint16_t>([&](size_t i) { return emulated::brain(emulated::lane<float>(v, i)); })
#define _mm512_cvtne2ps_pbh(high, low)      \
    emulated::lanes<__m512bh, uint16_t>([&, upper = high, lower = low](size_t i) { \
        return emulated::brain(i < 16 ? emulated::lane<float>(lower, i) : emulated::lane<float>(upper, i - 16)); \
    })
#define _mm512_permutexvar_ps(which, v) \
    emulated::lanes<__m512, float>(     \
        [&](size_t i) { return emulated::lane<float>(v, emulated::lane<uint32_t>(which, i) & 15); })
#define _mm512_dpbf16_ps(sum, a, b) emulated::dot_brains(sum, a, b)
#define _mm512_dpwssd_epi32(sum, a, b) emulated::dot<int16_t, int16_t, 2>(sum, a, b)
#define _mm512_dpbusd_epi32(sum, a, b) emulated::dot<uint8_t, int8_t, 4>(sum, a, b)

#define __AVX512F__ 1
#define __AVX512BW__ 1
#ifndef FLOATS_ONLY  // a CPU of the first generation
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
#endif

#define asm(...)  // what keeps a value in a register has none to keep it in
