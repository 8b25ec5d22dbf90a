// SPDX-License-Identifier: MIT
#include "driver.h"

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <unordered_set>

#include "dirigent/base/text.h"
#include "dirigent/base/time.h"

// Only there in sanitizer builds.
extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));

namespace dirigent::fuzz {

namespace {

constexpr std::size_t kPartBytesMax = 64 * 1024;
constexpr std::size_t kCorpusMax = 20'000;
constexpr unsigned kHangSeconds = 60;

struct Options {
  double seconds = 3;
  std::uint64_t seed = 0;
  std::uint64_t runs = 0;  // 0 = by time
  std::string findings = ".";
  std::string replay;
};

// --- what a crash leaves behind -----------------------------------------------------------------------------------

// The input being run, where a signal handler can reach it.
std::string g_running;
std::string g_crash_file;

void save_running() {
  const int fd = ::open(g_crash_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  for (std::size_t at = 0; at < g_running.size();) {
    const ssize_t written = ::write(fd, g_running.data() + at, g_running.size() - at);
    if (written <= 0) break;
    at += static_cast<std::size_t>(written);
  }
  ::close(fd);
  constexpr char kText[] = "the input that did it is in ";
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, kText, sizeof kText - 1);
  ignored = ::write(STDERR_FILENO, g_crash_file.data(), g_crash_file.size());
  ignored = ::write(STDERR_FILENO, "\n", 1);
}

void on_signal(int signal) {
  save_running();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void watch_for_crashes(const std::string& file) {
  g_crash_file = file;
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(save_running);
    // The sanitizer has handlers of its own for the others.
    for (const int signal : {SIGABRT, SIGALRM}) std::signal(signal, on_signal);
  } else {
    for (const int signal : {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_signal);
  }
}

// --- command line -------------------------------------------------------------------------------------------------

bool parse_options(int argc, char** argv, Options& options) {
  // CI gives every target more time without knowing how each is started.
  if (const char* seconds = std::getenv("DIRIGENT_FUZZ_SECONDS")) options.seconds = std::atof(seconds);
  options.seed = entropy_seed();
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 >= argc) return false;
    const std::string value = argv[i + 1];
    if (name == "--seconds") {
      options.seconds = std::atof(value.c_str());
    } else if (name == "--seed") {
      options.seed = std::strtoull(value.c_str(), nullptr, 0);
    } else if (name == "--runs") {
      options.runs = std::strtoull(value.c_str(), nullptr, 0);
    } else if (name == "--findings") {
      options.findings = value;
    } else if (name == "--replay") {
      options.replay = value;
    } else {
      return false;
    }
  }
  return options.seconds > 0;
}

Outcome execute(const Target& target, const Input& input) {
  g_running = to_text(input);
  return target.run(input);
}

// Takes bytes away while the finding stays the same, within a bounded number of runs.
Input minimize(const Target& target, Input input, const std::string& finding) {
  int runs_left = 3000;
  const auto still_fails = [&](const Input& smaller) {
    --runs_left;
    const Outcome outcome = execute(target, smaller);
    return outcome.finding && outcome.finding->substr(0, 24) == finding.substr(0, 24);
  };
  for (bool smaller = true; smaller && runs_left > 0;) {
    smaller = false;
    for (std::size_t part = 0; part < input.parts.size(); ++part) {
      for (std::size_t size = input.parts[part].size() / 2; size > 0 && runs_left > 0; size /= 2) {
        for (std::size_t at = 0; at + size <= input.parts[part].size() && runs_left > 0;) {
          Input tried = input;
          tried.parts[part].erase(at, size);
          if (still_fails(tried)) {
            input = std::move(tried);
            smaller = true;
          } else {
            at += size;
          }
        }
      }
    }
  }
  return input;
}

// For a terminal or a log, which would not keep the bytes.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n' || (byte >= 0x20 && byte < 0x7f && c != '\\')) {
      out.push_back(c);
    } else {
      out += fmt::format("\\x{:02x}", byte);
    }
  }
  return out;
}

int report(const Target& target, const Options& options, const Input& found, const std::string& finding) {
  const Input input = minimize(target, found, finding);
  const std::string file = fmt::format("{}/finding-{}-{:x}.txt", options.findings, target.name, options.seed);
  std::ofstream(file, std::ios::binary) << to_text(input);
  fmt::print("FINDING: {}\n{}\nagain with: --replay {}\n", finding, escaped(to_text(input)), file);
  return 1;
}

}  // namespace

