// Arrays on cache-line boundaries, whose memory is reused from call to call.
#pragma once

#include <cstddef>
#include <map>
#include <new>
#include <vector>

namespace {

// Blocks that a thread freed, kept for its next call up to a limit: a fresh page, or one that
// another core wrote last, costs more than the arithmetic on it.
class BlockCache {
 public:
  static void* take(size_t bytes) {
    BlockCache* cache = own();
    if (!cache) return ::operator new(bytes, kAlignment);
    const auto found = cache->free_.find(bytes);
    if (found == cache->free_.end()) return ::operator new(bytes, kAlignment);
    void* block = found->second;
    cache->free_.erase(found);
    cache->held_ -= bytes;
    return block;
  }
  static void give(void* block, size_t bytes) {
    BlockCache* cache = own();
    if (!cache || cache->held_ + bytes > kLimit) return ::operator delete(block, kAlignment);
    cache->free_.emplace(bytes, block);
    cache->held_ += bytes;
  }

 private:
  BlockCache() = default;
  ~BlockCache() {
    for (const auto& [bytes, block] : free_) ::operator delete(block, kAlignment);
    closed_ = true;
  }
  // None once the thread is ending and its cache is gone, while other arrays may be left.
  static BlockCache* own() {
    static thread_local BlockCache cache;
    return closed_ ? nullptr : &cache;
  }

  static constexpr size_t kLimit = size_t(16) << 20;
  static constexpr std::align_val_t kAlignment{64};
  static inline thread_local bool closed_ = false;
  std::multimap<size_t, void*> free_;  // by size
  size_t held_ = 0;
};

template <class T>
struct CachedAllocator {
  using value_type = T;
  CachedAllocator() = default;
  template <class U>
  CachedAllocator(const CachedAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(BlockCache::take(n * sizeof(T))); }
  void deallocate(T* p, size_t n) { BlockCache::give(p, n * sizeof(T)); }
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
