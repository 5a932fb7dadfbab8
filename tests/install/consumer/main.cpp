// Trains a line through three points, as a program of somebody else would.
#include <anneal/anneal.h>

#include <cstdio>

using namespace anneal;

int main() {
  manual_seed(1);
  nn::Linear line(1, 1);
  optim::SGD optimizer(line.parameters(), {.lr = 0.1});
  const Tensor x = tensor({0, 1, 2}, {3, 1});
  const Tensor y = tensor({1, 3, 5}, {3, 1});
  for (int i = 0; i < 500; ++i) {
    mse_loss(line(x), y).backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  const double slope = line.weight.item();
  const double start = line.bias.item();
  std::printf("y = %.3f x + %.3f\n", slope, start);
  return slope > 1.99 && slope < 2.01 && start > 0.98 && start < 1.02 ? 0 : 1;
}