std::string to_text(const Input& input) {
  std::string text = fmt::format("choices {}\n", input.choices);
  for (const std::string& part : input.parts) text += fmt::format("part {}\n{}\n", part.size(), part);
  return text;
}

std::optional<Input> parse_input(const std::string& text) {
  Input input;
  std::size_t at = 0;
  const auto line = [&] {
    const std::size_t end = text.find('\n', at);
    std::string found = text.substr(at, end == std::string::npos ? end : end - at);
    at = end == std::string::npos ? text.size() : end + 1;
    return found;
  };
  const std::string first = line();
  if (!first.starts_with("choices ")) return std::nullopt;
  input.choices = std::strtoull(first.c_str() + 8, nullptr, 10);
  while (at < text.size()) {
    const std::string header = line();
    if (!header.starts_with("part ")) return std::nullopt;
    const std::size_t size = std::strtoull(header.c_str() + 5, nullptr, 10);
    if (size > text.size() - at) return std::nullopt;
    input.parts.push_back(text.substr(at, size));
    at += size + 1;
  }
  return input;
}

int run_fuzzer(int argc, char** argv, const Target& target) {
  Options options;
  if (!parse_options(argc, argv, options)) {
    fmt::print("usage: {} [--seconds N] [--seed N] [--runs N] [--findings DIRECTORY] [--replay FILE]\n", argv[0]);
    return 2;
  }
  watch_for_crashes(fmt::format("{}/crash-{}-{:x}.txt", options.findings, target.name, options.seed));
  if (!options.replay.empty()) {
    std::ifstream file(options.replay, std::ios::binary);
    const auto input = parse_input(std::string(std::istreambuf_iterator<char>(file), {}));
    if (!input) {
      fmt::print("{} is not an input of this program\n", options.replay);
      return 2;
    }
    const Outcome outcome = execute(target, *input);
    fmt::print("{}\n", outcome.finding ? "FINDING: " + *outcome.finding : "no finding");
    return outcome.finding ? 1 : 0;
  }

  fmt::print("fuzz={} seed={} seconds={}\n", target.name, options.seed, options.seconds);
  std::fflush(stdout);
  Rng rng(options.seed);
  std::vector<Input> corpus;
  std::unordered_set<std::uint64_t> behaviours;
  std::uint64_t runs = 0;
  const auto began = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(); };
  const auto run_one = [&](const Input& input) -> std::optional<std::string> {
    if (runs++ % 256 == 0) ::alarm(kHangSeconds);
    Outcome outcome = execute(target, input);
    if (outcome.finding) return outcome.finding;
    if (behaviours.insert(outcome.behaviour).second && corpus.size() < kCorpusMax) corpus.push_back(input);
    return std::nullopt;
  };
  for (const Input& seed : target.seeds) {
    // Every seed stays, whatever it does: it is there for a reason.
    if (auto finding = run_one(seed)) return report(target, options, seed, *finding);
    corpus.push_back(seed);
  }
  const std::uint64_t seed_runs = runs;
  while (options.runs != 0 ? runs - seed_runs < options.runs : seconds() < options.seconds) {
    Input input = corpus[rng.below(corpus.size())];
    input.choices = rng();
    for (std::uint64_t i = 0, changes = 1 + rng.below(4); i < changes; ++i) {
      const std::size_t part = rng.below(input.parts.size());
      const Input& other = corpus[rng.below(corpus.size())];
      target.mutate(input.parts[part], other.parts[part], rng);
      if (input.parts[part].size() > kPartBytesMax) input.parts[part].resize(kPartBytesMax);
    }
    if (auto finding = run_one(input)) return report(target, options, input, *finding);
  }
  ::alarm(0);
  const double took = seconds();
  fmt::print("fuzz={} seed={} runs={} seconds={:.1f} per_second={:.0f} behaviours={} findings=0\n", target.name,
             options.seed, runs, took, static_cast<double>(runs) / took, behaviours.size());
  fmt::print("1 passed, 0 failed\n");
  return 0;
}

}  // namespace dirigent::fuzz
