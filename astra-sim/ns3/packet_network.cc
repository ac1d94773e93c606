#include "packet_network.h"

#include <ns3/data-rate.h>
#include <ns3/drop-tail-queue.h>
#include <ns3/mac48-address.h>
#include <ns3/point-to-point-channel.h>
#include <ns3/queue-size.h>
#include <ns3/simulator.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace astra_ns3 {
namespace {

constexpr std::uint16_t kProtocol = 0x0800;  // the device's framing knows IP only; nobody looks at it
constexpr std::int64_t kFraming = 2;         // bytes that the device adds itself
constexpr double kPsPerNs = 1000.0;
constexpr double kPsPerSecond = 1e12;
constexpr double kNsPerSecond = 1e9;
constexpr double kMostBytes = 1e15;  // of a window

ns3::Time picoseconds(double value) {
  return ns3::PicoSeconds(static_cast<std::uint64_t>(std::llround(value)));
}

}  // namespace

PacketNetwork::PacketNetwork(const LinkMap& map, const Transport& transport, Clock& clock)
    : map_(map), transport_(transport), clock_(clock) {
  std::vector<ns3::Ptr<ns3::Node>> nodes;
  for (std::int32_t i = 0; i < map.nodes(); ++i) nodes.push_back(ns3::CreateObject<ns3::Node>());
  for (std::size_t i = 0; i < map.links().size(); ++i) lay(static_cast<std::int32_t>(i), nodes);
}

void PacketNetwork::lay(std::int32_t link, const std::vector<ns3::Ptr<ns3::Node>>& nodes) {
  const Link& cable = map_.links()[static_cast<std::size_t>(link)];
  const auto channel = ns3::CreateObject<ns3::PointToPointChannel>();
  channel->SetAttribute("Delay", ns3::TimeValue(picoseconds(cable.latency_ns * kPsPerNs)));
  for (const std::int32_t node : {cable.a, cable.b}) {
    ports_.push_back(std::make_unique<Port>());
    Port* port = ports_.back().get();
    port->device = ns3::CreateObject<ns3::PointToPointNetDevice>();
    port->device->SetAddress(ns3::Mac48Address::Allocate());
    port->device->SetDataRate(ns3::DataRate(static_cast<std::uint64_t>(std::llround(cable.bits_per_second))));
    const auto queue = ns3::CreateObject<ns3::DropTailQueue<ns3::Packet>>();
    queue->SetMaxSize(ns3::QueueSize(ns3::QueueSizeUnit::PACKETS, std::numeric_limits<std::uint32_t>::max()));
    port->device->SetQueue(queue);
    nodes[static_cast<std::size_t>(node)]->AddDevice(port->device);
    port->device->SetReceiveCallback(ns3::MakeCallback(&PacketNetwork::arrived, this, node));
    port->device->TraceConnectWithoutContext("PhyTxBegin",
                                             ns3::MakeCallback(&PacketNetwork::begun, this, port));
    port->device->Attach(channel);
  }
}

void PacketNetwork::send(std::int64_t id, std::int32_t source, std::int32_t destination, std::int64_t bytes) {
  Pair& way = pair(source, destination);
  way.backlog.push_back({take_message({id, bytes, destination, &way}), bytes, 0});
  give_turn(way);
}

PacketNetwork::Port& PacketNetwork::port(std::int32_t node, std::int32_t link) {
  const bool at_b = map_.links()[static_cast<std::size_t>(link)].b == node;
  return *ports_[2 * static_cast<std::size_t>(link) + (at_b ? 1 : 0)];
}

PacketNetwork::Pair& PacketNetwork::pair(std::int32_t source, std::int32_t destination) {
  const std::uint64_t key =
      static_cast<std::uint64_t>(source) << 32 | static_cast<std::uint32_t>(destination);
  std::unique_ptr<Pair>& found = pairs_[key];
  if (!found) {
    found = std::make_unique<Pair>();
    found->port = &port(source, map_.next_link(source, destination));
    const Path path = map_.path(source, destination);
    const auto packet_bits = static_cast<double>(8 * (transport_.mtu_bytes + transport_.header_bytes));
    found->back = picoseconds(path.latency_ns * kPsPerNs);
    found->packet_time = picoseconds(packet_bits / path.narrowest_bps * kPsPerSecond);
    found->window_bytes = window_bytes(path, packet_bits);
  }
  return *found;
}

// The bandwidth-delay product: the narrowest link times the time from the start of a full packet until its
// acknowledgement is back. At least one packet.
std::int64_t PacketNetwork::window_bytes(const Path& path, double packet_bits) const {
  if (transport_.window_bdp <= 0) return 0;
  const double round_trip_s = 2 * path.latency_ns / kNsPerSecond + packet_bits * path.seconds_per_bit;
  const double bytes = transport_.window_bdp * path.narrowest_bps * round_trip_s / 8;
  return std::max(transport_.mtu_bytes, static_cast<std::int64_t>(std::ceil(std::min(bytes, kMostBytes))));
}

