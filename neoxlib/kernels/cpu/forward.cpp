// GPT-NeoX on a CPU: what lies between the embedding and the logits, in one call for all layers.
//
// Threads share out the outputs of a product, and the heads of the attention; no sum depends on how many there are.
// What passes between the products (norms, rotary, softmax, activation, residual) is float32.

#include "attention.h"
#include "top_tokens.h"
#include "matmul.h"
#include "rowwise.h"
#include "thread_pool.h"

// What fast.py hands over: the same fields in the same order.

struct Layer {
    Norm before_attention, before_mlp;
    Matrix query_key_value, dense, dense_h_to_4h, dense_4h_to_h;
};

struct Model {
    const Layer* layers;
    Matrix embedding;  // this rank's rows of it, widened where `ids` are given
    Norm last;
    Matrix head;
    int64_t depth, hidden, heads, head_dim, rotary;  // heads: this rank's
    int64_t coarse_from;  // from so many rows on, activations may be rounded when they enter a product (with_way)
    float eps;
    Activation activation;
    int32_t parallel;  // both branches of a layer read the same x, and their terms make one sum
    int32_t wide;      // float32, though matrices that hold the same numbers in 16 bits may still stand in for its own
};

struct Step {
    const int64_t* ids;        // [batch, length]; null where x holds the embedded tokens already
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
    Buffer first, second, heads, seen, inner, entered[2];
    std::vector<int64_t> positions;  // [batch, length]
    std::mutex turn;                 // one call at a time

    explicit Runner(int threads) : team(threads), desks(threads) {}
};

namespace {

Crowd crowd_of(const Model& model, int64_t rows) { return {rows, model.coarse_from, model.wide != 0}; }

// One thread's part of a call.
struct Pass {
    Runner& runner;
    const Model& model;
    const Step& step;
    const int thread;
    Desk& desk = runner.desks[thread];
    const int64_t rows = step.batch * step.length, width = model.heads * model.head_dim;
    const Crowd crowd = crowd_of(model, rows);
    float *first = runner.first.get<float>(), *second = runner.second.get<float>();  // normed x [rows, pitch(hidden)]
    float* heads = runner.heads.get<float>();                                        // [rows, heads, 3, head_dim]
    float* seen = runner.seen.get<float>();                                          // [rows, pitch(width)]
    float* inner = runner.inner.get<float>();                                        // [rows, pitch(intermediate)]

    // A stage ends with this rank's term of the next sum. A layer has one, or two without the parallel residual.
    void stage(int64_t number) {
        const int64_t layer = model.parallel ? number : number / 2;
        const bool attention = model.parallel || number % 2 == 0, mlp = model.parallel || number % 2 == 1;
        settle(number, layer, attention, mlp);
        runner.team.meet();
        if (layer == model.depth) return;
        const Layer& weights = model.layers[layer];
        spread(attention ? &weights.query_key_value : nullptr, mlp ? &weights.dense_h_to_4h : nullptr);
        runner.team.meet();
        if (attention) attend(layer);
        if (attention) runner.team.meet();
        gather(attention ? &weights.dense : nullptr, mlp ? &weights.dense_4h_to_h : nullptr);
        runner.team.meet();
    }

    // Adds the sum that the stage before made, and its biases once, to x (the first one embeds); norms x for this one.
    void settle(int64_t number, int64_t layer, bool attention, bool mlp) {
        const int64_t hidden = model.hidden;
        const Range mine = part(rows);
        for (int64_t row = mine.first; row < mine.last; row++) {
            float* x = step.x + row * hidden;
            if (number == 0 && step.ids) embed(model.embedding, step.ids[row], x);
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
            const auto norm = [&](const Norm& norm, float* to, const Matrix& w, Buffer& entered) {
                normalize(norm, model.eps, x, hidden, to + row * pitch(hidden));
                enter_row(w, crowd, to + row * pitch(hidden), row, entered);
            };
            if (attention) norm(next.before_attention, first, next.query_key_value, runner.entered[0]);
            if (mlp) norm(next.before_mlp, second, next.dense_h_to_4h, runner.entered[1]);
        }
    }

