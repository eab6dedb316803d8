#!/usr/bin/env bash
# Makes one environment for `make test-clients`: environment.sh NAME FOLDER, with what requirements/NAME.txt pins.
# What is there already, from the same pins, is left as it is; two runs at once do not disturb each other.
set -euo pipefail
name=$1 folder=$2
pins="$(dirname "$0")/requirements/$name.txt"
mkdir -p "$(dirname "$folder")"
exec 9> "$folder.lock"
flock 9
if cmp -s "$pins" "$folder/.ready" && "$folder/bin/python" -c ''; then exit 0; fi

echo "Setting up $folder: $(sed -n '1s/^# //p' "$pins"). The next time this step is skipped."
begin=$SECONDS
rm -rf "$folder"
"${PYTHON:-python3.11}" -m venv "$folder"
log="$folder/pip.log"
pip=("$folder/bin/pip" install --disable-pip-version-check --log "$log" -q --progress-bar off)
{
  torch=$(sed -n '/^torch==/p' "$pins")
  if [ -n "$torch" ] && [ -n "${TORCH_INDEX_URL:-}" ]; then "${pip[@]}" --index-url "$TORCH_INDEX_URL" "$torch"; fi
  "${pip[@]}" -r "$pins"
} 2> "$folder/pip-errors.log" || {
  grep -E 'ERROR|error:' "$folder/pip-errors.log" >&2 || true
  echo "The installation failed; the whole output is in $log" >&2
  exit 1
}
cp "$pins" "$folder/.ready"
echo "  ready after $((SECONDS - begin)) s"
