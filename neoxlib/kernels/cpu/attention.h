// Softmax attention of one head over its KV cache, in float32 whatever the cache's format.

#pragma once

#include <algorithm>

#include "formats.h"

namespace {

constexpr int64_t MIN_BLOCKED_QUERIES = 8;   // queries from which keys are taken in blocks
constexpr int KEY_BLOCK = 64;                // keys of a block
constexpr int QUERY_BLOCK = 6;               // queries that use a block at a time, in registers
constexpr int TILE_VECTORS = REGISTERS / 8;  // vectors of keys, or of values, in a register tile
constexpr int PREFETCH_KEYS = 32;            // distance at which keys are prefetched

int64_t round_up_to_query_block(int64_t n) {
    return (n + QUERY_BLOCK - 1) / QUERY_BLOCK * QUERY_BLOCK;
}

// One head of one row of the batch. Its `length` queries are at slots from `start` on.
template <class F>
struct Head {
    const typename F::Type *k, *v;  // [capacity, dim]
    const uint8_t* real;            // [capacity]
    int64_t dim, start, length;

    // A padding token sees itself, so that no softmax is empty.
    bool sees(int64_t query, int64_t key) const {
        return key == start + query || (key < start + query && real[key]);
    }

    // Sets the scores of keys that the query does not see to -infinity.
    INLINE Floats mask(int64_t query, int64_t key, Floats score) const {
        if (key + LANES <= start + query)
            return widen(read<Bytes>(real + key)) != 0 ? score : -INFINITY + Floats{};
        for (int c = 0; c < LANES; c++)
            if (!sees(query, key + c)) score[c] = -INFINITY;
        return score;
    }
};

// Floats of scratch memory that `attend` needs for `length` queries over `end` keys.
int64_t attention_scratch(int64_t length, int64_t end, int64_t padded_dim) {
    return std::max(round_up_to_lanes(end), KEY_BLOCK * (2 * padded_dim + QUERY_BLOCK) +
                                                2 * round_up_to_query_block(length));
}

// out[d, d + N * LANES) = scale * sum over t of p[t] * values[t]
template <class F, int N>
INLINE void weighted_sum(const Head<F>& head, int64_t d, const float* p, int64_t end, float scale,
                         float* out) {
    Floats acc[N] = {};
    for (int64_t t = 0; t < end; t++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[j] +=
                p[t] * load<F>(head.v + t * head.dim + d + j * LANES, N > 1 ? LANES : head.dim - d);
    for (int j = 0; j < N; j++) write(out + d + j * LANES, acc[j] * scale);
}

// Few queries: one after the other, each over all keys.
template <class F>
void attend_by_query(const Head<F>& head, const float* q, float* out, int64_t padded_dim,
                     float* p) {
    for (int64_t i = 0; i < head.length; i++, q += padded_dim, out += padded_dim) {
        const int64_t end = head.start + i + 1;
        Floats top = -INFINITY + Floats{};
        Floats total = {};
        for (int64_t t = 0; t < end; t += LANES) {
            Floats dots[LANES] = {};
            for (int64_t d = 0; d < head.dim; d += LANES)
#pragma GCC unroll 16
                for (int c = 0; c < LANES; c++) {
                    const int64_t at = std::min(t + c, end - 1) * head.dim + d;
                    prefetch(head.k + at + PREFETCH_KEYS * head.dim),
                        prefetch(head.v + at);  // used after the keys
                    dots[c] += read<Floats>(q + d) * load<F>(head.k + at, head.dim - d);
                }
            const Floats score = head.mask(i, t, sums<LANES>(dots));
            write(p + t, score);
            top = larger(top, score);
        }
        const float most = largest(top);
        for (int64_t t = 0; t < end; t += LANES) {
            const Floats power = exponential(read<Floats>(p + t) - most);
            write(p + t, power);
            total += power;
        }
        const float scale = 1 / sum(total);
        int64_t d = 0;
        for (; d + 4 * LANES <= head.dim; d += 4 * LANES)
            weighted_sum<F, 4>(head, d, p, end, scale, out);
        for (; d < head.dim; d += LANES) weighted_sum<F, 1>(head, d, p, end, scale, out);
    }
}

// c [QUERY_BLOCK, N * LANES] += a [QUERY_BLOCK, depth] · b [depth, N * LANES]
template <int N>
INLINE void multiply_add(const float* a, int64_t across, const float* b, int64_t down,
                         int64_t depth, float* c, int64_t width) {
    Floats acc[QUERY_BLOCK][N];
#pragma GCC unroll 6
    for (int i = 0; i < QUERY_BLOCK; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) acc[i][j] = read<Floats>(c + i * width + j * LANES);
    for (int64_t k = 0; k < depth; k++)
#pragma GCC unroll 6
        for (int i = 0; i < QUERY_BLOCK; i++)
#pragma GCC unroll 4
            for (int j = 0; j < N; j++)
                acc[i][j] += a[i * across + k] * read<Floats>(b + k * down + j * LANES);
#pragma GCC unroll 6
    for (int i = 0; i < QUERY_BLOCK; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) write(c + i * width + j * LANES, acc[i][j]);
}

struct Softmax {  // of one query, over the keys so far: the largest score, and the sum of weights
    float most, total;
};

// One step of an online softmax: turns the scores p [QUERY_BLOCK, KEY_BLOCK] into weights, and
// rescales the sums that `out` has so far to the new largest score.
template <class F>
void update_softmax(const Head<F>& head, int64_t query, int64_t key, float* p, Softmax* so_far,
                    float* out, int64_t padded_dim) {
    for (int i = 0; i < QUERY_BLOCK; i++, p += KEY_BLOCK, out += padded_dim) {
        Floats score[KEY_BLOCK / LANES], total = {}, top = -INFINITY + Floats{};
        const int64_t whose = std::min(query + i, head.length - 1);  // the last block may be short
        for (int c = 0; c < KEY_BLOCK / LANES; c++) {
            score[c] = head.mask(whose, key + c * LANES, read<Floats>(p + c * LANES));
            top = larger(top, score[c]);
        }
        const float most = std::max(so_far[i].most, largest(top));
        const float base = most == -INFINITY ? 0 : most;
        const float kept = std::exp(so_far[i].most - base);
        for (int c = 0; c < KEY_BLOCK / LANES; c++) {
            score[c] = exponential(score[c] - base);
            total += score[c];
            write(p + c * LANES, score[c]);
        }
        so_far[i] = {most, so_far[i].total * kept + sum(total)};
        for (int64_t d = 0; kept != 1 && d < padded_dim; d += LANES)
            write(out + d, read<Floats>(out + d) * kept);
    }
}

// Copies n keys and values from slot t on: keys [padded_dim, KEY_BLOCK] transposed, values
// [KEY_BLOCK, padded_dim], both float32 with zeros past the n.
template <class F>
void copy_key_block(const Head<F>& head, int64_t t, int64_t n, int64_t padded_dim, float* keys,
                    float* values) {
    for (int64_t c = 0; c < KEY_BLOCK; c++)
        for (int64_t d = 0; d < padded_dim; d += LANES) {
            const int64_t at = (t + c) * head.dim + d;
            const Floats key = c < n ? load<F>(head.k + at, head.dim - d) : Floats{};
            for (int j = 0; j < LANES; j++) keys[(d + j) * KEY_BLOCK + c] = key[j];
            write(values + c * padded_dim + d,
                  c < n ? load<F>(head.v + at, head.dim - d) : Floats{});
        }
}

// Many queries: all that see a block of keys use it while it is in the cache.
template <class F>
void attend_blocked(const Head<F>& head, const float* q, float* out, int64_t padded_dim,
                    float* scratch) {
    const int64_t rows = round_up_to_query_block(head.length);
    const int64_t end = head.start + head.length;
    float* p = scratch;
    float* keys = p + QUERY_BLOCK * KEY_BLOCK;
    float* values = keys + padded_dim * KEY_BLOCK;
    auto* so_far = reinterpret_cast<Softmax*>(values + KEY_BLOCK * padded_dim);
    std::fill_n(so_far, rows, Softmax{-INFINITY, 0});
    std::fill_n(out, rows * padded_dim, 0.0f);
    for (int64_t t = 0; t < end; t += KEY_BLOCK) {
        copy_key_block(head, t, std::min<int64_t>(KEY_BLOCK, end - t), padded_dim, keys, values);
        for (int64_t i = std::max<int64_t>(0, t - head.start) / QUERY_BLOCK * QUERY_BLOCK; i < rows;
             i += QUERY_BLOCK) {
            std::fill_n(p, QUERY_BLOCK * KEY_BLOCK, 0.0f);
            for (int c = 0; c < KEY_BLOCK; c += TILE_VECTORS * LANES)
                multiply_add<TILE_VECTORS>(q + i * padded_dim, padded_dim, keys + c, KEY_BLOCK,
                                           head.dim, p + c, KEY_BLOCK);
            update_softmax(head, i, t, p, so_far + i, out + i * padded_dim, padded_dim);
            int64_t d = 0;
            for (; d + TILE_VECTORS * LANES <= padded_dim; d += TILE_VECTORS * LANES)
                multiply_add<TILE_VECTORS>(p, KEY_BLOCK, values + d, padded_dim, KEY_BLOCK,
                                           out + i * padded_dim + d, padded_dim);
            for (; d < padded_dim; d += LANES)
                multiply_add<1>(p, KEY_BLOCK, values + d, padded_dim, KEY_BLOCK,
                                out + i * padded_dim + d, padded_dim);
        }
    }
    for (int64_t i = 0; i < head.length; i++)
        for (int64_t d = 0; d < padded_dim; d += LANES)
            write(out + i * padded_dim + d,
                  read<Floats>(out + i * padded_dim + d) / so_far[i].total);
}

// out [length, padded_dim] = attention of the queries q [round_up_to_query_block(length),
// padded_dim], which are zero past dim.
template <class F>
void attend(const Head<F>& head, const float* q, float* out, int64_t padded_dim, float* scratch) {
    head.length < MIN_BLOCKED_QUERIES ? attend_by_query(head, q, out, padded_dim, scratch)
                                      : attend_blocked(head, q, out, padded_dim, scratch);
}

}  // namespace
