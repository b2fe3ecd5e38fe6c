# Cross-builds for 64-bit Arm on a Debian 12 machine; tests run under qemu. Needs crossbuild-essential-arm64 and
# qemu-user-static (script/bootstrap test). The preset arm64 builds only the kernels, which depend on nothing; arm64-all builds all
# rooms against the libraries in GLMD_SYSROOT, which cross/sysroot fills.
# GLMD_QEMU_CPU: max has dotprod and i8mm; cortex-a76 (like Jetson Orin) only dotprod; cortex-a72 neither. What the build
# itself runs (the list of tests) runs there, too.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(GLMD_QEMU_CPU max CACHE STRING "the processor that qemu plays in the tests")
set(GLMD_SYSROOT "" CACHE PATH "64-bit Arm libraries; empty: the kernels alone")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES GLMD_SYSROOT)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
if(GLMD_SYSROOT)
  set(CMAKE_SYSROOT ${GLMD_SYSROOT})
  set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
  set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
  set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
  set(ENV{PKG_CONFIG_SYSROOT_DIR} ${GLMD_SYSROOT})
  set(ENV{PKG_CONFIG_LIBDIR} ${GLMD_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${GLMD_SYSROOT}/usr/share/pkgconfig)
  set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64-static;-cpu;${GLMD_QEMU_CPU};-L;${GLMD_SYSROOT}")
else()
  set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64-static;-cpu;${GLMD_QEMU_CPU};-L;/usr/aarch64-linux-gnu")
endif()
