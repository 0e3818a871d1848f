#!/usr/bin/env bash
# A newcomer's path, timed: from a clone to the first hit in a folder of 20 videos of one's own. Writes a page.
#     benchmarks/first_search.sh [REPOSITORY] > docs/first_search.md
set -euo pipefail
repository=$(realpath "${1:-$(dirname "$0")/..}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A command, what it printed (of its progress the last state, of much the end), and the seconds that it took.
step() {
    local start=$EPOCHREALTIME word
    printf '```console\n$'
    for word in "$@"; do [[ $word == *" "* ]] && printf ' "%s"' "$word" || printf ' %s' "${word/#$repository/REPOSITORY}"; done
    "$@" > "$folder/printed" 2>&1 || { cat "$folder/printed"; exit 1; }
    printf '\n'
    sed "s/.*\\r//; s#$folder#~#g" "$folder/printed" | grep -v '^\s*$' | tail -n "$lines" || true
    printf '```\n%.0f seconds.\n\n' "$(echo "$EPOCHREALTIME - $start" | bc)"
}

cat << 'HEAD'
# From a clone to the first hit

All commands, what they printed in the end, and the seconds that they took: `benchmarks/first_search.sh` runs them and
writes this page. The model is the demo's, which has seen 1,600 small clips of moving shapes; the folder has 20 others, which
nobody described to it.

HEAD
cd "$folder"
started=$EPOCHREALTIME
lines=0 step git clone "$repository" svitt
cd svitt
lines=12 step make demo
source .venv/bin/activate
lines=3 step python examples/make_demo_dataset.py own --train 0 --val 0 --test 20 --seed 7
lines=5 step svitt-search index own/videos --model demo/out --index own_index
lines=20 step svitt-search query own_index "a green triangle hops and then a yellow square hops"
printf 'In all %.0f seconds, on %s cores.\n' "$(echo "$EPOCHREALTIME - $started" | bc)" "$(nproc)"
