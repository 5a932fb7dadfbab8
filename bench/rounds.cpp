#include "anneal/bench/rounds.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <sstream>

#include "anneal/core/allocator.h"
#include "anneal/core/ops.h"

namespace bench {
namespace {

constexpr int repetitions = 5;

// Takes the median from Google Benchmark and prints nothing.
class Median : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs)
      if (run.aggregate_name == "median") seconds = run.GetAdjustedRealTime();
  }
  double seconds = 0;
};

// Calls in a repetition so that all of them last `seconds`.
std::int64_t iterations_for(const Call& call, double seconds) {
  call();
  const double once = std::min({seconds_of(call), seconds_of(call), seconds_of(call)});
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(seconds / repetitions / std::max(once, 1e-8)), 1,
                                  1'000'000);
}

double median_seconds(const std::string& name, const Call& call, std::int64_t iterations) {
  benchmark::ClearRegisteredBenchmarks();
  benchmark::RegisterBenchmark(name.c_str(),
                               [&](benchmark::State& state) {
                                 for (auto _ : state) call();
                               })
      ->Unit(benchmark::kSecond)
      ->UseRealTime()
      ->Iterations(iterations)
      ->Repetitions(repetitions)
      ->ReportAggregatesOnly();
  Median median;
  benchmark::RunSpecifiedBenchmarks(&median);
  return median.seconds;
}

Case parse(const std::string& line) {
  std::istringstream words(line);
  Case c;
  words >> c.kernel >> c.dtype;
  for (std::int64_t size = 0; words >> size;) c.sizes.push_back(size);
  return c;
}

}  // namespace

anneal::Tensor numbers(const anneal::Shape& shape, anneal::DType dtype) { return anneal::randn(shape).to(dtype); }

double seconds_of(const Call& call) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  call();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int answer_rounds(int argc, char** argv, const std::function<Call(const Case&)>& make,
                  const std::function<void(int)>& set_threads) try {
  benchmark::Initialize(&argc, argv);
  double seconds = 0.1;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--threads") set_threads(std::stoi(value));
    else if (option == "--seconds") seconds = std::stod(value);
    else throw anneal::Error("no option " + option);
  }
  std::string current;
  Call call;
  std::int64_t iterations = 0;
  for (std::string line; std::getline(std::cin, line);) {
    if (line != current) {
      current = line;
      call = nullptr;  // its memory is given back before the next is made
      anneal::allocator().empty_cache();
      call = make(parse(line));
      if (call) iterations = iterations_for(call, seconds);
    }
    if (call) std::cout << median_seconds(line, call, iterations) << std::endl;
    else std::cout << "-" << std::endl;
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << argv[0] << ": " << error.what() << "\n";
  return 2;
}

}  // namespace bench
