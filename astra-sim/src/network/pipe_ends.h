#pragma once

#include <unistd.h>

#include <utility>

namespace astra {

/// A file descriptor that is closed with its owner.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// Take over an open descriptor.
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }

  /// The descriptor; -1: none.
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_ = -1;
};

/// The two pipes to a network in another process; without descriptors where there is none.
struct PipeEnds {
  FileDescriptor replies;   ///< read from here
  FileDescriptor requests;  ///< write to here
};

}  // namespace astra
