#include "anneal/trainer/find_checkpoint.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "anneal/trainer/log_folder.h"

namespace anneal {
inline namespace v0 {
namespace {

namespace fs = std::filesystem;
using Paths = std::vector<fs::path>;

// As they were written.
Paths newest_first(Paths paths) {
  std::ranges::stable_sort(paths, std::greater<>(), [](const fs::path& path) { return fs::last_write_time(path); });
  return paths;
}

// The folder of a run, and those of the versions beside it, the newest first.
Paths with_earlier_versions(const fs::path& run) {
  std::map<std::int64_t, fs::path, std::greater<>> versions;
  std::error_code missing;
  if (version_number(run.filename().string()) >= 0)
    for (const fs::directory_entry& entry : fs::directory_iterator(run.parent_path(), missing))
      if (entry.path() != run) versions[version_number(entry.path().filename().string())] = entry.path();
  versions.erase(-1);
  Paths all{run};
  for (const auto& [number, folder] : versions) all.push_back(folder);
  return all;
}

// Those that say where a run ended, of the run with that folder.
Paths last_files(const TrainerState& s, const fs::path& run) {
  Paths paths;
  for (const Shared<Callback>& callback : s.callbacks) {
    if (const auto* files = dynamic_cast<const ModelCheckpoint*>(callback.get()))
      for (const fs::path& path : files->last_files(run)) paths.push_back(path);
    if (const auto* file = dynamic_cast<const OnExceptionCheckpoint*>(callback.get()))
      if (const fs::path path = file->path_in(run); fs::exists(path)) paths.push_back(path);
  }
  return paths;
}

// That of this Slurm job; outside of one, those of the jobs that were preempted here.
Paths preempt_files(const TrainerState& s) {
  Paths paths;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(s.options.default_root_dir, missing))
    if (s.job ? entry.path().filename() == s.job->checkpoint.filename() : is_preempt_file(entry.path()))
      paths.push_back(entry.path());
  return newest_first(paths);
}

struct Found {
  fs::path path;
  Checkpoint checkpoint;
};

// The one of most steps, of equal ones the newest. A new run's folder is empty: then of the newest version beside it
// that has one.
std::optional<Found> find_last(TrainerState& s) {
  std::optional<Found> found;
  std::set<fs::path> seen;
  const auto consider = [&](const Paths& paths) {
    bool any = false;
    for (const fs::path& path : paths) try {
        if (!seen.insert(path).second) continue;
        Checkpoint checkpoint = s.checkpoint_io->load(path);
        any = true;
        if (!found || checkpoint.counters.global_step > found->checkpoint.counters.global_step)
          found = Found{path, std::move(checkpoint)};
      } catch (const Error& error) { s.console.warn(std::string("resume: passed over: ") + error.what()); }
    return any;
  };
  consider(preempt_files(s));
  for (const fs::path& run : with_earlier_versions(s.trainer.log_dir()))
    if (consider(newest_first(last_files(s, run)))) break;
  return found;
}

// Null: there is none.
const ModelCheckpoint* first_model_checkpoint(const TrainerState& s) {
  for (const Shared<Callback>& callback : s.callbacks)
    if (const auto* files = dynamic_cast<const ModelCheckpoint*>(callback.get())) return files;
  return nullptr;
}

// The first ModelCheckpoint's; of an earlier process by what its last file says.
fs::path best_file(TrainerState& s) {
  const ModelCheckpoint* const files = first_model_checkpoint(s);
  check(files, "resume: there is no ModelCheckpoint that knows the best checkpoint");
  if (!files->best_model_path().empty()) return files->best_model_path();
  if (const std::optional<Found> last = find_last(s)) {
    const auto state = last->checkpoint.callbacks.find(files->state_key());
    if (state != last->checkpoint.callbacks.end())
      if (const auto& path = std::get<std::string>(state->second.at("best_path")); !path.empty()) return path;
  }
  throw Error("resume: there is no best checkpoint");
}

Checkpoint load(TrainerState& s, const fs::path& path) {
  Checkpoint checkpoint = s.checkpoint_io->load(path);
  s.resumed_from = path;
  return checkpoint;
}

std::optional<Checkpoint> find_here(TrainerState& s, const std::string& resume) {
  if (resume == "best") return load(s, best_file(s));
  if (resume == "preempt" || resume == "hpc") {
    const Paths paths = preempt_files(s);
    check(!paths.empty(), "resume: there is no checkpoint of a preempted Slurm job in {}",
          s.options.default_root_dir.string());
    return load(s, paths[0]);
  }
  if (resume != "last") return load(s, resume);
  std::optional<Found> last = find_last(s);
  if (!last) {
    s.console.warn("resume: there is no last checkpoint; training starts anew");
    return std::nullopt;
  }
  s.resumed_from = last->path;
  return std::move(last->checkpoint);
}

// What `find` finds on rank 0, on all ranks.
template <class F>
std::optional<Checkpoint> on_all_ranks(TrainerState& s, const F& find) {
  if (!s.world) return find();
  std::optional<Checkpoint> found;
  if (s.rank() == 0) found = find();
  s.resumed_from = s.from_rank_zero("trainer/resume", s.resumed_from.string());
  if (s.rank() > 0 && !s.resumed_from.empty()) found = s.checkpoint_io->load(s.resumed_from);
  return found;
}

}  // namespace

std::optional<Checkpoint> find_checkpoint(TrainerState& s, const std::string& resume) {
  return on_all_ranks(s, [&] { return find_here(s, resume); });
}

std::string best_checkpoint(const TrainerState& s) {
  const ModelCheckpoint* const files = first_model_checkpoint(s);
  return s.from_rank_zero("trainer/best", files ? files->best_model_path().string() : "");
}

Checkpoint find_newest(TrainerState& s, std::int64_t batches) {
  return *on_all_ranks(s, [&]() -> std::optional<Checkpoint> {
    Paths paths;
    for (const Shared<Callback>& callback : s.callbacks)
      if (const auto* files = dynamic_cast<const ModelCheckpoint*>(callback.get()))
        for (const fs::path& path : files->files()) paths.push_back(path);
    for (const fs::path& path : newest_first(paths))
      if (Checkpoint found = load(s, path); found.counters.total_batches <= batches) return found;
    throw Error("rollback: there is no checkpoint to go back to");
  });
}

}  // namespace v0
}  // namespace anneal
