#!/bin/sh
# snapshot.sh DIR [KEEP]: for cron. Saves a snapshot of a jetway or an etcd into DIR, checks it, and keeps the
# KEEP newest ones (7). etcdctl reads the server and the user from its variables, such as ETCDCTL_ENDPOINTS,
# ETCDCTL_USER and ETCDCTL_CACERT. A run that fails leaves the older files as they are, and reports it by its
# status. SNAPSHOT_TIMEOUT is the longest time of a save (30m). A line of a crontab:
#
#   0 * * * * ETCDCTL_ENDPOINTS=http://127.0.0.1:2379 /usr/local/bin/snapshot.sh /var/backups/jetway 24
set -eu

dir=${1:?usage: snapshot.sh DIR [KEEP]}
keep=${2:-7}
[ "$keep" -ge 1 ] || { echo "snapshot.sh: KEEP is $keep, and must be a number above 0" >&2; exit 2; }

# A snapshot has all keys, and secrets among them.
umask 077
mkdir -p "$dir"
file=$dir/etcd-$(date -u +%Y%m%dT%H%M%SZ).db
trap 'rm -f "$file.new" "$file.new.part"' EXIT
# A save has no limit of time by itself, and waits for a server that is down.
etcdctl endpoint health
etcdctl --command-timeout "${SNAPSHOT_TIMEOUT:-30m}" snapshot save "$file.new"
etcdutl snapshot status "$file.new" -w table
sync "$file.new"
mv "$file.new" "$file"
# The names begin alike and go on with their time.
find "$dir" -maxdepth 1 -name 'etcd-????????T??????Z.db' | sort -r | tail -n "+$((keep + 1))" |
    while IFS= read -r old; do rm -f "$old"; done
