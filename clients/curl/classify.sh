#!/bin/sh
# Classifies one video by HTTP: classify.sh VIDEO [PROTOCOL]
#
# TUBELET_HTTP is the server's address, TUBELET_MODEL the model's name, TUBELET_TOKEN a token; each has a default.
set -eu

video=${1:?usage: classify.sh VIDEO [PROTOCOL]}
url=${TUBELET_HTTP:-http://localhost:8000}/v2/models/${TUBELET_MODEL:-motion}/infer

size=$(wc -c < "$video")
request='{"parameters": {"deadline_ms": 60000'${2:+, '"protocol": "'$2'"'}'},
 "inputs": [{"name": "VIDEO", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": '$((size + 4))'}}],
 "outputs": [{"name": "PROBABILITIES", "parameters": {"classification": 5}}]}'

body() {
  printf %s "$request"
  # An element of BYTES has its length in front: four bytes, little-endian.
  for shift in 0 8 16 24; do printf "\\$(printf %03o $((size >> shift & 255)))"; done
  cat "$video"
}

# --data-binary reads all of it and so knows its length; an upload of unknown length would go out in chunks.
# Where nobody answers, curl says so.
answer=$(body | curl -sS --noproxy '*' --max-time 61 --data-binary @- "$url" \
  -H 'Content-Type: application/octet-stream' -H "Inference-Header-Content-Length: ${#request}" \
  ${TUBELET_TOKEN:+-H "Authorization: Bearer $TUBELET_TOKEN"}) || exit 1

case $answer in
  '{"model_name"'*) ;;
  *) printf '%s\n' "$answer" >&2; exit 1 ;;
esac
if command -v jq > /dev/null; then
  printf '%s' "$answer" | jq -r '.outputs[0].data[] | split(":") | "\(.[0])  \(.[2:] | join(":"))"'
elif command -v python3 > /dev/null; then
  printf '%s' "$answer" | python3 -c 'import json, sys
for text in json.load(sys.stdin)["outputs"][0]["data"]:
    probability, _, name = text.split(":", 2)
    print(probability, name, sep="  ")'
else
  printf '%s\n' "$answer"
fi
