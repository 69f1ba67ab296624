// K3 `gram_mse` for NVIDIA GPUs: see kernels/gram.py for the mathematics, which this is with student and teacher side by
// side. With X = [a Q_s | b Q_t] and Y = [K_s | K_t] of one document and head, [n, W], W = D + E, and J = diag(1, -1) over
// the two parts, ||S_s - S_t||^2 = <X^T X, J Y^T Y J>, dQ_s = 2 a (X J Y^T Y)_s and dK_s = 2 (Y J X^T X)_s.
//
// Everything is summed in fp32. No atomics: the same numbers every time. A torch stable-ABI extension, so that it builds
// and loads beside a torch without CUDA; the stream comes as an integer for the same reason.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#ifndef UNIBERT_KERNELS_ALONE
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>
#endif

namespace {

constexpr int kTile = 32;     // of a Gram matrix, and rows that are staged at a time
constexpr int kSide = 16;     // threads a side; each has 2 x 2 of a tile

template <typename T>
struct Side {  // queries or keys of both models, packed [T, N, D] and [T, N, E]
  const T* student;
  const T* teacher;
  float student_scale;
  float teacher_scale;
  int heads, width, teacher_width;

  __device__ float at(int64_t token, int head, int column) const {
    if (column < width) return student_scale * static_cast<float>(student[(token * heads + head) * width + column]);
    column -= width;
    if (column < teacher_width)
      return teacher_scale * static_cast<float>(teacher[(token * heads + head) * teacher_width + column]);
    return 0.f;
  }
};

template <typename T>
__device__ void stage(float (*into)[kTile + 1], const Side<T>& side, int64_t first, int rows, int head, int column) {
  for (int r = threadIdx.y; r < kTile; r += kSide)
    for (int c = threadIdx.x; c < kTile; c += kSide)
      into[r][c] = r < rows ? side.at(first + r, head, column + c) : 0.f;
}

// Block (tile of W x W, head, document): a tile of both Grams, and its part of the distance.
template <typename T>
__global__ void grams(Side<T> queries, Side<T> keys, const int* starts, float* of_queries, float* of_keys, float* parts) {
  __shared__ float qi[kTile][kTile + 1], qj[kTile][kTile + 1], ki[kTile][kTile + 1], kj[kTile][kTile + 1];
  __shared__ float sums[kSide * kSide];
  const int width = queries.width + queries.teacher_width, tiles = (width + kTile - 1) / kTile;
  const int row = blockIdx.x / tiles * kTile, column = blockIdx.x % tiles * kTile, head = blockIdx.y;
  const int64_t begin = starts[blockIdx.z], end = starts[blockIdx.z + 1];
  float q[2][2] = {}, k[2][2] = {};
  for (int64_t first = begin; first < end; first += kTile) {
    const int rows = static_cast<int>(min(end - first, static_cast<int64_t>(kTile)));
    stage(qi, queries, first, rows, head, row);
    stage(qj, queries, first, rows, head, column);
    stage(ki, keys, first, rows, head, row);
    stage(kj, keys, first, rows, head, column);
    __syncthreads();
    for (int r = 0; r < rows; ++r)
      for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b) {
          q[a][b] += qi[r][threadIdx.y + a * kSide] * qj[r][threadIdx.x + b * kSide];
          k[a][b] += ki[r][threadIdx.y + a * kSide] * kj[r][threadIdx.x + b * kSide];
        }
    __syncthreads();
  }
  const int64_t pair = static_cast<int64_t>(blockIdx.z) * gridDim.y + head;
  float part = 0.f;
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      const int i = row + threadIdx.y + a * kSide, j = column + threadIdx.x + b * kSide;
      if (i >= width || j >= width) continue;
      of_queries[(pair * width + i) * width + j] = q[a][b];
      of_keys[(pair * width + i) * width + j] = k[a][b];
      part += ((i < queries.width) == (j < queries.width) ? 1.f : -1.f) * q[a][b] * k[a][b];
    }
  const int thread = threadIdx.y * kSide + threadIdx.x;
  sums[thread] = part;
  for (int half = kSide * kSide / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) parts[pair * gridDim.x + blockIdx.x] = sums[0];
}

// Block (tile of rows x columns, head, document): 2 scale (X J G)_s.
template <typename T>
__global__ void gradients(Side<T> side, const float* other_grams, const int* starts, T* out) {
  __shared__ float x[kTile][kTile + 1], g[kTile][kTile + 1];
  const int width = side.width + side.teacher_width, tiles = (side.width + kTile - 1) / kTile;
  const int column = blockIdx.x % tiles * kTile, head = blockIdx.y;
  const int64_t first = starts[blockIdx.z] + static_cast<int64_t>(blockIdx.x / tiles) * kTile;
  if (first >= starts[blockIdx.z + 1]) return;
  const int rows = static_cast<int>(min(starts[blockIdx.z + 1] - first, static_cast<int64_t>(kTile)));
  const float* gram = other_grams + (static_cast<int64_t>(blockIdx.z) * gridDim.y + head) * width * width;
  float sum[2][2] = {};
  for (int middle = 0; middle < width; middle += kTile) {
    stage(x, side, first, rows, head, middle);
    for (int r = threadIdx.y; r < kTile; r += kSide)
      for (int c = threadIdx.x; c < kTile; c += kSide) {
        const int i = middle + r, j = column + c;
        g[r][c] = i < width && j < side.width ? (i < side.width ? 1.f : -1.f) * gram[i * width + j] : 0.f;
      }
    __syncthreads();
    for (int m = 0; m < kTile; ++m)
      for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b) sum[a][b] += x[threadIdx.y + a * kSide][m] * g[m][threadIdx.x + b * kSide];
    __syncthreads();
  }
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      const int r = threadIdx.y + a * kSide, c = column + threadIdx.x + b * kSide;
      if (r < rows && c < side.width)
        out[((first + r) * side.heads + head) * side.width + c] = static_cast<T>(2.f * side.student_scale * sum[a][b]);
    }
}

