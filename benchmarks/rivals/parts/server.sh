# The server that every supervisor keeps: says that it is executed, in its first millisecond, and becomes the fake engine.
# Without arguments it takes them from the store, as a run script does; the shell's own words suffice for that.
set -a
. "$COMPARE_ROOT/modes"
set +a
if [ $# = 0 ]; then
  line=
  read -r line < "$COMPARE_ROOT/data/store.json"
  number=${line##*\"--seed\", \"}
  number=${number%%\"*}
  [ -n "$number" ] || exit 1
  set -- serve tiny --seed "$number" --host 127.0.0.1 --port "$COMPARE_PORT"
fi
echo "exec now $*" > "$RUDE_STAMPS"
[ -z "$BOOT" ] || sleep "$BOOT"
exec "$COMPARE_PYTHON" -I -S "$COMPARE_FAKE" "$@"
