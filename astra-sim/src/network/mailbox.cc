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
    : network_(network), queue_(queue), rendezvous_(rendezvous), buckets_(64, kNone) {}

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
  for (std::uint32_t& head : buckets_) {
    for (std::uint32_t* link = &head; *link != kNone;) {
      const std::uint32_t index = *link;
      Entry& entry = entries_[index];
      if (entry.key.ticket == ticket && entry.received.handler == nullptr) {
        *link = entry.next;
        entries_.give_back(index);
        --landed_;
      } else {
        link = &entry.next;
      }
    }
  }
}

std::vector<Mailbox::PostedReceive> Mailbox::posted() const {
  std::vector<PostedReceive> result;
  for (std::uint32_t head : buckets_) {
    for (std::uint32_t index = head; index != kNone; index = entries_[index].next) {
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
  std::uint32_t* link = &buckets_[bucket(key)];
  while (*link != kNone) link = &entries_[*link].next;  // at the end: first come, first met
  *link = index;
}

bool Mailbox::take(const MessageKey& key, bool landed, Callback& received) {
  for (std::uint32_t* link = &buckets_[bucket(key)]; *link != kNone; link = &entries_[*link].next) {
    const std::uint32_t index = *link;
    Entry& entry = entries_[index];
    if ((entry.received.handler == nullptr) != landed || !(entry.key == key)) continue;
    received = entry.received;
    *link = entry.next;
    entries_.give_back(index);
    if (landed) --landed_;
    return true;
  }
  return false;
}

void Mailbox::grow() {
  std::vector<std::uint32_t> old(buckets_.size() * 2, kNone);
  old.swap(buckets_);
  for (std::uint32_t head : old) {
    while (head != kNone) {
      const std::uint32_t index = head;
      head = entries_[index].next;
      entries_[index].next = kNone;
      std::uint32_t* link = &buckets_[bucket(entries_[index].key)];
      while (*link != kNone) link = &entries_[*link].next;
      *link = index;
    }
  }
}

}  // namespace astra
