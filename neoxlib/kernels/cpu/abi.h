// The numbers and structures that Python passes: values, fields and their order are as in abi.py,
// which checks the same sizes.

#pragma once

#include <cstdint>

enum Format : int32_t { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4 };

enum Activation : int32_t { GELU, TANH, RELU };

struct Matrix {          // y = x Wᵀ + bias
    const void* weight;  // [out, in]; INT4: [out, in / 2]
    const void* scale;   // INT8: float [out]; INT4: half [out, in / 32]
    const float* bias;   // [out]
    int64_t out, in;
    Format format;
};
static_assert(sizeof(Matrix) == 48);

struct Norm {  // a layer norm
    const float *weight, *bias;  // [hidden]
};
static_assert(sizeof(Norm) == 16);

struct Layer {  // one layer: this rank's weights
    Norm before_attention, before_mlp;
    Matrix query_key_value, dense, dense_h_to_4h, dense_4h_to_h;
};
static_assert(sizeof(Layer) == 224);

struct Model {  // sizes, and this rank's weights
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
static_assert(sizeof(Model) == 184);

struct Step {  // new tokens, the KV cache that they go to, and memory for their hidden states
    const int64_t* ids;      // [batch, length]; null if x holds the embedded tokens already
    float* x;                // [batch, length, hidden]: the residual stream
    float* partial;          // [batch, length, hidden]: this rank's term of the next all-reduce
    void *k, *v;             // [depth, batch, heads, capacity, head_dim]
    const uint8_t* real;     // [batch, capacity], 0 on padding
    const float *cos, *sin;  // [capacity, rotary]
    int64_t batch, length, start, capacity;  // the new tokens are at slots [start, start + length)
    Format cache;
};
static_assert(sizeof(Step) == 104);
