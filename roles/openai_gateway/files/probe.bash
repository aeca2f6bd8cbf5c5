# SPDX-License-Identifier: GPL-3.0-or-later
# Ask an OpenAI front for one token, which only comes where Triton works, with bash alone: its image may have no curl.
#   bash probe.bash HOST PORT MODEL [FILE]      FILE sets OPENAI_TRTLLM_API_KEY
host=$1 port=$2 model=$3
if [ -n "${4:-}" ]; then . "$4"; fi
body="{\"model\":\"$model\",\"prompt\":\"1\",\"max_tokens\":1}"
exec 3<>"/dev/tcp/$host/$port" || exit 1
printf '%s\r\n' "POST /v1/completions HTTP/1.1" "Host: localhost" "Connection: close" \
  "Content-Type: application/json" "Authorization: Bearer ${OPENAI_TRTLLM_API_KEY:-none}" \
  "Content-Length: ${#body}" "" >&3
printf '%s' "$body" >&3
read -r -t 20 _ status _ <&3
echo "${status:-no answer}"
[ "$status" = 200 ]
