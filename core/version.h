// The library's version, and a check at link time that headers and library are of the same one.
#pragma once

namespace anneal {
inline namespace v0 {

inline constexpr const char* version = "0.1.0";

/// Defined in the library under the name of its version: a program that was compiled with other headers does not link,
/// and the missing name says which ones it was compiled with.
extern const int compiled_with_headers_of_anneal_0_1_0;
namespace {
[[gnu::used]] const int* const same_headers = &compiled_with_headers_of_anneal_0_1_0;  // NOLINT: one each, on purpose
}

}  // namespace v0
}  // namespace anneal
