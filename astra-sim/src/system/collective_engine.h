#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engine/npu_clock.h"
#include "engine/pool.h"
#include "memory/memory.h"
#include "network/mailbox.h"
#include "system/collective_planner.h"
#include "system/lane_allocator.h"

namespace astra {

/// Runs collectives: cuts them into streams, schedules the streams per dimension, drives the algorithms.
class CollectiveEngine final : public EventHandler {
 public:
  /// Make the engine of all NPUs; everything referred to must outlive it.
  CollectiveEngine(const SystemSpec& system, const Topology& topology, EventQueue& queue, NpuClocks& clocks,
                   Mailbox& mailbox);

  /// Start a collective on one NPU; `request.done` is woken when all its streams have finished.
  void start(const CollectiveRequest& request);

  /// A bus trip or reduction has ended, or a message has landed.
  void handle(std::uint64_t argument) override;

  /// Bytes sent by collectives so far.
  [[nodiscard]] Bytes bytes_sent() const { return bytes_sent_; }

  /// What a posted receive of a collective belongs to: the request's `done` callback.
  [[nodiscard]] Callback owner_of(std::uint64_t receive_argument) const;

  /// The planner, which checks collectives before they run.
  [[nodiscard]] const CollectivePlanner& planner() const { return planner_; }

  /// Add a custom collective; its index is the number of those added before.
  void add_custom(std::unique_ptr<Algorithm> algorithm) { planner_.add_custom(std::move(algorithm)); }

 private:
  using Handle = std::uint32_t;
  static constexpr Handle kNone = UINT32_MAX;

  enum class What : std::uint8_t { kBusTrip, kBusTripThenReduction, kReduction, kMessage, kNode };

  struct Collective {
    CollectiveRequest request;
    Plan plan;
    std::int64_t streams_left = 0;
  };
  struct Stream {
    Handle collective = kNone;
    std::size_t phase = 0;
    std::uint64_t number = 0;
    std::array<Lane, Plan::kMaxPhases> lanes;
    Progress progress;
    Time reduction_ns = 0;
    Handle next = kNone;  // in the queue of waiting streams
  };
  struct Queue {
    Handle first = kNone;  // waiting streams; those running come before them and are only counted
    Handle last = kNone;
    std::int32_t running = 0;
  };
  class Context;

  void enqueue(Handle stream);
  void start_waiting(Queue& queue);
  void finish_phase(Handle stream);
  [[nodiscard]] Queue& queue_of(NpuId npu, const Stream& stream);
  [[nodiscard]] MessageKey key(const Stream& stream, NpuId source, NpuId destination, Bytes bytes) const;

  // What has happened to which stream; `node` only with kNode.
  static std::uint64_t pack(Handle stream, What what, std::uint32_t node = 0) {
    return std::uint64_t{stream} << 32 | std::uint64_t{node} << 3 | static_cast<std::uint64_t>(what);
  }
  static Handle stream_of(std::uint64_t argument) { return static_cast<Handle>(argument >> 32); }

  const SystemSpec& system_;
  EventQueue& queue_;
  NpuClocks& clocks_;
  Mailbox& mailbox_;
  CollectivePlanner planner_;
  LaneAllocator lanes_;
  std::size_t queues_per_npu_;
  std::int32_t running_limit_;
  std::vector<Queue> queues_;
  Pool<Collective> collectives_;
  Pool<Stream> streams_;
  Bytes bytes_sent_ = 0;
};

}  // namespace astra
