#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/types.h"

namespace astra {

/// A node as it ran; `end` is -1 while it does.
struct NodeSpan {
  NpuId npu = 0;
  std::int64_t node_id = 0;
  Time begin = 0;
  Time end = -1;
};

/// A message on a link, from its first byte going in until its last byte has.
struct LinkSpan {
  std::uint32_t link = 0;
  NpuId source = 0;
  NpuId destination = 0;
  Bytes bytes = 0;
  Time begin = 0;
  Time end = 0;
};

/// Keeps what happened when, for a timeline; costs nothing unless it is switched on.
class Recorder {
 public:
  /// Record from now on.
  void enable() { enabled_ = true; }

  /// A node begins; `key` is its callback's argument, unique while it runs.
  void begin(std::uint64_t key, NpuId npu, std::int64_t node_id, Time now) {
    if (!enabled_) return;
    open_[key] = nodes_.size();
    nodes_.push_back({npu, node_id, now, -1});
  }

  /// The node with this key has ended.
  void end(std::uint64_t key, Time now) {
    if (!enabled_) return;
    const auto found = open_.find(key);
    if (found == open_.end()) return;  // began before recording
    nodes_[found->second].end = now;
    open_.erase(found);
  }

  /// A message occupies a link.
  void transfer(const LinkSpan& span) {
    if (enabled_) links_.push_back(span);
  }

  /// The nodes, in order of their beginning.
  [[nodiscard]] const std::vector<NodeSpan>& nodes() const { return nodes_; }
  /// The messages on links, in order of their beginning.
  [[nodiscard]] const std::vector<LinkSpan>& links() const { return links_; }

 private:
  bool enabled_ = false;
  std::vector<NodeSpan> nodes_;
  std::vector<LinkSpan> links_;
  std::unordered_map<std::uint64_t, std::size_t> open_;
};

}  // namespace astra
