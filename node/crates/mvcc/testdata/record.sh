#!/bin/sh
# Records what a real etcd 3.7.3 makes of a scripted history, for tests/etcd.rs:
# database files, and the HashKV values that it reports. Run in this folder after
# `make tools`; it overwrites the files beside it.
set -eu
tools=$(cd ../../../../target/tools && pwd)
dir=$(mktemp -d)
start() {
  "$tools/etcd" --data-dir "$dir/data" --log-level panic \
    --listen-client-urls http://127.0.0.1:21379 --advertise-client-urls http://127.0.0.1:21379 \
    --listen-peer-urls http://127.0.0.1:21380 --initial-advertise-peer-urls http://127.0.0.1:21380 \
    --initial-cluster default=http://127.0.0.1:21380 &
  etcd=$!
  until ctl endpoint health >/dev/null 2>&1; do sleep 0.1; done
}
stop() { kill $etcd; wait $etcd || true; }
trap 'stop; rm -rf "$dir"' EXIT
ctl() { "$tools/etcdctl" --endpoints 127.0.0.1:21379 "$@"; }

# file revision hash compact_revision hash_revision
hashes() {
  for revision in $2; do
    ctl endpoint hashkv --rev "$revision" -w json | sed -E "s/^.*\"hash\":([0-9]+),\"compact_revision\":(-?[0-9]+),\"hash_revision\":([0-9]+).*$/$1 $revision \1 \2 \3/"
  done
}
# The file as a client's snapshot has it, without the checksum at its end.
save() {
  ctl snapshot save "$dir/snapshot" >/dev/null 2>&1
  head -c -32 "$dir/snapshot" >"$1"
  rm -f "$dir/snapshot"
}

start
lease=$(ctl lease grant 100000 | awk '{ print $2 }')
ctl put foo bar
ctl put foo bar2
printf 'mod("foo") > "0"\n\nput a 1\nput b 2\ndel foo\n\n\n' | ctl txn
ctl put foo bar3
ctl put empty ''
ctl del a c --range
ctl put "$(printf 'caf\303\251')" "$(printf '\303\274')"
ctl del nothing
ctl put foo bar4
ctl put a again
ctl del foo
ctl put last x --lease "$lease"
hashes plain.db "0 2 4 5 8 11 12" >expected.tmp
save plain.db
# The compaction's revision is a tombstone's.
ctl compact 11 --physical
ctl put foo new
ctl put foo newer
hashes compacted.db "11 12 13 14 0" >>expected.tmp
save compacted.db
ctl del '' --from-key
ctl compact 14 --physical
hashes emptied.db "14 15 0" >>expected.tmp
save emptied.db
# The hashes of finished compactions are in memory only.
stop
start
hashes restarted "14 15 0" >>expected.tmp
mv expected.tmp hashes.txt
