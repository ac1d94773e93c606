#include "network/mailbox.h"

namespace astra {
namespace {

constexpr Bytes kControlBytes = 8192;

constexpr std::uint64_t mix(std::uint64_t value) {
  value *= 0x9E3779B97F4A7C15ULL;
  return value ^ (value >> 29);
}

}  // namespace

Mailbox::Mailbox(Network& network, EventQueue& queue, bool rendezvous)
    : network_(network), queue_(queue), rendezvous_(rendezvous), buckets_(64) {}

void Mailbox::send(const MessageKey& key, Callback sent) {
  if (rendezvous_) {
    defer({key, sent, true, false});
  } else {
    transmit(key, sent, false);
  }
}

void Mailbox::send_through_copy_lane(const MessageKey& key, Callback sent) {
  if (rendezvous_) {
    defer({key, sent, true, true});
  } else {
    transmit(key, sent, true);
  }
}

void Mailbox::receive(const MessageKey& key, Callback received) {
  if (rendezvous_) {
    defer({key, received, false, false});
  } else {
    post(key, received);
  }
}

void Mailbox::handle(std::uint64_t argument) {
  const auto index = static_cast<std::uint32_t>(argument >> 1);
  if ((argument & 1) != 0) {
    meet(index);
  } else {
    land(index);
  }
}

// The receiver sends control bytes; the sender waits for them.
void Mailbox::defer(const Deferred& what) {
  const std::uint32_t index = deferred_.take();
  deferred_[index] = what;
  MessageKey control = what.key;
  control.control = true;
  control.source = what.key.destination;
  control.destination = what.key.source;
  control.bytes = kControlBytes;
  const Callback ready{this, pack(index, true)};
  if (what.sends) {
    post(control, ready);
  } else {
    transmit(control, ready, false);
  }
}

void Mailbox::meet(std::uint32_t index) {
  const Deferred what = deferred_[index];
  deferred_.give_back(index);
  if (what.sends) {
    transmit(what.key, what.done, what.copy_lane);
  } else {
    post(what.key, what.done);
  }
}

void Mailbox::transmit(const MessageKey& key, Callback sent, bool copy_lane) {
  const std::uint32_t flight = flights_.take();
  flights_[flight] = {key, sent, copy_lane, kNone};
  if (!copy_lane) {
    launch(flight);
    return;
  }
  const auto destination = static_cast<std::size_t>(key.destination);
  if (destination >= lanes_.size()) lanes_.resize(destination + 1);
  CopyLane& lane = lanes_[destination];
  if (lane.first == kNone) {
    lane = {flight, flight};
    launch(flight);
  } else {
    flights_[lane.last].next = flight;
    lane.last = flight;
  }
}

void Mailbox::post(const MessageKey& key, Callback received) {
  Callback unused;
  if (take(key, true, unused)) {
    queue_.schedule(queue_.now(), received);
  } else {
    insert(key, received);
  }
}

// The sender's callback first, then the receiver's.
void Mailbox::land(std::uint32_t index) {
  const Flight flight = flights_[index];
  if (flight.copy_lane) free_lane(flight.key.destination);
  flights_.give_back(index);
  Callback received;
  if (!take(flight.key, false, received)) insert(flight.key, {});
  flight.sent();
  received();
}

void Mailbox::launch(std::uint32_t flight) {
  const MessageKey& key = flights_[flight].key;
  network_.send(key.source, key.destination, key.bytes, {this, pack(flight, false)});
}

void Mailbox::free_lane(NpuId destination) {
  CopyLane& lane = lanes_[static_cast<std::size_t>(destination)];
  lane.first = flights_[lane.first].next;
  if (lane.first != kNone) launch(lane.first);
}

void Mailbox::forget(TicketNumber ticket) {
  if (landed_ == 0) return;
  for (Bucket& bucket : buckets_) {
    std::uint32_t before = kNone;
    for (std::uint32_t index = bucket.first; index != kNone;) {
      const std::uint32_t next = entries_[index].next;
      if (entries_[index].key.ticket == ticket && entries_[index].received.handler == nullptr) {
        remove(bucket, before, index);
        --landed_;
      } else {
        before = index;
      }
      index = next;
    }
  }
}

std::vector<Mailbox::PostedReceive> Mailbox::posted() const {
  std::vector<PostedReceive> result;
  for (const Bucket& bucket : buckets_) {
    for (std::uint32_t index = bucket.first; index != kNone; index = entries_[index].next) {
      const Entry& entry = entries_[index];
      if (entry.received.handler != nullptr) result.push_back({entry.key, entry.received});
    }
  }
  return result;
}

std::size_t Mailbox::bucket(const MessageKey& key) const {
  const auto ends = static_cast<std::uint64_t>(static_cast<std::uint32_t>(key.source)) << 32 |
                    static_cast<std::uint32_t>(key.destination);
  std::uint64_t hash =
      mix(key.tag + (static_cast<std::uint64_t>(key.channel) << 40) + (key.control ? 1ULL << 39 : 0));
  hash = mix(hash ^ ends);
  hash = mix(hash ^ key.ticket);
  hash = mix(hash ^ static_cast<std::uint64_t>(key.bytes));
  return static_cast<std::size_t>(hash >> 16) & (buckets_.size() - 1);
}

void Mailbox::insert(const MessageKey& key, Callback received) {
  if (entries_.alive() >= buckets_.size()) grow();
  const std::uint32_t index = entries_.take();
  entries_[index] = {key, received, kNone};
  if (received.handler == nullptr) ++landed_;
  append(index);
}

// At the end of its bucket: first come, first met.
void Mailbox::append(std::uint32_t index) {
  Bucket& bucket = buckets_[this->bucket(entries_[index].key)];
  if (bucket.first == kNone) {
    bucket.first = index;
  } else {
    entries_[bucket.last].next = index;
  }
  bucket.last = index;
}

void Mailbox::remove(Bucket& bucket, std::uint32_t before, std::uint32_t index) {
  const std::uint32_t next = entries_[index].next;
  if (before == kNone) {
    bucket.first = next;
  } else {
    entries_[before].next = next;
  }
  if (bucket.last == index) bucket.last = before;
  entries_.give_back(index);
}

// Of one key there are posted receives or landed messages, never both: the first entry decides.
bool Mailbox::take(const MessageKey& key, bool landed, Callback& received) {
  Bucket& bucket = buckets_[this->bucket(key)];
  std::uint32_t before = kNone;
  for (std::uint32_t index = bucket.first; index != kNone; index = entries_[index].next) {
    const Entry& entry = entries_[index];
    if (entry.key == key) {
      if ((entry.received.handler == nullptr) != landed) return false;
      received = entry.received;
      remove(bucket, before, index);
      if (landed) --landed_;
      return true;
    }
    before = index;
  }
  return false;
}

void Mailbox::grow() {
  std::vector<Bucket> old(buckets_.size() * 2);
  old.swap(buckets_);
  for (const Bucket& bucket : old) {
    for (std::uint32_t index = bucket.first; index != kNone;) {
      const std::uint32_t next = entries_[index].next;
      entries_[index].next = kNone;
      append(index);
      index = next;
    }
  }
}

}  // namespace astra
