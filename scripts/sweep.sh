#!/usr/bin/env bash
# The README's table "How the pocket settings were chosen": every method at several settings, scored on the validation split of seed 0.
# Runs that are complete are kept, so an interrupted sweep goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
results=${RESULTS:-results/sweep}

rows() {
    for pair in 1:1e-4 2:3e-4 3:1e-4 5:3e-4 5:5e-4 5:1e-3 10:3e-4 10:1e-3 3:3e-4 5:2e-4 10:5e-4 20:1e-3; do
        echo "dpo method.beta=${pair%:*} train.learning_rate=${pair#*:}"
    done
    for row in 30:5:1e-4 100:5:5e-5 100:5:1e-4 100:5:3e-4 300:2:3e-4 300:5:1e-3 300:5:1e-4 100:1:1e-4 \
        300:1:1e-4 300:2:1e-4 1000:5:1e-4 1000:2:3e-4; do
        IFS=: read -r beta gamma rate <<<"$row"
        echo "rlhfv method.beta=$beta method.gamma=$gamma train.learning_rate=$rate"
    done
    for row in 0.5:3:0:1e-3 0.5:6:0:1e-3 0.5:12:0:1e-3 1:6:0:1e-3 0.25:6:0:1e-3 0.5:6:0:2e-3 0.25:6:0:2e-3 0.1:6:0:1e-3 \
        0.1:12:0:1e-3 0.05:6:0:1e-3 0.1:6:2:1e-3 0.1:12:2:1e-3; do
        IFS=: read -r beta margin delta rate <<<"$row"
        echo "mfpo method.beta=$beta method.lambda_margin=$margin method.delta=$delta train.learning_rate=$rate"
    done
}

names=()
while read -r method settings; do
    name="$method-$(echo "$settings" | sed -E 's/[a-z_]+\.([a-z_]+)=/\1/g; s/learning_rate/lr/; s/lambda_margin/margin/; s/ /-/g')"
    names+=("$name")
    [ -e "$results/$name/manifest.json" ] && continue
    resume=(); [ -d "$results/$name" ] && resume=(--resume)
    # shellcheck disable=SC2086  # one --set a word
    .venv/bin/harness align --method "$method" --model pocket --results "$results" --name "$name" "${resume[@]}" $(printf -- '--set %s ' $settings)
done < <(rows)
# Few adapters an engine: each takes room of its own.
for ((start = 0; start < ${#names[@]}; start += 4)); do
    .venv/bin/harness eval --run "$(IFS=,; echo "${names[*]:start:4}")" --base --suite halbench --data pocket@validation --results "$results"
done
.venv/bin/harness leaderboard --results "$results"