    static void embed(const Matrix& table, int64_t id, float* x) {
        if (table.format == FLOAT32) widen_row<Float32>(table, id, x);
        if (table.format == FLOAT16) widen_row<Float16>(table, id, x);
        if (table.format == BFLOAT16) widen_row<BFloat16>(table, id, x);
    }

    Range part(int64_t n) const { return share(n, thread, runner.team.size); }

    // Runs of so many outputs that the threads can share n of them out evenly, yet long where memory is read in order.
    int64_t run_of(int64_t n) const {
        const bool few = rows < MANY;
        const int64_t step = few ? LANES : PANEL, run = n / ((few ? 4 : 8) * runner.team.size) / step * step;
        return std::clamp<int64_t>(run, step, few ? LONG : BROAD);
    }

    Input enter(const Matrix& w, const float* x, int which) {
        return input(w, crowd, x, runner.entered[which], desk.entered[which]);
    }

    // The matrices that widen: to queries, keys and values, and to the MLP's inside.
    void spread(const Matrix* qkv, const Matrix* wider) {
        const Matrix none = {}, &a = qkv ? *qkv : none, &b = wider ? *wider : none;
        const Input x = qkv ? enter(a, first, 0) : Input{}, z = wider ? enter(b, second, 1) : Input{};
        const int64_t run = run_of(a.out + b.out), runs = (a.out + run - 1) / run, all = runs + (b.out + run - 1) / run;
        for (int64_t i; (i = runner.team.next()) < all;)
            if (i < runs) to_heads(a, x, {i * run, std::min((i + 1) * run, a.out)});
            else to_inner(b, z, {(i - runs) * run, std::min((i - runs + 1) * run, b.out)});
    }

    void to_heads(const Matrix& w, const Input& x, Range range) {
        product(w, crowd, x, range, desk, [&](int64_t row, int64_t r, int64_t n, float* y) {
            memcpy(heads + row * 3 * width + r, y, n * sizeof *y);
        });
    }

    void to_inner(const Matrix& w, const Input& x, Range range) {
        product(w, crowd, x, range, desk, [&](int64_t row, int64_t r, int64_t n, float* y) {
            for (int64_t j = 0; j < n; j += LANES) write(y + j, activate(read<Floats>(y + j), model.activation));
            memcpy(inner + row * pitch(w.out) + r, y, n * sizeof *y);
        });
    }

    // Those that come back to the residual stream.
    void gather(const Matrix* dense, const Matrix* narrower) {
        const bool first = enter_rows(dense, seen, 0), second = enter_rows(narrower, inner, 1);
        if (first || second) runner.team.meet();
        const Input x = dense ? enter(*dense, seen, 0) : Input{}, z = narrower ? enter(*narrower, inner, 1) : Input{};
        const int64_t run = run_of(model.hidden), all = (model.hidden + run - 1) / run;
        for (int64_t i; (i = runner.team.next()) < all;) {
            const Range range = {i * run, std::min((i + 1) * run, model.hidden)};
            if (dense) to_term(*dense, x, range, true);
            if (narrower) to_term(*narrower, z, range, !dense);
        }
    }

    // The bias waits for `settle`: it belongs to the sum over the ranks.
    void to_term(Matrix w, const Input& x, Range range, bool anew) {
        w.bias = nullptr;
        product(w, crowd, x, range, desk, [&](int64_t row, int64_t r, int64_t n, float* y) {
            float* term = step.term + row * model.hidden + r;
            for (int64_t j = 0; j < n; j++) term[j] = y[j] + (anew ? 0 : term[j]);
        });
    }

    // This thread's part of the rows that enter once for all; whether there are any.
    bool enter_rows(const Matrix* w, const float* x, int which) {
        if (!w || !shared(*w, crowd)) return false;
        const Range mine = part(rows);
        for (int64_t row = mine.first; row < mine.last; row++)
            enter_row(*w, crowd, x + row * pitch(w->in), row, runner.entered[which]);
        return true;
    }

