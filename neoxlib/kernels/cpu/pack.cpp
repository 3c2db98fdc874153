// Weights on their way from a file to memory: converted, or packed to 8 or 4 bits, each call on its caller's thread.
//
// The bits are those of quant.py, whose sums are folds: halves are added until one number is left. Compiled without
// fused products (native.py says so), since those round once where quant.py rounds twice.

#include "simd.h"

namespace {

// int4: columns of a scale, the vectors that they fill, and the groups that are taken at a time: one a lane.
constexpr int GROUP = 32, PARTS = GROUP / LANES, BATCH = LANES, WIDE = GROUP * BATCH;
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
    uint64_t parts[sizeof v / sizeof(uint64_t)], all = 0;
    memcpy(parts, &v, sizeof v);
    for (uint64_t part : parts) all |= part;
    return all;
}

INLINE Ints not_finite(Floats v) { return magnitude(v) < INFINITY ? Ints{} : ~Ints{}; }

INLINE Floats codes_of(Floats w, float inverse) { return clamp(nearest(w * inverse), -8, 7); }

// A group's vectors folded to one: its halves by op, then the halves of that.
template <class Op>
INLINE Floats fold_group(Floats* v, Op op) {
    for (int n = PARTS / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) v[i] = op(v[i], v[i + n]);
    return v[0];
}

// The scales of BATCH groups, each of PARTS vectors of w, of the least squared error: Int4._best_scale.
INLINE Floats best_scale(const Floats* w, Ints* bad) {
    Floats high[BATCH], low[BATCH];
    for (int g = 0; g < BATCH; g++) {
        Floats up[PARTS], down[PARTS];
        for (int i = 0; i < PARTS; i++) {
            up[i] = w[g * PARTS + i], down[i] = -up[i];
            *bad |= not_finite(up[i]);
        }
        high[g] = fold_group(up, larger), low[g] = fold_group(down, larger);
    }
    const Floats most = fold<BATCH>(high, larger), least = fold<BATCH>(low, larger);
    const Floats inverse = 1.0f / or_one(most > least ? most : -least);
    Floats best{}, best_gain{};
    for (float peak : PEAKS) {
        alignas(64) float factor[BATCH];
        write(factor, inverse * peak);
        Floats product[BATCH], square[BATCH];
        for (int g = 0; g < BATCH; g++) {
            Floats products[PARTS], squares[PARTS];
            for (int i = 0; i < PARTS; i++) {
                const Floats value = w[g * PARTS + i], code = codes_of(value, factor[g]);
                products[i] = code * value, squares[i] = code * code;
            }
            product[g] = fold_group(products, plus), square[g] = fold_group(squares, plus);
        }
        const Floats total = fold<BATCH>(product, plus), norm = larger(fold<BATCH>(square, plus), 1.0f + Floats{});
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
        Floats w[PARTS * BATCH];
        for (int i = 0; i < PARTS * BATCH; i++) w[i] = i * LANES < count ? F::load(from + first + i * LANES) : Floats{};
        alignas(64) uint16_t halves[BATCH];
        alignas(64) float inverse[BATCH];
        Float16::store(halves, best_scale(w, &bad));
        const Floats scale = Float16::load(halves);
        bad |= not_finite(scale);
        write(inverse, 1.0f / or_one(scale));
        memcpy(scales + first / GROUP, halves, count / GROUP * sizeof *halves);
        for (int g = 0; g < count / GROUP; g++)
            for (int i = 0; i < PARTS / 2; i++) {
                const Floats low = codes_of(w[g * PARTS + i], inverse[g]) + 8.0f;
                const Floats high = codes_of(w[g * PARTS + i + PARTS / 2], inverse[g]) + 8.0f;
                const Ints both = __builtin_convertvector(low + high * 16.0f, Ints);
                write(weight + first / 2 + g * GROUP / 2 + i * LANES, __builtin_convertvector(both, Bytes));
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
