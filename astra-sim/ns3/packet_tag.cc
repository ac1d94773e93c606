#include "packet_tag.h"

namespace astra_ns3 {

ns3::TypeId PacketTag::GetTypeId() {
  static const ns3::TypeId type =
      ns3::TypeId("astra_ns3::PacketTag").SetParent<ns3::Tag>().AddConstructor<PacketTag>();
  return type;
}

ns3::TypeId PacketTag::GetInstanceTypeId() const {
  return GetTypeId();
}

std::uint32_t PacketTag::GetSerializedSize() const {
  return sizeof(message_) + sizeof(bytes_) + sizeof(destination_) + sizeof(drops_);
}

void PacketTag::Serialize(ns3::TagBuffer buffer) const {
  buffer.WriteU32(message_);
  buffer.WriteU32(bytes_);
  buffer.WriteU32(static_cast<std::uint32_t>(destination_));
  buffer.WriteU32(drops_);
}

void PacketTag::Deserialize(ns3::TagBuffer buffer) {
  message_ = buffer.ReadU32();
  bytes_ = buffer.ReadU32();
  destination_ = static_cast<std::int32_t>(buffer.ReadU32());
  drops_ = buffer.ReadU32();
}

void PacketTag::Print(std::ostream& stream) const {
  stream << "message " << message_ << ", " << bytes_ << " bytes to NPU " << destination_;
}

}  // namespace astra_ns3
