// GPT-NeoX on a CPU: embedding, layers and head, in one call for all layers or for some stages.
//
// Threads divide the outputs of each product and the heads of the attention. No sum depends on the
// number of threads. Between the products (norms, rotary, softmax, activation, residual) all is
// float32.

#include "attention.h"
#include "top_tokens.h"
#include "matmul.h"
#include "rowwise.h"
#include "thread_pool.h"

// The structures that Python passes: the same fields in the same order as in abi.py.

struct Layer {
    Norm before_attention, before_mlp;
    Matrix query_key_value, dense, dense_h_to_4h, dense_4h_to_h;
};
static_assert(sizeof(Layer) == 224, "as in abi.py");

struct Model {
    const Layer* layers;
    Matrix embedding;  // this rank's rows; used where `ids` are given
    Norm final_norm;
    Matrix head;
    int64_t depth, hidden, heads, head_dim, rotary;  // heads: this rank's
    int64_t round_from;                              // Workload.round_from
    float eps;
    Activation activation;
    int32_t parallel;       // parallel residual: one all-reduce per layer
    int32_t float32_order;  // Workload.float32_order
};
static_assert(sizeof(Model) == 184, "as in abi.py");

struct Step {
    const int64_t* ids;      // [batch, length]; null if x holds the embedded tokens already
    float* x;                // [batch, length, hidden]: the residual stream
    float* partial;          // [batch, length, hidden]: this rank's term of the next all-reduce
    void *k, *v;             // [depth, batch, heads, capacity, head_dim]
    const uint8_t* real;     // [batch, capacity], 0 on padding
    const float *cos, *sin;  // [capacity, rotary]
    int64_t batch, length, start, capacity;  // the new tokens are at slots [start, start + length)
    Format cache;
};
static_assert(sizeof(Step) == 104, "as in abi.py");

struct Runner {
    ThreadPool pool;
    std::vector<Workspace> workspaces;
    Buffer attention_in, mlp_in, qkv, attention_out, mlp_hidden, quantized[2];
    std::vector<int64_t> positions;  // [batch, length]
    std::mutex one_call;             // held by the caller that runs

    explicit Runner(int threads) : pool(threads), workspaces(threads) {}
};

namespace {

Workload workload_of(const Model& model, int64_t rows) {
    return {rows, model.round_from, model.float32_order != 0};
}

// One thread's share of a call.
struct StageRun {
    Runner& runner;
    const Model& model;
    const Step& step;
    const int thread;
    Workspace& workspace = runner.workspaces[thread];
    const int64_t rows = step.batch * step.length;
    const int64_t width = model.heads * model.head_dim;
    const Workload workload = workload_of(model, rows);
    float *attention_in = runner.attention_in.get<float>(),
          *mlp_in = runner.mlp_in.get<float>();                // [rows, row_stride(hidden)]
    float* qkv = runner.qkv.get<float>();                      // [rows, heads, 3, head_dim]
    float* attention_out = runner.attention_out.get<float>();  // [rows, row_stride(width)]
    float* mlp_hidden = runner.mlp_hidden.get<float>();        // [rows, row_stride(intermediate)]

    // Runs one stage; it ends with this rank's `partial` for the next all-reduce. A layer has one
    // stage with the parallel residual, else two.
    void stage(int64_t number) {
        const int64_t layer = model.parallel ? number : number / 2;
        const bool attention = model.parallel || number % 2 == 0;
        const bool mlp = model.parallel || number % 2 == 1;
        add_residual_and_norm(number, layer, attention, mlp);
        runner.pool.barrier();
        if (layer == model.depth) return;
        const Layer& weights = model.layers[layer];
        qkv_and_up(attention ? &weights.query_key_value : nullptr,
                   mlp ? &weights.dense_h_to_4h : nullptr);
        runner.pool.barrier();
        if (attention) attend(layer);
        if (attention) runner.pool.barrier();
        out_and_down(attention ? &weights.dense : nullptr, mlp ? &weights.dense_4h_to_h : nullptr);
        runner.pool.barrier();
    }

