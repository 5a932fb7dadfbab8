"""PyTorch's side of `scripts/bench steps`: the models of bench/models.h and the protocol of bench/steps.cpp.

Each line on standard input is a case and a dtype; the median milliseconds of a round of training steps, the peak memory in MB and
the loss go out.
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


class ResidualBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        c_in = 64
        for c_out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [ResidualBlock(c_in, c_out, stride), ResidualBlock(c_out, c_out, 1)]
            c_in = c_out
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class GptBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocabulary, context, layers, heads, width):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(GptBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        return F.linear(self.norm(self.blocks(h)), self.tokens.weight)


def images(model, n, channels, size):
    return model, torch.randn(n, channels, size, size), torch.randint(10, (n,))


def tokens(n, length, vocabulary, *sizes):
    return Gpt(vocabulary, *sizes), torch.randint(vocabulary, (n, length)), torch.randint(vocabulary, (n, length))


CASES = {
    "mlp_b64": lambda device: images(mlp(512), 64, 1, 28),
    "mlp_b1": lambda device: images(mlp(64), 1, 1, 28),
    "lenet_b64": lambda device: images(lenet(), 64, 1, 28),
    "resnet18_b32": lambda device: images(ResNet18(), 32, 3, 32),
    "gpt_tiny": lambda device: tokens(12, 64, 65, 64, 4, 4, 128),
    "gpt_char": lambda device: tokens(8, 256, 65, 256, 6, 6, 384),
    "gpt2_124m": lambda device: tokens(*((1, 256) if device == "cpu" else (32, 1024)), 50257, 1024, 12, 12, 768),
}


class Case:
    def __init__(self, model, x, y, dtype, device, compiled):
        self.device, self.dtype = device, dtype
        self.model, self.x, self.y = model.to(device), x.to(device), y.to(device)
        self.forward = torch.compile(self.model) if compiled else self.model
        # The fastest that it has.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        for _ in range(3):
            self.step()
        self.wait()

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def step(self):
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == "bf16"):
            self.loss = F.cross_entropy(self.forward(self.x).flatten(0, -2), self.y.flatten())
        self.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def round(self, seconds):
        times = []
        steps = 1 if self.device == "cpu" else 20
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not times:
            start = time.perf_counter()
            for _ in range(steps):
                self.step()
            self.wait()
            times.append((time.perf_counter() - start) / steps)
        return statistics.median(times) * 1e3


def process_mb(name):
    """A number of kB that the kernel tells of this process, in MB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name + ":"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch has no CUDA device")
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # as for matrix products, and as ours
    print("PyTorch", torch.__version__.split("+")[0] + (" compiled" if args.compile else ""), flush=True)
    # What PyTorch itself needs, imports at first use included, does not count as memory of a case.
    if args.device == "cpu":
        Case(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2)), torch.randn(2, 1, 4, 4), torch.tensor([0, 1]), "f32", "cpu", False)
    mb_before = process_mb("VmRSS")
    made = {}
    for line in sys.stdin:
        if line not in made:
            torch.manual_seed(0)
            name, dtype = line.split()
            made[line] = Case(*CASES[name](args.device), dtype, args.device, args.compile)
        ms = made[line].round(args.seconds)
        mb = process_mb("VmHWM") - mb_before if args.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
        print(ms, mb, made[line].loss.item(), flush=True)


if __name__ == "__main__":
    main()
