# The kernels of kernels/cpu, compiled once per instruction-set level (docs/architecture.md, "Instruction sets").
#
# anneal_cpu_levels(out): the levels to build, best first. ANNEAL_CPU_LEVELS is `native` (the best of this machine), `all`
# of this architecture, or a list.

set(ANNEAL_CPU_LEVELS native CACHE STRING "Instruction-set levels of the CPU kernels: native, all, or a list")

set(ANNEAL_FLAGS_x86_64_v4 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512)
set(ANNEAL_FLAGS_x86_64_v3 -mavx2 -mfma -mf16c -mbmi2)
set(ANNEAL_FLAGS_x86_64_v2 -msse4.2 -mpopcnt)
set(ANNEAL_FLAGS_neon "")
set(ANNEAL_FLAGS_generic "")

function(anneal_cpu_levels out)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(all x86_64_v4 x86_64_v3 x86_64_v2)
    set(needs_x86_64_v4 avx512f avx512bw avx512dq avx512vl avx2 fma)
    set(needs_x86_64_v3 avx2 fma f16c bmi2)
    set(needs_x86_64_v2 sse4_2 popcnt)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(all neon)
  else()
    set(all generic)
  endif()
  if(ANNEAL_CPU_LEVELS STREQUAL "all")
    set(levels ${all})
  elseif(NOT ANNEAL_CPU_LEVELS STREQUAL "native")
    set(levels ${ANNEAL_CPU_LEVELS})
  else()
    set(flags "")
    if(EXISTS /proc/cpuinfo)
      file(STRINGS /proc/cpuinfo lines REGEX "^flags" LIMIT_COUNT 1)
      string(REGEX REPLACE "[ \t:]+" ";" flags "${lines}")
    endif()
    foreach(level IN LISTS all)
      set(levels ${level})
      set(missing "")
      foreach(need IN LISTS needs_${level})
        if(NOT need IN_LIST flags)
          list(APPEND missing ${need})
        endif()
      endforeach()
      if(NOT missing)
        break()
      endif()
    endforeach()
  endif()
  set(${out} ${levels} PARENT_SCOPE)
endfunction()

# anneal_add_cpu_kernels(target sources...): adds the sources to the library, once per level; `target` chooses among them.
function(anneal_add_cpu_kernels target)
  anneal_cpu_levels(levels)
  set(declarations "")
  set(entries "")
  foreach(level IN LISTS levels)
    add_library(anneal_kernels_${level} OBJECT ${ARGN})
    target_compile_definitions(anneal_kernels_${level} PRIVATE ANNEAL_LEVEL=${level})
    target_compile_options(anneal_kernels_${level} PRIVATE
      ${ANNEAL_FLAGS_${level}} -ffp-contract=fast -fno-math-errno -fno-trapping-math -fno-signed-zeros)
    target_compile_options(anneal_kernels_${level} PRIVATE $<$<CONFIG:Release>:-O3>)
    target_link_libraries(anneal_kernels_${level} PRIVATE anneal_options)
    set_property(GLOBAL APPEND PROPERTY ANNEAL_OBJECTS $<TARGET_OBJECTS:anneal_kernels_${level}>)
    string(APPEND declarations "namespace ${level} { extern const Table table; }\n")
    string(APPEND entries "    {\"${level}\", &${level}::table},\n")
  endforeach()
  string(CONFIGURE [[
// Written by CMake: the instruction-set levels in this library, best first.
#pragma once
#include "anneal/kernels/cpu/level.h"
namespace anneal {
inline namespace v0 {
namespace kernels::cpu {
@declarations@struct Level {
  const char* name;
  const Table* table;
};
inline const Level levels[] = {
@entries@};
}  // namespace kernels::cpu
}  // namespace v0
}  // namespace anneal
]] text @ONLY)
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/cpu_levels.h CONTENT "${text}")
  target_include_directories(${target} PRIVATE ${PROJECT_BINARY_DIR}/generated)
  message(STATUS "anneal: CPU kernels for ${levels}")
endfunction()
