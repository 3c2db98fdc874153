// GPT-NeoX on a CPU: what lies between the embedding and the logits, in one call for all layers.
//
// Threads share out the outputs of a product, and the heads of the attention; no sum depends on how many there are.
// What passes between the products (norms, rotary, softmax, activation, residual) is float32.

#include "attention.h"
#include "products.h"
#include "team.h"

// What fast.py hands over: the same fields in the same order.

struct Norm {
    const float *weight, *bias;  // [hidden]
};

struct Layer {
    Norm before_attention, before_mlp;
    Matrix query_key_value, dense, dense_h_to_4h, dense_4h_to_h;
};

struct Model {
    const Layer* layers;
    Norm last;
    Matrix head;
    int64_t depth, hidden, heads, head_dim, rotary;  // heads: this rank's
    int64_t half_from;  // from so many rows on, activations enter products as bfloat16 where the CPU can multiply it
    float eps;
    Activation activation;
    int32_t parallel;  // both branches of a layer read the same x, and their terms make one sum
};

struct Step {
    float *x, *term;           // [batch, length, hidden]: the residual stream, and what this rank adds to it next
    void *k, *v;               // [depth, batch, heads, capacity, head_dim]
    const uint8_t* real;       // [batch, capacity], 0 on padding
    const float *cos, *sin;    // [capacity, rotary]
    int64_t batch, length, start, capacity;  // the new tokens are at slots [start, start + length)
    Format cache;
};

struct Runner {
    Team team;
    std::vector<Desk> desks;
    Buffer first, second, heads, seen, inner;
    std::vector<int64_t> positions;  // [batch, length]
    std::mutex turn;                 // one call at a time

    explicit Runner(int threads) : team(threads), desks(threads) {}
};

namespace {

void store(float* to, const float* from, int64_t n) { memcpy(to, from, n * sizeof *to); }
void store(uint16_t* to, const float* from, int64_t n) { store<BFloat16>(to, from, n); }

// to = norm(x) over n values
template <class X>
void normalize(const Norm& norm, float eps, const float* x, int64_t n, X* to) {
    const auto each = [&](auto use) {
        for (int64_t i = 0; i < n; i += LANES) use(i, load<Float32>(x + i, n - i));
    };
    Floats total = {}, squares = {};
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
        write(y, (v - mean) * scale * load<Float32>(norm.weight + i, n - i) + load<Float32>(norm.bias + i, n - i));
        store(to + i, y, std::min<int64_t>(LANES, n - i));
    });
}

// The first half of a head's leading values against their second half.
void rotate(float* head, const float* cos, const float* sin, int64_t rotary) {
    const int64_t half = rotary / 2;
    for (int64_t d = 0; d < half; d++) {
        const float a = head[d], b = head[d + half];
        head[d] = a * cos[d] - b * sin[d];
        head[d + half] = b * cos[d] + a * sin[d];
    }
}

// One thread's part of a call. X is the form in which activations enter products: float, or the bits of a bfloat16.
template <class X>
struct Pass {
    Runner& runner;
    const Model& model;
    const Step& step;
    const int thread;
    Desk& desk = runner.desks[thread];
    const int64_t rows = step.batch * step.length, width = model.heads * model.head_dim;
    X *first = runner.first.get<X>(), *second = runner.second.get<X>();  // normed x [rows, pitch(hidden)]
    float* heads = runner.heads.get<float>();                            // [rows, heads, 3, head_dim]
    X* seen = runner.seen.get<X>();                                      // [rows, pitch(width)]
    X* inner = runner.inner.get<X>();                                    // [rows, pitch(intermediate)]

    // A stage ends with this rank's term of the next sum. A layer has one, or two without the parallel residual.
    void stage(int64_t number) {
        const int64_t layer = model.parallel ? number : number / 2;
        const bool attention = model.parallel || number % 2 == 0, mlp = model.parallel || number % 2 == 1;
        settle(number, layer, attention, mlp);
        runner.team.meet();
        if (layer == model.depth) return;
        const Layer& weights = model.layers[layer];
        if (attention) query(weights.query_key_value);
        if (mlp) widen(weights.dense_h_to_4h);
        runner.team.meet();
        if (attention) attend(layer);
        if (attention) runner.team.meet();
        if (attention) add(weights.dense, seen, true);
        if (mlp) add(weights.dense_4h_to_h, inner, !attention);
        runner.team.meet();
    }

