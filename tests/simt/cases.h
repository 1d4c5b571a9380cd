// Clean kernels with inputs and references. The same cases serve the plain executor, the checker in every order, the barrier mutator and,
// compiled by nvcc, a GPU.
#pragma once
#include "../../kernels/cuda/compat/compat.h"
#include <cstdio>
#include <cstdlib>
#include <vector>

struct Case {
    const char *name;
    bool (*run)(); // true when the results are right; leaves no device memory behind
};
const std::vector<Case> &block_cases();
const std::vector<Case> &list_cases();
const std::vector<Case> &matrix_cases();
const std::vector<Case> &attention_cases();
const std::vector<Case> &tricky_cases();
const std::vector<Case> &stream_cases();

inline int stream_elements = 3000; // of the arrays that stream_cases go through

inline unsigned case_random = 12345;
inline unsigned next_random() {
    case_random = case_random * 1664525u + 1013904223u;
    return case_random >> 8;
}
inline float random_float() { return static_cast<float>(static_cast<int>(next_random() % 2001) - 1000) / 1000.0f; }

// A vector on the device; results come back with get(). Errors make every later step fail, so one look at ok() at the end is enough.
template <class T> class Buffer {
  public:
    explicit Buffer(const std::vector<T> &v) : n(v.size()) {
        failed = cudaMalloc(reinterpret_cast<void **>(&p), n * sizeof(T)) != cudaSuccess ||
                 cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice) != cudaSuccess;
    }
    explicit Buffer(size_t count) : n(count) { failed = cudaMalloc(reinterpret_cast<void **>(&p), n * sizeof(T)) != cudaSuccess; }
    Buffer(const Buffer &) = delete;
    ~Buffer() { cudaFree(p); }
    std::vector<T> get() {
        std::vector<T> v(n);
        if (!failed) failed = cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess;
        return v;
    }
    bool ok() const { return !failed; }
    operator T *() const { return p; }

  private:
    T *p = nullptr;
    size_t n;
    bool failed = false;
};

inline bool near(double a, double b, double tolerance) { return !(a - b > tolerance || b - a > tolerance || a != a); }
