#include "options.h"

#include <cmath>
#include <cstddef>
#include <stdexcept>

namespace astra_ns3 {
namespace {

constexpr std::int64_t kLargestPacket = 1 << 24;
constexpr std::int64_t kLargestBuffer = std::int64_t{1} << 40;
constexpr double kLargestWindow = 1e6;

[[noreturn]] void reject(const std::string& flag, const std::string& text, const std::string& wanted) {
  throw std::runtime_error(flag + ": '" + text + "': " + wanted);
}

std::int64_t integer(const std::string& flag, const std::string& text, std::int64_t least,
                     std::int64_t most) {
  const std::string wanted =
      "expected an integer from " + std::to_string(least) + " to " + std::to_string(most);
  std::size_t used = 0;
  std::int64_t value = 0;
  try {
    value = std::stoll(text, &used);
  } catch (const std::logic_error&) {
    reject(flag, text, wanted);
  }
  if (used != text.size() || value < least || value > most) reject(flag, text, wanted);
  return value;
}

double factor(const std::string& flag, const std::string& text) {
  const std::string wanted = "expected a number from 0 to 1000000";
  std::size_t used = 0;
  double value = 0.0;
  try {
    value = std::stod(text, &used);
  } catch (const std::logic_error&) {
    reject(flag, text, wanted);
  }
  if (used != text.size() || !std::isfinite(value) || value < 0 || value > kLargestWindow) {
    reject(flag, text, wanted);
  }
  return value;
}

void set(Options& options, const std::string& flag, const std::string& text) {
  Transport& transport = options.transport;
  if (flag == "--topology") {
    options.topology_file = text;
  } else if (flag == "--mtu") {
    transport.mtu_bytes = integer(flag, text, 1, kLargestPacket);
  } else if (flag == "--header") {
    transport.header_bytes = integer(flag, text, 0, kLargestPacket);
  } else if (flag == "--window") {
    transport.window_bdp = factor(flag, text);
  } else if (flag == "--buffer") {
    transport.buffer_bytes = integer(flag, text, 0, kLargestBuffer);
  } else {
    throw std::runtime_error("unknown flag '" + flag + "'; --help lists what there is");
  }
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    options.show_version |= argument == "--version";
    options.show_help |= argument == "--help";
    if (argument == "--version" || argument == "--help") continue;
    const std::size_t equals = argument.find('=');
    if (equals != std::string::npos) {
      set(options, argument.substr(0, equals), argument.substr(equals + 1));
    } else if (i + 1 < arguments.size()) {
      set(options, argument, arguments[++i]);
    } else {
      throw std::runtime_error("'" + argument + "' needs a value; --help lists the flags");
    }
  }
  if (options.show_version || options.show_help) return options;
  const Transport& transport = options.transport;
  if (options.topology_file.empty()) throw std::runtime_error("--topology FILE is required");
  if (transport.buffer_bytes > 0 && transport.buffer_bytes < transport.mtu_bytes + transport.header_bytes) {
    reject("--buffer", std::to_string(transport.buffer_bytes),
           "smaller than one packet (--mtu plus --header); nothing would ever pass");
  }
  return options;
}

std::string help_text() {
  return "usage: astra_ns3 --topology FILE [--mtu BYTES] [--header BYTES] [--window K] [--buffer BYTES]\n"
         "\n"
         "Moves messages through a packet network in ns-3, driven over standard input and output by the\n"
         "engine of LLMServingSim-HoL; docs/ns3.md describes the protocol and the model.\n"
         "\n"
         "  --topology FILE  'npus N switches S', then lines 'link A B GBPS LATENCY_NS' (2^30 bytes a "
         "second)\n"
         "  --mtu BYTES      data in a full packet (default: 4096)\n"
         "  --header BYTES   on the wire with every packet, beside the data (default: 82)\n"
         "  --window K       unacknowledged data of a pair in bandwidth-delay products (default: 0, no "
         "limit)\n"
         "  --buffer BYTES   packets waiting at a port of a forwarder (default: 0, no limit and no loss)\n"
         "  --version        version of ns-3, and the transport model\n";
}

}  // namespace astra_ns3
