// Softmax attention of one head over its cache, in float32 whatever the cache's format.

#pragma once

#include <algorithm>

#include "simd.h"

namespace {

constexpr int64_t SEVERAL = 8;  // queries from which keys are met in blocks
constexpr int KEYS = 64;     // of a block
constexpr int QUERIES = 6;   // that meet it at a time, in registers
constexpr int ACROSS = REGISTERS / 8;  // vectors of keys, or of values, that they meet
constexpr int AHEAD = 32;    // keys that are asked for before they are met

int64_t sixes(int64_t n) { return (n + QUERIES - 1) / QUERIES * QUERIES; }

// One head of one row of the batch. Its `length` queries are at slots from `start` on.
template <class F>
struct Head {
    const typename F::Type *k, *v;  // [capacity, dim]
    const uint8_t* real;            // [capacity]
    int64_t dim, start, length;

    bool sees(int64_t query, int64_t key) const {  // padding sees itself, so that no softmax is empty
        return key == start + query || (key < start + query && real[key]);
    }

    // Scores of the keys that the query does not see become -infinity.
    INLINE Floats mask(int64_t query, int64_t key, Floats score) const {
        if (key + LANES <= start + query) return widen(read<Bytes>(real + key)) != 0 ? score : -INFINITY + Floats{};
        for (int c = 0; c < LANES; c++)
            if (!sees(query, key + c)) score[c] = -INFINITY;
        return score;
    }
};

// Floats of scratch memory that `attend` needs for so many queries over so many keys.
int64_t attention_scratch(int64_t length, int64_t end, int64_t wide) {
    return std::max(whole(end), KEYS * (2 * wide + QUERIES) + 2 * sixes(length));
}

// out[d ... d + 16 N) = scale * the sum of the values, weighted with p
template <class F, int N>
INLINE void weigh(const Head<F>& head, int64_t d, const float* p, int64_t end, float scale, float* out) {
    Floats acc[N] = {};
    for (int64_t t = 0; t < end; t++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[j] += p[t] * load<F>(head.v + t * head.dim + d + j * LANES, N > 1 ? LANES : head.dim - d);
    for (int j = 0; j < N; j++) write(out + d + j * LANES, acc[j] * scale);
}

// A few queries, one after the other over all keys.
template <class F>
void attend_few(const Head<F>& head, const float* q, float* out, int64_t wide, float* p) {
    for (int64_t i = 0; i < head.length; i++, q += wide, out += wide) {
        const int64_t end = head.start + i + 1;
        Floats top = -INFINITY + Floats{}, total = {};
        for (int64_t t = 0; t < end; t += LANES) {
            Floats dots[LANES] = {};
            for (int64_t d = 0; d < head.dim; d += LANES)
#pragma GCC unroll 16
                for (int c = 0; c < LANES; c++) {
                    const int64_t at = std::min(t + c, end - 1) * head.dim + d;
                    soon(head.k + at + AHEAD * head.dim), soon(head.v + at);  // the values will be met after the keys
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
        for (; d + 4 * LANES <= head.dim; d += 4 * LANES) weigh<F, 4>(head, d, p, end, scale, out);
        for (; d < head.dim; d += LANES) weigh<F, 1>(head, d, p, end, scale, out);
    }
}

// c [QUERIES, 16 N] += a [QUERIES, depth] · b [depth, 16 N]
template <int N>
INLINE void outer(const float* a, int64_t across, const float* b, int64_t down, int64_t depth, float* c,
                  int64_t width) {
    Floats acc[QUERIES][N];
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) acc[i][j] = read<Floats>(c + i * width + j * LANES);
    for (int64_t k = 0; k < depth; k++)
#pragma GCC unroll 6
        for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) acc[i][j] += a[i * across + k] * read<Floats>(b + k * down + j * LANES);
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) write(c + i * width + j * LANES, acc[i][j]);
}

struct Softmax {  // of one query so far
    float most, total;
};

// Six queries meet KEYS keys: p holds their scores, and then their weights; what `out` has so far is scaled to match.
template <class F>
void soften(const Head<F>& head, int64_t query, int64_t key, float* p, Softmax* so_far, float* out, int64_t wide) {
    for (int i = 0; i < QUERIES; i++, p += KEYS, out += wide) {
        Floats score[KEYS / LANES], total = {}, top = -INFINITY + Floats{};
        const int64_t whose = std::min(query + i, head.length - 1);  // the last six may be fewer
        for (int c = 0; c < KEYS / LANES; c++) {
            score[c] = head.mask(whose, key + c * LANES, read<Floats>(p + c * LANES));
            top = larger(top, score[c]);
        }
        const float most = std::max(so_far[i].most, largest(top));
        const float base = most == -INFINITY ? 0 : most, kept = std::exp(so_far[i].most - base);
        for (int c = 0; c < KEYS / LANES; c++) {
            score[c] = exponential(score[c] - base);
            total += score[c];
            write(p + c * LANES, score[c]);
        }
        so_far[i] = {most, so_far[i].total * kept + sum(total)};
        for (int64_t d = 0; kept != 1 && d < wide; d += LANES) write(out + d, read<Floats>(out + d) * kept);
    }
}

// n keys and values from slot t on, as `outer` takes them: keys [wide, KEYS], values [KEYS, wide]; zeros past the n.
template <class F>
void lay_out(const Head<F>& head, int64_t t, int64_t n, int64_t wide, float* keys, float* values) {
    for (int64_t c = 0; c < KEYS; c++)
        for (int64_t d = 0; d < wide; d += LANES) {
            const int64_t at = (t + c) * head.dim + d;
            const Floats key = c < n ? load<F>(head.k + at, head.dim - d) : Floats{};
            for (int j = 0; j < LANES; j++) keys[(d + j) * KEYS + c] = key[j];
            write(values + c * wide + d, c < n ? load<F>(head.v + at, head.dim - d) : Floats{});
        }
}

// Many queries: all that see a block of keys meet it while it is in the caches.
template <class F>
void attend_many(const Head<F>& head, const float* q, float* out, int64_t wide, float* scratch) {
    const int64_t rows = sixes(head.length), end = head.start + head.length;
    float *p = scratch, *keys = p + QUERIES * KEYS, *values = keys + wide * KEYS;
    auto* so_far = reinterpret_cast<Softmax*>(values + KEYS * wide);
    std::fill_n(so_far, rows, Softmax{-INFINITY, 0});
    std::fill_n(out, rows * wide, 0.0f);
    for (int64_t t = 0; t < end; t += KEYS) {
        lay_out(head, t, std::min<int64_t>(KEYS, end - t), wide, keys, values);
        for (int64_t i = std::max<int64_t>(0, t - head.start) / QUERIES * QUERIES; i < rows; i += QUERIES) {
            std::fill_n(p, QUERIES * KEYS, 0.0f);
            for (int c = 0; c < KEYS; c += ACROSS * LANES)
                outer<ACROSS>(q + i * wide, wide, keys + c, KEYS, head.dim, p + c, KEYS);
            soften(head, i, t, p, so_far + i, out + i * wide, wide);
            int64_t d = 0;
            for (; d + ACROSS * LANES <= wide; d += ACROSS * LANES)
                outer<ACROSS>(p, KEYS, values + d, wide, KEYS, out + i * wide + d, wide);
            for (; d < wide; d += LANES) outer<1>(p, KEYS, values + d, wide, KEYS, out + i * wide + d, wide);
        }
    }
    for (int64_t i = 0; i < head.length; i++)
        for (int64_t d = 0; d < wide; d += LANES)
            write(out + i * wide + d, read<Floats>(out + i * wide + d) / so_far[i].total);
}

// out [length, wide] = what the queries q [sixes(length), wide] see; wide is dim in whole vectors, zeros past dim.
template <class F>
void attend(const Head<F>& head, const float* q, float* out, int64_t wide, float* scratch) {
    head.length < SEVERAL ? attend_few(head, q, out, wide, scratch) : attend_many(head, q, out, wide, scratch);
}

}  // namespace
