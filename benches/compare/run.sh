#!/usr/bin/env bash
# gatepost beside other proxies on one machine: installs them, builds gatepost, measures, prints a table in Markdown.
#
#   benches/compare/run.sh                       all of it, three rounds
#   benches/compare/run.sh table --rounds 1 --peers gatepost,haproxy --rows login,down
#   benches/compare/run.sh --help                the other measurements, and their options
#
# As root on Debian, or with everything installed already. GATEPOST is another binary than the one that is built here.
set -euo pipefail
cd "$(dirname "$0")/../.."

main() {
  local build python=()
  [ $# -gt 0 ] || set -- table
  build=$(cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
  cargo build --quiet --release -p gatepost -p gatepost-compare >&2
  if needs_peers "$@"; then
    python=(--python "$(benches/compare/install.sh "$build/compare" | tail -n 1)")
  fi
  "$build/release/gatepost-compare" --gatepost "${GATEPOST:-$build/release/gatepost}" ${python[@]+"${python[@]}"} "$@"
  [ "$1" != growth ] || "${python[1]}" benches/compare/plot.py docs/performance/growth.json docs/performance
}

# Only some measurements have other proxies in them, or a drawing.
needs_peers() {
  case $1 in
    table | growth) return 0 ;;
    *) return 1 ;;
  esac
}

main "$@"
