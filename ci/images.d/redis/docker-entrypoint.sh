#!/bin/sh
# docker-entrypoint.sh [redis-server | other command] [ARGUMENT...]
set -eu

# Options or a configuration file alone mean redis-server.
case ${1-} in
  -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find /data ! -user redis -exec chown redis:redis {} +
  exec gosu redis "$0" "$@"
fi

if [ "$1" = redis-server ]; then
  umask 077
  # The official image is compiled with protected mode off: do the same unless a file decides.
  case ${2-} in
    '' | --*) set -- "$@" --protected-mode no ;;
  esac
fi
exec "$@"