std::uint32_t PacketNetwork::take_message(const Message& message) {
  if (free_messages_.empty()) {
    messages_.push_back(message);
    return static_cast<std::uint32_t>(messages_.size() - 1);
  }
  const std::uint32_t slot = free_messages_.back();
  free_messages_.pop_back();
  messages_[slot] = message;
  return slot;
}

bool PacketNetwork::may_send(const Pair& pair) {
  return !pair.backlog.empty() && (pair.window_bytes == 0 || pair.unacknowledged < pair.window_bytes);
}

void PacketNetwork::give_turn(Pair& pair) {
  if (!pair.has_turn && may_send(pair)) {
    pair.has_turn = true;
    pair.port->turns.push_back(&pair);
  }
  feed(*pair.port);
}

// Put the next of the node's own packets into the port's queue, unless one is waiting there.
void PacketNetwork::feed(Port& port) {
  if (port.own_waiting != nullptr || port.turns.empty()) return;
  Pair& pair = *port.turns.front();
  port.turns.pop_front();
  Piece& piece = pair.backlog.front();
  const std::int64_t bytes = std::min(piece.bytes, transport_.mtu_bytes);
  const PacketTag tag(piece.message, static_cast<std::uint32_t>(bytes), messages_[piece.message].destination,
                      piece.drops);
  piece.bytes -= bytes;
  if (piece.bytes == 0) pair.backlog.pop_front();
  pair.unacknowledged += bytes;
  pair.has_turn = may_send(pair);
  if (pair.has_turn) port.turns.push_back(&pair);

  const std::int64_t size = std::max<std::int64_t>(0, bytes + transport_.header_bytes - kFraming);
  const auto packet = ns3::Create<ns3::Packet>(static_cast<std::uint32_t>(size));
  packet->AddPacketTag(tag);
  port.own_waiting = ns3::PeekPointer(packet);
  port.own_bytes = size + kFraming;
  port.device->Send(packet, port.device->GetBroadcast(), kProtocol);
}

// A packet starts on the wire. If it was the node's own, the next one may wait in its place.
void PacketNetwork::begun(Port* port, ns3::Ptr<const ns3::Packet> packet) {
  if (ns3::PeekPointer(packet) != port->own_waiting) return;
  port->own_waiting = nullptr;
  port->own_bytes = 0;
  feed(*port);
}

bool PacketNetwork::arrived(std::int32_t node, ns3::Ptr<ns3::NetDevice>, ns3::Ptr<const ns3::Packet> packet,
                            std::uint16_t, const ns3::Address&) {
  PacketTag tag;
  packet->PeekPacketTag(tag);
  if (tag.destination() == node) {
    deliver(tag);
  } else {
    forward(node, packet, tag);
  }
  return true;
}

void PacketNetwork::forward(std::int32_t node, ns3::Ptr<const ns3::Packet> packet, const PacketTag& tag) {
  Port& out = port(node, map_.next_link(node, tag.destination()));
  const std::int64_t waiting = out.device->GetQueue()->GetNBytes() - out.own_bytes;
  if (transport_.buffer_bytes > 0 &&
      waiting + tag.bytes() + transport_.header_bytes > transport_.buffer_bytes) {
    drop(node, tag);
    return;
  }
  // The channel made this packet for its receiver alone, so it may go on without another copy.
  out.device->Send(ns3::ConstCast<ns3::Packet>(packet), out.device->GetBroadcast(), kProtocol);
}

void PacketNetwork::deliver(const PacketTag& tag) {
  Message& message = messages_[tag.message()];
  Pair* way = message.pair;
  message.missing_bytes -= tag.bytes();
  if (message.missing_bytes == 0) {
    clock_.landed(message.id);
    free_messages_.push_back(tag.message());
  }
  if (way->window_bytes > 0) {
    ns3::Simulator::Schedule(way->back, &PacketNetwork::acknowledge, this, way,
                             static_cast<std::int64_t>(tag.bytes()));
  }
}

void PacketNetwork::acknowledge(Pair* pair, std::int64_t bytes) {
  pair->unacknowledged -= bytes;
  give_turn(*pair);
}

// The source hears of it after the latencies from here back. Then it waits, so that senders whose packets are
// dropped again and again come to send less than the network can carry; otherwise they might never get
// through.
void PacketNetwork::drop(std::int32_t node, const PacketTag& tag) {
  Pair* way = messages_[tag.message()].pair;
  const ns3::Time ahead = picoseconds(map_.path(node, tag.destination()).latency_ns * kPsPerNs);
  const ns3::Time wait = ns3::PicoSeconds(way->packet_time.GetPicoSeconds() * tag.drops());
  const PacketTag again(tag.message(), tag.bytes(), tag.destination(), tag.drops() + 1);
  ns3::Simulator::Schedule(std::max(way->back - ahead, ns3::Time(0)) + wait, &PacketNetwork::send_again, this,
                           way, again);
}

void PacketNetwork::send_again(Pair* pair, const PacketTag& tag) {
  pair->unacknowledged -= tag.bytes();
  pair->backlog.push_front({tag.message(), tag.bytes(), tag.drops()});
  give_turn(*pair);
}

}  // namespace astra_ns3
