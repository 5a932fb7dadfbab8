// Times one training step (forward, cross-entropy, backward, AdamW) of small reference models, in rounds that another
// program calls for, so that peers can be measured in turn: each line on standard input is a case; for each, one line
// `median_ms` of a round of steps goes out. The models are those of bench/peers/torch_step.py.
//
// Usage: bench_steps [--threads N] [--device cpu|cuda], then lines such as "mlp_b64".
#include <anneal/anneal.h>
#include <anneal/kernels/parallel.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>

using namespace anneal;

namespace {

class Case {
 public:
  Case(nn::Sequential net, std::int64_t batch, Device device)
      : device_(device),
        net_(moved(std::move(net), device)),
        optimizer_(net_.parameters(), {.lr = 1e-3}),
        x_(randn({batch, 1, 28, 28}).to(device)),
        y_(randint(0, 10, {batch}).to(device)) {
    for (int i = 0; i < 3; ++i) step();
    synchronize(device_);
  }

  // Milliseconds of one step. A GPU is waited for every 20 steps, as while training.
  double time() {
    using Clock = std::chrono::steady_clock;
    const int steps = device_.kind == DeviceKind::cpu ? 1 : 20;
    const auto start = Clock::now();
    for (int i = 0; i < steps; ++i) step();
    synchronize(device_);
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count() / steps;
  }

 private:
  static nn::Sequential moved(nn::Sequential net, Device device) {
    net.to(device);
    return net;
  }
  void step() {
    cross_entropy(net_(x_), y_).backward();
    optimizer_.step();
    optimizer_.zero_grad();
  }

  Device device_;
  nn::Sequential net_;
  optim::AdamW optimizer_;
  Tensor x_, y_;
};

nn::Sequential mlp(std::int64_t hidden) {
  return nn::Sequential(nn::Flatten(), nn::Linear(784, hidden), nn::ReLU(), nn::Linear(hidden, hidden), nn::ReLU(),
                        nn::Linear(hidden, 10));
}
nn::Sequential lenet() {
  return nn::Sequential(nn::Conv2d(1, 32, 3, {.padding = 1}), nn::ReLU(), nn::MaxPool2d(2),
                        nn::Conv2d(32, 64, 3, {.padding = 1}), nn::ReLU(), nn::MaxPool2d(2), nn::Flatten(),
                        nn::Linear(64 * 49, 128), nn::ReLU(), nn::Linear(128, 10));
}

const std::map<std::string, std::function<Case(Device)>> cases = {
    {"mlp_b64", [](Device device) { return Case(mlp(512), 64, device); }},
    {"mlp_b1", [](Device device) { return Case(mlp(64), 1, device); }},
    {"lenet_b64", [](Device device) { return Case(lenet(), 64, device); }},
};

// The median over half a second, in milliseconds.
double round(Case& model) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  const auto end = Clock::now() + std::chrono::milliseconds(500);
  while (Clock::now() < end || times.size() < 5) times.push_back(model.time());
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) try {
  Device device;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--threads") set_num_threads(std::stoi(value));
    else if (option == "--device") device = Device::parse(value);
    else throw Error("no option " + option);
  }
  std::map<std::string, Case> made;
  for (std::string name; std::getline(std::cin, name);) {
    if (!cases.contains(name)) throw Error("no case " + name);
    if (!made.contains(name)) {
      manual_seed(0);
      made.emplace(name, cases.at(name)(device));
    }
    std::cout << round(made.at(name)) << std::endl;
  }
} catch (const std::exception& error) {
  std::cerr << "bench_steps: " << error.what() << "\n";
  return 2;
}