    // Adds the all-reduced sum of the stage before, and its biases once, to x, then norms x for
    // this stage. The first stage embeds the tokens instead.
    void add_residual_and_norm(int64_t number, int64_t layer, bool attention, bool mlp) {
        const int64_t hidden = model.hidden;
        const Range mine = part(rows);
        for (int64_t row = mine.first; row < mine.last; row++) {
            float* x = step.x + row * hidden;
            if (number == 0 && step.ids) embed(model.embedding, step.ids[row], x);
            const auto add = [&](const float* values) {
                for (int64_t c = 0; c < hidden; c++) x[c] += values[c];
            };
            if (number > 0) {
                const Layer& last = model.layers[model.parallel ? number - 1 : (number - 1) / 2];
                add(step.partial + row * hidden);
                if (model.parallel || mlp) add(last.dense.bias);
                if (model.parallel || attention) add(last.dense_4h_to_h.bias);
            }
            if (layer == model.depth) continue;
            const Layer& next = model.layers[layer];
            const auto norm = [&](const Norm& norm, float* to, const Matrix& w, Buffer& quantized) {
                normalize(norm, model.eps, x, hidden, to + row * row_stride(hidden));
                quantize_row(w, workload, to + row * row_stride(hidden), row, quantized);
            };
            if (attention)
                norm(next.before_attention, attention_in, next.query_key_value,
                     runner.quantized[0]);
            if (mlp) norm(next.before_mlp, mlp_in, next.dense_h_to_4h, runner.quantized[1]);
        }
    }

    static void embed(const Matrix& table, int64_t id, float* x) {
        if (table.format == FLOAT32) widen_row<Float32>(table, id, x);
        if (table.format == FLOAT16) widen_row<Float16>(table, id, x);
        if (table.format == BFLOAT16) widen_row<BFloat16>(table, id, x);
    }

    Range part(int64_t n) const { return partition(n, thread, runner.pool.size); }

    // Outputs of a chunk: few enough to divide n evenly, many enough to read memory in long runs.
    int64_t chunk_outputs(int64_t n) const {
        const bool few = rows < MIN_PANEL_ROWS;
        const int64_t step = few ? LANES : PANEL;
        const int64_t chunk = n / ((few ? 4 : 8) * runner.pool.size) / step * step;
        return std::clamp<int64_t>(chunk, step, few ? DOT_OUTPUTS_ONE_PASS : TILE_OUTPUTS);
    }

    Input input(const Matrix& w, const float* x, int which) {
        return input_of(w, workload, x, runner.quantized[which], workspace.quantized[which]);
    }

    // The two column-parallel products: queries, keys and values, and the MLP's hidden layer.
    void qkv_and_up(const Matrix* query_key_value, const Matrix* up) {
        const Matrix none = {};
        const Matrix& a = query_key_value ? *query_key_value : none;
        const Matrix& b = up ? *up : none;
        const Input x = query_key_value ? input(a, attention_in, 0) : Input{};
        const Input z = up ? input(b, mlp_in, 1) : Input{};
        const int64_t chunk = chunk_outputs(a.out + b.out);
        const int64_t chunks = (a.out + chunk - 1) / chunk;
        const int64_t all = chunks + (b.out + chunk - 1) / chunk;
        for (int64_t i; (i = runner.pool.next_chunk()) < all;)
            if (i < chunks) write_qkv(a, x, {i * chunk, std::min((i + 1) * chunk, a.out)});
            else write_up(b, z, {(i - chunks) * chunk, std::min((i - chunks + 1) * chunk, b.out)});
    }

    void write_qkv(const Matrix& w, const Input& x, Range range) {
        matmul(w, workload, x, range, workspace, [&](int64_t row, int64_t r, int64_t n, float* y) {
            memcpy(qkv + row * 3 * width + r, y, n * sizeof *y);
        });
    }

    void write_up(const Matrix& w, const Input& x, Range range) {
        matmul(w, workload, x, range, workspace, [&](int64_t row, int64_t r, int64_t n, float* y) {
            for (int64_t j = 0; j < n; j += LANES)
                write(y + j, activate(read<Floats>(y + j), model.activation));
            memcpy(mlp_hidden + row * row_stride(w.out) + r, y, n * sizeof *y);
        });
    }

    // The two row-parallel products, back to the residual stream.
    void out_and_down(const Matrix* dense, const Matrix* down) {
        const bool first = quantize_rows(dense, attention_out, 0);
        const bool second = quantize_rows(down, mlp_hidden, 1);
        if (first || second) runner.pool.barrier();
        const Input x = dense ? input(*dense, attention_out, 0) : Input{};
        const Input z = down ? input(*down, mlp_hidden, 1) : Input{};
        const int64_t chunk = chunk_outputs(model.hidden);
        const int64_t all = (model.hidden + chunk - 1) / chunk;
        for (int64_t i; (i = runner.pool.next_chunk()) < all;) {
            const Range range = {i * chunk, std::min((i + 1) * chunk, model.hidden)};
            if (dense) accumulate_partial(*dense, x, range, true);
            if (down) accumulate_partial(*down, z, range, !dense);
        }
    }

