#!/usr/bin/env bash
# A newcomer's path, timed: from a clone to the first hit in one's own folder of 20 videos. Writes a page.
#     benchmarks/first_search.sh [REPOSITORY] > docs/first_search.md
set -euo pipefail
repository=$(realpath "${1:-$(dirname "$0")/..}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A command, the last $lines of its output (of progress bars the final state), and the seconds that it took. $before is
# a command to run and show first, which prints nothing.
step() {
    local start=$EPOCHREALTIME word seconds
    printf '```console\n'
    [[ -z ${before:-} ]] || { printf '$ %s\n' "$before"; eval "$before"; }
    printf '$'
    for word in "$@"; do [[ $word == *" "* ]] && printf ' "%s"' "$word" || printf ' %s' "${word/#$repository/REPOSITORY}"; done
    "$@" > "$folder/printed" 2>&1 || { cat "$folder/printed"; exit 1; }
    printf '\n'
    sed "s/.*\\r//; s#$folder#~#g" "$folder/printed" | grep -v '^\s*$' | tail -n "$lines" || true
    seconds=$(printf %.0f "$(echo "$EPOCHREALTIME - $start" | bc)")
    printf '```\n%s second%s.\n\n' "$seconds" "$([[ $seconds == 1 ]] || echo s)"
}

cat << 'HEAD'
# From a clone to the first hit

Every command, the end of its output, and the seconds that it took: `benchmarks/first_search.sh` runs them all and writes
this page. The model is the demo's, trained on 1,600 small clips of moving shapes; the folder holds 20 other clips, which
come without descriptions.

HEAD
cd "$folder"
started=$EPOCHREALTIME
lines=0 step git clone "$repository" svitt
before="cd svitt" lines=9 step make demo
before="source .venv/bin/activate" lines=3 step python examples/make_demo_dataset.py own --train 0 --val 0 --test 20 --seed 7
lines=5 step svitt-search index own/videos --model demo/out --index own_index
lines=20 step svitt-search query own_index "a green triangle hops and then a yellow square hops"
printf 'In all %.0f seconds, on %s cores.\n' "$(echo "$EPOCHREALTIME - $started" | bc)" "$(nproc)"
