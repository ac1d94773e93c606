#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/event_queue.h"
#include "engine/pool.h"
#include "network/network.h"
#include "network/pipe_ends.h"

namespace astra {

/// The process that simulates the network has ended, or says what cannot be.
class NetworkError final : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A network that another process simulates: messages go out over one pipe, landings come back over another.
///
/// Requests are six little-endian 64-bit integers (kind, id, source, destination, bytes, time in ns), replies
/// two (time in ns, id). Kind 1 starts a message. Kind 2 asks for the next landing not later than a time, and
/// gets one reply: that landing, or the time itself and -1. docs/ns3.md tells the whole protocol.
class PipeNetwork final : public Network {
 public:
  /// Talk to the process at the other ends; throws std::runtime_error if there is none.
  explicit PipeNetwork(NetworkParts parts);

  void send(NpuId source, NpuId destination, Bytes bytes, Callback landed) override;
  void catch_up(Time limit) override;
  [[nodiscard]] std::string link_name(std::uint32_t link) const override;

 private:
  struct Flight {
    Callback landed;
    std::uint64_t place = 0;  // in the queue among events of one time: that of its start
    bool under_way = false;
    LinkSpan span;  // for the timeline
  };
  struct Reply {
    Time at;
    std::int64_t id;
  };

  void request(std::int64_t kind, std::int64_t id, std::int64_t source, std::int64_t destination, Bytes bytes,
               Time at);
  [[nodiscard]] Reply advance(Time limit);
  void land(const Reply& reply);

  PipeEnds ends_;
  std::uint32_t npus_;
  EventQueue& queue_;
  Recorder& recorder_;
  Pool<Flight> flights_;
  std::vector<unsigned char> requests_;  // not written yet
  Time clock_ = 0;                       // of the other process
  bool sent_since_ = false;              // a message has started since the clock was brought there
};

}  // namespace astra
