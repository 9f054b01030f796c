#!/bin/sh
# docker-entrypoint.sh [nats-server | other command] [ARGUMENT...]: as in the official image
# the server keeps the user that the container was started with.
set -eu
case ${1-} in
  -*) set -- nats-server "$@" ;;
esac
exec "$@"
