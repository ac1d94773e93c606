#pragma once

#include <cstdint>
#include <vector>

#include "engine/event_queue.h"
#include "engine/pool.h"
#include "network/network.h"

namespace astra {

/// What a send and a receive must agree on to meet; the k-th send of a key meets its k-th receive.
struct MessageKey {
  TicketNumber ticket = 0;
  std::uint64_t tag = 0;      ///< trace tag, or number of a collective's stream
  std::uint32_t channel = 0;  ///< keeps point-to-point, system-wide and group messages apart
  bool control = false;       ///< the "ready to receive" of a rendezvous, from receiver to sender
  NpuId source = 0;
  NpuId destination = 0;
  Bytes bytes = 0;

  bool operator==(const MessageKey&) const = default;
};

/// Brings sends and receives together on top of a Network.
///
/// With rendezvous a message waits for its receiver: posting a receive sends 8192 control bytes to the
/// sender, the receive counts as posted when these have landed, and then the sender's data starts.
class Mailbox final : public EventHandler {
 public:
  /// A receive that no message has met yet.
  struct PostedReceive {
    MessageKey key;
    Callback received;
  };

  /// Make the mailbox of all NPUs; network and queue must outlive it.
  Mailbox(Network& network, EventQueue& queue, bool rendezvous);

  /// Send a message now. When it has landed `sent` is woken, then the receive it meets, if there is one.
  void send(const MessageKey& key, Callback sent);

  /// The same through the receiver's single copy-in lane: the message waits until the lane is free.
  void send_through_copy_lane(const MessageKey& key, Callback sent);

  /// Post a receive; `received` is woken when the message has landed (in this tick if it already has).
  void receive(const MessageKey& key, Callback received);

  /// Forget landed messages of a ticket that nobody has received.
  void forget(TicketNumber ticket);

  /// What a receive posted for a rendezvous belongs to: the callback of the send or receive that waits.
  [[nodiscard]] Callback owner_of(std::uint64_t argument) const {
    return deferred_[static_cast<std::uint32_t>(argument >> 1)].done;
  }

  /// The receives still waiting for their message.
  [[nodiscard]] std::vector<PostedReceive> posted() const;

  /// A message has landed (called by the network), or one side of a rendezvous is ready.
  void handle(std::uint64_t argument) override;

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  struct Flight {
    MessageKey key;
    Callback sent;
    bool copy_lane = false;
    std::uint32_t next = kNone;  // next in the copy lane
  };
  struct Entry {
    MessageKey key;
    Callback received;  // without a handler: a landed message
    std::uint32_t next = kNone;
  };
  struct Bucket {
    std::uint32_t first = kNone;
    std::uint32_t last = kNone;  // of no meaning in an empty bucket
  };
  struct CopyLane {
    std::uint32_t first = kNone;  // the flight under way
    std::uint32_t last = kNone;
  };

  /// A send or receive that waits for its rendezvous.
  struct Deferred {
    MessageKey key;
    Callback done;
    bool sends = false;
    bool copy_lane = false;
  };

  // What an event means: the lowest bit tells a landed flight from a rendezvous.
  static std::uint64_t pack(std::uint32_t handle, bool deferred) {
    return std::uint64_t{handle} << 1 | (deferred ? 1U : 0U);
  }

  void transmit(const MessageKey& key, Callback sent, bool copy_lane);
  void defer(const Deferred& what);
  void meet(std::uint32_t deferred);
  void land(std::uint32_t flight);
  void post(const MessageKey& key, Callback received);
  void launch(std::uint32_t flight);
  void free_lane(NpuId destination);
  [[nodiscard]] std::size_t bucket(const MessageKey& key) const;
  void append(std::uint32_t entry);
  void remove(Bucket& bucket, std::uint32_t before, std::uint32_t entry);
  void insert(const MessageKey& key, Callback received);
  [[nodiscard]] bool take(const MessageKey& key, bool landed, Callback& received);
  void grow();

  Network& network_;
  EventQueue& queue_;
  bool rendezvous_;
  Pool<Flight> flights_;
  Pool<Deferred> deferred_;
  Pool<Entry> entries_;
  std::vector<Bucket> buckets_;
  std::vector<CopyLane> lanes_;
  std::size_t landed_ = 0;
};

}  // namespace astra
