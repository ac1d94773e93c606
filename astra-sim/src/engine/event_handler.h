#pragma once

#include <cstdint>

namespace astra {

/// Whoever can be woken by the event queue. The argument means what the handler chose when it scheduled.
class EventHandler {
 public:
  EventHandler() = default;
  EventHandler(const EventHandler&) = delete;
  EventHandler& operator=(const EventHandler&) = delete;

  /// Act on an event whose time has come.
  virtual void handle(std::uint64_t argument) = 0;

 protected:
  ~EventHandler() = default;
};

/// An event without its time: whom to wake, and with what. Refers to the handler, does not own it.
struct Callback {
  EventHandler* handler = nullptr;
  std::uint64_t argument = 0;

  /// Wake the handler now; a callback without a handler does nothing.
  void operator()() const {
    if (handler != nullptr) handler->handle(argument);
  }
};

}  // namespace astra
