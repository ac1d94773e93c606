#pragma once

#include <ns3/tag.h>

#include <cstdint>
#include <ostream>

namespace astra_ns3 {

/// What a packet says about itself: our header, without bytes of its own (--header gives those).
class PacketTag final : public ns3::Tag {
 public:
  PacketTag() = default;
  /// Describe a packet with `bytes` of data of a message, on its way to an NPU after so many drops.
  PacketTag(std::uint32_t message, std::uint32_t bytes, std::int32_t destination, std::uint32_t drops)
      : message_(message), bytes_(bytes), destination_(destination), drops_(drops) {}

  /// Slot of the message in the network's table.
  [[nodiscard]] std::uint32_t message() const { return message_; }
  /// Data bytes of the packet.
  [[nodiscard]] std::uint32_t bytes() const { return bytes_; }
  /// NPU to which the packet goes.
  [[nodiscard]] std::int32_t destination() const { return destination_; }
  /// How often this data has been dropped.
  [[nodiscard]] std::uint32_t drops() const { return drops_; }

  // For ns-3.
  static ns3::TypeId GetTypeId();
  ns3::TypeId GetInstanceTypeId() const override;
  std::uint32_t GetSerializedSize() const override;
  void Serialize(ns3::TagBuffer buffer) const override;
  void Deserialize(ns3::TagBuffer buffer) override;
  void Print(std::ostream& stream) const override;

 private:
  std::uint32_t message_ = 0;
  std::uint32_t bytes_ = 0;
  std::int32_t destination_ = 0;
  std::uint32_t drops_ = 0;
};

}  // namespace astra_ns3
