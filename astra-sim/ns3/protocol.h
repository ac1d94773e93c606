#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace astra_ns3 {

/// What a request asks for.
enum class RequestKind : std::int64_t { kSend = 1, kAdvance = 2 };

/// A request as it comes over the pipe: six little-endian 64-bit integers.
struct Request {
  RequestKind kind = RequestKind::kAdvance;
  std::int64_t id = 0;           ///< of the message; chosen by the other side, free again once it has landed
  std::int64_t source = 0;       ///< NPU
  std::int64_t destination = 0;  ///< NPU
  std::int64_t bytes = 0;
  std::int64_t time_ns = 0;  ///< start of the message, or limit of the advance
};

/// The answer to an advance: two little-endian 64-bit integers.
struct Reply {
  std::int64_t time_ns = 0;
  std::int64_t id = -1;  ///< message that has landed; -1: none until the limit
};

/// Reads requests from standard input, many at a time. Throws std::runtime_error if the input is cut off.
class RequestReader {
 public:
  /// The next request, or nothing at the end of the input.
  [[nodiscard]] std::optional<Request> next();

 private:
  static constexpr std::size_t kFrame = 48;

  std::array<unsigned char, 1024 * kFrame> buffer_{};
  std::size_t first_ = 0;
  std::size_t end_ = 0;
};

/// Write a reply to standard output. Throws std::runtime_error if nobody reads it.
void write_reply(const Reply& reply);

}  // namespace astra_ns3
