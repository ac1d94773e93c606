#include "system/collective_engine.h"

namespace astra {
namespace {

constexpr double kBytesPerGb = 1e9;
constexpr double kNsPerSecond = 1e9;
constexpr std::uint64_t kStreamNumbers = 500'000'000;

}  // namespace

/// The view of one stream that its algorithm works through.
class CollectiveEngine::Context final : public StreamContext {
 public:
  Context(CollectiveEngine& engine, Handle handle)
      : engine_(engine),
        handle_(handle),
        stream_(engine.streams_[handle]),
        collective_(engine.collectives_[stream_.collective]),
        phase_(collective_.plan.phases[stream_.phase]) {}

  [[nodiscard]] const Phase& phase() const override { return phase_; }
  [[nodiscard]] const Lane& lane() const override { return stream_.lanes[stream_.phase]; }
  [[nodiscard]] Progress& progress() override { return stream_.progress; }

  void start_bus_trip(Bytes reduced) override {
    What what = What::kBusTrip;
    if (reduced >= 0) {
      what = What::kBusTripThenReduction;
      const double rate = engine_.system_.local_mem_bw_gbps * kBytesPerGb;
      stream_.reduction_ns = 3 * cut_to_ns(static_cast<double>(reduced) / rate * kNsPerSecond);
    }
    wake_in(phase_.step_ns, pack(handle_, what));
  }

  void send(NpuId destination, Bytes bytes) override {
    engine_.bytes_sent_ += bytes;
    engine_.mailbox_.send(engine_.key(stream_, npu(), destination, bytes), {});
  }

  void receive(NpuId source, Bytes bytes) override {
    engine_.mailbox_.receive(engine_.key(stream_, source, npu(), bytes),
                             {&engine_, pack(handle_, What::kMessage)});
  }

  void send_node(NpuId destination, Bytes bytes, std::uint64_t tag, std::uint32_t node) override {
    engine_.bytes_sent_ += bytes;
    engine_.mailbox_.send(node_key(npu(), destination, bytes, tag),
                          {&engine_, pack(handle_, What::kNode, node)});
  }

  void receive_node(NpuId source, Bytes bytes, std::uint64_t tag, std::uint32_t node) override {
    engine_.mailbox_.receive(node_key(source, npu(), bytes, tag),
                             {&engine_, pack(handle_, What::kNode, node)});
  }

  void compute_node(Time duration_ns, std::uint32_t node) override {
    wake_in(duration_ns, pack(handle_, What::kNode, node));
  }

  void finish_phase() override { engine_.finish_phase(handle_); }

  /// Call the algorithm for what has happened to the stream.
  void advance(What what, std::uint32_t node) {
    switch (what) {
      case What::kBusTripThenReduction:
        wake_in(stream_.reduction_ns, pack(handle_, What::kReduction));
        break;
      case What::kMessage:
        phase_.algorithm->on_message(*this);
        break;
      case What::kNode:
        phase_.algorithm->on_node_end(*this, node);
        break;
      default:
        phase_.algorithm->on_bus_trip_end(*this);
    }
  }

 private:
  [[nodiscard]] NpuId npu() const { return collective_.request.npu; }

  void wake_in(Time delay_ns, std::uint64_t argument) {
    NpuClock& clock = *engine_.clocks_[static_cast<std::size_t>(npu())];
    clock.schedule(engine_.queue_.now() + delay_ns, {&engine_, argument});
  }

  // Messages of custom collectives and of the trace's own sends and receives may meet.
  [[nodiscard]] MessageKey node_key(NpuId source, NpuId destination, Bytes bytes, std::uint64_t tag) const {
    return {.ticket = collective_.request.ticket,
            .tag = tag,
            .channel = 0,
            .source = source,
            .destination = destination,
            .bytes = bytes};
  }

