// GPT-NeoX on a CPU: embedding, layers and head, in one call for all layers or for some stages.
//
// Threads divide the outputs of each product and the heads of the attention. No sum depends on the
// number of threads. Between the products (norms, rotary, softmax, activation, residual) all is
// float32.

#include "stage.h"

namespace {

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

// Points to what the last stage has left: its two normed inputs, queries and keys (rotated) and
// values, the heads' output, and the MLP's hidden layer. Their shapes are those of StageRun. Only
// debugging reads them.
void runner_buffers(Runner* runner, const float** found) {
    found[0] = runner->attention_in.get<float>();
    found[1] = runner->mlp_in.get<float>();
    found[2] = runner->qkv.get<float>();
    found[3] = runner->attention_out.get<float>();
    found[4] = runner->mlp_hidden.get<float>();
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