    // Adds the sum that the stage before made, and its biases once, to x; norms x for this one.
    void settle(int64_t number, int64_t layer, bool attention, bool mlp) {
        const int64_t hidden = model.hidden;
        const Range mine = part(rows);
        for (int64_t row = mine.first; row < mine.last; row++) {
            float* x = step.x + row * hidden;
            const auto add = [&](const float* more) {
                for (int64_t c = 0; c < hidden; c++) x[c] += more[c];
            };
            if (number > 0) {
                const Layer& last = model.layers[model.parallel ? number - 1 : (number - 1) / 2];
                add(step.term + row * hidden);
                if (model.parallel || mlp) add(last.dense.bias);
                if (model.parallel || attention) add(last.dense_4h_to_h.bias);
            }
            if (layer == model.depth) continue;
            const Layer& next = model.layers[layer];
            if (attention) normalize(next.before_attention, model.eps, x, hidden, first + row * pitch(hidden));
            if (mlp) normalize(next.before_mlp, model.eps, x, hidden, second + row * pitch(hidden));
        }
    }

    Range part(int64_t n, int64_t unit = 1) const { return share(n, thread, runner.team.size, unit); }

    void query(const Matrix& w) {
        product(w, part(w.out, LANES), first, rows, desk, [&](int64_t row, int64_t r, int64_t n, float* y) {
            memcpy(heads + row * 3 * width + r, y, n * sizeof *y);
        });
    }

    void widen(const Matrix& w) {
        product(w, part(w.out, LANES), second, rows, desk, [&](int64_t row, int64_t r, int64_t n, float* y) {
            for (int64_t j = 0; j < n; j += LANES) write(y + j, activate(read<Floats>(y + j), model.activation));
            store(inner + row * pitch(w.out) + r, y, n);
        });
    }

    // The bias waits for `settle`: it belongs to the sum over the ranks.
    void add(Matrix w, const X* x, bool anew) {
        w.bias = nullptr;
        product(w, part(w.out, LANES), x, rows, desk, [&](int64_t row, int64_t r, int64_t n, float* y) {
            float* term = step.term + row * model.hidden + r;
            for (int64_t j = 0; j < n; j++) term[j] = y[j] + (anew ? 0 : term[j]);
        });
    }

    void attend(int64_t layer) {
        const Range mine = part(step.batch * model.heads);
        for (int64_t i = mine.first; i < mine.last; i++) {
            if (step.cache == FLOAT32) attend<Float32>(layer, i / model.heads, i % model.heads);
            if (step.cache == FLOAT16) attend<Float16>(layer, i / model.heads, i % model.heads);
            if (step.cache == BFLOAT16) attend<BFloat16>(layer, i / model.heads, i % model.heads);
        }
    }

    // One head of one row of the batch: its new keys and values into the cache, then what its queries see there.
    template <class F>
    void attend(int64_t layer, int64_t b, int64_t h) {
        const int64_t dim = model.head_dim, wide = whole(dim), queries = sixes(step.length);
        const int64_t at = ((layer * step.batch + b) * model.heads + h) * step.capacity * dim;
        auto *k = static_cast<typename F::Type*>(step.k) + at, *v = static_cast<typename F::Type*>(step.v) + at;
        float *q = desk.scratch.get<float>(), *out = q + queries * wide, *scratch = out + queries * wide;
        std::fill_n(q, queries * wide, 0.0f);
        for (int64_t i = 0; i < step.length; i++) {
            const int64_t row = b * step.length + i, angle = runner.positions[row] * model.rotary;
            float *query = heads + (row * model.heads + h) * 3 * dim, *key = query + dim, *value = key + dim;
            rotate(query, step.cos + angle, step.sin + angle, model.rotary);
            rotate(key, step.cos + angle, step.sin + angle, model.rotary);
            for (int64_t d = 0; d < dim; d++) q[i * wide + d] = query[d] / std::sqrt(float(dim));
            ::store<F>(k + (step.start + i) * dim, key, dim);
            ::store<F>(v + (step.start + i) * dim, value, dim);
        }
        ::attend(Head<F>{k, v, step.real + b * step.capacity, dim, step.start, step.length}, q, out, wide, scratch);
        for (int64_t i = 0; i < step.length; i++)
            store(seen + (b * step.length + i) * pitch(width) + h * dim, out + i * wide, dim);
    }
};

