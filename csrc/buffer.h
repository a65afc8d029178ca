// Arrays on cache-line boundaries, whose memory is reused from call to call.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace {

// Freed blocks are kept, up to a limit: a fresh page costs more than the arithmetic on it.
class BlockCache {
 public:
  static BlockCache& instance() {
    static BlockCache* cache = new BlockCache;  // outlives the destructors of other statics
    return *cache;
  }
  void* take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = free_.find(bytes);
      if (found != free_.end()) {
        void* block = found->second;
        free_.erase(found);
        held_ -= bytes;
        return block;
      }
    }
    return ::operator new(bytes, std::align_val_t(64));
  }
  void give(void* block, size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (held_ + bytes <= kLimit) {
        free_.emplace(bytes, block);
        held_ += bytes;
        return;
      }
    }
    ::operator delete(block, std::align_val_t(64));
  }

 private:
  static constexpr size_t kLimit = size_t(32) << 20;
  std::mutex mutex_;
  std::multimap<size_t, void*> free_;  // by size
  size_t held_ = 0;
};

template <class T>
struct CachedAllocator {
  using value_type = T;
  CachedAllocator() = default;
  template <class U>
  CachedAllocator(const CachedAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(BlockCache::instance().take(n * sizeof(T))); }
  void deallocate(T* p, size_t n) { BlockCache::instance().give(p, n * sizeof(T)); }
  template <class U>
  bool operator==(const CachedAllocator<U>&) const {
    return true;
  }
  template <class U>
  bool operator!=(const CachedAllocator<U>&) const {
    return false;
  }
};
template <class T>
using Array = std::vector<T, CachedAllocator<T>>;
using Buffer = Array<double>;

}  // namespace
