// How each kind of node is started; the rest of Workload is in workload.cc.

#include <algorithm>
#include <cstddef>

#include "workload/workload.h"

namespace astra {

void Workload::issue(const ReadyNode& ready, Npu& npu) {
  GraphRun& run = runs_[ready.run];
  const Ticket& ticket = tickets_[run.ticket];
  const TemplateNode& node = run.graph->nodes[ready.node];
  const Callback done{this, pack(ready.run, ready.node)};
  run.parents_left[ready.node] = GraphRun::kRunning;
  npu.occupy(node.unit);
  measure(node, npu, true);
  hardware_.recorder.begin(done.argument, run.npu, run.graph->ids[ready.node], hardware_.queue.now());
  if (node.replayed) {
    issue_replay(node, ticket, run, done);
    return;
  }
  bool skipped = false;
  switch (node.kind) {
    case NodeKind::kCompute:
      if (node.pim_channel != kAbsent) {
        hardware_.memories[node.memory]->compute(
            run.npu, node.pim_channel, ticket.durations_ns[static_cast<std::size_t>(node.duration_slot)],
            done);
      } else {
        skipped = !issue_roofline(node, ticket, run, done);
      }
      break;
    case NodeKind::kMemLoad:
    case NodeKind::kMemStore:
      hardware_.memories[node.memory]->access(run.npu, ticket.sizes[static_cast<std::size_t>(node.size_slot)],
                                              done);
      break;
    case NodeKind::kSend:
    case NodeKind::kReceive:
      issue_message(node, ticket, run, done);
      break;
    case NodeKind::kCollective:
      issue_collective(node, ticket, run, done);
      break;
    case NodeKind::kInvalid:
      skipped = true;
      break;
  }
  if (skipped) skip(ready, npu);
}

// A skipped node finishes at once and its unit stays idle, but no new walk follows: its children are issued
// when something else of this NPU finishes.
void Workload::skip(const ReadyNode& ready, Npu& npu) {
  GraphRun& run = runs_[ready.run];
  const TemplateNode& node = run.graph->nodes[ready.node];
  npu.release(node.unit);
  measure(node, npu, false);
  hardware_.recorder.end(pack(ready.run, ready.node), hardware_.queue.now());
  ++npu.nodes_finished;
  run.parents_left[ready.node] = GraphRun::kFinished;
  release_children(node, run, ready.run);
  count_part(run.ticket, node.part);
}

void Workload::issue_replay(const TemplateNode& node, const Ticket& ticket, const GraphRun& run,
                            Callback done) {
  const Time duration_ns = ticket.durations_ns[static_cast<std::size_t>(node.duration_slot)];
  take_time(node, run.npu, std::max<Time>(duration_ns, 1), done);
}

bool Workload::issue_roofline(const TemplateNode& node, const Ticket& ticket, const GraphRun& run,
                              Callback done) {
  const Bytes operations = ticket.sizes[static_cast<std::size_t>(node.ops_slot)];
  const Bytes bytes = ticket.sizes[static_cast<std::size_t>(node.size_slot)];
  if (bytes == 0) return false;
  const Time duration_ns = roofline_ns(operations, bytes);
  npus_[static_cast<std::size_t>(run.npu)].roofline.add(duration_ns, operations, bytes,
                                                        compute_bound(operations, bytes));
  take_time(node, run.npu, duration_ns, done);
  return true;
}

void Workload::take_time(const TemplateNode& node, NpuId npu, Time duration_ns, Callback done) {
  const auto index = static_cast<std::size_t>(npu);
  if (node.unit == Unit::kCpu) {
    npus_[index].cpu_ns += duration_ns;
  } else if (node.kind == NodeKind::kCompute) {
    npus_[index].compute_ns += duration_ns;
  }
  hardware_.clocks[index]->schedule(hardware_.queue.now() + duration_ns, done);
}

Time Workload::roofline_ns(Bytes operations, Bytes bytes) const {
  const auto ops = static_cast<double>(operations);
  const double bandwidth = system_.local_mem_bw_gbps * 1e9;
  const double peak = system_.peak_tflops * 1e12;
  const double rate = std::min(bandwidth * (ops / static_cast<double>(bytes)), peak);
  if (rate <= 0) return 0;  // no operations
  return cut_to_ns(ops / rate * 1e9);
}

bool Workload::compute_bound(Bytes operations, Bytes bytes) const {
  const double intensity = static_cast<double>(operations) / static_cast<double>(bytes);
  return system_.local_mem_bw_gbps * 1e9 * intensity >= system_.peak_tflops * 1e12;
}

void Workload::issue_message(const TemplateNode& node, const Ticket& ticket, const GraphRun& run,
                             Callback done) {
  const NpuId peer = ticket.npus[static_cast<std::size_t>(node.peer)];
  const bool sends = node.kind == NodeKind::kSend;
  const Bytes bytes = ticket.sizes[static_cast<std::size_t>(node.size_slot)];
  const MessageKey key{.ticket = ticket.number,
                       .tag = node.tag,
                       .channel = 0,
                       .source = sends ? run.npu : peer,
                       .destination = sends ? peer : run.npu,
                       .bytes = bytes};
  if (!sends) {
    hardware_.mailbox.receive(key, done);
    return;
  }
  p2p_bytes_ += bytes;
  if (node.copy_engine) {
    hardware_.mailbox.send_through_copy_lane(key, done);
  } else {
    hardware_.mailbox.send(key, done);
  }
}

void Workload::issue_collective(const TemplateNode& node, const Ticket& ticket, GraphRun& run,
                                Callback done) {
  CollectiveRequest request;
  request.npu = run.npu;
  request.kind = node.collective;
  request.bytes = ticket.sizes[static_cast<std::size_t>(node.size_slot)];
  request.dimensions = node.dimensions;
  request.custom = node.custom;
  request.ticket = ticket.number;
  request.done = done;
  std::size_t channel = 0;
  if (node.group != kAbsent) {
    const auto group = static_cast<std::size_t>(node.group);
    request.in_group = true;
    request.group.listed = &ticket.group_npus[ticket.structure->group_begin[group]];
    request.group.count = static_cast<std::int32_t>(ticket.structure->groups[group].size());
    request.group.me = node.position;
    channel = group + 1;
  }
  request.channel = static_cast<std::uint32_t>(channel + 1);  // 0 is point to point
  request.next_stream = &run.next_stream[channel];
  hardware_.collectives.start(request);
}

}  // namespace astra