    // The bias is left to add_residual_and_norm, since it is added once after the all-reduce.
    void accumulate_partial(Matrix w, const Input& x, Range range, bool first) {
        w.bias = nullptr;
        matmul(w, workload, x, range, workspace, [&](int64_t row, int64_t r, int64_t n, float* y) {
            float* partial = step.partial + row * model.hidden + r;
            for (int64_t j = 0; j < n; j++) partial[j] = y[j] + (first ? 0 : partial[j]);
        });
    }

    // Quantizes this thread's share of the rows. Returns false if this product does not do it here.
    bool quantize_rows(const Matrix* w, const float* x, int which) {
        if (!w || !quantizes_once(*w, workload)) return false;
        const Range mine = part(rows);
        for (int64_t row = mine.first; row < mine.last; row++)
            quantize_row(*w, workload, x + row * row_stride(w->in), row, runner.quantized[which]);
        return true;
    }

    void attend(int64_t layer) {
        for (int64_t i; (i = runner.pool.next_chunk()) < step.batch * model.heads;) {
            if (step.cache == FLOAT32) attend<Float32>(layer, i / model.heads, i % model.heads);
            if (step.cache == FLOAT16) attend<Float16>(layer, i / model.heads, i % model.heads);
            if (step.cache == BFLOAT16) attend<BFloat16>(layer, i / model.heads, i % model.heads);
        }
    }

