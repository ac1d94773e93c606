#include "protocol.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace astra_ns3 {
namespace {

constexpr std::size_t kWord = 8;
constexpr std::size_t kReplyFrame = 16;

std::int64_t word(const unsigned char* bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = kWord; i-- > 0;) value = value << 8 | bytes[i];
  return static_cast<std::int64_t>(value);
}

void put_word(unsigned char* bytes, std::int64_t value) {
  auto rest = static_cast<std::uint64_t>(value);
  for (std::size_t i = 0; i < kWord; ++i, rest >>= 8) bytes[i] = static_cast<unsigned char>(rest & 0xFF);
}

}  // namespace

std::optional<Request> RequestReader::next() {
  while (end_ - first_ < kFrame) {
    std::memmove(buffer_.data(), buffer_.data() + first_, end_ - first_);
    end_ -= first_;
    first_ = 0;
    const ssize_t got = ::read(STDIN_FILENO, buffer_.data() + end_, buffer_.size() - end_);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw std::runtime_error(std::string("cannot read requests: ") + std::strerror(errno));
    if (got == 0 && end_ > 0) throw std::runtime_error("the input ends inside a request");
    if (got == 0) return std::nullopt;
    end_ += static_cast<std::size_t>(got);
  }
  const unsigned char* frame = buffer_.data() + first_;
  first_ += kFrame;
  return Request{static_cast<RequestKind>(word(frame)),
                 word(frame + kWord),
                 word(frame + 2 * kWord),
                 word(frame + 3 * kWord),
                 word(frame + 4 * kWord),
                 word(frame + 5 * kWord)};
}

void write_reply(const Reply& reply) {
  std::array<unsigned char, kReplyFrame> frame{};
  put_word(frame.data(), reply.time_ns);
  put_word(frame.data() + kWord, reply.id);
  for (std::size_t sent = 0; sent < frame.size();) {
    const ssize_t put = ::write(STDOUT_FILENO, frame.data() + sent, frame.size() - sent);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw std::runtime_error(std::string("cannot write replies: ") + std::strerror(errno));
    sent += static_cast<std::size_t>(put);
  }
}

}  // namespace astra_ns3
