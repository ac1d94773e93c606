#include "link_map.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace astra_ns3 {
namespace {

constexpr double kBitsPerGb = 8.0 * 1024.0 * 1024.0 * 1024.0;
constexpr std::int32_t kMostNodes = 1 << 20;
constexpr double kFastestGbps = 1e6;
constexpr double kLongestNs = 1e12;

/// One line of the file, word by word, with errors that name it.
class Line {
 public:
  Line(const std::string& file, std::size_t number, const std::string& text)
      : place_(file + ":" + std::to_string(number) + ": "), words_(text) {}

  [[noreturn]] void reject(const std::string& message) const { throw std::runtime_error(place_ + message); }

  void expect(const std::string& wanted) {
    std::string word;
    if (!(words_ >> word) || word != wanted) reject("'" + wanted + "' expected");
  }

  std::int32_t integer(const std::string& what, std::int32_t least, std::int32_t most) {
    std::int32_t value = 0;
    if (!(words_ >> value) || value < least || value > most) {
      reject(what + " must be an integer from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return value;
  }

  double number(const std::string& what) {
    double value = 0.0;
    if (!(words_ >> value) || !std::isfinite(value)) reject(what + " must be a number");
    return value;
  }

  void expect_end() {
    std::string word;
    if (words_ >> word) reject("'" + word + "' is too much");
  }

 private:
  std::string place_;
  std::istringstream words_;
};

Link read_link(Line& line, std::int32_t nodes) {
  line.expect("link");
  Link link;
  link.a = line.integer("A", 0, nodes - 1);
  link.b = line.integer("B", 0, nodes - 1);
  if (link.a == link.b) line.reject("a link needs two different ends");
  const double gbps = line.number("GBPS");
  if (gbps <= 0 || gbps > kFastestGbps) line.reject("GBPS must be above 0 and at most 1000000");
  link.bits_per_second = gbps * kBitsPerGb;
  if (link.bits_per_second < 1) line.reject("GBPS is less than one bit a second");
  link.latency_ns = line.number("LATENCY_NS");
  if (link.latency_ns < 0 || link.latency_ns > kLongestNs) line.reject("LATENCY_NS must be from 0 to 1e12");
  line.expect_end();
  return link;
}

}  // namespace

LinkMap LinkMap::read(const std::string& file) {
  std::ifstream stream(file);
  if (!stream) throw std::runtime_error(file + ": cannot be read");
  LinkMap map;
  std::string text;
  for (std::size_t number = 1; std::getline(stream, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos || text.front() == '#') continue;
    Line line(file, number, text);
    if (map.nodes_ > 0) {
      map.links_.push_back(read_link(line, map.nodes_));
      continue;
    }
    line.expect("npus");
    map.npus_ = line.integer("the number of NPUs", 1, kMostNodes);
    line.expect("switches");
    map.nodes_ = map.npus_ + line.integer("the number of switches", 0, kMostNodes);
    line.expect_end();
  }
  if (map.nodes_ == 0) throw std::runtime_error(file + ": empty; the first line is 'npus N switches S'");
  map.find_paths();
  return map;
}

Path LinkMap::path(std::int32_t node, std::int32_t npu) const {
  Path path{0.0, std::numeric_limits<double>::max(), 0.0};
  while (node != npu) {
    const std::int32_t next = next_link(node, npu);
    const Link& link = links_[static_cast<std::size_t>(next)];
    path.latency_ns += link.latency_ns;
    path.narrowest_bps = std::min(path.narrowest_bps, link.bits_per_second);
    path.seconds_per_bit += 1.0 / link.bits_per_second;
    node = across(next, node);
  }
  return path;
}

void LinkMap::find_paths() {
  const auto nodes = static_cast<std::size_t>(nodes_);
  std::vector<std::vector<std::int32_t>> links_of(nodes);
  for (std::size_t i = 0; i < links_.size(); ++i) {
    links_of[static_cast<std::size_t>(links_[i].a)].push_back(static_cast<std::int32_t>(i));
  }
  for (std::size_t i = 0; i < links_.size(); ++i) {
    links_of[static_cast<std::size_t>(links_[i].b)].push_back(static_cast<std::int32_t>(i));
  }
  next_link_.assign(nodes * static_cast<std::size_t>(npus_), -1);
  std::vector<std::int32_t> distance;
  std::vector<std::int32_t> reached;
  for (std::int32_t npu = 0; npu < npus_; ++npu) {
    distance.assign(nodes, nodes_);
    distance[static_cast<std::size_t>(npu)] = 0;
    reached.assign(1, npu);
    for (std::size_t i = 0; i < reached.size(); ++i) {  // breadth first, from the destination
      const std::int32_t node = reached[i];
      const std::int32_t further = distance[static_cast<std::size_t>(node)] + 1;
      for (const std::int32_t link : links_of[static_cast<std::size_t>(node)]) {
        std::int32_t& other = distance[static_cast<std::size_t>(across(link, node))];
        if (other <= further) continue;
        other = further;
        reached.push_back(across(link, node));
      }
    }
    for (const std::int32_t node : reached) {
      if (node == npu) continue;
      for (const std::int32_t link : links_of[static_cast<std::size_t>(node)]) {
        if (distance[static_cast<std::size_t>(across(link, node))] >=
            distance[static_cast<std::size_t>(node)]) {
          continue;
        }
        next_link_[static_cast<std::size_t>(npu) * nodes + static_cast<std::size_t>(node)] = link;
        break;
      }
    }
  }
}

}  // namespace astra_ns3
