#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace astra {

/// Recycled objects with stable addresses and 32-bit handles; memory follows the most ever alive at once.
///
/// A recycled object keeps its old contents (and the capacity of its vectors): the taker fills it anew.
template <typename T>
class Pool {
 public:
  using Handle = std::uint32_t;

  /// Take a free object, or make one.
  [[nodiscard]] Handle take() {
    ++alive_;
    if (!free_.empty()) {
      const Handle handle = free_.back();
      free_.pop_back();
      return handle;
    }
    if (made_ == chunks_.size() * kChunk) chunks_.push_back(std::make_unique<T[]>(kChunk));
    return made_++;
  }

  /// Give an object back; its handle must not be used any more.
  void give_back(Handle handle) {
    --alive_;
    free_.push_back(handle);
  }

  /// The object behind a handle.
  [[nodiscard]] T& operator[](Handle handle) { return chunks_[handle / kChunk][handle % kChunk]; }
  /// The object behind a handle, read-only.
  [[nodiscard]] const T& operator[](Handle handle) const { return chunks_[handle / kChunk][handle % kChunk]; }

  /// Number of objects made so far: handles are below it.
  [[nodiscard]] Handle made() const { return made_; }
  /// Number of objects taken and not given back.
  [[nodiscard]] std::size_t alive() const { return alive_; }

 private:
  static constexpr std::size_t kChunk = 64;

  std::vector<std::unique_ptr<T[]>> chunks_;
  std::vector<Handle> free_;
  Handle made_ = 0;
  std::size_t alive_ = 0;
};

}  // namespace astra