    // One head of one row of the batch: writes its new keys and values to the cache, then attends.
    template <class F>
    void attend(int64_t layer, int64_t b, int64_t h) {
        const int64_t dim = model.head_dim;
        const int64_t padded_dim = round_up_to_lanes(dim);
        const int64_t queries = round_up_to_query_block(step.length);
        const int64_t at = ((layer * step.batch + b) * model.heads + h) * step.capacity * dim;
        auto* k = static_cast<typename F::Type*>(step.k) + at;
        auto* v = static_cast<typename F::Type*>(step.v) + at;
        float* q = workspace.scratch.get<float>();
        float* out = q + queries * padded_dim;
        float* scratch = out + queries * padded_dim;
        std::fill_n(q, queries * padded_dim, 0.0f);
        for (int64_t i = 0; i < step.length; i++) {
            const int64_t row = b * step.length + i;
            const int64_t angle = runner.positions[row] * model.rotary;
            float* query = qkv + (row * model.heads + h) * 3 * dim;
            float* key = query + dim;
            float* value = key + dim;
            rotate(query, step.cos + angle, step.sin + angle, model.rotary);
            rotate(key, step.cos + angle, step.sin + angle, model.rotary);
            for (int64_t d = 0; d < dim; d++)
                q[i * padded_dim + d] = query[d] / std::sqrt(float(dim));
            ::store<F>(k + (step.start + i) * dim, key, dim);
            ::store<F>(v + (step.start + i) * dim, value, dim);
        }
        ::attend(Head<F>{k, v, step.real + b * step.capacity, dim, step.start, step.length}, q, out,
                 padded_dim, scratch);
        for (int64_t i = 0; i < step.length; i++)
            memcpy(attention_out + (b * step.length + i) * row_stride(width) + h * dim,
                   out + i * padded_dim, dim * sizeof *out);
    }
};

// A token's position is the number of real tokens before it.
void compute_positions(Runner& runner, const Step& step) {
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

void reserve_buffers(Runner& runner, const Model& model, const Step& step) {
    const int64_t rows = step.batch * step.length;
    const int64_t width = model.heads * model.head_dim;
    const int64_t padded_dim = round_up_to_lanes(model.head_dim);
    const Workload workload = workload_of(model, rows);
    const Layer& layer = *model.layers;
    runner.attention_in.reserve<float>(rows * row_stride(model.hidden));
    runner.mlp_in.reserve<float>(rows * row_stride(model.hidden));
    runner.qkv.reserve<float>(rows * 3 * width);
    runner.attention_out.reserve<float>(rows * row_stride(width));
    runner.mlp_hidden.reserve<float>(rows * row_stride(layer.dense_h_to_4h.out));
    reserve_quantized(layer.query_key_value, workload, runner.quantized[0]);
    reserve_quantized(layer.dense, workload, runner.quantized[0]);
    reserve_quantized(layer.dense_h_to_4h, workload, runner.quantized[1]);
    reserve_quantized(layer.dense_4h_to_h, workload, runner.quantized[1]);
    const int64_t scratch = attention_scratch(step.length, step.start + step.length, padded_dim);
    for (Workspace& workspace : runner.workspaces)
        workspace.scratch.reserve<float>(2 * round_up_to_query_block(step.length) * padded_dim +
                                         scratch);
}

void run_stages(Runner& runner, const Model& model, const Step& step, int64_t first, int64_t end) {
    reserve_buffers(runner, model, step);
    compute_positions(runner, step);
    runner.pool.run([&](int thread) {
        StageRun run{runner, model, step, thread};
        for (int64_t number = first; number < end; number++) run.stage(number);
    });
}

void run_head(Runner& runner, const Model& model, const float* x, int64_t rows, float* logits) {
    const int64_t hidden = model.hidden;
    const int64_t out = model.head.out;
    const Workload workload = workload_of(model, rows);
    float* normed = runner.attention_in.reserve<float>(rows * row_stride(hidden));
    reserve_quantized(model.head, workload, runner.quantized[0]);
    runner.pool.run([&](int thread) {
        StageRun run{runner, model, Step{}, thread};
        const Range mine = run.part(rows);
        for (int64_t row = mine.first; row < mine.last; row++) {
            normalize(model.final_norm, model.eps, x + row * hidden, hidden,
                      normed + row * row_stride(hidden));
            quantize_row(model.head, workload, normed + row * row_stride(hidden), row,
                         runner.quantized[0]);
        }
        runner.pool.barrier();
        Workspace& workspace = runner.workspaces[thread];
        const auto write_logits = [&](int64_t row, int64_t r, int64_t n, float* y) {
            memcpy(logits + row * out + r, y, n * sizeof *y);
        };
        const Input quantized =
            input_of(model.head, workload, normed, runner.quantized[0], workspace.quantized[0]);
        const int64_t chunk = dot_outputs(rows);
        for (int64_t i; (i = runner.pool.next_chunk()) * chunk < out;)
            matmul(model.head, workload, quantized, {i * chunk, std::min((i + 1) * chunk, out)},
                   workspace, write_logits);
    });
}

bool ids_are_valid(const Model& model, const Step& step) {
    const int64_t count = step.ids ? step.batch * step.length : 0;
    return std::all_of(step.ids, step.ids + count,
                       [&](int64_t id) { return 0 <= id && id < model.embedding.out; });
}

// Calls work(), one caller at a time. Returns 0, or 1 if memory ran out.
template <class Work>
int one_caller_at_a_time(Runner& runner, Work work) try {
    const std::lock_guard lock(runner.one_call);
    return work(), 0;
} catch (const std::bad_alloc&) {
    return 1;
}

}  // namespace

extern "C" {

Runner* runner_start(int threads) { return new Runner(threads); }

void runner_stop(Runner* runner) { delete runner; }

// Runs stages [first, end); the one past the model's last only adds the last sum. Returns 0, 1 if
// memory ran out, or 2 if an id has no embedding.
int runner_stages(Runner* runner, const Model* model, const Step* step, int64_t first,
                  int64_t end) {
    if (!ids_are_valid(*model, *step)) return 2;
    return one_caller_at_a_time(*runner, [&] { run_stages(*runner, *model, *step, first, end); });
}

// Computes logits [rows, vocabulary here] of x [rows, hidden], the final norm included.
int runner_head(Runner* runner, const Model* model, const float* x, int64_t rows, float* logits) {
    return one_caller_at_a_time(*runner, [&] { run_head(*runner, *model, x, rows, logits); });
}

// Top `count` of the n values of each row of x, and their logsumexp. Rows are `stride` values
// apart.
void top_tokens_of(const float* x, int64_t rows, int64_t stride, int64_t n, int64_t count,
                   float* values, int64_t* ids, float* totals) {
    for (int64_t r = 0; r < rows; r++)
        totals[r] = top_tokens(x + r * stride, n, count, values + r * count, ids + r * count);
}

}  // extern "C"
