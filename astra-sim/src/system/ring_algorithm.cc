#include "system/ring_algorithm.h"

namespace astra {
namespace {

std::int32_t total_sends(const Phase& phase) {
  const std::int32_t n = phase.members.count;
  switch (phase.kind) {
    case CollectiveKind::kAllReduce:
      return 2 * (n - 1);
    case CollectiveKind::kAllToAll:
      return n * (n - 1) / 2;
    default:
      return n - 1;
  }
}

Bytes message_bytes(const Phase& phase) {
  return phase.kind == CollectiveKind::kAllGather ? phase.bytes : phase.bytes / phase.members.count;
}

// In cycles of n preparations the first never reduces; the rest do in a reduce-scatter, and in an
// all-reduce as long as it is in its first half.
bool reduces(const Phase& phase, std::int32_t preparation) {
  const std::int32_t n = phase.members.count;
  if (preparation % n == 0) return false;
  if (phase.kind == CollectiveKind::kReduceScatter) return true;
  return phase.kind == CollectiveKind::kAllReduce && preparation / n % 2 == 0;
}

NpuId neighbour(const Phase& phase, bool next) {
  const Members& ring = phase.members;
  const std::int32_t step = next == phase.clockwise ? 1 : ring.count - 1;
  return ring.at((ring.me + step) % ring.count);
}

}  // namespace

void RingAlgorithm::start(StreamContext& stream) const {
  stream.progress().sends_left = total_sends(stream.phase());
  prepare_next(stream);
}

void RingAlgorithm::on_bus_trip_end(StreamContext& stream) const {
  const Phase& phase = stream.phase();
  Progress& progress = stream.progress();
  if (progress.sends_left == 0) {
    stream.finish_phase();
    return;
  }
  --progress.sends_left;
  const Bytes bytes = message_bytes(phase);
  stream.send(neighbour(phase, true), bytes);
  stream.receive(neighbour(phase, false), bytes);
}

void RingAlgorithm::on_message(StreamContext& stream) const {
  prepare_next(stream);
}

void RingAlgorithm::prepare_next(StreamContext& stream) {
  const Phase& phase = stream.phase();
  const std::int32_t preparation = stream.progress().inserts++;
  stream.start_bus_trip(reduces(phase, preparation) ? message_bytes(phase) : -1);
}

}  // namespace astra
