"""PyTorch's side of `scripts/bench steps`: the models and the protocol of bench/steps.cpp.

Each line on standard input is a case; the median milliseconds of a round of training steps go out.
"""

import argparse
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def mlp(hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10))


CASES = {"mlp_b64": (lambda: mlp(512), 64), "mlp_b1": (lambda: mlp(64), 1), "lenet_b64": (lenet, 64)}


class Case:
    def __init__(self, make, batch, device):
        torch.manual_seed(0)
        self.device = device
        self.model = make().to(device)
        # The fastest that it has for the device.
        fastest = {"foreach": True} if device == "cpu" else {"fused": True}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, **fastest)
        self.x = torch.randn(batch, 1, 28, 28).to(device)
        self.y = torch.randint(10, (batch,)).to(device)
        for _ in range(3):
            self.step()
        self.wait()

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def step(self):
        F.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def round(self):
        times = []
        steps = 1 if self.device == "cpu" else 20
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end or len(times) < 5:
            start = time.perf_counter()
            for _ in range(steps):
                self.step()
            self.wait()
            times.append((time.perf_counter() - start) / steps)
        return statistics.median(times) * 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch has no CUDA device")
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # as for matrix products, and as ours
    print("torch", torch.__version__, flush=True)
    made = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in made:
            made[name] = Case(*CASES[name], args.device)
        print(made[name].round(), flush=True)


if __name__ == "__main__":
    main()
