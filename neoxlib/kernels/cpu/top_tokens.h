// The largest of a row's logits, and what turns a logit into a log-probability.

#pragma once

#include <algorithm>

#include "simd.h"

namespace {

// values and ids [count]: the largest of n values, best first, and the first of equals before the others. Returns the
// log of the sum of e^value: not a number, or infinite, where one of them is none, or is infinite.
float likeliest(const float* x, int64_t n, int64_t count, float* values, int64_t* ids) {
    constexpr int64_t RUN = 4 * LANES;
    std::fill_n(values, count, -INFINITY), std::fill_n(ids, count, 0);
    const auto insert = [&](float value, int64_t id) {
        int64_t at = count - 1;
        for (; at > 0 && value > values[at - 1]; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
        values[at] = value, ids[at] = id;
    };
    const auto look_at = [&](int64_t i, int64_t end) {
        for (; i < end; i++)
            if (x[i] > values[count - 1]) insert(x[i], i);
    };
    int64_t i = 0;
    for (; i + RUN <= n; i += RUN) {
        const Floats a = larger(read<Floats>(x + i), read<Floats>(x + i + LANES));
        const Floats b = larger(read<Floats>(x + i + 2 * LANES), read<Floats>(x + i + 3 * LANES));
        if (largest(larger(a, b)) > values[count - 1]) look_at(i, i + RUN);
    }
    look_at(i, n);
    Floats total = {};
    for (i = 0; i + LANES <= n; i += LANES) total += exponential(read<Floats>(x + i) - values[0]);
    float rest = 0;
    for (; i < n; i++) rest += std::exp(x[i] - values[0]);
    return values[0] + std::log(sum(total) + rest);
}

}  // namespace