  CollectiveEngine& engine_;
  Handle handle_;
  Stream& stream_;
  Collective& collective_;
  const Phase& phase_;
};

CollectiveEngine::CollectiveEngine(const SystemSpec& system, const Topology& topology, EventQueue& queue,
                                   NpuClocks& clocks, Mailbox& mailbox)
    : system_(system),
      queue_(queue),
      clocks_(clocks),
      mailbox_(mailbox),
      planner_(system, topology),
      lanes_(topology.npus(), topology.rank(), system.queues_per_dimension),
      queues_per_npu_(topology.rank() * static_cast<std::size_t>(system.queues_per_dimension)),
      running_limit_((system.active_chunks + system.queues_per_dimension - 1) / system.queues_per_dimension),
      queues_(static_cast<std::size_t>(topology.npus()) * queues_per_npu_) {}

void CollectiveEngine::start(const CollectiveRequest& request) {
  const Handle handle = collectives_.take();
  Collective& collective = collectives_[handle];
  collective.request = request;
  planner_.plan(request, collective.plan);
  collective.streams_left = collective.plan.streams;
  for (std::int64_t made = 0; made < collective.plan.streams; ++made) {
    const Handle number = streams_.take();
    Stream& stream = streams_[number];
    stream.collective = handle;
    stream.phase = 0;
    stream.number = (*request.next_stream)++;
    for (std::size_t i = 0; i < collective.plan.phase_count; ++i) {
      stream.lanes[i] = lanes_.next(request.npu, collective.plan.phases[i], request.kind);
    }
    enqueue(number);
    start_waiting(queue_of(request.npu, stream));
  }
}

void CollectiveEngine::handle(std::uint64_t argument) {
  Context(*this, stream_of(argument))
      .advance(static_cast<What>(argument & 7), static_cast<std::uint32_t>(argument) >> 3);
}

Callback CollectiveEngine::owner_of(std::uint64_t receive_argument) const {
  const Stream& stream = streams_[stream_of(receive_argument)];
  return collectives_[stream.collective].request.done;
}

void CollectiveEngine::enqueue(Handle handle) {
  Stream& stream = streams_[handle];
  Queue& queue = queue_of(collectives_[stream.collective].request.npu, stream);
  stream.next = kNone;
  if (queue.first == kNone) {
    queue.first = handle;
  } else {
    streams_[queue.last].next = handle;
  }
  queue.last = handle;
}

void CollectiveEngine::start_waiting(Queue& queue) {
  while (queue.running < running_limit_ && queue.first != kNone) {
    const Handle handle = queue.first;
    Stream& stream = streams_[handle];
    queue.first = stream.next;
    ++queue.running;
    stream.progress = {};
    Context context(*this, handle);
    context.phase().algorithm->start(context);
  }
}

// The last phase of the last stream completes the collective, and with it may start the next one, before
// the place in the queue is free again.
void CollectiveEngine::finish_phase(Handle handle) {
  Stream& stream = streams_[handle];
  Collective& collective = collectives_[stream.collective];
  const NpuId npu = collective.request.npu;
  Queue& old_queue = queue_of(npu, stream);
  ++stream.phase;
  if (stream.phase < collective.plan.phase_count) {
    --old_queue.running;
    enqueue(handle);
    start_waiting(old_queue);
    start_waiting(queue_of(npu, stream));
    return;
  }
  if (--collective.streams_left == 0) {
    const Callback done = collective.request.done;
    collectives_.give_back(stream.collective);
    done();
  }
  streams_.give_back(handle);
  --old_queue.running;
  start_waiting(old_queue);
}

// The queue in which the stream waits or runs in its present phase.
CollectiveEngine::Queue& CollectiveEngine::queue_of(NpuId npu, const Stream& stream) {
  return queues_[static_cast<std::size_t>(npu) * queues_per_npu_ + stream.lanes[stream.phase].queue];
}

MessageKey CollectiveEngine::key(const Stream& stream, NpuId source, NpuId destination, Bytes bytes) const {
  const CollectiveRequest& request = collectives_[stream.collective].request;
  return {.ticket = request.ticket,
          .tag = stream.number % kStreamNumbers,
          .channel = request.channel,
          .source = source,
          .destination = destination,
          .bytes = bytes};
}

}  // namespace astra
