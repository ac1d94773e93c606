#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "network/mailbox.h"
#include "system/collective_engine.h"
#include "workload/npu.h"
#include "workload/stall_doctor.h"
#include "workload/ticket.h"

namespace astra {

/// The parts of the system that nodes are issued to.
struct Hardware {
  EventQueue& queue;
  NpuClocks& clocks;
  Mailbox& mailbox;
  CollectiveEngine& collectives;
  std::vector<std::unique_ptr<Memory>>& memories;
  Recorder& recorder;
};

/// Executes the graphs of all active tickets: issues nodes, takes note of their ends, reports completions.
class Workload final : public EventHandler {
 public:
  /// Make the executor of all NPUs; system and hardware must outlive it.
  Workload(const SystemSpec& system, Hardware hardware);

  /// Submit a template's graphs to start at `at` (ns, not before now). The arguments fit the template.
  TicketNumber submit(std::shared_ptr<const GraphTemplate> structure, std::span<const NpuId> npus,
                      std::span<const Time> durations_ns, std::span<const Bytes> sizes, Time at);

  /// Take the completions gathered so far and recycle the tickets that are done.
  [[nodiscard]] std::vector<Completion> take_completions();

  /// True when a part has completed since completions were last taken.
  [[nodiscard]] bool has_completions() const { return !completions_.empty(); }

  /// The unfinished nodes of the active tickets and what each waits for.
  [[nodiscard]] std::vector<BlockedNode> stall_report() const;

  /// State and statistics of an NPU.
  [[nodiscard]] const Npu& npu(NpuId npu) const { return npus_[static_cast<std::size_t>(npu)]; }

  /// Number of tickets that are not done.
  [[nodiscard]] std::size_t tickets_active() const { return tickets_.alive(); }

  /// Bytes sent by send nodes so far.
  [[nodiscard]] Bytes p2p_bytes() const { return p2p_bytes_; }

  /// Nodes finished so far.
  [[nodiscard]] std::uint64_t nodes_finished() const;

  /// A node has ended, or (node kStart) a ticket begins.
  void handle(std::uint64_t argument) override;

 private:
  static constexpr std::uint32_t kStart = UINT32_MAX;

  static std::uint64_t pack(std::uint32_t run, std::uint32_t node) { return std::uint64_t{run} << 32 | node; }

  void start(std::uint32_t ticket);
  void walk(Npu& npu);
  void issue(const ReadyNode& ready, Npu& npu);
  void skip(const ReadyNode& ready, Npu& npu);
  void issue_replay(const TemplateNode& node, const Ticket& ticket, const GraphRun& run, Callback done);
  [[nodiscard]] bool issue_roofline(const TemplateNode& node, const Ticket& ticket, const GraphRun& run,
                                    Callback done);
  void issue_message(const TemplateNode& node, const Ticket& ticket, const GraphRun& run, Callback done);
  void issue_collective(const TemplateNode& node, const Ticket& ticket, GraphRun& run, Callback done);
  void take_time(const TemplateNode& node, NpuId npu, Time duration_ns, Callback done);
  void finish(std::uint32_t run, std::uint32_t node);
  void release_children(const TemplateNode& node, GraphRun& run, std::uint32_t run_handle);
  void count_part(std::uint32_t ticket, std::uint32_t part);
  void measure(const TemplateNode& node, Npu& npu, bool begins) const;
  [[nodiscard]] Time roofline_ns(Bytes operations, Bytes bytes) const;
  [[nodiscard]] bool compute_bound(Bytes operations, Bytes bytes) const;

  const SystemSpec& system_;
  Hardware hardware_;
  std::vector<Npu> npus_;
  Pool<Ticket> tickets_;
  Pool<GraphRun> runs_;
  std::vector<Completion> completions_;
  std::vector<std::uint32_t> done_;    // tickets to recycle
  std::vector<std::uint32_t> active_;  // tickets in order of submission, for reports
  TicketNumber next_ticket_ = 0;
  Bytes p2p_bytes_ = 0;
};

}  // namespace astra
