#include "anneal/core/version.h"

namespace anneal {
inline namespace v0 {

const int compiled_with_headers_of_anneal_0_1_0 = 0;

}  // namespace v0
}  // namespace anneal
