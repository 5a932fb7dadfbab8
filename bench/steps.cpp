// Times one training step (forward, cross-entropy, backward, AdamW) of reference models, in rounds that another program
// calls for, so that peers can be measured in turn: each line on standard input is a case and a dtype, f32 or bf16 (f32
// parameters, ops cast by Autocast); for each a line `median_ms peak_mb loss` goes out.
//
// Usage: bench_steps [--threads N] [--device cpu|cuda] [--seconds S], then lines such as "mlp_b64 f32".
#include <anneal/anneal.h>
#include <anneal/bench/models.h>
#include <anneal/core/allocator.h>
#include <anneal/core/autocast.h>
#include <anneal/kernels/parallel.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>

using namespace anneal;

namespace {

using Clock = std::chrono::steady_clock;

// What is trained on what.
struct Workload {
  std::unique_ptr<nn::Module> model;
  Tensor x, y;
};
template <class Model>
Workload images(Model model, std::int64_t n, std::int64_t channels, std::int64_t size) {
  return {std::make_unique<Model>(std::move(model)), randn({n, channels, size, size}), randint(0, 10, {n})};
}
Workload tokens(const bench::Gpt::Sizes& sizes, std::int64_t n, std::int64_t time) {
  return {std::make_unique<bench::Gpt>(sizes), randint(0, sizes.vocabulary, {n, time}),
          randint(0, sizes.vocabulary, {n, time})};
}

constexpr bench::Gpt::Sizes gpt2_124m{.vocabulary = 50257, .context = 1024, .layers = 12, .heads = 12, .width = 768};

const std::map<std::string, std::function<Workload(Device)>> workloads = {
    {"mlp_b64", [](Device) { return images(bench::mlp(512), 64, 1, 28); }},
    {"mlp_b1", [](Device) { return images(bench::mlp(64), 1, 1, 28); }},
    {"lenet_b64", [](Device) { return images(bench::lenet(), 64, 1, 28); }},
    {"resnet18_b32", [](Device) { return images(bench::ResNet18(), 32, 3, 32); }},
    {"gpt_tiny",
     [](Device) { return tokens({.vocabulary = 65, .context = 64, .layers = 4, .heads = 4, .width = 128}, 12, 64); }},
    {"gpt_char",
     [](Device) { return tokens({.vocabulary = 65, .context = 256, .layers = 6, .heads = 6, .width = 384}, 8, 256); }},
    {"gpt2_124m",
     [](Device device) {
       return device.kind == DeviceKind::cpu ? tokens(gpt2_124m, 1, 256) : tokens(gpt2_124m, 32, 1024);
     }},
};

class Case {
 public:
  Case(Workload workload, std::optional<DType> autocast, Device device)
      : device_(device),
        autocast_(autocast),
        model_(std::move(workload.model)),
        x_(workload.x.to(device)),
        y_(workload.y.to(device)) {
    model_->to(device);
    optimizer_.emplace(model_->parameters());
    if (autocast) optimizer_->keep_twins(*autocast);
    for (int i = 0; i < 3; ++i) step();
    synchronize(device_);
  }

  // The median milliseconds of a step over some time.
  double round(double seconds) {
    std::vector<double> times;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    do times.push_back(time());
    while (Clock::now() < end);
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }
  double loss() const { return loss_.item(); }

 private:
  // Milliseconds of one step. A GPU is waited for every 20 steps, as while training.
  double time() {
    const int steps = device_.kind == DeviceKind::cpu ? 1 : 20;
    const auto start = Clock::now();
    for (int i = 0; i < steps; ++i) step();
    synchronize(device_);
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count() / steps;
  }
  void step() {
    loss_ = compute_loss();
    loss_.backward();
    optimizer_->step();
    optimizer_->zero_grad();
  }
  Tensor compute_loss() const {
    const Autocast autocast(autocast_);
    return cross_entropy((*model_)(x_).flatten(0, -2), y_.flatten());
  }

  Device device_;
  std::optional<DType> autocast_;
  std::unique_ptr<nn::Module> model_;
  std::optional<optim::AdamW> optimizer_;
  Tensor x_, y_, loss_;
};

// A number of kB that the kernel tells of this process, in MB.
double process_mb(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1)) / 1024;
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  Device device;
  double seconds = 0.5;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--threads") set_num_threads(std::stoi(value));
    else if (option == "--device") device = Device::parse(value);
    else if (option == "--seconds") seconds = std::stod(value);
    else throw Error("no option " + option);
  }
  // What the library itself needs does not count as memory of a case; nor does it on the peer's side.
  Case(images(nn::Sequential(nn::Conv2d(1, 1, 3), nn::Flatten(), nn::Linear(4, 10)), 2, 1, 4), {}, device);
  const double mb_before = process_mb("VmRSS");
  std::map<std::string, Case> made;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name, dtype;
    words >> name >> dtype;
    if (!workloads.contains(name) || (dtype != "f32" && dtype != "bf16")) throw Error("no case " + line);
    if (!made.contains(line)) {
      manual_seed(0);
      const auto autocast = dtype == "bf16" ? std::optional(DType::bf16) : std::nullopt;
      made.try_emplace(line, workloads.at(name)(device), autocast, device);
    }
    Case& asked = made.at(line);
    const double ms = asked.round(seconds);
    const double mb = device.kind == DeviceKind::cpu ? process_mb("VmHWM") - mb_before
                                                     : static_cast<double>(allocator(device).stats().peak) / (1 << 20);
    std::cout << ms << " " << mb << " " << asked.loss() << std::endl;
  }
} catch (const std::exception& error) {
  std::cerr << "bench_steps: " << error.what() << "\n";
  return 2;
}
