// Operations on one row: embedding, layer norm, activation, rotary embedding of a head, and the most
// likely tokens of a row of logits.

#pragma once

#include <algorithm>

#include "dot.h"

namespace {

// to = layer norm of the n values of x
void normalize(const Norm& norm, float eps, const float* x, int64_t n, float* to) {
    const auto each = [&](auto use) {
        for (int64_t i = 0; i < n; i += LANES) use(i, load<Float32>(x + i, n - i));
    };
    Floats total = {};
    Floats squares = {};
    each([&](int64_t, Floats v) { total += v; });
    const float mean = sum(total) / n;
    each([&](int64_t i, Floats v) {
        v -= mean;
        for (int64_t c = n - i; c < LANES; c++) v[c] = 0;
        squares += v * v;
    });
    const float scale = 1 / std::sqrt(sum(squares) / n + eps);
    each([&](int64_t i, Floats v) {
        float y[LANES];
        write(y, (v - mean) * scale * load<Float32>(norm.weight + i, n - i) +
                     load<Float32>(norm.bias + i, n - i));
        memcpy(to + i, y, std::min<int64_t>(LANES, n - i) * sizeof *y);
    });
}

// Row r of a table as float32.
template <class F>
void widen_row(const Matrix& table, int64_t r, float* to) {
    const auto* from = Row<typename F::Type>::of(table, r).values;
    for (int64_t k = 0; k < table.in; k += LANES) {
        float values[LANES];
        write(values, load<F>(from + k, table.in - k));
        memcpy(to + k, values, std::min<int64_t>(LANES, table.in - k) * sizeof *to);
    }
}

INLINE Floats activate(Floats x, Activation form) {
    if (form == RELU) return larger(x, Floats{});
    const Floats distance = absolute(x);
    Floats tail;  // 2 P(normal > |x|), or GPT-2's tanh approximation of it
    if (form == TANH) {
        const Floats e = exponential(-1.5957691216f * distance * (1.0f + 0.044715f * x * x));
        tail = 2.0f * e / (1.0f + e);  // 1 - tanh u = 2 e^-2u / (1 + e^-2u)
    } else {
        const Floats z = distance * 0.7071067812f,
                     t = 1.0f / (1.0f + 0.3275911f * z);  // Abramowitz and Stegun 7.1.26
        Floats y = 1.061405429f * t - 1.453152027f;
        y = y * t + 1.421413741f, y = y * t - 0.284496736f, y = y * t + 0.254829592f;
        tail = y * t * exponential(-z * z);  // 1 - erf z, to 1.5e-7
    }
    return 0.5f * x * (x < 0.0f ? tail : 2.0f - tail);
}

// Rotates the leading `rotary` values of a head: the first half of them against the second half.
void rotate(float* head, const float* cos, const float* sin, int64_t rotary) {
    const int64_t half = rotary / 2;
    for (int64_t d = 0; d < half; d++) {
        const float a = head[d];
        const float b = head[d + half];
        head[d] = a * cos[d] - b * sin[d];
        head[d + half] = b * cos[d] + a * sin[d];
    }
}

// Writes the largest `count` of n values and their ids, best first, ties by lower id. Returns the
// logsumexp of all n; NaN and infinity propagate.
float top_tokens(const float* x, int64_t n, int64_t count, float* values, int64_t* ids) {
    constexpr int64_t SCAN = 4 * LANES;
    std::fill_n(values, count, -INFINITY), std::fill_n(ids, count, 0);
    const auto insert = [&](float value, int64_t id) {
        int64_t at = count - 1;
        for (; at > 0 && value > values[at - 1]; at--)
            values[at] = values[at - 1], ids[at] = ids[at - 1];
        values[at] = value, ids[at] = id;
    };
    const auto scan = [&](int64_t i, int64_t end) {
        for (; i < end; i++)
            if (x[i] > values[count - 1]) insert(x[i], i);
    };
    int64_t i = 0;
    for (; i + SCAN <= n; i += SCAN) {
        const Floats a = larger(read<Floats>(x + i), read<Floats>(x + i + LANES));
        const Floats b = larger(read<Floats>(x + i + 2 * LANES), read<Floats>(x + i + 3 * LANES));
        if (largest(larger(a, b)) > values[count - 1]) scan(i, i + SCAN);
    }
    scan(i, n);
    Floats total = {};
    for (i = 0; i + LANES <= n; i += LANES) total += exponential(read<Floats>(x + i) - values[0]);
    float tail = 0;
    for (; i < n; i++) tail += std::exp(x[i] - values[0]);
    return values[0] + std::log(sum(total) + tail);
}

}  // namespace
