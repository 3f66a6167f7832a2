#!/usr/bin/env bash
# Tries the program on a folder of recorded failures: inputs on which a program of this kind failed
# once, one folder each. Prints a table of what was checked and how it went; exit code 1 if
# anything is wrong.
#
#     tests/cases.sh FOLDER target/release/dressage [NAME...]
#
# A folder with a `run.sh` is judged by it: it gets the program and prints PASS or FAIL. The right
# behaviour on the others is written down here, in a function of the folder's name, which runs in a
# copy of the folder.
set -u

if [ $# -lt 2 ]; then
    echo "usage: tests/cases.sh FOLDER PROGRAM [NAME...]" >&2
    exit 2
fi
if [ ! -d "$1" ]; then
    echo "$1 is not there: without the folder of recorded failures there is nothing to try" >&2
    exit 1
fi
folder=$(cd "$1" && pwd)
program=$(realpath "$2")
if [ ! -x "$program" ]; then
    echo "$2 is not there or cannot be run; build it with: cargo build --release" >&2
    exit 1
fi
shift 2

# ---- What checks are made of. What the program says goes to files in $T/words.

# The program, ended after a minute (code 124).
dressage() { timeout -k 5 60 "$program" "$@"; }

# quiet NAME ARGS...: the program; its words go to $T/words/NAME, its exit code to $code.
quiet() {
    local name=$1
    shift
    dressage "$@" > "$T/words/$name" 2>&1
    code=$?
}

# Says what is wrong and ends the check.
wrong() {
    echo "$*"
    exit 1
}

ends_with() {
    [ "$code" = "$1" ] ||
        wrong "exit code $code instead of $1: $(tail -n 1 "$T/words/$2")"
}
says() {
    grep -qF -- "$2" "$T/words/$1" ||
        wrong "not said: $2; instead: $(tail -n 1 "$T/words/$1")"
}
says_not() { ! grep -qF -- "$2" "$T/words/$1" || wrong "said: $2"; }
same() { cmp -s "$1" "$2" || wrong "$(basename "$1") and $(basename "$2") differ"; }
lines() { grep -c -- "$2" "$1" 2> /dev/null; }
steps_logged() { lines "$T/$1/log.jsonl" '"kind":"train"'; }
labels() { find "$1" -name '*_label.png' | wc -l; }

# A refusal before the first step: code 1, one sentence, no step done.
refused() {
    ends_with 1 "$1"
    [ "$(lines "$T/words/$1" '^error: ')" = 1 ] ||
        wrong "not one sentence: $(tail -n 2 "$T/words/$1")"
    [ "$(steps_logged run)" -gt 0 ] 2> /dev/null && wrong "refused after steps were done"
    true
}

# Waits until a file holds a text.
until_in() {
    for _ in $(seq 600); do
        grep -q -- "$2" "$1" 2> /dev/null && return
        sleep 0.1
    done
    wrong "nothing after a minute: $2 in $(basename "$1")"
}

# ---- The checks, in the order of their names.

advice-with-a-key-that-does-not-exist() {
    about "the advice of the error works when it is followed"
    quiet first train recipe.toml "run.dir=$T/run"
    refused first
    says first id_map
    quiet second train recipe.toml "run.dir=$T/run" data.train.0.id_map=cityscapes
    says_not second "unknown key"
}

asked-to-end-by-a-scheduler() {
    about "SIGTERM and SIGHUP save, print how to continue, exit code 128 + signal"
    for signal in TERM HUP; do
        "$program" train recipe.toml "run.dir=$T/$signal" > "$T/words/out" 2>&1 &
        local pid=$!
        until_in "$T/$signal/log.jsonl" '"kind":"train"'
        kill -s "$signal" "$pid"
        wait "$pid"
        code=$?
        ends_with $((128 + $(kill -l "$signal"))) out
        says out --resume
        ls "$T/$signal"/checkpoints/step-*.safetensors > "$T/words/list" 2>&1 ||
            wrong "$signal: nothing saved"
    done
}

checkpoint-of-a-compiled-model() {
    about "_orig_mod. is taken off"
    quiet out train recipe.toml "run.dir=$T/run"
    ends_with 0 out
}

evaluation-broken-off-and-resumed() {
    about "an evaluation interrupted by Ctrl-C runs on resume"
    "$program" train recipe.toml "run.dir=$T/run" train.eval_every=2 data.eval.0.stride=1 \
        > "$T/words/out" 2>&1 &
    local pid=$!
    until_in "$T/words/out" 'evaluate'
    kill -s INT "$pid"
    wait "$pid"
    code=$?
    [ "$code" = 0 ] && wrong "the evaluation ended before the interrupt"
    quiet again train "$T/run" --resume data.eval.0.stride=16
    if [ "$code" != 0 ]; then
        quiet again train "$T/run" --resume --resume-changed data.eval.0.stride=16
    fi
    ends_with 0 again
    local found
    found=$(grep -o '"kind":"eval","step":[0-9]*' "$T/run/log.jsonl" | grep -o '[0-9]*$' | xargs)
    [ "$found" = "2 4 6" ] || wrong "evaluations of steps $found"
}

evaluation-set-with-wrong-labels() {
    about "reported before the first step, or the training runs to its end"
    quiet out train recipe.toml "run.dir=$T/run" train.eval_every=2
    says out 77
    says out 3.png
    if [ "$code" != 0 ] && [ "$(steps_logged run)" -gt 0 ] 2> /dev/null; then
        says out "is trained"
    fi
}

hidden-files-beside-images() {
    about "names that begin with a dot are skipped"
    quiet a train recipe.toml "run.dir=$T/a"
    ends_with 0 a
    cp -r data "$T/clean"
    rm "$T/clean/images/._0.png"
    quiet b train recipe.toml "run.dir=$T/b" "data.root=$T/clean"
    ends_with 0 b
    local last
    last=$(ls "$T/b/checkpoints" | tail -n 1)
    same "$T/a/checkpoints/$last" "$T/b/checkpoints/$last"
    quiet p predict "$T/b" data/images --out "$T/p"
    ends_with 0 p
    [ "$(labels "$T/p")" = 4 ] || wrong "$(labels "$T/p") images predicted instead of 4"
}

image-smaller-than-a-patch() {
    about "padded, or named with its size; the others get done"
    quiet t train recipe.toml "run.dir=$T/run"
    quiet p predict "$T/run" data/images flat.png --out "$T/p"
    local n
    n=$(labels "$T/p")
    if [ "$code" != 0 ] || [ "$n" != 5 ]; then
        says p flat.png
        says p 48x7
    fi
    [ "$n" -ge 4 ] || wrong "only $n images done"
}

jpeg-with-data-behind-its-end() {
    about "decodes as the picture without the data"
    quiet t train recipe.toml "run.dir=$T/run"
    quiet p predict "$T/run" plain.jpg motion.jpg --alpha 0 --out "$T/p"
    ends_with 0 p
    same "$T/p/plain_overlay.png" "$T/p/motion_overlay.png"
}

labels-that-are-all-void() {
    about "refused before the first step"
    quiet out train recipe.toml "run.dir=$T/run"
    refused out
}

links-that-loop() {
    about "each picture once, or the link is named; never a hang"
    quiet t train recipe.toml "run.dir=$T/run"
    cp -r photos "$T/photos"
    ln -s . "$T/photos/latest"
    quiet one predict "$T/run" "$T/photos" --out "$T/one"
    [ "$code" = 0 ] || says one latest
    [ "$(labels "$T/one")" -le 1 ] || wrong "$(labels "$T/one") results of one picture"
    ln -s . "$T/photos/current"
    quiet two predict "$T/run" "$T/photos" --out "$T/two"
    [ "$code" = 124 ] && wrong "no end after a minute"
    [ "$(labels "$T/two")" -le 1 ] || wrong "$(labels "$T/two") results of one picture"
}

little-address-space() {
    about "fits, or one sentence before anything is built"
    (
        ulimit -v 200000
        "$program" train recipe.toml "run.dir=$T/run" model.method=freeze 'data.eval=[]'
    ) > "$T/words/out" 2>&1
    code=$?
    says_not out panicked
    [ "$code" = 0 ] || refused out
}

more-classes-than-queries() {
    about "trains"
    quiet out train recipe.toml "run.dir=$T/run"
    ends_with 0 out
}

output-to-a-device-or-link() {
    about "a device, a pipe or a link is what it was; written in place or refused"
    local file="$folder/checkpoint-of-a-compiled-model/weights.pth"
    [ -f "$file" ] || wrong "no file of weights to convert"
    echo old > "$T/real"
    ln -s real "$T/link"
    quiet link weights convert "$file" "$T/link"
    [ -L "$T/link" ] || wrong "the link has become a file"
    if [ "$code" = 0 ]; then
        quiet inspect weights inspect "$T/real"
        ends_with 0 inspect
    fi
    mkfifo "$T/pipe"
    cat "$T/pipe" > "$T/words/read" &
    local pid=$!
    quiet pipe weights convert "$file" "$T/pipe"
    [ -p "$T/pipe" ] || wrong "the pipe has become a file"
    kill "$pid" 2> /dev/null
    if mknod "$T/null" c 1 3 2> /dev/null; then
        quiet null weights convert "$file" "$T/null"
        [ -c "$T/null" ] || wrong "the device has become a file"
    fi
}

picture-of-another-form() {
    about "named as what it is"
    quiet t train recipe.toml "run.dir=$T/run"
    quiet p predict "$T/run" photo.jpg --out "$T/p"
    ends_with 1 p
    says p WebP
    says_not p damaged
    says_not p "copy it again"
}

resume-of-a-copied-run() {
    about "the folder that is named is trained on, the other is as it was"
    quiet first train recipe.toml "run.dir=$T/first"
    cp -r "$T/first" "$T/second"
    cp -r "$T/first" "$T/before"
    quiet out train "$T/second" --resume train.steps=6
    [ "$code" = 0 ] || quiet out train "$T/second" --resume --resume-changed train.steps=6
    ends_with 0 out
    diff -r "$T/first" "$T/before" > "$T/words/diff" || wrong "the other folder was changed"
    [ -f "$T/second/checkpoints/step-000006.safetensors" ] || wrong "no checkpoint of step 6"
}

resume-with-other-class-names() {
    about "refused with what differs, the folder is as it was"
    quiet t train recipe.toml "run.dir=$T/run"
    cp -r "$T/run" "$T/before"
    quiet out train "$T/run" --resume train.steps=6 'head.classes=["sign", "box", "ground"]'
    ends_with 1 out
    says out head.classes
    diff -r "$T/run" "$T/before" > "$T/words/diff" || wrong "the folder was changed"
}

teacher-of-a-dinov2-training() {
    about "loaded as what it is"
    quiet out train recipe.toml "run.dir=$T/run"
    ends_with 0 out
}

trained-weights-that-are-no-numbers() {
    about "eval and predict refuse the file and name the tensor"
    quiet e eval recipe.toml model.checkpoint=broken.safetensors --out "$T/e.json"
    ends_with 1 e
    says e decode_head.mask_embed.4.weight
    quiet p predict recipe.toml data/images/0.png \
        --set model.checkpoint=broken.safetensors --out "$T/p"
    ends_with 1 p
    says p decode_head.mask_embed.4.weight
}

training-pair-of-two-sizes() {
    about "reported before the first step; data.on_error=skip continues"
    quiet out train recipe.toml "run.dir=$T/run"
    [ "$code" = 0 ] || refused out
    quiet skip train recipe.toml "run.dir=$T/skip" data.on_error=skip
    ends_with 0 skip
}

two-pictures-of-one-name() {
    about "results of their own; results are not taken for pictures"
    quiet t train recipe.toml "run.dir=$T/run"
    quiet p predict "$T/run" photos --out "$T/p"
    ends_with 0 p
    [ "$(labels "$T/p")" = 2 ] || wrong "$(labels "$T/p") results of two pictures"
    mkdir "$T/mine"
    cp photos/0001.png "$T/mine"
    for _ in 1 2 3; do
        quiet p predict "$T/run" "$T/mine" --out "$T/mine"
    done
    [ "$(labels "$T/mine")" = 1 ] || wrong "results were segmented again"
}

two-runs-in-one-folder() {
    about "the second is refused, the first ends undisturbed, a lock of a dead one is none"
    "$program" train recipe.toml "run.dir=$T/run" train.seed=1 > "$T/words/one" 2>&1 &
    local pid=$!
    until_in "$T/run/log.jsonl" '"kind":"train"'
    quiet two train recipe.toml "run.dir=$T/run" train.seed=2
    ends_with 1 two
    wait "$pid"
    code=$?
    ends_with 0 one
    [ "$(lines "$T/run/log.jsonl" '"step":1000,')" -le 2 ] || wrong "steps are logged twice"
    grep -q '^seed = 1$' "$T/run/recipe.toml" || wrong "recipe.toml is not of the first run"
    quiet again train "$T/run" --resume train.steps=1501
    [ "$code" = 0 ] || quiet again train "$T/run" --resume --resume-changed train.steps=1501
    ends_with 0 again
    "$program" train recipe.toml "run.dir=$T/killed" > "$T/words/out" 2>&1 &
    pid=$!
    until_in "$T/killed/log.jsonl" '"kind":"train"'
    kill -s KILL "$pid"
    wait "$pid" 2> /dev/null
    quiet after train recipe.toml "run.dir=$T/killed"
    [ "$code" = 0 ] || quiet after train recipe.toml "run.dir=$T/killed" --resume
    ends_with 0 after
}

weights-in-shards() {
    about "the index is followed; one shard alone is named as such"
    quiet a train recipe.toml "run.dir=$T/a"
    ends_with 0 a
    quiet b train recipe.toml "run.dir=$T/b" model.weights=model-00001-of-00002.safetensors
    [ "$code" = 0 ] || says b "of 2"
}

weights-overwritten-while-training() {
    about "changes nothing, or ends with a sentence"
    cp weights.safetensors "$T/w.safetensors"
    local settings=("model.weights=$T/w.safetensors" 'data.eval=[]')
    quiet calm train recipe.toml "run.dir=$T/calm" "${settings[@]}"
    ends_with 0 calm
    "$program" train recipe.toml "run.dir=$T/disturbed" "${settings[@]}" > "$T/words/out" 2>&1 &
    local pid=$!
    until_in "$T/disturbed/log.jsonl" '"kind":"train"'
    cat others.safetensors > "$T/w.safetensors"
    wait "$pid"
    code=$?
    local last
    last=$(ls "$T/calm/checkpoints" | tail -n 1)
    if [ "$code" = 0 ]; then
        same "$T/calm/checkpoints/$last" "$T/disturbed/checkpoints/$last"
    else
        ends_with 1 out
        says out changed
    fi
}

window-of-a-run-set-on-the-command-line() {
    about "eval.crop acts on a run as on its recipe, the stride follows"
    quiet t train recipe.toml "run.dir=$T/run"
    local trained
    trained=model.checkpoint=$(ls "$T"/run/checkpoints/step-*.safetensors | tail -n 1)
    quiet b eval "$T/run" eval.crop=64 --out "$T/b.json"
    quiet c eval recipe.toml "$trained" eval.crop=64 --out "$T/c.json"
    ends_with 0 c
    local one two
    one=$(grep '"mIoU' "$T/b.json")
    two=$(grep '"mIoU' "$T/c.json")
    [ "$one" = "$two" ] || wrong "eval: $one is not $two"
    for crop in 24 40; do
        quiet p predict "$T/run" data/images --set eval.crop=$crop --out "$T/p"
        quiet q predict recipe.toml data/images --set "$trained" --set eval.crop=$crop \
            --out "$T/q"
        ends_with 0 q
        diff -r "$T/p" "$T/q" > "$T/words/diff" || wrong "predict differs with windows of $crop"
    done
}

# ---- One after the other.

about() { echo "$*" > "$T/about"; }

# try NAME: a line of the table; fails if the check does.
try() {
    local name=$1 result
    T=$(mktemp -d)
    mkdir "$T/words"
    if [ -f "$folder/$name/run.sh" ]; then
        echo "its run.sh" > "$T/about"
        timeout -k 5 300 bash "$folder/$name/run.sh" "$program" > "$T/said" 2>&1
        result=$(tail -n 1 "$T/said")
        [ "$result" = PASS ] && result=right || result="wrong: $(tail -n 2 "$T/said" | head -n 1)"
    elif [ "$(type -t "$name")" = function ]; then
        cp -r "$folder/$name" "$T/copy"
        if (cd "$T/copy" && "$name") > "$T/said" 2>&1; then
            result=right
        else
            result="wrong: $(tail -n 1 "$T/said")"
        fi
    else
        echo "nothing" > "$T/about"
        result="wrong: no check is written for this folder"
    fi
    printf '%-42s | %-76s | %s\n' "$name" "$(cat "$T/about" 2> /dev/null)" "${result:0:200}"
    rm -rf "$T"
    [ "$result" = right ]
}

[ $# -gt 0 ] || set -- $(ls "$folder")
failed=0
for name in "$@"; do
    [ -d "$folder/$name" ] || continue
    try "$name" || failed=$((failed + 1))
done
printf '\n%s of %s are wrong\n' "$failed" "$#"
[ "$failed" = 0 ]
