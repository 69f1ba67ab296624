// Enough of CUDA to run a kernel's blocks on a CPU, one after another, each thread of a block a thread.
#pragma once
#include <algorithm>
#include <barrier>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline thread_local dim3 threadIdx;
inline dim3 blockIdx, gridDim;
inline std::unique_ptr<std::barrier<>> everyone;
#define __global__
#define __device__
#define __shared__ static
#define __syncthreads() everyone->arrive_and_wait()
using std::min;

inline void run(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  gridDim = grid;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        everyone = std::make_unique<std::barrier<>>(block.x * block.y);
        std::vector<std::thread> threads;
        for (unsigned y = 0; y < block.y; ++y)
          for (unsigned x = 0; x < block.x; ++x)
            threads.emplace_back([&, x, y] {
              threadIdx = dim3(x, y);
              kernel();
            });
        for (auto& thread : threads) thread.join();
      }
}
