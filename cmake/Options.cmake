# Build options, and what every target of the project is compiled with.
option(NATSFORMER_WERROR "Treat warnings as errors" ON)
set(NATSFORMER_SANITIZE "" CACHE STRING "Sanitizers to build with: address, undefined, thread (comma-separated)")

add_library(natsformer_options INTERFACE)
target_include_directories(natsformer_options INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_definitions(natsformer_options INTERFACE _GNU_SOURCE NATSFORMER_VERSION="${PROJECT_VERSION}")
target_compile_options(natsformer_options INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wvla -Wno-psabi
                              -fno-math-errno -fno-trapping-math>
  $<$<COMPILE_LANGUAGE:C>:-Wconversion -Wstrict-prototypes -Wmissing-prototypes>
  $<$<AND:$<COMPILE_LANGUAGE:C,CXX>,$<BOOL:${NATSFORMER_WERROR}>>:-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra --expt-relaxed-constexpr>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${NATSFORMER_WERROR}>>:-Werror=all-warnings>)
if(NATSFORMER_CUDA)
  target_compile_definitions(natsformer_options INTERFACE NN_WITH_CUDA)
endif()
if(NATSFORMER_SANITIZE)
  target_compile_options(natsformer_options INTERFACE
    $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${NATSFORMER_SANITIZE} -fno-sanitize-recover=all
                                -fno-omit-frame-pointer>)
  target_link_options(natsformer_options INTERFACE -fsanitize=${NATSFORMER_SANITIZE})
  # Function multiversioning resolves symbols before a sanitizer's runtime is up.
  target_compile_definitions(natsformer_options INTERFACE NN_NO_CLONES)
endif()

# A static library of one room: natsformer_room(nn SOURCES ... CUDA ... USES lib ...). CUDA lists what a build
# with CUDA has besides.
function(natsformer_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;CUDA;USES" ${ARGN})
  if(NATSFORMER_CUDA)
    list(APPEND ROOM_SOURCES ${ROOM_CUDA})
    list(APPEND ROOM_USES natsformer_cuda)
  endif()
  if(NATSFORMER_EMULATE_CUDA)
    # As nvcc reads them: types may alias, and its pragmas mean something.
    set(emulated ${ROOM_CUDA})
    list(FILTER emulated INCLUDE REGEX "\\.cu$")
    set_source_files_properties(${emulated} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
      "-fno-strict-aliasing;-Wno-pedantic;-Wno-shadow;-Wno-unknown-pragmas;-Wno-sign-compare;-Wno-uninitialized;-Wno-maybe-uninitialized")
  endif()
  add_library(${name} STATIC ${ROOM_SOURCES})
  target_link_libraries(${name} PUBLIC natsformer_options ${ROOM_USES})
endfunction()
