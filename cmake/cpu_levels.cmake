# The kernels of kernels/cpu, compiled once per instruction-set level (docs/architecture.md, "Instruction sets").
#
# anneal_cpu_levels(out): the levels to build, best first. ANNEAL_CPU_LEVELS is `native` (the best of this machine), `all`
# of this architecture, or a list, in which `generic` is what the compiler gives by default.

set(ANNEAL_CPU_LEVELS native CACHE STRING "Instruction-set levels of the CPU kernels: native, all, or a list")

# What a level is compiled with, and the features that a processor needs for it. (F16C comes with AVX2, and clang 14
# cannot ask for it.)
set(ANNEAL_FLAGS_x86_64_v4 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512)
set(ANNEAL_FLAGS_x86_64_v4_bf16 ${ANNEAL_FLAGS_x86_64_v4} -mavx512bf16)
set(ANNEAL_FLAGS_x86_64_v3 -mavx2 -mfma -mf16c -mbmi2)
set(ANNEAL_FLAGS_x86_64_v2 -msse4.2 -mpopcnt)
set(ANNEAL_NEEDS_x86_64_v4 avx512f avx512bw avx512dq avx512vl avx2 fma bmi2)
set(ANNEAL_NEEDS_x86_64_v4_bf16 ${ANNEAL_NEEDS_x86_64_v4} avx512bf16)
set(ANNEAL_NEEDS_x86_64_v3 avx2 fma bmi2)
set(ANNEAL_NEEDS_x86_64_v2 sse4.2 popcnt)

function(anneal_cpu_levels out)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(all x86_64_v4_bf16 x86_64_v4 x86_64_v3 x86_64_v2)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(all neon)
  else()
    set(all generic)
  endif()
  if(ANNEAL_CPU_LEVELS STREQUAL "all")
    set(levels ${all})
  elseif(NOT ANNEAL_CPU_LEVELS STREQUAL "native")
    set(levels "")
    foreach(level IN LISTS all ITEMS generic)  # in this order
      if(level IN_LIST ANNEAL_CPU_LEVELS)
        list(APPEND levels ${level})
      endif()
    endforeach()
    foreach(level IN LISTS ANNEAL_CPU_LEVELS)
      if(NOT level IN_LIST levels)
        message(FATAL_ERROR "ANNEAL_CPU_LEVELS: expected native, all, or some of ${all};generic; got ${ANNEAL_CPU_LEVELS}")
      endif()
    endforeach()
  else()
    set(flags "")
    if(EXISTS /proc/cpuinfo)
      file(STRINGS /proc/cpuinfo lines REGEX "^flags" LIMIT_COUNT 1)
      string(REGEX REPLACE "[ \t:]+" ";" flags "${lines}")
    endif()
    foreach(level IN LISTS all)
      set(levels ${level})
      string(REPLACE . _ missing "${ANNEAL_NEEDS_${level}}")  # the kernel's spelling
      string(REPLACE avx512bf16 avx512_bf16 missing "${missing}")
      list(REMOVE_ITEM missing ${flags})
      if(NOT missing)
        break()
      endif()
    endforeach()
  endif()
  if(NOT levels)
    message(FATAL_ERROR "ANNEAL_CPU_LEVELS: expected native, all, or a list of levels; got nothing")
  endif()
  set(${out} ${levels} PARENT_SCOPE)
endfunction()

# anneal_add_cpu_kernels(target sources...): adds the sources to the library, once per level, and to `target` the list of
# them (kernels/cpu/levels.h).
function(anneal_add_cpu_kernels target)
  anneal_cpu_levels(levels)
  set(declarations "")
  set(entries "")
  foreach(level IN LISTS levels)
    add_library(anneal_kernels_${level} OBJECT ${ARGN})
    target_compile_definitions(anneal_kernels_${level} PRIVATE ANNEAL_LEVEL=${level})
    target_compile_options(anneal_kernels_${level} PRIVATE
      ${ANNEAL_FLAGS_${level}} -fno-math-errno -fno-trapping-math -fno-signed-zeros)
    target_compile_options(anneal_kernels_${level} PRIVATE $<$<CONFIG:Release>:-O3>)
    set_target_properties(anneal_kernels_${level} PROPERTIES ANNEAL_FUSES ON)
    target_link_libraries(anneal_kernels_${level} PRIVATE anneal_options)
    set_property(GLOBAL APPEND PROPERTY ANNEAL_OBJECTS $<TARGET_OBJECTS:anneal_kernels_${level}>)
    set(needs true)
    foreach(need IN LISTS ANNEAL_NEEDS_${level})
      string(APPEND needs " && __builtin_cpu_supports(\"${need}\")")
    endforeach()
    string(APPEND declarations "namespace ${level} {\nextern const Table table;\n}\n")
    string(APPEND entries "      {\"${level}\", &${level}::table, [] { return ${needs}; }},\n")
  endforeach()
  string(CONFIGURE [[
// Written by CMake.
#include "anneal/kernels/cpu/levels.h"

namespace anneal {
inline namespace v0 {
namespace kernels::cpu {

@declarations@
std::span<const Level> levels() {
  static constexpr Level all[] = {
@entries@  };
  return all;
}

}  // namespace kernels::cpu
}  // namespace v0
}  // namespace anneal
]] text @ONLY)
  set(source ${PROJECT_BINARY_DIR}/generated/cpu_levels.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "${text}")
  target_sources(${target} PRIVATE ${source})
  message(STATUS "anneal: CPU kernels for ${levels}")
endfunction()
