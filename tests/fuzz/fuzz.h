// A fuzz target is a source with these two functions. libFuzzer needs the first alone:
//
//   clang++ -fsanitize=fuzzer,address,undefined tests/fuzz/idx_fuzz.cpp ... && ./a.out corpus/
//
// With driver.cpp instead of libFuzzer any compiler builds a program that runs a fixed number of mutations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Must take any bytes; an exception that is not anneal::Error, or a crash, is a finding.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

/// Good inputs to begin with.
std::vector<std::string> fuzz_seeds();
