# anneal::anneal, the sum of the folders, and its installation.
get_property(objects GLOBAL PROPERTY ANNEAL_OBJECTS)
add_library(anneal ${objects})
add_library(anneal::anneal ALIAS anneal)
target_compile_features(anneal PUBLIC cxx_std_20)
target_include_directories(anneal PUBLIC
  $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(anneal PRIVATE OpenMP::OpenMP_CXX)
find_package(Threads REQUIRED)
target_link_libraries(anneal PUBLIC Threads::Threads)
if(anneal_has_zlib)
  target_link_libraries(anneal PRIVATE ZLIB::ZLIB)
endif()
if(anneal_has_gloo)
  target_link_libraries(anneal PRIVATE gloo)
endif()
if(anneal_gpu STREQUAL "cuda")
  # None of these needs the driver to start: CUDA looks for it when it is first called.
  target_link_libraries(anneal PRIVATE CUDA::cudart_static CUDA::cublasLt cuDNN::cuDNN ${CMAKE_DL_LIBS})
endif()

# `cmake --install`, and then find_package(anneal) and anneal::anneal.
include(CMakePackageConfigHelpers)
install(TARGETS anneal EXPORT annealTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES anneal.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/anneal)
install(DIRECTORY kernels core nn data optim dist trainer DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/anneal
  FILES_MATCHING PATTERN "*.h" PATTERN "cpu" EXCLUDE PATTERN "cuda" EXCLUDE PATTERN "ops" EXCLUDE)
install(EXPORT annealTargets NAMESPACE anneal:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/anneal)
configure_package_config_file(cmake/annealConfig.cmake.in ${PROJECT_BINARY_DIR}/annealConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/anneal)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/annealConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/annealConfig.cmake ${PROJECT_BINARY_DIR}/annealConfigVersion.cmake cmake/FindcuDNN.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/anneal)
