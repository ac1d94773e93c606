#include "system/stepwise_algorithm.h"

namespace astra {

std::int32_t StepwiseAlgorithm::width(const Phase& /*phase*/) const {
  return 1;
}

std::int32_t StepwiseAlgorithm::allowance(const Phase& /*phase*/, const Progress& /*progress*/) const {
  return 1;
}

void StepwiseAlgorithm::start(StreamContext& stream) {
  const Phase& phase = stream.phase();
  stream.progress().sends_left = sends(phase);
  for (std::int32_t left = width(phase); left > 0; --left) prepare_next(stream);
}

void StepwiseAlgorithm::on_bus_trip_end(StreamContext& stream) {
  const Phase& phase = stream.phase();
  Progress& progress = stream.progress();
  ++progress.credit;
  for (std::int32_t left = allowance(phase, progress); left > 0; --left) {
    if (progress.credit == 0 || progress.sends_left == 0) break;
    const Step now = step(phase, stream.lane(), sends(phase) - progress.sends_left);
    --progress.credit;
    --progress.sends_left;
    stream.send(phase.members.at(now.to), now.bytes);
    stream.receive(phase.members.at(now.from), now.bytes);
  }
  if (progress.sends_left == 0 && progress.credit == width(phase)) stream.finish_phase();
}

void StepwiseAlgorithm::on_message(StreamContext& stream) {
  ++stream.progress().receives;
  prepare_next(stream);
}

void StepwiseAlgorithm::prepare_next(StreamContext& stream) const {
  const Phase& phase = stream.phase();
  const std::int32_t preparation = stream.progress().inserts++;
  const bool reduced = reduces(phase, preparation);
  stream.start_bus_trip(reduced ? step(phase, stream.lane(), preparation).bytes : -1);
}

bool StepwiseAlgorithm::reduces(const Phase& phase, std::int32_t preparation) const {
  if (phase.kind == CollectiveKind::kAllGather || phase.kind == CollectiveKind::kAllToAll) return false;
  const Cycle turn = cycle(phase);
  const std::int32_t length = turn.plain + turn.reducing;
  if (preparation % length < turn.plain) return false;
  return phase.kind == CollectiveKind::kReduceScatter || preparation / length % 2 == 0;
}

std::int32_t ahead(const Phase& phase, const Lane& lane, std::int32_t distance) {
  const std::int32_t count = phase.members.count;
  return (phase.members.me + (lane.clockwise ? distance : count - distance)) % count;
}

std::int32_t behind(const Phase& phase, const Lane& lane, std::int32_t distance) {
  return ahead(phase, lane, phase.members.count - distance);
}

}  // namespace astra
