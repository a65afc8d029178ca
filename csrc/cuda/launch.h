// Launches, on a device or in the emulator.
#pragma once

#include "device.h"

namespace {

struct Shape {
  int clusters, cluster, threads;
  int64_t shared_bytes;
};

#ifdef __CUDACC__

struct Device {
  int processors, shared_bytes;  // the most of a block
};
inline int describe(int index, Device* device) {
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    return int(cudaDeviceGetAttribute(value, attribute, index));
  };
  if (const int error = get(&device->processors, cudaDevAttrMultiProcessorCount)) return error;
  return get(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

// The calling thread's device, until the end of a scope.
class OnDevice {
 public:
  explicit OnDevice(int index) {
    error_ = cudaGetDevice(&before_);
    moved_ = !error_ && before_ != index;
    if (moved_) error_ = cudaSetDevice(index);
  }
  ~OnDevice() {
    if (moved_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;

  int error() const { return int(error_); }

 private:
  int before_ = 0;
  bool moved_;
  cudaError_t error_;
};

template <class Arguments>
int launch(void (*kernel)(Arguments), const Arguments& arguments, const Shape& shape, int device,
           void* stream) {
  const OnDevice here(device);
  if (here.error()) return here.error();
  Device properties;
  if (const int error = describe(device, &properties)) return error;
  // Of the function, not of this launch: never less than another thread's launch needs.
  const auto set = [&](cudaFuncAttribute attribute, int value) {
    return int(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value));
  };
  if (const int error =
          set(cudaFuncAttributeMaxDynamicSharedMemorySize, properties.shared_bytes))
    return error;
  // Blocks are planned for all of a processor's shared memory.
  if (const int error = set(cudaFuncAttributePreferredSharedMemoryCarveout,
                            cudaSharedmemCarveoutMaxShared))
    return error;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {unsigned(shape.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = {unsigned(shape.clusters * shape.cluster), 1, 1};
  config.blockDim = {unsigned(shape.threads), 1, 1};
  config.dynamicSmemBytes = size_t(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  return int(cudaLaunchKernelEx(&config, kernel, arguments));
}
inline int clear(void* memory, size_t bytes, int device, void* stream) {
  const OnDevice here(device);
  if (here.error()) return here.error();
  return int(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
}
inline const char* error_text(int error) { return cudaGetErrorString(cudaError_t(error)); }

#else

#define ARCHITECTURES "emulator"

struct Device {
  int processors, shared_bytes;
};
inline int describe(int, Device* device) {
  *device = {2, 227 * 1024};
  return 0;
}
template <class Arguments>
int launch(void (*kernel)(Arguments), const Arguments& arguments, const Shape& shape, int, void*) {
  Emulator(shape.clusters, shape.cluster, shape.threads, shape.shared_bytes).run([&] {
    kernel(arguments);
  });
  return 0;
}
inline int clear(void* memory, size_t bytes, int, void*) {
  std::memset(memory, 0, bytes);
  return 0;
}
inline const char* error_text(int) { return "unknown"; }

#endif

}  // namespace
