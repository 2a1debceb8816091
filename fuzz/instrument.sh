#!/bin/sh
# What cargo calls in place of the compiler for the crates of this workspace, so that a fuzzer sees which way the
# code has gone. cargo-fuzz instruments all crates that there are, and so compiles them all once more.
compiler=$1
shift
exec "$compiler" "$@" --cfg fuzzing -Ccodegen-units=16 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
