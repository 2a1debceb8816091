#!/bin/sh
# What cargo calls in place of the compiler for the crates of this workspace, so that a fuzzer sees which way the code
# has gone; only gatepost itself is of interest. Compares are not traced: dictionaries know the words, and a third of
# the time is better spent on inputs. (cargo-fuzz instruments all crates that there are, and so compiles them all anew.)
compiler=$1
shift
case " $* " in
  *" --crate-name gatepost "*)
    set -- "$@" -Ccodegen-units=16 -Cdebuginfo=0 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    ;;
esac
exec "$compiler" "$@"
