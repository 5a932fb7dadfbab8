# Checks that the program in the README is examples/first_model.cpp.
file(READ ${SOURCES}/README.md readme)
file(READ ${SOURCES}/examples/first_model.cpp example)
string(STRIP "${example}" example)
string(FIND "${readme}" "```cpp\n${example}\n```" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md does not show examples/first_model.cpp as it is")
endif()
