// The kernels of kernels/csrc/gram_mse.cu as a function for ctypes, launched as the extension launches them.
#define UNIBERT_KERNELS_ALONE
#include "gram_mse.cu"

extern "C" void gram_mse(const float* q, const float* k, const float* tq, const float* tk, const int* starts, int documents,
                         int heads, int width, int teacher_width, int longest, float* of_queries, float* of_keys,
                         float* parts, float* dq, float* dk) {
  const Side<float> queries{q, tq, 1 / std::sqrt((float)width), 1 / std::sqrt((float)teacher_width),
                            heads, width, teacher_width};
  const Side<float> keys{k, tk, 1, 1, heads, width, teacher_width};
  const unsigned tiles = (width + teacher_width + kTile - 1) / kTile;
  const dim3 threads(kSide, kSide), rows((width + kTile - 1) / kTile * ((longest + kTile - 1) / kTile), heads, documents);
  run(dim3(tiles * tiles, heads, documents), threads,
      [&] { grams<float>(queries, keys, starts, of_queries, of_keys, parts); });
  run(rows, threads, [&] { gradients<float>(queries, of_keys, starts, dq); });
  run(rows, threads, [&] { gradients<float>(keys, of_queries, starts, dk); });
}
