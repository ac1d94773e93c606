#include "network/pipe_network.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace astra {
namespace {

constexpr std::int64_t kSend = 1;
constexpr std::int64_t kAdvance = 2;
constexpr std::int64_t kNothing = -1;
constexpr std::size_t kWord = 8;
constexpr std::size_t kReplyFrame = 2 * kWord;
constexpr std::size_t kFlushBytes = 1 << 16;

void put_word(std::vector<unsigned char>& bytes, std::int64_t value) {
  auto rest = static_cast<std::uint64_t>(value);
  for (std::size_t i = 0; i < kWord; ++i, rest >>= 8)
    bytes.push_back(static_cast<unsigned char>(rest & 0xFF));
}

std::int64_t word(const unsigned char* bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = kWord; i-- > 0;) value = value << 8 | bytes[i];
  return static_cast<std::int64_t>(value);
}

[[noreturn]] void fail(const std::string& reason) {
  throw NetworkError("the network process " + reason);
}

// Writing to a process that has gone is an error (EPIPE), not a signal: Python ignores SIGPIPE.
void write_all(int descriptor, std::vector<unsigned char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t put = ::write(descriptor, bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EPIPE) fail("has ended; its own message says why");
    if (put < 0) fail(std::string("cannot be written to: ") + std::strerror(errno));
    done += static_cast<std::size_t>(put);
  }
  bytes.clear();
}

void read_all(int descriptor, unsigned char* bytes, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t got = ::read(descriptor, bytes + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(std::string("cannot be read from: ") + std::strerror(errno));
    if (got == 0) fail("has ended; its own message says why");
    done += static_cast<std::size_t>(got);
  }
}

}  // namespace

PipeNetwork::PipeNetwork(NetworkParts parts)
    : ends_(std::move(parts.pipe)),
      npus_(static_cast<std::uint32_t>(parts.topology.npus())),
      queue_(parts.queue),
      recorder_(parts.recorder) {
  if (ends_.replies.number() < 0 || ends_.requests.number() < 0) {
    throw std::invalid_argument("network backend 'pipe' needs the descriptors of a running network process");
  }
  if (advance(0).id != kNothing) fail("reports a message that was never sent");
}

void PipeNetwork::send(NpuId source, NpuId destination, Bytes bytes, Callback landed) {
  const std::uint32_t id = flights_.take();
  const std::uint32_t link =
      static_cast<std::uint32_t>(source) * npus_ + static_cast<std::uint32_t>(destination);
  flights_[id] = {landed, queue_.reserve(), true, {link, source, destination, bytes, queue_.now(), 0}};
  request(kSend, id, source, destination, bytes, queue_.now());
  if (requests_.size() >= kFlushBytes) write_all(ends_.requests.number(), requests_);
  sent_since_ = true;
}

void PipeNetwork::catch_up(Time limit) {
  if (flights_.alive() == 0 || (limit <= clock_ && !sent_since_)) return;
  sent_since_ = false;
  for (Time until = limit; flights_.alive() > 0;) {
    const Reply reply = advance(until);
    if (reply.id == kNothing) break;
    land(reply);
    until = reply.at;  // more may land in the same ns; what lands later has to wait for its causes
  }
}

// The way through the other process's network is not known here: a pair of NPUs counts as a link.
std::string PipeNetwork::link_name(std::uint32_t link) const {
  return "NPU " + std::to_string(link / npus_) + " -> NPU " + std::to_string(link % npus_);
}

void PipeNetwork::request(std::int64_t kind, std::int64_t id, std::int64_t source, std::int64_t destination,
                          Bytes bytes, Time at) {
  for (const std::int64_t value : {kind, id, source, destination, bytes, at}) put_word(requests_, value);
}

PipeNetwork::Reply PipeNetwork::advance(Time limit) {
  request(kAdvance, 0, 0, 0, 0, limit);
  write_all(ends_.requests.number(), requests_);
  std::array<unsigned char, kReplyFrame> frame{};
  read_all(ends_.replies.number(), frame.data(), frame.size());
  const Reply reply{word(frame.data()), word(frame.data() + kWord)};
  if (reply.at < clock_ || reply.at > limit) {
    fail("reports time " + std::to_string(reply.at) + ", asked for " + std::to_string(clock_) + " to " +
         std::to_string(limit));
  }
  if (reply.id != kNothing || limit != kForever) clock_ = reply.at;
  return reply;
}

void PipeNetwork::land(const Reply& reply) {
  const auto id = static_cast<std::uint32_t>(reply.id);
  if (reply.id < 0 || reply.id >= static_cast<std::int64_t>(flights_.made()) || !flights_[id].under_way) {
    fail("reports message " + std::to_string(reply.id) + ", which is not under way");
  }
  Flight& flight = flights_[id];
  flight.under_way = false;
  flight.span.end = reply.at;
  recorder_.transfer(flight.span);
  queue_.schedule(reply.at, flight.landed, flight.place);
  flights_.give_back(id);
}

}  // namespace astra
