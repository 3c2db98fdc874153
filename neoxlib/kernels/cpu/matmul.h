// y = x Wᵀ for any number of rows of x, some outputs at a time (docs/kernels.md has drawings).
//
// Few rows are bound by memory: each byte of W is read once, in order, and widened in registers
// (dot.h). Many rows are bound by arithmetic: W is packed panel by panel into the cache, and each
// panel is multiplied with all rows (tile.h).

#pragma once

#if defined(__AVX512F__)
#include "avx512.h"
#else
#include "avx2.h"
#endif
#include "thread_pool.h"

namespace {

constexpr bool MANY_REGISTERS = REGISTERS == 32;
constexpr int DOT_ROWS = REGISTERS / 8;  // rows of x that a dot kernel takes at a time
constexpr int64_t MAX_DOT_ROWS = 16;     // up to here dot kernels read the weights as stored
constexpr int64_t MAX_DOT_ROWS_INT4 = MANY_REGISTERS ? 16 : 9;      // the same for INT4
constexpr int64_t MIN_PANEL_ROWS_32BIT = MANY_REGISTERS ? 22 : 28;  // from here panels, for FLOAT32
constexpr int64_t MIN_PANEL_ROWS = 64;                              // the same for any format
constexpr int64_t DOT_OUTPUTS = 64;  // outputs at a time in dot kernels: their weights stay cached
constexpr int64_t DOT_OUTPUTS_ONE_PASS = 512;  // the same if DOT_ROWS are all: weights used once
constexpr int64_t TILE_OUTPUTS = 128;          // outputs at a time in tiles: x stays cached
constexpr int64_t TILE_BLOCK_ROWS = 256;       // rows of x that a panel is used for before the next

static_assert(MIN_PANEL_ROWS * DOT_OUTPUTS <= TILE_BLOCK_ROWS * TILE_OUTPUTS &&
              DOT_ROWS * DOT_OUTPUTS_ONE_PASS <= TILE_BLOCK_ROWS * TILE_OUTPUTS);

int64_t dot_outputs(int64_t rows) { return rows <= DOT_ROWS ? DOT_OUTPUTS_ONE_PASS : DOT_OUTPUTS; }

struct Workspace {  // one for each thread
    alignas(64) float y[TILE_BLOCK_ROWS * TILE_OUTPUTS];
    alignas(64) Panel panel;
    Buffer quantized[2], scratch;
};

template <int N>
using Count = std::integral_constant<int, N>;

// Calls use(Count<count>{}): a runtime number from 1 to MAX as a compile-time constant.
template <int MAX, class Use>
void with_constant(int64_t count, Use use) {
    if (count == MAX) return use(Count<MAX>{});
    if constexpr (MAX > 1) with_constant<MAX - 1>(count, use);
}

// Calls use(i, Count<M>) for groups of M <= MAX rows from row i on, all of about the same size.
template <int MAX, class Use>
void in_row_groups(int64_t rows, Use use) {
    for (int64_t i = 0, left = rows; left > 0; left = rows - i) {
        const int64_t groups = (left + MAX - 1) / MAX;
        const int64_t m = (left + groups - 1) / groups;
        with_constant<MAX>(m, [&](auto count) { use(i, count); });
        i += m;
    }
}

// y [rows, y_stride] = x · w's rows [r, r + outputs), read as stored. Four rows a quarter of the
// range apart are read side by side: the hardware prefetcher follows four long streams better than
// four neighbours that share a page.
template <class K>
void by_dots(const Matrix& w, int64_t r, int64_t outputs, const typename K::X* x, int64_t stride,
             int64_t rows, int64_t y_stride, float* y) {
    const int64_t quarter = (outputs + 3) / 4;
    in_row_groups<DOT_ROWS>(rows, [&](int64_t i, auto m) {
        constexpr int M = decltype(m)::value;
        for (int64_t j = 0; j < quarter; j++) {
            typename K::Row row[4];
            Floats acc[4 * M];
            float sums[4 * M + LANES];
            for (int c = 0; c < 4; c++)
                row[c] = K::Row::of(w, r + std::min(j + c * quarter, outputs - 1));
            dot_kernel<K, M, 4>(x + i * stride, stride, row, w.in, acc);
            sum_lanes<4 * M>(acc, sums);
            for (int p = 0; p < M; p++)
                for (int64_t c = 0, at = j; c < 4 && at < outputs; c++, at += quarter)
                    y[(i + p) * y_stride + at] = sums[p * 4 + c];
        }
    });
}

// y [rows, TILE_OUTPUTS] = x · w's rows [r, r + outputs), one panel after the other
template <class K>
void by_tiles(const Matrix& w, int64_t r, int64_t outputs, const typename K::X* x, int64_t stride,
              int64_t rows, Panel& panel, float* y) {
    constexpr int64_t depth = PANEL_WORDS * K::COLUMNS_PER_WORD;
    for (int64_t k = 0; k < w.in; k += depth)
        for (int64_t p = 0; p < outputs; p += PANEL) {
            const int64_t n = std::min(depth, w.in - k);
            const int64_t words = (n + K::COLUMNS_PER_WORD - 1) / K::COLUMNS_PER_WORD;
            const bool last = p + PANEL >= outputs;
            const bool end = last && k + n >= w.in;
            const int64_t next_row = end ? r + outputs : last ? r : r + p + PANEL;
            const int64_t next_column = end ? 0 : last ? k + n : k;
            const PanelOrigin next = {next_row, next_column};
            K::with_packer(w.format, [&](auto packer) {
                pack_panel<decltype(packer)>(w, r + p, std::min<int64_t>(PANEL, outputs - p), k, n,
                                             next, panel);
            });
            if constexpr (K::HAS_GROUP_SCALES)
                pack_panel_scales(w, r + p, std::min<int64_t>(PANEL, outputs - p), k, n, panel);
            in_row_groups<TILE_ROWS>(rows, [&](int64_t i, auto m) {
                constexpr int M = decltype(m)::value;
                tile<K, M>(x + i * stride, stride, w.in, k, panel, words, k == 0,
                           y + i * TILE_OUTPUTS + p, TILE_OUTPUTS);
            });
        }
}

template <class K>
struct ByDots {
    using Kind = K;
    static constexpr bool TILED = false;
    static constexpr bool QUANTIZES_ONCE = false;
};

template <class K>
struct ByTiles {
    using Kind = K;
    static constexpr bool TILED = true;
    static constexpr bool QUANTIZES_ONCE = K::QUANTIZES;  // rows of x, once for all threads
};

struct Workload {
    int64_t rows;
    int64_t
        round_from;  // rows from which x may be rounded: to bfloat16, or int8 for packed weights
    bool float32_order;  // 16-bit weights give the bits of the same weights in float32
};

// Calls use(ByDots<K>{}) or use(ByTiles<K>{}): the method for this matrix and this many rows of x.
template <class Use>
void with_method(const Matrix& w, const Workload& workload, Use use) {
    [[maybe_unused]] const bool few =
        workload.rows <= (w.format == INT4 ? MAX_DOT_ROWS_INT4 : MAX_DOT_ROWS);
    [[maybe_unused]] const bool many = workload.rows >= MIN_PANEL_ROWS;
    [[maybe_unused]] const bool may_round = workload.rows >= workload.round_from;
    [[maybe_unused]] const bool as_stored =
        workload.float32_order ? workload.rows < MIN_PANEL_ROWS_32BIT : few;
    if (w.format == FLOAT32 && as_stored) return use(ByDots<F32Dot<Float32>>{});
    if constexpr (HAS_BF16_DOT) {
        if (w.format == BFLOAT16 && may_round)
            return many ? use(ByTiles<BF16Tile>{}) : use(ByDots<BF16Dot>{});
        if (w.format == INT4 && may_round && !few) return use(ByTiles<BF16Tile>{});
    }
    if constexpr (HAS_INT16_DOT) {
        if constexpr (HAS_INT8_DOT)
            if (w.format == INT8 && many && may_round) return use(ByTiles<I8Tile>{});
        if (w.format == INT8)
            return few || MANY_REGISTERS ? use(ByDots<I16DotInt8>{}) : use(ByTiles<I16Tile>{});
        if constexpr (INT8_DOT_SATURATES)
            if (w.format == INT4 && many && may_round) return use(ByTiles<I8TileInt4>{});
        if (w.format == INT4) return few ? use(ByDots<IntDotInt4>{}) : use(ByTiles<I16TileInt4>{});
    } else {
        if (w.format == INT8 && few) return use(ByDots<F32Dot<Int8>>{});
        if (w.format == INT4 && few) return use(ByDots<F32DotInt4>{});
    }
    if (w.format == FLOAT16 && as_stored) return use(ByDots<F32Dot<Float16>>{});
    if (w.format == BFLOAT16 && as_stored) return use(ByDots<F32Dot<BFloat16>>{});
    return use(ByTiles<F32Tile>{});
}

// x [rows, row_stride(in)], or its quantized form; rows are `stride` values apart.
struct Input {
    const void* values;
    int64_t stride;
};

// Whether x is quantized once for all threads.
bool quantizes_once(const Matrix& w, const Workload& workload) {
    bool found = false;
    with_method(w, workload, [&](auto method) { found = method.QUANTIZES_ONCE; });
    return found;
}

// Reserves memory for rows that are quantized once for all threads.
void reserve_quantized(const Matrix& w, const Workload& workload, Buffer& shared_rows) {
    with_method(w, workload, [&](auto method) {
        using K = typename decltype(method)::Kind;
        if constexpr (method.QUANTIZES_ONCE)
            shared_rows.reserve<typename K::X>(workload.rows * K::size(w.in));
    });
}

// Quantizes one row, if x is quantized once for all threads.
void quantize_row(const Matrix& w, const Workload& workload, const float* x, int64_t row,
                  Buffer& shared_rows) {
    with_method(w, workload, [&](auto method) {
        using K = typename decltype(method)::Kind;
        if constexpr (method.QUANTIZES_ONCE)
            K::quantize_activation(x, w.in, shared_rows.get<typename K::X>() + row * K::size(w.in));
    });
}

// The input of a product with w: x itself, the `shared_rows`, or `own_rows`, which are quantized
// here.
Input input_of(const Matrix& w, const Workload& workload, const float* x, Buffer& shared_rows,
               Buffer& own_rows) {
    Input found = {x, row_stride(w.in)};
    with_method(w, workload, [&](auto method) {
        using K = typename decltype(method)::Kind;
        using X = typename K::X;
        if constexpr (K::QUANTIZES) {
            const int64_t size = K::size(w.in);
            found = {shared_rows.get<X>(), size};
            if constexpr (method.QUANTIZES_ONCE) return;
            X* to = own_rows.reserve<X>(workload.rows * size);
            for (int64_t i = 0; i < workload.rows; i++)
                K::quantize_activation(x + i * row_stride(w.in), w.in, to + i * size);
            found.values = to;
        }
    });
    return found;
}

// Multiplies y [outputs] by the scales of x's row and of w's rows from r on, and adds their biases.
inline void scale_and_add_bias(const Matrix& w, int64_t r, int64_t outputs, float scale, float* y) {
    const auto* scales = w.format == INT8 ? static_cast<const float*>(w.scale) + r : nullptr;
    const float* bias = w.bias ? w.bias + r : nullptr;
    for (int64_t j = 0; j < outputs; j += LANES) {
        Floats v = read<Floats>(y + j) * scale;
        if (scales) v *= load<Float32>(scales + j, outputs - j);
        if (bias) v += load<Float32>(bias + j, outputs - j);
        write(y + j, v);
    }
}

// Computes the outputs `mine` of x Wᵀ + bias and calls done(row, output, n, y) for n outputs at a
// time. y is padded to whole vectors, and `done` may overwrite it.
template <class Done>
void matmul(const Matrix& w, const Workload& workload, const Input& x, Range mine,
            Workspace& workspace, Done done) {
    with_method(w, workload, [&](auto method) {
        using K = typename decltype(method)::Kind;
        const int64_t y_stride = method.TILED ? TILE_OUTPUTS : dot_outputs(workload.rows);
        const int64_t block_rows = method.TILED ? TILE_BLOCK_ROWS : MIN_PANEL_ROWS;
        for (int64_t r = mine.first; r < mine.last; r += y_stride)
            for (int64_t i = 0; i < workload.rows; i += block_rows) {
                const int64_t outputs = std::min(y_stride, mine.last - r);
                const int64_t part = std::min(block_rows, workload.rows - i);
                const auto* values = static_cast<const typename K::X*>(x.values) + i * x.stride;
                if constexpr (method.TILED)
                    by_tiles<K>(w, r, outputs, values, x.stride, part, workspace.panel,
                                workspace.y);
                else by_dots<K>(w, r, outputs, values, x.stride, part, y_stride, workspace.y);
                for (int64_t c = 0; c < part; c++) {
                    float* y = workspace.y + c * y_stride;
                    scale_and_add_bias(w, r, outputs, K::scale(values + c * x.stride, w.in), y);
                    done(i + c, r, outputs, y);
                }
            }
    });
}

}  // namespace
