#pragma once

#include "system/algorithm.h"

namespace astra {

/// Ring collectives: each step hands a message to the next NPU of the ring and takes one from the previous.
///
/// All-reduce 2(n-1) steps of D/n, reduce-scatter n-1 of D/n, all-gather n-1 of D, all-to-all n(n-1)/2 of
/// D/n (modelled as relaying round the ring). Unaware cost of an all-reduce of one chunk:
/// step + 2(n-1) * (message + step) + (n-1) * reduction.
class RingAlgorithm final : public Algorithm {
 public:
  void start(StreamContext& stream) const override;
  void on_bus_trip_end(StreamContext& stream) const override;
  void on_message(StreamContext& stream) const override;

 private:
  static void prepare_next(StreamContext& stream);
};

}  // namespace astra
