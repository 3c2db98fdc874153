// Operations on one row: embedding, layer norm, activation, and rotary embedding of a head.

#pragma once

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

}  // namespace
