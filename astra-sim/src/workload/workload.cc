#include "workload/workload.h"

#include <algorithm>
#include <utility>

namespace astra {

Workload::Workload(const SystemSpec& system, Hardware hardware)
    : system_(system), hardware_(hardware), npus_(hardware.clocks.size()) {}

TicketNumber Workload::submit(std::shared_ptr<const GraphTemplate> structure, std::span<const NpuId> npus,
                              std::span<const Time> durations_ns, std::span<const Bytes> sizes, Time at) {
  const std::uint32_t handle = tickets_.take();
  Ticket& ticket = tickets_[handle];
  ticket.number = next_ticket_++;
  ticket.structure = std::move(structure);
  const GraphTemplate& graphs = *ticket.structure;
  ticket.npus.assign(npus.begin(), npus.end());
  ticket.durations_ns.assign(durations_ns.begin(), durations_ns.end());
  ticket.sizes.assign(sizes.begin(), sizes.end());
  ticket.part_left = graphs.part_sizes;
  ticket.parts_left = static_cast<std::uint32_t>(graphs.parts.size());
  ticket.group_npus.clear();
  for (const auto& group : graphs.groups) {
    for (const std::int32_t member : group) {
      ticket.group_npus.push_back(npus[static_cast<std::size_t>(member)]);
    }
  }
  ticket.runs.clear();
  for (std::uint32_t position = 0; position < npus.size(); ++position) {
    const std::uint32_t run_handle = runs_.take();
    GraphRun& run = runs_[run_handle];
    run.graph = &graphs.graphs[position];
    run.ticket = handle;
    run.position = position;
    run.npu = npus[position];
    run.parents_left = run.graph->parent_counts;
    run.next_stream.assign(graphs.groups.size() + 1, 0);
    ticket.runs.push_back(run_handle);
  }
  active_.push_back(handle);
  hardware_.queue.schedule(at, {this, pack(handle, kStart)});
  return ticket.number;
}

std::vector<Completion> Workload::take_completions() {
  for (const std::uint32_t handle : done_) {
    Ticket& ticket = tickets_[handle];
    hardware_.mailbox.forget(ticket.number);
    for (const std::uint32_t run : ticket.runs) runs_.give_back(run);
    ticket.structure.reset();
    active_.erase(std::find(active_.begin(), active_.end(), handle));
    tickets_.give_back(handle);
  }
  done_.clear();
  return std::exchange(completions_, {});
}

std::vector<BlockedNode> Workload::stall_report() const {
  return StallDoctor({active_, tickets_, runs_, npus_, hardware_.mailbox, hardware_.collectives, this})
      .report();
}

std::uint64_t Workload::nodes_finished() const {
  std::uint64_t total = 0;
  for (const Npu& npu : npus_) total += npu.nodes_finished;
  return total;
}

void Workload::handle(std::uint64_t argument) {
  const auto handle = static_cast<std::uint32_t>(argument >> 32);
  const auto node = static_cast<std::uint32_t>(argument);
  if (node == kStart) {
    start(handle);
  } else {
    finish(handle, node);
  }
}

void Workload::start(std::uint32_t handle) {
  const Ticket& ticket = tickets_[handle];
  for (const std::uint32_t run_handle : ticket.runs) {
    const GraphRun& run = runs_[run_handle];
    Npu& npu = npus_[static_cast<std::size_t>(run.npu)];
    for (const std::uint32_t root : run.graph->roots) {
      npu.add_ready({ticket.number, root, run_handle}, run.graph->nodes[root].unit);
    }
    walk(npu);
  }
}

void Workload::walk(Npu& npu) {
  ReadyNode ready;
  npu.begin_walk();
  while (npu.next(ready)) issue(ready, npu);
}

// Release the unit, note the end (children may become ready), walk the ready nodes: in this order.
void Workload::finish(std::uint32_t run_handle, std::uint32_t index) {
  GraphRun& run = runs_[run_handle];
  const TemplateNode& node = run.graph->nodes[index];
  Npu& npu = npus_[static_cast<std::size_t>(run.npu)];
  npu.release(node.unit);
  measure(node, npu, false);
  hardware_.recorder.end(pack(run_handle, index), hardware_.queue.now());
  npu.finish_ns = hardware_.queue.now();
  ++npu.nodes_finished;
  run.parents_left[index] = GraphRun::kFinished;
  release_children(node, run, run_handle);
  count_part(run.ticket, node.part);
  walk(npu);
}

void Workload::release_children(const TemplateNode& node, GraphRun& run, std::uint32_t run_handle) {
  for (std::uint32_t c = node.first_child; c < node.last_child; ++c) {
    const std::uint32_t child = run.graph->children[c];
    if (--run.parents_left[child] != 0) continue;
    Npu& npu = npus_[static_cast<std::size_t>(run.npu)];
    npu.add_ready({tickets_[run.ticket].number, child, run_handle}, run.graph->nodes[child].unit);
  }
}

void Workload::count_part(std::uint32_t handle, std::uint32_t part) {
  Ticket& ticket = tickets_[handle];
  if (--ticket.part_left[part] != 0) return;
  completions_.push_back({ticket.number, ticket.structure->parts[part], hardware_.queue.now()});
  if (--ticket.parts_left == 0) done_.push_back(handle);
}

void Workload::measure(const TemplateNode& node, Npu& npu, bool begins) const {
  if (node.kind == NodeKind::kCompute || node.unit == Unit::kCpu) return;  // counted when issued
  const bool memory = node.kind == NodeKind::kMemLoad || node.kind == NodeKind::kMemStore;
  BusyMeter& meter = memory ? npu.memory : npu.communication;
  if (begins) {
    meter.begin(hardware_.queue.now());
  } else {
    meter.end(hardware_.queue.now());
  }
}

}  // namespace astra
