#!/bin/bash
# What is there to look at in Kibana? Brings the data view, the searches and the dashboard; run once by compose.yaml.
set -euo pipefail
cd "$(dirname "$0")"

for _ in {1..60}; do
    answer=$(curl --silent --show-error --max-time 120 \
        --config <(printf 'user = "elastic:%s"\n' "$(tr -d '\n' </run/secrets/elastic_password)") \
        --request POST "$KIBANA/api/saved_objects/_import?overwrite=true" \
        --header 'kbn-xsrf: true' --form file=@kibana.ndjson) || answer=
    case $answer in
        *'"success":true'*) echo "Kibana has its dashboard" && exit ;;
        *'"success":false'*) echo "error: Kibana refuses kibana.ndjson: $answer" >&2 && exit 1 ;;
    esac
    sleep 2
done
echo "error: Kibana does not answer: ${answer:0:300}" >&2
exit 1
