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
