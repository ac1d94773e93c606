#include "workload/stall_doctor.h"

#include <algorithm>
#include <cstddef>

namespace astra {
namespace {

constexpr std::size_t kMostParents = 8;  // named of a node that waits for more

bool finished(const GraphRun& run, std::uint32_t node) {
  return run.parents_left[node] == GraphRun::kFinished;
}

bool running(const GraphRun& run, std::uint32_t node) {
  return run.parents_left[node] == GraphRun::kRunning;
}

std::string label(const NpuGraph& graph, std::uint32_t node) {
  return std::to_string(graph.ids[node]) + (graph.names[node].empty() ? "" : " (" + graph.names[node] + ")");
}

std::string bytes_text(Bytes bytes) {
  return std::to_string(bytes) + " bytes";
}

std::string npu_text(NpuId npu) {
  return "NPU " + std::to_string(npu);
}

}  // namespace

StallDoctor::StallDoctor(const StallScene& scene) : scene_(scene) {
  for (const Mailbox::PostedReceive& posted : scene_.mailbox.posted()) {
    Callback owner = posted.received;
    if (owner.handler == &scene_.mailbox) owner = scene_.mailbox.owner_of(owner.argument);
    if (owner.handler == &scene_.collectives) owner = scene_.collectives.owner_of(owner.argument);
    if (owner.handler != scene_.executor) continue;
    awaited_.emplace(Key{owner.argument >> 32, static_cast<std::uint32_t>(owner.argument)}, posted.key);
  }
}

std::vector<BlockedNode> StallDoctor::report() {
  std::vector<BlockedNode> result;
  for (const std::uint32_t ticket : scene_.active) {
    for (const std::uint32_t handle : scene_.tickets[ticket].runs) {
      const GraphRun& run = scene_.runs[handle];
      for (std::uint32_t node = 0; node < run.graph->nodes.size(); ++node) {
        if (finished(run, node)) continue;
        indices_.emplace(Key{handle, node}, static_cast<std::int64_t>(keys_.size()));
        keys_.emplace_back(handle, node);
        result.push_back({run.npu, run.graph->ids[node], run.graph->names[node], "", BlockedNode::kNobody});
      }
    }
  }
  look_around();
  for (std::size_t i = 0; i < keys_.size(); ++i) examine(keys_[i], result[i]);
  return result;
}

// One look at everything, so that explaining a node takes no search.
void StallDoctor::look_around() {
  for (const Key& key : keys_) {
    const GraphRun& run = scene_.runs[key.first];
    const TemplateNode& blocked = node(key);
    for (std::uint32_t c = blocked.first_child; c < blocked.last_child; ++c) {
      parents_[{key.first, run.graph->children[c]}].push_back(key.second);
    }
    if (running(run, key.second)) occupiers_.emplace(std::pair{run.npu, blocked.unit}, indices_.at(key));
  }
  for (const std::uint32_t ticket : scene_.active) {
    for (const std::uint32_t handle : scene_.tickets[ticket].runs) {
      const std::vector<TemplateNode>& nodes = scene_.runs[handle].graph->nodes;
      for (std::uint32_t index = 0; index < nodes.size(); ++index) {
        if (nodes[index].kind == NodeKind::kSend) sends_[{handle, nodes[index].tag}].push_back(index);
      }
    }
  }
}

void StallDoctor::examine(Key key, BlockedNode& blocked) const {
  const GraphRun& run = scene_.runs[key.first];
  if (run.parents_left[key.second] == 0) {
    explain_unit(key, blocked);
  } else if (!running(run, key.second)) {
    explain_parents(key, blocked);
  } else if (const auto found = awaited_.find(key); found != awaited_.end()) {
    explain_message(key, found->second, blocked);
  } else {
    blocked.cause = "is in progress";
  }
}

void StallDoctor::explain_parents(Key key, BlockedNode& blocked) const {
  const NpuGraph& graph = *scene_.runs[key.first].graph;
  const std::vector<std::uint32_t>& parents = parents_.at(key);
  const std::size_t named = std::min(parents.size(), kMostParents);
  blocked.blocker = index_of(key.first, parents.front());
  for (std::size_t i = 0; i < named; ++i) {
    blocked.cause += (i == 0 ? "waits for node " : ", ") + label(graph, parents[i]);
  }
  if (named < parents.size()) blocked.cause += " and " + std::to_string(parents.size() - named) + " more";
}

void StallDoctor::explain_unit(Key key, BlockedNode& blocked) const {
  const auto found = occupiers_.find({scene_.runs[key.first].npu, node(key).unit});
  if (found != occupiers_.end()) {
    const Key other = keys_[static_cast<std::size_t>(found->second)];
    blocked.cause =
        "waits for its unit, which is taken by node " + label(*scene_.runs[other.first].graph, other.second);
    blocked.blocker = found->second;
    return;
  }
  blocked.cause =
      "is free but never issued: the node before it was skipped (INVALID, or roofline without tensor_size), "
      "and nothing else of this NPU finishes afterwards";
}

void StallDoctor::explain_message(Key key, const MessageKey& message, BlockedNode& blocked) const {
  if (message.control) {
    blocked.cause = "waits for " + npu_text(message.source) + " to post a matching receive (rendezvous)";
  } else if (node(key).kind == NodeKind::kReceive) {
    explain_receive(key, message, blocked);
  } else {
    explain_collective(key, message, blocked);
  }
}

// Is there a send that matches, only not yet issued? Else: one that matches but for its size?
void StallDoctor::explain_receive(Key key, const MessageKey& message, BlockedNode& blocked) const {
  blocked.cause = "waits for " + bytes_text(message.bytes) + " with tag " + std::to_string(message.tag) +
                  " from " + npu_text(message.source);
  std::uint32_t handle = 0;
  const GraphRun& run = scene_.runs[key.first];
  const Ticket& ticket = scene_.tickets[run.ticket];
  const GraphRun* sender = run_of(run, message.source, handle);
  std::string near_miss;
  const auto sends = sender == nullptr ? sends_.end() : sends_.find({handle, message.tag});
  if (sends == sends_.end()) {
    blocked.cause += ", which has no such send left";
    return;
  }
  for (const std::uint32_t index : sends->second) {
    const TemplateNode& send = sender->graph->nodes[index];
    if (ticket.npus[static_cast<std::size_t>(send.peer)] != run.npu) continue;
    const Bytes bytes = ticket.sizes[static_cast<std::size_t>(send.size_slot)];
    if (bytes == message.bytes && !finished(*sender, index)) {
      blocked.cause += ", its node " + label(*sender->graph, index);
      blocked.blocker = index_of(handle, index);
      return;
    }
    if (bytes != message.bytes) {
      near_miss = "; its node " + label(*sender->graph, index) + " sends " + bytes_text(bytes) + " instead";
    }
  }
  blocked.cause += near_miss.empty() ? ", which has no such send left" : near_miss;
}

void StallDoctor::explain_collective(Key key, const MessageKey& message, BlockedNode& blocked) const {
  const TemplateNode& own = node(key);
  blocked.cause = "waits for " + npu_text(message.source);
  std::uint32_t handle = 0;
  const GraphRun& run = scene_.runs[key.first];
  const Ticket& ticket = scene_.tickets[run.ticket];
  const GraphRun* peer = run_of(run, message.source, handle);
  for (std::uint32_t index = 0; peer != nullptr && index < peer->graph->nodes.size(); ++index) {
    const TemplateNode& other = peer->graph->nodes[index];
    if (other.kind != NodeKind::kCollective || other.group != own.group || finished(*peer, index)) continue;
    blocked.cause += ", its node " + label(*peer->graph, index);
    if (other.collective != own.collective) {
      blocked.cause += ", which is another kind of collective";
    } else if (other.size_slot >= 0 && own.size_slot >= 0 &&
               ticket.sizes[static_cast<std::size_t>(other.size_slot)] !=
                   ticket.sizes[static_cast<std::size_t>(own.size_slot)]) {
      blocked.cause += ", which is of " +
                       bytes_text(ticket.sizes[static_cast<std::size_t>(other.size_slot)]) + ", not " +
                       bytes_text(ticket.sizes[static_cast<std::size_t>(own.size_slot)]);
    }
    blocked.blocker = index_of(handle, index);
    return;
  }
  blocked.cause += ", which has no collective left to join it";
}

std::int64_t StallDoctor::index_of(std::uint32_t run, std::uint32_t node) const {
  const auto found = indices_.find({run, node});
  return found == indices_.end() ? BlockedNode::kNobody : found->second;
}

// The graph of another NPU of the same ticket.
const GraphRun* StallDoctor::run_of(const GraphRun& other, NpuId npu, std::uint32_t& handle) const {
  for (const std::uint32_t candidate : scene_.tickets[other.ticket].runs) {
    handle = candidate;
    if (scene_.runs[candidate].npu == npu) return &scene_.runs[candidate];
  }
  return nullptr;
}

const TemplateNode& StallDoctor::node(Key key) const {
  return scene_.runs[key.first].graph->nodes[key.second];
}

}  // namespace astra
