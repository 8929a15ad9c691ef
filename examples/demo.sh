#!/bin/sh
# The main job on local servers: from nothing, through a job with its files, to nothing. Needs the command `pileus`.
set -eu

work=$(mktemp -d)
PILEUS_PROVIDER=local
PILEUS_NAME=demo
PILEUS_SAVE_PATH=$work/state
export PILEUS_PROVIDER PILEUS_NAME PILEUS_SAVE_PATH
cd "$work"
trap 'pileus teardown --yes >"$work/end" 2>&1 || cat "$work/end" >&2; cd /; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n# %s\n' "$*"; }
run() {
  printf '$'
  for word; do
    case $word in *[!A-Za-z0-9_./:=-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  printf '\n'
  "$@"
}

say "Three numbers in a file here; sorted on a server, and the result brought back."
printf '3\n1\n2\n' >numbers.txt
run pileus run --push numbers.txt --pull sorted.txt -- 'hostname; sort -n numbers.txt | tee sorted.txt'
run cat sorted.txt

say "Two servers at once; --keep lets them stay for the next job."
run pileus run --count 2 --keep 10m -- 'echo "server $PILEUS_INDEX of $PILEUS_COUNT"'
run pileus list

say "Everything goes, and a listing of what still exists proves it."
run pileus teardown --yes
run pileus audit
