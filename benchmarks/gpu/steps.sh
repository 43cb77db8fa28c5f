# Steps with a limit each, for run.sh: sourced, not run.
#
# The caller sets OUT (a folder), PART (a name) and PART_SECONDS (for all steps together). A step's
# output goes to $OUT/$PART.log as it comes, its result to $OUT/$PART.txt when it ends.
# shellcheck shell=bash disable=SC2034

LOG=$OUT/$PART.log
SUMMARY=$OUT/$PART.txt
GRACE=8                      # seconds between asking a step to end and ending it
MOST_BYTES=$((3 * 1024 * 1024)) # of a step's output; the middle of more is dropped
STARTED=$SECONDS

failed=0 # whether any step failed
status=0 # exit status of the last step
took=    # how long it took, or that it was cut off
offset=0 # where its output starts in the log

: >"$LOG"
: >"$SUMMARY"

# The least of some numbers.
least() { printf '%s\n' "$@" | sort -n | head -n 1; }

# Seconds that the part has left.
left() { echo $((PART_SECONDS - SECONDS + STARTED)); }

# say NAME TEXT: records the result of a step.
say() { echo "$1: $2" | tee -a "$SUMMARY"; }

# fail NAME TEXT: records that a step failed.
fail() {
  failed=1
  say "$1" "FAILED: $2"
}

# The output of the last step.
output() { tail -c +$((offset + 1)) "$LOG"; }

# Adds lines of the standard input to the summary, indented and cut short.
quote() { cut -c 1-200 | sed 's/^/    /' | tee -a "$SUMMARY"; }

trim() {
  local size=$(($(stat -c %s "$LOG") - offset))
  if ((size > MOST_BYTES)); then
    {
      head -c $((offset + MOST_BYTES / 2)) "$LOG"
      printf '\n[%d bytes left out]\n' $((size - MOST_BYTES))
      tail -c $((MOST_BYTES / 2)) "$LOG"
    } >"$LOG.part"
    mv "$LOG.part" "$LOG"
  fi
}

# step NAME LIMIT COMMAND...: runs a command for at most LIMIT seconds and no longer than the part
# lasts. Sets `status`, which is 124 or 137 if it was cut off, and `took`. If no time is left it runs
# nothing, says so and returns 1; otherwise it returns 0, even if the command fails.
step() {
  local name=$1 limit start=$SECONDS
  limit=$(least "$2" "$(left)")
  shift 2
  echo "==== $name, at most $limit s: $*" >>"$LOG"
  offset=$(stat -c %s "$LOG")
  if ((limit <= GRACE)); then
    status=124 took="no time left"
    say "$name" "not run: $took"
    return 1
  fi
  # First an interrupt, after which pytest still prints a summary; it ends the whole process group.
  timeout --signal=INT --kill-after=$GRACE $((limit - GRACE)) "$@" >>"$LOG" 2>&1 </dev/null
  status=$?
  took="$((SECONDS - start)) s"
  if ((status == 124 || status == 137)); then
    took="CUT OFF after $took"
  fi
  echo "==== $name: exit $status, $took" >>"$LOG"
  trim
}
