#pragma once

#include "system/algorithm.h"

namespace astra {

/// Collectives in which every NPU makes the same number of steps: send a message to one, take one from
/// another.
///
/// A step is prepared by a bus trip (after a received message: with its reduction), whose end is a credit to
/// send. As many steps as the width are prepared at the start, one more with every message received; the
/// phase ends when all messages are out and all credits are back.
class StepwiseAlgorithm : public Algorithm {
 public:
  void start(StreamContext& stream) final;
  void on_bus_trip_end(StreamContext& stream) final;
  void on_message(StreamContext& stream) final;

 protected:
  /// One step: whom to send to, whom to receive from (positions among the members), and how much.
  struct Step {
    std::int32_t to = 0;
    std::int32_t from = 0;
    Bytes bytes = 0;
  };

  /// A cycle of preparations: the first `plain` of each never reduce, the other `reducing` may.
  struct Cycle {
    std::int32_t plain = 1;
    std::int32_t reducing = 0;
  };

  /// Number of messages that every NPU sends.
  [[nodiscard]] virtual std::int32_t sends(const Phase& phase) const = 0;
  /// Number of steps prepared at the start.
  [[nodiscard]] virtual std::int32_t width(const Phase& phase) const;
  /// The `index`-th step of this NPU.
  [[nodiscard]] virtual Step step(const Phase& phase, const Lane& lane, std::int32_t index) const = 0;
  /// Which preparations are followed by a reduction.
  [[nodiscard]] virtual Cycle cycle(const Phase& phase) const = 0;
  /// How many credits the end of a bus trip may spend: 1, or 0 where the NPU has to wait for others.
  [[nodiscard]] virtual std::int32_t allowance(const Phase& phase, const Progress& progress) const;

 private:
  void prepare_next(StreamContext& stream) const;
  [[nodiscard]] bool reduces(const Phase& phase, std::int32_t preparation) const;
};

/// The position `distance` further round the ring in the direction of the lane, and the one as far behind.
[[nodiscard]] std::int32_t ahead(const Phase& phase, const Lane& lane, std::int32_t distance);
[[nodiscard]] std::int32_t behind(const Phase& phase, const Lane& lane, std::int32_t distance);

}  // namespace astra
