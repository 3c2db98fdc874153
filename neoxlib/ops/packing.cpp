// Weights on their way from a file to memory: converted, or packed to 8 or 4 bits, each call on its caller's thread.
//
// The bits are those of quant.py, whose sums are folds: halves are added until one number is left. Compiled without
// fused products (native.py says so), since those round once where quant.py rounds twice.

#include "vectors.h"

namespace {

constexpr int GROUP = 32, BATCH = 16, WIDE = GROUP * BATCH;  // int4: columns of a scale; groups taken at a time
constexpr float TINY = 1e-30f;  // below it a scale's inverse may be past float's range
constexpr float PEAKS[] = {-7.25f, -8.0f, -8.45f};

enum Format : int32_t { F32, F16, BF16 };  // as in fast.py

// bfloat16 by whole numbers: the processor's own instruction would lose the smallest numbers.
struct Brain : BFloat16 {
    static INLINE void store(uint16_t* to, Floats v) {
        const Words bits = (Words)v, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // ties to even
        const Words nan = (bits >> 16) | 0x40;
        write(to, __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded, Shorts));
    }
};

INLINE Floats magnitude(Floats v) { return (Floats)((Words)v & 0x7fffffff); }

// The nearest whole number, ties to even, for magnitudes below 2^22.
INLINE Floats nearest(Floats v) {
    const Floats magic = 12582912.0f + Floats{};
    return (v + magic) - magic;
}

INLINE Floats clamp(Floats v, float low, float high) {
    v = v < low ? low + Floats{} : v;
    return v > high ? high + Floats{} : v;
}

INLINE Floats or_one(Floats v) { return magnitude(v) < TINY ? 1.0f + Floats{} : v; }

INLINE bool any(Ints v) {
    uint64_t parts[8], all = 0;
    memcpy(parts, &v, sizeof v);
    for (uint64_t part : parts) all |= part;
    return all;
}

INLINE Ints not_finite(Floats v) { return magnitude(v) < INFINITY ? Ints{} : ~Ints{}; }

