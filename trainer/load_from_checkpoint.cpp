#include "anneal/trainer/load_from_checkpoint.h"

namespace anneal {
inline namespace v0 {

void load_module(TrainingModule& module, Checkpoint& checkpoint) {
  module.configure_model();
  module.on_load_checkpoint(checkpoint);
  module.load_state_dict(checkpoint.model);
}

}  // namespace v0
}  // namespace anneal
