#!/bin/sh
# Serves every archive under /models (artifacts/models, mounted read-only).
set -eu
work=$(mktemp -d)
mkdir "$work/store" "$work/logs"
for archive in /models/*/torchscript/*.mar; do
  [ -e "$archive" ] || { echo "no models under /models: run 'make models' and mount artifacts/models there" >&2; exit 3; }
  ln -s "$archive" "$work/store/"
done
cd "$work"
export TEMP="$work" TMPDIR="$work" LOG_LOCATION="$work/logs" METRICS_LOCATION="$work/logs"
torchserve --start --foreground --ncs --model-store "$work/store" \
  --ts-config /opt/twinserve/config.properties --log-config /opt/twinserve/log4j2.xml &
starter=$!
# TorchServe's starter passes no SIGTERM on: Docker would wait for its grace period, and then kill what is under way. The
# Java process behind it ends in order, and the starter with it.
trap 'kill -TERM "$(cat "$work/.model_server.pid")" 2>/dev/null || kill -TERM "$starter"' TERM INT
status=0
while kill -0 "$starter" 2>/dev/null; do
  status=0
  wait "$starter" || status=$?
done
exit "$status"
