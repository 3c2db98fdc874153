// The most likely tokens of a row of logits, and the row's logsumexp.

#pragma once

#include <algorithm>

#include "simd.h"

namespace {

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
