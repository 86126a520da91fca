# Build options, and what every target of the project is compiled with.
option(NATSFORMER_WERROR "Treat warnings as errors" ON)
set(NATSFORMER_SANITIZE "" CACHE STRING "Sanitizers to build with: address, undefined, thread (comma-separated)")

add_library(natsformer_options INTERFACE)
target_include_directories(natsformer_options INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_definitions(natsformer_options INTERFACE _GNU_SOURCE NATSFORMER_VERSION="${PROJECT_VERSION}")
target_compile_options(natsformer_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wvla -Wno-psabi
  $<$<COMPILE_LANGUAGE:C>:-Wconversion -Wstrict-prototypes -Wmissing-prototypes>
  $<$<BOOL:${NATSFORMER_WERROR}>:-Werror>
  -fno-math-errno -fno-trapping-math)
if(NATSFORMER_SANITIZE)
  target_compile_options(natsformer_options INTERFACE -fsanitize=${NATSFORMER_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(natsformer_options INTERFACE -fsanitize=${NATSFORMER_SANITIZE})
  # Function multiversioning resolves symbols before a sanitizer's runtime is up.
  target_compile_definitions(natsformer_options INTERFACE NN_NO_CLONES)
endif()

# A static library of one room: natsformer_room(nn SOURCES ... USES lib ...)
function(natsformer_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;USES" ${ARGN})
  add_library(${name} STATIC ${ROOM_SOURCES})
  target_link_libraries(${name} PUBLIC natsformer_options ${ROOM_USES})
endfunction()
