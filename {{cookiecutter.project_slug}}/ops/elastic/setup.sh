#!/bin/bash
# Who may write logs, and how are they kept? Run once by compose.yaml, and harmless when run again.
set -euo pipefail
cd "$(dirname "$0")"

secret() { tr -d '\n' <"/run/secrets/$1"; }

# ask METHOD PATH [BODY]: as the superuser, whose password no list of processes shows
ask() {
    curl --silent --show-error --fail-with-body --max-time 60 --output /dev/null \
        --config <(printf 'user = "elastic:%s"\n' "$(secret elastic_password)") \
        --request "$1" "$ELASTICSEARCH$2" --header 'content-type: application/json' --data-binary "${3-@-}"
}

for _ in {1..60}; do
    if ask GET '/_cluster/health?wait_for_status=yellow&timeout=5s' '' 2>/dev/null; then break; fi
    sleep 2
done

ask POST /_security/user/kibana_system/_password <<<"{\"password\": \"$(secret kibana_password)\"}"
ask PUT /_security/role/logstash_writer @role.json
ask PUT /_security/user/logstash_writer <<<"{\"password\": \"$(secret logstash_password)\", \"roles\": [\"logstash_writer\"]}"
ask PUT /_ilm/policy/ml-logs @lifecycle.json
ask PUT /_index_template/ml-logs @index-template.json
echo "Elasticsearch is ready for logs"
