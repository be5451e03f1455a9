#!/bin/sh
# What follows IMAGE in `docker run IMAGE …`: a verb of raycrnn with its arguments, or any other command.
#
# `ray up` starts its containers with `bash` and works inside by `docker exec`, so a command must stay a command.
# KubeRay puts its own command in this script's place. A verb comes first, where both exist: `split` is a program of
# Debian's too.
case "${1-}" in
    '' | -*) exec raycrnn "$@" ;;
esac
if python -P -c 'import sys; from raycrnn.__main__ import VERBS; sys.exit(sys.argv[1] not in VERBS)' "$1"; then
    exec raycrnn "$@"
fi
if command -v -- "$1" > /dev/null; then
    exec "$@"
fi
# Neither: raycrnn tells which verbs there are.
exec raycrnn "$@"
