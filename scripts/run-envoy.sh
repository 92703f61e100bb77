#!/usr/bin/env bash
# Runs examples/envoy: the upstream, Kelpie and Envoy, until Ctrl-C or until one of
# them ends. Run it through make, which builds what it starts.
#
# Their logs come to this terminal: a line of Kelpie per decision, a line of Envoy per
# request, a line of the upstream per request that reached it.
set -euo pipefail
# Jobs get process groups of their own, so that Ctrl-C reaches this script alone: a
# second signal would cut Kelpie's drain short.
set -m
cd "$(dirname "$0")/.."

if ! command -v curl >/dev/null; then
  echo "run-envoy: curl is missing; install it" >&2
  exit 1
fi
envoy=$(scripts/envoy.sh)
state=$PWD/.cache/run-envoy
mkdir -p "$state"

pids=()
# stop_all ends what this script started, and nothing else.
stop_all() {
  trap '' HUP INT TERM
  local pid
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true # it may have ended by itself
  done
  wait
}
trap stop_all EXIT
trap 'exit 0' HUP INT TERM

# They may start in any order: Envoy refuses requests until it has seen a Kelpie that is well.
"$envoy" -c examples/envoy/envoy.yaml --log-level warning --disable-hot-restart --concurrency 2 \
  --file-flush-interval-msec 200 &
pids+=($!)
bin/kelpie serve --policy examples/envoy/policy --state "$state" --log-level warn \
  --grpc-addr 127.0.0.1:7070 --admin-addr 127.0.0.1:7072 --health-addr 127.0.0.1:7073 &
pids+=($!)
bin/upstream -addr 127.0.0.1:8081 &
pids+=($!)

# alive fails once one of them has ended; Ctrl-C comes through here too.
alive() {
  local pid
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null || return 1
  done
}

# The first answer that Kelpie made, whichever it is, shows that all three stand.
until [[ $(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/) == 401 ]]; do
  if ! alive; then
    echo "run-envoy: one of them could not start; its message is above" >&2
    exit 1
  fi
  sleep 0.2
done

cat >&2 <<'TEXT'

Ask through Envoy from another terminal:

  curl -i -H 'x-agent-id: lead-router' http://127.0.0.1:8080/leads/42               # allowed
  curl -i -H 'x-agent-id: lead-router' http://127.0.0.1:8080/invoices               # denied: nothing grants it
  curl -i -X DELETE -H 'x-agent-id: data-cleaner' http://127.0.0.1:8080/leads/42    # waits for a human
  for i in 1 2 3 4; do
    curl -i -H 'x-agent-id: report-bot' http://127.0.0.1:8080/leads/42              # the fourth is too fast
  done

Ctrl-C stops all three.

TEXT
# One that ends takes the others along.
wait -n || true
echo "run-envoy: one of the three has ended; stopping the others" >&2
exit 1