// A token's position is the number of real tokens before it.
void place(Runner& runner, const Step& step) {
    runner.positions.resize(step.batch * step.length);
    for (int64_t b = 0; b < step.batch; b++) {
        const uint8_t* real = step.real + b * step.capacity;
        int64_t count = 0;
        for (int64_t t = 0; t < step.start; t++) count += real[t];
        for (int64_t i = 0; i < step.length; i++) {
            count += real[step.start + i];
            runner.positions[b * step.length + i] = std::max<int64_t>(count - 1, 0);
        }
    }
}

template <class X>
void make_room(Runner& runner, const Model& model, const Step& step) {
    const int64_t rows = step.batch * step.length, width = model.heads * model.head_dim, wide = whole(model.head_dim);
    const int64_t inner = model.layers->dense_h_to_4h.out;
    runner.first.hold<X>(rows * pitch(model.hidden)), runner.second.hold<X>(rows * pitch(model.hidden));
    runner.heads.hold<float>(rows * 3 * width);
    runner.seen.hold<X>(rows * pitch(width)), runner.inner.hold<X>(rows * pitch(inner));
    const int64_t scratch = attention_scratch(step.length, step.start + step.length, wide);
    for (Desk& desk : runner.desks) {
        desk.scratch.hold<float>(2 * sixes(step.length) * wide + scratch);
        hold_split(desk, std::max({model.hidden, width, inner}));
    }
}

template <class X>
void run_stages(Runner& runner, const Model& model, const Step& step, int64_t first, int64_t end) {
    make_room<X>(runner, model, step);
    place(runner, step);
    runner.team.run([&](int thread) {
        Pass<X> pass{runner, model, step, thread};
        for (int64_t number = first; number < end; number++) pass.stage(number);
    });
}

template <class X>
void run_head(Runner& runner, const Model& model, const float* x, int64_t rows, float* logits) {
    X* normed = runner.first.hold<X>(rows * pitch(model.hidden));
    for (Desk& desk : runner.desks) hold_split(desk, model.hidden);
    runner.team.run([&](int thread) {
        const Range mine = share(rows, thread, runner.team.size);
        for (int64_t row = mine.first; row < mine.last; row++)
            normalize(model.last, model.eps, x + row * model.hidden, model.hidden, normed + row * pitch(model.hidden));
        runner.team.meet();
        const Range outputs = share(model.head.out, thread, runner.team.size, LANES);
        const auto put = [&](int64_t row, int64_t r, int64_t n, float* y) {
            memcpy(logits + row * model.head.out + r, y, n * sizeof *y);
        };
        product(model.head, outputs, normed, rows, runner.desks[thread], put);
    });
}

// Calls work(X) for the form in which so many rows enter a product with w. 0, or 1 when memory ran out.
template <class Work>
int in_turn(Runner& runner, const Model& model, const Matrix& w, int64_t rows, Work work) try {
    const std::lock_guard lock(runner.turn);
    const bool exact = w.format == FLOAT32 || w.format == FLOAT16;
    if constexpr (HALF)
        if (rows >= model.half_from && !exact) return work(uint16_t{}), 0;
    return work(float{}), 0;
} catch (const std::bad_alloc&) {
    return 1;
}

}  // namespace

extern "C" {

Runner* runner_start(int threads) { return new Runner(threads); }

void runner_stop(Runner* runner) { delete runner; }

// Stages [first, end); the one past the model's last only adds the last sum.
int runner_stages(Runner* runner, const Model* model, const Step* step, int64_t first, int64_t end) {
    return in_turn(*runner, *model, model->layers->dense, step->batch * step->length, [&](auto x) {
        run_stages<decltype(x)>(*runner, *model, *step, first, end);
    });
}

// logits [rows, vocabulary here] of x [rows, hidden], the last norm included
int runner_head(Runner* runner, const Model* model, const float* x, int64_t rows, float* logits) {
    return in_turn(*runner, *model, model->head, rows, [&](auto form) {
        run_head<decltype(form)>(*runner, *model, x, rows, logits);
    });
}

}  // extern "C"
