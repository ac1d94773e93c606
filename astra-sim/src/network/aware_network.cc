#include "network/aware_network.h"

#include "network/units.h"

namespace astra {
AwareNetwork::AwareNetwork(const NetworkParts& parts)
    : topology_(parts.topology), queue_(parts.queue), recorder_(parts.recorder) {
  for (std::size_t d = 0; d < topology_.rank(); ++d) {
    const Dimension& dimension = topology_.dimensions()[d];
    bytes_per_ns_.push_back(bytes_per_ns(dimension.bandwidth_gbps));
    first_link_.push_back(static_cast<LinkId>(dimension_of_.size()));
    const std::size_t links =
        static_cast<std::size_t>(topology_.npus()) * dimension.wiring->links_per_npu(dimension.npus);
    dimension_of_.insert(dimension_of_.end(), links, d);
  }
  links_.resize(dimension_of_.size());
}

void AwareNetwork::send(NpuId source, NpuId destination, Bytes bytes, Callback landed) {
  const Handle handle = flights_.take();
  flights_[handle] = {.source = source,
                      .at = source,
                      .destination = destination,
                      .bytes = bytes,
                      .landed = landed,
                      .dimension = 0,
                      .device = 0,
                      .next = kNone};
  forward(handle);
}

// An even argument is the arrival of a message at the end of its link, an odd one the end of a link's work.
void AwareNetwork::handle(std::uint64_t argument) {
  if ((argument & 1) != 0) {
    free(static_cast<LinkId>(argument >> 1));
  } else {
    forward(static_cast<Handle>(argument >> 1));
  }
}

void AwareNetwork::forward(Handle handle) {
  Flight& flight = flights_[handle];
  if (flight.device == 0 && flight.at == flight.destination) {
    const Callback landed = flight.landed;
    flights_.give_back(handle);
    landed();
    return;
  }
  enter(step(flight), handle);
}

// The next link of a message; the flight is moved to where that link ends.
AwareNetwork::LinkId AwareNetwork::step(Flight& flight) const {
  std::size_t& d = flight.dimension;
  while (flight.device == 0 &&
         topology_.coordinate(flight.at, d) == topology_.coordinate(flight.destination, d)) {
    ++d;
  }
  const Dimension& dimension = topology_.dimensions()[d];
  const std::int32_t to = topology_.coordinate(flight.destination, d);
  const Hop hop =
      dimension.wiring->hop({topology_.coordinate(flight.at, d), flight.device}, to, dimension.npus);
  const auto owner = static_cast<std::size_t>(neighbour(flight.at, d, hop.owner));
  flight.at = neighbour(flight.at, d, hop.next.coordinate);
  flight.device = hop.next.device;
  return first_link_[d] +
         static_cast<LinkId>(owner * dimension.wiring->links_per_npu(dimension.npus) + hop.link);
}

NpuId AwareNetwork::neighbour(NpuId npu, std::size_t dimension, std::int32_t coordinate) const {
  return npu + (coordinate - topology_.coordinate(npu, dimension)) * topology_.stride(dimension);
}

void AwareNetwork::enter(LinkId id, Handle handle) {
  Link& link = links_[id];
  if (!link.busy) {
    occupy(id, handle);
    return;
  }
  if (link.first == kNone) {
    link.first = handle;
  } else {
    flights_[link.last].next = handle;
  }
  link.last = handle;
}

void AwareNetwork::occupy(LinkId id, Handle handle) {
  const std::size_t d = dimension_of_[id];
  const double latency = topology_.dimensions()[d].latency_ns;
  Flight& flight = flights_[handle];
  const double transfer = static_cast<double>(flight.bytes) / bytes_per_ns_[d];
  const Time free_at = queue_.now() + cut_to_ns(transfer);
  links_[id].busy = true;
  flight.next = kNone;
  recorder_.transfer({id, flight.source, flight.destination, flight.bytes, queue_.now(), free_at});
  queue_.schedule(queue_.now() + cut_to_ns(latency + transfer), {this, std::uint64_t{handle} << 1});
  queue_.schedule(free_at, {this, std::uint64_t{id} << 1 | 1});
}

std::string AwareNetwork::link_name(std::uint32_t link) const {
  const std::size_t d = dimension_of_[link];
  const Dimension& dimension = topology_.dimensions()[d];
  const auto own = static_cast<std::uint32_t>(dimension.wiring->links_per_npu(dimension.npus));
  const auto npu = static_cast<NpuId>((link - first_link_[d]) / own);
  const auto name = [&](std::int32_t coordinate) {
    return "NPU " + std::to_string(neighbour(npu, d, coordinate));
  };
  return "dim " + std::to_string(d) + ": " +
         dimension.wiring->link_name(topology_.coordinate(npu, d), (link - first_link_[d]) % own,
                                     dimension.npus, name);
}

void AwareNetwork::free(LinkId id) {
  Link& link = links_[id];
  link.busy = false;
  if (link.first == kNone) return;
  const Handle handle = link.first;
  link.first = flights_[handle].next;
  occupy(id, handle);
}

}  // namespace astra