#ifdef UNIBERT_KERNELS_ALONE
template __global__ void grams<float>(Side<float>, Side<float>, const int*, float*, float*, float*);
template __global__ void grams<__half>(Side<__half>, Side<__half>, const int*, float*, float*, float*);
template __global__ void grams<__nv_bfloat16>(
    Side<__nv_bfloat16>, Side<__nv_bfloat16>, const int*, float*, float*, float*);
template __global__ void gradients<float>(Side<float>, const float*, const int*, float*);
template __global__ void gradients<__half>(Side<__half>, const float*, const int*, __half*);
template __global__ void gradients<__nv_bfloat16>(Side<__nv_bfloat16>, const float*, const int*, __nv_bfloat16*);

}  // namespace
#else

using torch::stable::Tensor;

template <typename T>
void launch(const Tensor& query, const Tensor& key, const Tensor& teacher_query, const Tensor& teacher_key,
            const Tensor& starts, int longest, cudaStream_t stream, const Tensor& of_queries, const Tensor& of_keys,
            const Tensor& parts, const Tensor& dq, const Tensor& dk) {
  const int heads = query.size(1), width = query.size(2), teacher_width = teacher_query.size(2);
  const int documents = starts.size(0) - 1, tiles = (width + teacher_width + kTile - 1) / kTile;
  auto in = [](const Tensor& x) { return static_cast<const T*>(x.data_ptr()); };
  auto sums = [](const Tensor& x) { return static_cast<float*>(x.data_ptr()); };
  const int* begins = static_cast<const int*>(starts.data_ptr());
  const Side<T> queries{in(query), in(teacher_query), 1.f / std::sqrt(static_cast<float>(width)),
                        1.f / std::sqrt(static_cast<float>(teacher_width)), heads, width, teacher_width};
  const Side<T> keys{in(key), in(teacher_key), 1.f, 1.f, heads, width, teacher_width};
  const dim3 threads(kSide, kSide);
  grams<T><<<dim3(tiles * tiles, heads, documents), threads, 0, stream>>>(queries, keys, begins, sums(of_queries),
                                                                        sums(of_keys), sums(parts));
  const dim3 rows((width + kTile - 1) / kTile * ((longest + kTile - 1) / kTile), heads, documents);
  gradients<T><<<rows, threads, 0, stream>>>(queries, sums(of_keys), begins, static_cast<T*>(dq.data_ptr()));
  gradients<T><<<rows, threads, 0, stream>>>(keys, sums(of_queries), begins, static_cast<T*>(dk.data_ptr()));
}

// Parts of the distances [documents, heads, tiles], and gradients like query and key. All contiguous, of one dtype, on one device.
std::tuple<Tensor, Tensor, Tensor> gram_mse(Tensor query, Tensor key, Tensor teacher_query, Tensor teacher_key,
                                            Tensor starts, int64_t longest, int64_t stream) {
  const int64_t documents = starts.size(0) - 1, heads = query.size(1), width = query.size(2) + teacher_query.size(2);
  const int64_t tiles = (width + kTile - 1) / kTile;
  using torch::headeronly::ScalarType;
  Tensor of_queries = torch::stable::new_empty(query, {documents, heads, width, width}, ScalarType::Float);
  Tensor of_keys = torch::stable::new_empty(query, {documents, heads, width, width}, ScalarType::Float);
  Tensor parts = torch::stable::new_empty(query, {documents, heads, tiles * tiles}, ScalarType::Float);
  Tensor dq = torch::stable::empty_like(query), dk = torch::stable::empty_like(key);
  auto on = reinterpret_cast<cudaStream_t>(stream);
  auto run = [&](auto zero) {
    launch<decltype(zero)>(query, key, teacher_query, teacher_key, starts, longest, on, of_queries, of_keys, parts, dq, dk);
  };
  switch (query.scalar_type()) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Half: run(__half{}); break;
    case ScalarType::BFloat16: run(__nv_bfloat16{}); break;
    default: STD_TORCH_CHECK(false, "gram_mse takes float32, float16 or bfloat16");
  }
  STD_TORCH_CHECK(cudaGetLastError() == cudaSuccess, "gram_mse could not be started");
  return {parts, dq, dk};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(unibert, library) {
  library.def(
      "gram_mse_cuda(Tensor query, Tensor key, Tensor teacher_query, Tensor teacher_key, Tensor starts, int longest, "
      "int stream) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(unibert, CUDA, library) { library.impl("gram_mse_cuda", TORCH_BOX(&gram_mse)); }
#endif
