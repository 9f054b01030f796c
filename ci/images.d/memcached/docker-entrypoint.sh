#!/bin/sh
# docker-entrypoint.sh [memcached | other command] [ARGUMENT...]
set -eu
case ${1-} in
  -*) set -- memcached "$@" ;;
esac
if [ "$1" = memcached ] && [ "$(id -u)" = 0 ]; then
  exec gosu memcache "$@"
fi
exec "$@"
