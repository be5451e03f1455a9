#!/bin/sh
# Run the arguments of `docker run IMAGE …`: a verb of raycrnn with its arguments, or any other command.
#
# Commands must work because `ray up` starts its containers with `bash` and then uses `docker exec`; KubeRay replaces
# this script by its own command. A verb takes precedence over a program of the same name: Debian has a program `split`.
case "${1-}" in
    '' | -*) exec raycrnn "$@" ;;
esac
if python -P -c 'import sys; from raycrnn.__main__ import VERBS; sys.exit(sys.argv[1] not in VERBS)' "$1"; then
    exec raycrnn "$@"
fi
if command -v -- "$1" > /dev/null; then
    exec "$@"
fi
# Neither a verb nor a program: raycrnn prints the list of verbs.
exec raycrnn "$@"