// Lane i of the answer is v[i] folded: its halves by `op`, then the halves of that, down to one value. v is used up.
template <class Op>
INLINE Floats fold(Floats* v, Op op) {
    for (int i = 0; i < 8; i++) {
        const Floats a = v[2 * i], b = v[2 * i + 1];
        v[i] = op(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                  __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
    }
    for (int i = 0; i < 4; i++) {
        const Floats a = v[2 * i], b = v[2 * i + 1];
        v[i] = op(__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
                  __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
    }
    for (int i = 0; i < 2; i++) {
        const Floats a = v[2 * i], b = v[2 * i + 1];
        v[i] = op(__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29),
                  __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31));
    }
    return op(__builtin_shufflevector(v[0], v[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
              __builtin_shufflevector(v[0], v[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
}

INLINE Floats plus(Floats a, Floats b) { return a + b; }

INLINE Floats codes_of(Floats w, float inverse) { return clamp(nearest(w * inverse), -8, 7); }

// The scales of BATCH groups, w[2 * g] and w[2 * g + 1], of the least squared error: Int4._best_scale.
INLINE Floats best_scale(const Floats* w, Ints* bad) {
    Floats high[BATCH], low[BATCH];
    for (int g = 0; g < BATCH; g++) {
        const Floats a = w[2 * g], b = w[2 * g + 1];
        *bad |= not_finite(a) | not_finite(b);
        high[g] = larger(a, b), low[g] = larger(-a, -b);
    }
    const Floats most = fold(high, larger), least = fold(low, larger);
    const Floats inverse = 1.0f / or_one(most > least ? most : -least);
    Floats best{}, best_gain{};
    for (float peak : PEAKS) {
        alignas(64) float factor[BATCH];
        write(factor, inverse * peak);
        Floats product[BATCH], square[BATCH];
        for (int g = 0; g < BATCH; g++) {
            const Floats a = codes_of(w[2 * g], factor[g]), b = codes_of(w[2 * g + 1], factor[g]);
            product[g] = a * w[2 * g] + b * w[2 * g + 1];
            square[g] = a * a + b * b;
        }
        const Floats total = fold(product, plus), norm = larger(fold(square, plus), 1.0f + Floats{});
        const Floats scale = total / norm, gain = scale * total;
        *bad |= not_finite(gain);
        best = gain > best_gain ? scale : best;
        best_gain = larger(gain, best_gain);
    }
    return best;
}

// One row. Bytes and scales of groups past the row's end are made, too, and left out.
template <class F>
bool int4_row(const typename F::Type* from, int64_t columns, uint8_t* weight, uint16_t* scales) {
    Ints bad{};
    for (int64_t first = 0; first < columns; first += WIDE) {
        const int64_t count = columns - first < WIDE ? columns - first : WIDE;
        Floats w[2 * BATCH];
        for (int i = 0; i < 2 * BATCH; i++) w[i] = i * LANES < count ? F::load(from + first + i * LANES) : Floats{};
        alignas(64) uint16_t halves[BATCH];
        alignas(64) float inverse[BATCH];
        Float16::store(halves, best_scale(w, &bad));
        const Floats scale = Float16::load(halves);
        bad |= not_finite(scale);
        write(inverse, 1.0f / or_one(scale));
        memcpy(scales + first / GROUP, halves, count / GROUP * sizeof *halves);
        for (int g = 0; g < count / GROUP; g++) {
            const Floats a = codes_of(w[2 * g], inverse[g]) + 8.0f, b = codes_of(w[2 * g + 1], inverse[g]) + 8.0f;
            const Ints both = __builtin_convertvector(a + b * 16.0f, Ints);
            write(weight + first / 2 + g * LANES, __builtin_convertvector(both, Bytes));
        }
    }
    return any(bad);
}

template <class F>
bool int8_row(const typename F::Type* from, int64_t columns, int8_t* weight, float* scale) {
    Floats most{};
    Ints bad{};
    for (int64_t i = 0; i < columns; i += LANES) {
        const Floats v = load<F>(from + i, columns - i);
        bad |= not_finite(v);
        most = larger(magnitude(v), most);
    }
    *scale = largest(most) / 127.0f;
    const float divisor = *scale < TINY ? 1.0f : *scale;
    for (int64_t i = 0; i < columns; i += LANES) {
        const Floats v = clamp(nearest(load<F>(from + i, columns - i) / divisor), -127, 127);
        const Signed q = __builtin_convertvector(__builtin_convertvector(v, Ints), Signed);
        memcpy(weight + i, &q, columns - i < LANES ? columns - i : LANES);
    }
    return any(bad);
}

template <class F>
int pack(int bits, const void* from, int64_t rows, int64_t columns, uint8_t* weight, void* scale) {
    bool bad = false;
    for (int64_t r = 0; r < rows; r++) {
        const auto* row = static_cast<const typename F::Type*>(from) + r * columns;
        if (bits == 4) {
            bad |= int4_row<F>(row, columns, weight + r * columns / 2, (uint16_t*)scale + r * (columns / GROUP));
        } else {
            bad |= int8_row<F>(row, columns, (int8_t*)weight + r * columns, (float*)scale + r);
        }
    }
    return bad;
}

template <class F, class T>
void convert_rows(const void* from, void* to, int64_t rows, int64_t columns, int64_t from_width, int64_t to_width) {
    for (int64_t r = 0; r < rows; r++) {
        const auto* source = static_cast<const typename F::Type*>(from) + r * from_width;
        auto* target = static_cast<typename T::Type*>(to) + r * to_width;
        int64_t i = 0;
        for (; i + LANES <= columns; i += LANES) T::store(target + i, F::load(source + i));
        if (i == columns) continue;
        typename T::Type rest[LANES];
        T::store(rest, load<F>(source + i, columns - i));
        memcpy(target + i, rest, (columns - i) * sizeof *rest);
    }
}

template <class F>
void convert_from(const void* from, int32_t format, void* to, int64_t rows, int64_t columns, int64_t a, int64_t b) {
    if (format == F32) convert_rows<F, Float32>(from, to, rows, columns, a, b);
    if (format == F16) convert_rows<F, Float16>(from, to, rows, columns, a, b);
    if (format == BF16) convert_rows<F, Brain>(from, to, rows, columns, a, b);
}

}  // namespace

extern "C" {

// weight [rows, columns] in `format`, row after row -> as Int4 (bits 4) or Int8 (bits 8) of quant.py packs it.
// Answers 1 where a number or its scale is not finite, else 0.
int packing_pack(int bits, const void* from, int32_t format, int64_t rows, int64_t columns, void* weight, void* scale) {
    auto* bytes = static_cast<uint8_t*>(weight);
    if (format == F32) return pack<Float32>(bits, from, rows, columns, bytes, scale);
    if (format == F16) return pack<Float16>(bits, from, rows, columns, bytes, scale);
    return pack<BFloat16>(bits, from, rows, columns, bytes, scale);
}

// [rows, columns] from one format into another; rows begin every from_width and to_width values.
void packing_convert(const void* from, int32_t from_format, int64_t from_width, void* to, int32_t to_format,
                     int64_t to_width, int64_t rows, int64_t columns) {
    if (from_format == F32) convert_from<Float32>(from, to_format, to, rows, columns, from_width, to_width);
    if (from_format == F16) convert_from<Float16>(from, to_format, to, rows, columns, from_width, to_width);
    if (from_format == BF16) convert_from<BFloat16>(from, to_format, to, rows, columns, from_width, to_width);
}
}
