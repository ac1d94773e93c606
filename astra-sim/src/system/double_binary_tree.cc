#include "system/double_binary_tree.h"

#include <bit>
#include <stdexcept>

namespace astra {
namespace {

constexpr std::int32_t kNobody = -1;

/// An NPU's place in its tree, as positions among the members.
struct Place {
  std::int32_t parent = kNobody;
  std::int32_t first_child = kNobody;
  std::int32_t second_child = kNobody;
};

// Inside the perfect tree the nodes are 1 .. n-1; a node's level is the number of its trailing zero bits.
Place place_of(const Phase& phase, const Lane& lane) {
  const std::int32_t shift = lane.second_tree ? 0 : 1;  // position = node - shift
  const std::int32_t root = lane.second_tree ? 0 : phase.members.count - 1;
  const std::int32_t top = phase.members.count / 2;
  Place place;
  if (phase.members.me == root) {
    place.first_child = top - shift;
    return place;
  }
  const std::int32_t node = phase.members.me + shift;
  const std::int32_t reach = node & -node;
  if (node == top) {
    place.parent = root;
  } else {
    place.parent = ((node & reach * 2) != 0 ? node - reach : node + reach) - shift;
  }
  if (reach > 1) {
    place.first_child = node - reach / 2 - shift;
    place.second_child = node + reach / 2 - shift;
  }
  return place;
}

}  // namespace

void DoubleBinaryTree::check(CollectiveKind /*kind*/, std::int32_t members, bool in_group) const {
  if (in_group) {
    throw std::invalid_argument("doubleBinaryTree cannot run in a communicator group; use ring or direct");
  }
  if (!std::has_single_bit(static_cast<std::uint32_t>(members))) {
    throw std::invalid_argument("doubleBinaryTree needs a power of two of NPUs, not " +
                                std::to_string(members) + "; use ring or direct");
  }
}

Bytes DoubleBinaryTree::bytes_after(CollectiveKind /*kind*/, std::int32_t /*members*/, Bytes bytes) const {
  return bytes;
}

void DoubleBinaryTree::start(StreamContext& stream) {
  const Phase& phase = stream.phase();
  const Place place = place_of(phase, stream.lane());
  if (place.first_child == kNobody) {
    stream.start_bus_trip(-1);
    return;
  }
  for (const std::int32_t child : {place.first_child, place.second_child}) {
    if (child != kNobody) stream.receive(phase.members.at(child), phase.bytes);
  }
}

// A leaf reduces nothing; everybody else charges a reduction for every message, on the way down too.
void DoubleBinaryTree::on_message(StreamContext& stream) {
  const bool leaf = place_of(stream.phase(), stream.lane()).first_child == kNobody;
  stream.start_bus_trip(leaf ? -1 : stream.phase().bytes);
}

void DoubleBinaryTree::on_bus_trip_end(StreamContext& stream) {
  const Phase& phase = stream.phase();
  const Place place = place_of(phase, stream.lane());
  const bool leaf = place.first_child == kNobody;
  const std::int32_t children = leaf ? 0 : place.second_child == kNobody ? 1 : 2;
  const std::int32_t trips = ++stream.progress().inserts;
  const std::int32_t upward = leaf ? 1 : children;  // trips after which all of the subtree is here
  if (trips < upward) return;
  if (trips == upward && place.parent != kNobody) {
    stream.send(phase.members.at(place.parent), phase.bytes);
    stream.receive(phase.members.at(place.parent), phase.bytes);
    return;
  }
  for (const std::int32_t child : {place.first_child, place.second_child}) {
    if (child != kNobody) stream.send(phase.members.at(child), phase.bytes);
  }
  stream.finish_phase();
}

}  // namespace astra