    void attend(int64_t layer) {
        for (int64_t i; (i = runner.team.next()) < step.batch * model.heads;) {
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
            memcpy(seen + (b * step.length + i) * pitch(width) + h * dim, out + i * wide, dim * sizeof *out);
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

void make_room(Runner& runner, const Model& model, const Step& step) {
    const int64_t rows = step.batch * step.length, width = model.heads * model.head_dim, wide = whole(model.head_dim);
    const Crowd crowd = crowd_of(model, rows);
    const Layer& layer = *model.layers;
    runner.first.hold<float>(rows * pitch(model.hidden)), runner.second.hold<float>(rows * pitch(model.hidden));
    runner.heads.hold<float>(rows * 3 * width);
    runner.seen.hold<float>(rows * pitch(width)), runner.inner.hold<float>(rows * pitch(layer.dense_h_to_4h.out));
    hold_input(layer.query_key_value, crowd, runner.entered[0]);
    hold_input(layer.dense, crowd, runner.entered[0]);
    hold_input(layer.dense_h_to_4h, crowd, runner.entered[1]);
    hold_input(layer.dense_4h_to_h, crowd, runner.entered[1]);
    const int64_t scratch = attention_scratch(step.length, step.start + step.length, wide);
    for (Desk& desk : runner.desks) desk.scratch.hold<float>(2 * sixes(step.length) * wide + scratch);
}

void run_stages(Runner& runner, const Model& model, const Step& step, int64_t first, int64_t end) {
    make_room(runner, model, step);
    place(runner, step);
    runner.team.run([&](int thread) {
        Pass pass{runner, model, step, thread};
        for (int64_t number = first; number < end; number++) pass.stage(number);
    });
}

void run_head(Runner& runner, const Model& model, const float* x, int64_t rows, float* logits) {
    const int64_t hidden = model.hidden, out = model.head.out;
    const Crowd crowd = crowd_of(model, rows);
    float* normed = runner.first.hold<float>(rows * pitch(hidden));
    hold_input(model.head, crowd, runner.entered[0]);
    runner.team.run([&](int thread) {
        Pass pass{runner, model, Step{}, thread};
        const Range mine = pass.part(rows);
        for (int64_t row = mine.first; row < mine.last; row++) {
            normalize(model.last, model.eps, x + row * hidden, hidden, normed + row * pitch(hidden));
            enter_row(model.head, crowd, normed + row * pitch(hidden), row, runner.entered[0]);
        }
        runner.team.meet();
        Desk& desk = runner.desks[thread];
        const auto put = [&](int64_t row, int64_t r, int64_t n, float* y) {
            memcpy(logits + row * out + r, y, n * sizeof *y);
        };
        const Input entered = input(model.head, crowd, normed, runner.entered[0], desk.entered[0]);
        const int64_t run = slab_of(rows);
        for (int64_t i; (i = runner.team.next()) * run < out;)
            product(model.head, crowd, entered, {i * run, std::min((i + 1) * run, out)}, desk, put);
    });
}

bool known(const Model& model, const Step& step) {
    const int64_t count = step.ids ? step.batch * step.length : 0;
    return std::all_of(step.ids, step.ids + count, [&](int64_t id) { return 0 <= id && id < model.embedding.out; });
}

// Calls work(), one caller at a time. 0, or 1 when memory ran out.
template <class Work>
int in_turn(Runner& runner, Work work) try {
    const std::lock_guard lock(runner.turn);
    return work(), 0;
} catch (const std::bad_alloc&) {
    return 1;
}

}  // namespace

extern "C" {

Runner* runner_start(int threads) { return new Runner(threads); }

void runner_stop(Runner* runner) { delete runner; }

// Stages [first, end); the one past the model's last only adds the last sum. 2 where an id has no embedding.
int runner_stages(Runner* runner, const Model* model, const Step* step, int64_t first, int64_t end) {
    if (!known(*model, *step)) return 2;
    return in_turn(*runner, [&] { run_stages(*runner, *model, *step, first, end); });
}

// logits [rows, vocabulary here] of x [rows, hidden], the last norm included
int runner_head(Runner* runner, const Model* model, const float* x, int64_t rows, float* logits) {
    return in_turn(*runner, [&] { run_head(*runner, *model, x, rows, logits); });
}

// Of each row of x, `stride` values apart, the `count` largest of n values, and log of the sum of e^value.
void likeliest_of(const float* x, int64_t rows, int64_t stride, int64_t n, int64_t count, float* values, int64_t* ids,
                  float* totals) {
    for (int64_t r = 0; r < rows; r++)
        totals[r] = likeliest(x + r * stride, n, count, values + r * count, ids + r * count);
}

}  // extern "C"
