// Runs a fuzz target over its seeds, over the files that are named (or lie in folders that are), and over random
// mutations of them all: `idx_fuzz --runs 20000 --seed 1 corpus/`. The same seed makes the same inputs.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "anneal/tests/fuzz/fuzz.h"

namespace {

std::string current;  // what the target is working on, for the report

void report(int signal) {
  std::ofstream("crash.bin", std::ios::binary) << current;
  std::cerr << "the input is in crash.bin, " << current.size() << " bytes\n";
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(std::string input) {
  current = std::move(input);
  // A block of exactly this size, so that AddressSanitizer sees a read past it.
  const std::vector<std::uint8_t> bytes(current.begin(), current.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::string mutate(std::string text, const std::vector<std::string>& corpus, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return n ? static_cast<std::size_t>(random() % n) : 0; };
  const auto byte = [&] {
    const std::string likely("\0\1\x7f\x80\xff{}[]\",:-0129eE.+ \\u", 25);
    return below(2) ? likely[below(likely.size())] : static_cast<char>(random());
  };
  for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
    const std::size_t at = below(text.size() + 1);
    const std::size_t length = below(std::min<std::size_t>(text.size() - at, 16) + 1);
    switch (below(6)) {
      case 0: text.insert(at, 1, byte()); break;
      case 1: text.erase(at, length); break;
      case 2: text.insert(below(text.size() + 1), text.substr(at, length)); break;
      case 3: text.resize(at); break;
      case 4: {
        const std::string& other = corpus[below(corpus.size())];
        text = text.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
      default:
        if (at < text.size()) text[at] = below(2) ? byte() : static_cast<char>(text[at] ^ (1 << below(8)));
    }
  }
  return text;
}

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE}) std::signal(signal, report);
  long runs = 20000;
  unsigned long long seed = 1;
  std::vector<std::string> corpus = fuzz_seeds();
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
      runs = std::atol(argv[++i]);
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i]))
        if (entry.is_regular_file()) corpus.push_back(contents(entry.path()));
    } else if (std::filesystem::exists(argv[i])) {
      corpus.push_back(contents(argv[i]));
    } else {
      std::cerr << "usage: " << argv[0] << " [--runs N] [--seed N] [file or folder...]; there is no " << argv[i]
                << '\n';
      return 2;
    }
  }
  for (const std::string& input : corpus) run(input);
  std::mt19937_64 random(seed);
  for (long i = 0; i < runs; ++i) run(mutate(corpus[random() % corpus.size()], corpus, random));
  std::cout << corpus.size() << " inputs and " << runs << " mutations\n";
}
