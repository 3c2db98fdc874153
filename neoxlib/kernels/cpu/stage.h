// The stages of the model: what one thread computes between two all-reduces.

#pragma once

#include "attention.h"
#include "matmul.h"
#include "rowwise.h"
#include "thread_pool.h"

namespace {

struct Runner {
    ThreadPool pool;
    std::vector<Workspace> workspaces;
    Buffer attention_in, mlp_in, qkv, attention_out, mlp_hidden, quantized[2];
    std::vector<int64_t> positions;  // [batch, length]
    std::mutex one_call;             // held by the caller that runs

    explicit Runner(int threads) : pool(threads), workspaces(threads) {}
};

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

}  // namespace
