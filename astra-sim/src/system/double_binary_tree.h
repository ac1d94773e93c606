#pragma once

#include "system/algorithm.h"

namespace astra {

/// All-reduce along a binary tree of n = 2^k NPUs: everything is reduced up to the root and sent down again.
///
/// The root has one child, the top of a perfect tree of the other n-1 NPUs with numbers in in-order. In the
/// first tree the root is the last NPU, in the second the first one; streams alternate between the two. Runs
/// as an all-reduce whatever the collective is, and leaves the data as large as it was.
class DoubleBinaryTree final : public Algorithm {
 public:
  void check(CollectiveKind kind, std::int32_t members, bool in_group) const override;
  [[nodiscard]] Bytes bytes_after(CollectiveKind kind, std::int32_t members, Bytes bytes) const override;
  [[nodiscard]] bool makes_reductions(CollectiveKind /*kind*/) const override { return true; }
  [[nodiscard]] bool takes_turns() const override { return true; }
  void start(StreamContext& stream) override;
  void on_bus_trip_end(StreamContext& stream) override;
  void on_message(StreamContext& stream) override;
};

}  // namespace astra
