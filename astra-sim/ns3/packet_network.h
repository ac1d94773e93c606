#pragma once

#include <ns3/net-device.h>
#include <ns3/node.h>
#include <ns3/nstime.h>
#include <ns3/packet.h>
#include <ns3/point-to-point-net-device.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "clock.h"
#include "link_map.h"
#include "options.h"
#include "packet_tag.h"

namespace astra_ns3 {

/// Messages cut into packets, and packets moved over point-to-point devices of ns-3.
///
/// Nodes store a packet, then forward it; ports are first in, first out. A node's own packets enter a port
/// one at a time, the pairs (source, destination) that use it taking turns; a pair sends its messages in
/// order. A message has landed when its last byte is at the destination. With a window, a pair stops at that
/// much unacknowledged data; acknowledgements come back after the latencies of the path and take no
/// bandwidth. With a buffer, a port of a forwarder that is full of others' packets drops the packet, and the
/// source, told as late, sends it again first; before, it waits the time of a packet for every earlier drop
/// of the same data.
class PacketNetwork {
 public:
  /// Build the network; landings are told to the clock. Map and clock must outlive it.
  PacketNetwork(const LinkMap& map, const Transport& transport, Clock& clock);
  PacketNetwork(const PacketNetwork&) = delete;
  PacketNetwork& operator=(const PacketNetwork&) = delete;

  /// Start a message now. Source and destination are different NPUs.
  void send(std::int64_t id, std::int32_t source, std::int32_t destination, std::int64_t bytes);

  /// True if a path leads from one NPU to the other.
  [[nodiscard]] bool connected(std::int32_t source, std::int32_t destination) const {
    return map_.next_link(source, destination) >= 0;
  }

 private:
  struct Pair;

  /// One end of a link.
  struct Port {
    ns3::Ptr<ns3::PointToPointNetDevice> device;
    std::deque<Pair*> turns;                   // pairs that have something to send and may
    const ns3::Packet* own_waiting = nullptr;  // the node's own packet in the queue; compared, never followed
    std::int64_t own_bytes = 0;                // its size
  };
  /// Data not sent yet, or to be sent again.
  struct Piece {
    std::uint32_t message;
    std::int64_t bytes;
    std::uint32_t drops;
  };
  /// All traffic from one NPU to another.
  struct Pair {
    Port* port = nullptr;
    std::deque<Piece> backlog;
    std::int64_t window_bytes = 0;    // 0: no limit
    std::int64_t unacknowledged = 0;  // bytes
    ns3::Time back;                   // latencies of the whole path
    ns3::Time packet_time;            // of a full packet on its narrowest link
    bool has_turn = false;
  };
  struct Message {
    std::int64_t id;
    std::int64_t missing_bytes;
    std::int32_t destination;
    Pair* pair;
  };

  void lay(std::int32_t link, const std::vector<ns3::Ptr<ns3::Node>>& nodes);
  [[nodiscard]] Port& port(std::int32_t node, std::int32_t link);
  [[nodiscard]] Pair& pair(std::int32_t source, std::int32_t destination);
  [[nodiscard]] std::int64_t window_bytes(const Path& path, double packet_bits) const;
  [[nodiscard]] static bool may_send(const Pair& pair);
  [[nodiscard]] std::uint32_t take_message(const Message& message);

  void give_turn(Pair& pair);
  void feed(Port& port);
  void begun(Port* port, ns3::Ptr<const ns3::Packet> packet);
  bool arrived(std::int32_t node, ns3::Ptr<ns3::NetDevice> device, ns3::Ptr<const ns3::Packet> packet,
               std::uint16_t protocol, const ns3::Address& from);
  void forward(std::int32_t node, ns3::Ptr<const ns3::Packet> packet, const PacketTag& tag);
  void deliver(const PacketTag& tag);
  void acknowledge(Pair* pair, std::int64_t bytes);
  void drop(std::int32_t node, const PacketTag& tag);
  void send_again(Pair* pair, const PacketTag& tag);

  const LinkMap& map_;
  Transport transport_;
  Clock& clock_;
  std::vector<std::unique_ptr<Port>> ports_;  // of link i: 2i at its A, 2i+1 at its B
  std::unordered_map<std::uint64_t, std::unique_ptr<Pair>> pairs_;
  std::vector<Message> messages_;
  std::vector<std::uint32_t> free_messages_;
};

}  // namespace astra_ns3
