// Converts weights between float formats, or quantizes them to INT8 or INT4, on the caller's
// thread.
//
// The bits are those of model/quant.py, which sums by folding: halves are added until one number is
// left. Compiled without fused multiply-add (build.EXTRA): it rounds once where quant.py rounds
// twice.

#include "abi.h"
#include "formats.h"

namespace {

// INT4: columns of a group, vectors of a group, and groups processed at a time, one per lane.
constexpr int GROUP = 32;
constexpr int GROUP_VECTORS = GROUP / LANES;
constexpr int GROUPS_AT_ONCE = LANES;
constexpr int COLUMNS_AT_ONCE = GROUP * GROUPS_AT_ONCE;
constexpr float SMALLEST_SCALE = 1e-30f;  // below it 1 / scale may overflow
constexpr float PEAKS[] = {-7.25f, -8.0f, -8.45f};

INLINE Floats absolute_bits(Floats v) { return (Floats)((Words)v & 0x7fffffff); }

// The nearest integer, ties to even, for magnitudes below 2^22.
INLINE Floats nearest(Floats v) {
    const Floats magic = ROUNDING_SHIFT + Floats{};
    return (v + magic) - magic;
}

INLINE Floats clamp(Floats v, float low, float high) {
    v = v < low ? low + Floats{} : v;
    return v > high ? high + Floats{} : v;
}

INLINE Floats or_one(Floats v) { return absolute_bits(v) < SMALLEST_SCALE ? 1.0f + Floats{} : v; }

INLINE bool any_lane(Ints v) {
    uint64_t parts[sizeof v / sizeof(uint64_t)], all = 0;
    memcpy(parts, &v, sizeof v);
    for (uint64_t part : parts) all |= part;
    return all;
}

INLINE Ints not_finite(Floats v) { return absolute_bits(v) < INFINITY ? Ints{} : ~Ints{}; }

INLINE Floats int4_codes(Floats w, float inverse) { return clamp(nearest(w * inverse), -8, 7); }

// Reduces the vectors of a group to one: op of the two halves, then of the halves of the result.
template <class Op>
INLINE Floats fold_group(Floats* v, Op op) {
    for (int n = GROUP_VECTORS / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) v[i] = op(v[i], v[i + n]);
    return v[0];
}

// The scales with the least squared error of GROUPS_AT_ONCE groups, GROUP_VECTORS vectors of w
// each: Int4._best_scale in quant.py.
INLINE Floats best_scale(const Floats* w, Ints* bad) {
    Floats high[GROUPS_AT_ONCE], low[GROUPS_AT_ONCE];
    for (int g = 0; g < GROUPS_AT_ONCE; g++) {
        Floats up[GROUP_VECTORS], down[GROUP_VECTORS];
        for (int i = 0; i < GROUP_VECTORS; i++) {
            up[i] = w[g * GROUP_VECTORS + i], down[i] = -up[i];
            *bad |= not_finite(up[i]);
        }
        high[g] = fold_group(up, larger), low[g] = fold_group(down, larger);
    }
    const Floats most = fold<GROUPS_AT_ONCE>(high, larger);
    const Floats least = fold<GROUPS_AT_ONCE>(low, larger);
    const Floats inverse = 1.0f / or_one(most > least ? most : -least);
    Floats best{}, best_gain{};
    for (float peak : PEAKS) {
        alignas(64) float factor[GROUPS_AT_ONCE];
        write(factor, inverse * peak);
        Floats product[GROUPS_AT_ONCE], square[GROUPS_AT_ONCE];
        for (int g = 0; g < GROUPS_AT_ONCE; g++) {
            Floats products[GROUP_VECTORS], squares[GROUP_VECTORS];
            for (int i = 0; i < GROUP_VECTORS; i++) {
                const Floats value = w[g * GROUP_VECTORS + i];
                const Floats code = int4_codes(value, factor[g]);
                products[i] = code * value, squares[i] = code * code;
            }
            product[g] = fold_group(products, plus), square[g] = fold_group(squares, plus);
        }
        const Floats total = fold<GROUPS_AT_ONCE>(product, plus);
        const Floats norm = larger(fold<GROUPS_AT_ONCE>(square, plus), 1.0f + Floats{});
        const Floats scale = total / norm;
        const Floats gain = scale * total;
        *bad |= not_finite(gain);
        best = gain > best_gain ? scale : best;
        best_gain = larger(gain, best_gain);
    }
    return best;
}

// Packs one row and returns whether a value is not finite. Values past the row's end count as
// zeros.
template <class F>
bool int4_row(const typename F::Type* from, int64_t columns, uint8_t* weight, uint16_t* scales) {
    Ints bad{};
    for (int64_t first = 0; first < columns; first += COLUMNS_AT_ONCE) {
        const int64_t count = columns - first < COLUMNS_AT_ONCE ? columns - first : COLUMNS_AT_ONCE;
        Floats w[GROUP_VECTORS * GROUPS_AT_ONCE];
        for (int i = 0; i < GROUP_VECTORS * GROUPS_AT_ONCE; i++)
            w[i] = i * LANES < count ? F::load(from + first + i * LANES) : Floats{};
        alignas(64) uint16_t halves[GROUPS_AT_ONCE];
        alignas(64) float inverse[GROUPS_AT_ONCE];
        Float16::store(halves, best_scale(w, &bad));
        const Floats scale = Float16::load(halves);
        bad |= not_finite(scale);
        write(inverse, 1.0f / or_one(scale));
        memcpy(scales + first / GROUP, halves, count / GROUP * sizeof *halves);
        for (int g = 0; g < count / GROUP; g++)
            for (int i = 0; i < GROUP_VECTORS / 2; i++) {
                const Floats low = int4_codes(w[g * GROUP_VECTORS + i], inverse[g]) + 8.0f;
                const Floats high =
                    int4_codes(w[g * GROUP_VECTORS + i + GROUP_VECTORS / 2], inverse[g]) + 8.0f;
                const Ints both = __builtin_convertvector(low + high * 16.0f, Ints);
                write(weight + first / 2 + g * GROUP / 2 + i * LANES,
                      __builtin_convertvector(both, Bytes));
            }
    }
    return any_lane(bad);
}

// As int4_row; one scale for the row.
template <class F>
bool int8_row(const typename F::Type* from, int64_t columns, int8_t* weight, float* scale) {
    Floats most{};
    Ints bad{};
    for (int64_t i = 0; i < columns; i += LANES) {
        const Floats v = load<F>(from + i, columns - i);
        bad |= not_finite(v);
        most = larger(absolute_bits(v), most);
    }
    *scale = largest(most) / 127.0f;
    const float divisor = *scale < SMALLEST_SCALE ? 1.0f : *scale;
    for (int64_t i = 0; i < columns; i += LANES) {
        const Floats v = clamp(nearest(load<F>(from + i, columns - i) / divisor), -127, 127);
        const Int8s q = __builtin_convertvector(__builtin_convertvector(v, Ints), Int8s);
        memcpy(weight + i, &q, columns - i < LANES ? columns - i : LANES);
    }
    return any_lane(bad);
}

template <class F>
int pack(int bits, const void* from, int64_t rows, int64_t columns, uint8_t* weight, void* scale) {
    bool bad = false;
    for (int64_t r = 0; r < rows; r++) {
        const auto* row = static_cast<const typename F::Type*>(from) + r * columns;
        if (bits == 4) {
            bad |= int4_row<F>(row, columns, weight + r * columns / 2,
                               (uint16_t*)scale + r * (columns / GROUP));
        } else {
            bad |= int8_row<F>(row, columns, (int8_t*)weight + r * columns, (float*)scale + r);
        }
    }
    return bad;
}

template <class F, class T>
void convert_rows(const void* from, void* to, int64_t rows, int64_t columns, int64_t from_width,
                  int64_t to_width) {
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
void convert_from(const void* from, int32_t format, void* to, int64_t rows, int64_t columns,
                  int64_t a, int64_t b) {
    if (format == FLOAT32) convert_rows<F, Float32>(from, to, rows, columns, a, b);
    if (format == FLOAT16) convert_rows<F, Float16>(from, to, rows, columns, a, b);
    if (format == BFLOAT16) convert_rows<F, BFloat16Exact>(from, to, rows, columns, a, b);
}

}  // namespace

extern "C" {

// Packs a contiguous weight [rows, columns] of `format` as Int4 (bits 4) or Int8 (bits 8) of
// quant.py. Returns 1 if a number or its scale is not finite, else 0.
int pack_weight(int bits, const void* from, int32_t format, int64_t rows, int64_t columns,
                void* weight, void* scale) {
    auto* bytes = static_cast<uint8_t*>(weight);
    if (format == FLOAT32) return pack<Float32>(bits, from, rows, columns, bytes, scale);
    if (format == FLOAT16) return pack<Float16>(bits, from, rows, columns, bytes, scale);
    return pack<BFloat16>(bits, from, rows, columns, bytes, scale);
}

// Converts [rows, columns] from one float format into another; rows are from_width and to_width
// values apart.
void convert_weight(const void* from, int32_t from_format, int64_t from_width, void* to,
                    int32_t to_format, int64_t to_width, int64_t rows, int64_t columns) {
    if (from_format == FLOAT32)
        convert_from<Float32>(from, to_format, to, rows, columns, from_width, to_width);
    if (from_format == FLOAT16)
        convert_from<Float16>(from, to_format, to, rows, columns, from_width, to_width);
    if (from_format == BFLOAT16)
        convert_from<BFloat16>(from, to_format, to, rows, columns, from_width, to_width);
}
}
