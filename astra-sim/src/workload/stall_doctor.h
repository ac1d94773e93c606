#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "network/mailbox.h"
#include "system/collective_engine.h"
#include "workload/npu.h"
#include "workload/ticket.h"

namespace astra {

/// A node that cannot finish, what it waits for, and which other unfinished node that is up to.
struct BlockedNode {
  static constexpr std::int64_t kNobody = -1;

  NpuId npu = 0;
  std::int64_t node_id = 0;
  std::string name;
  std::string cause;               ///< "waits for ...", without the names of NPU and node
  std::int64_t blocker = kNobody;  ///< index of another blocked node
};

/// What the doctor looks at; everything outlives it.
struct StallScene {
  const std::vector<std::uint32_t>& active;  ///< handles of the tickets that are not done
  const Pool<Ticket>& tickets;
  const Pool<GraphRun>& runs;
  const std::vector<Npu>& npus;
  const Mailbox& mailbox;
  const CollectiveEngine& collectives;
  const EventHandler* executor;  ///< whose callbacks are `run << 32 | node`
};

/// Finds out why nothing moves any more: for every unfinished node its cause, and the node behind it.
class StallDoctor {
 public:
  /// Look at a simulation that has no event left.
  explicit StallDoctor(const StallScene& scene);

  /// All unfinished nodes, ticket by ticket, NPU by NPU, in ascending id.
  [[nodiscard]] std::vector<BlockedNode> report();

 private:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // run and node

  void look_around();
  void examine(Key key, BlockedNode& blocked) const;
  void explain_parents(Key key, BlockedNode& blocked) const;
  void explain_unit(Key key, BlockedNode& blocked) const;
  void explain_message(Key key, const MessageKey& message, BlockedNode& blocked) const;
  void explain_receive(Key key, const MessageKey& message, BlockedNode& blocked) const;
  void explain_collective(Key key, const MessageKey& message, BlockedNode& blocked) const;
  [[nodiscard]] std::int64_t index_of(std::uint32_t run, std::uint32_t node) const;
  [[nodiscard]] const GraphRun* run_of(const GraphRun& other, NpuId npu, std::uint32_t& handle) const;
  [[nodiscard]] const TemplateNode& node(Key key) const;

  StallScene scene_;
  std::vector<Key> keys_;  // of the unfinished nodes, in the order of the report
  std::map<Key, std::int64_t> indices_;
  std::map<Key, std::vector<std::uint32_t>> parents_;         // unfinished ones, ascending
  std::map<std::pair<NpuId, Unit>, std::int64_t> occupiers_;  // index of the node that has the unit
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::vector<std::uint32_t>> sends_;  // by run and tag
  std::map<Key, MessageKey> awaited_;  // the message that a running node waits for
};

}  // namespace astra
