#!/bin/sh
# docker-entrypoint.sh [rabbitmq-server | other command] [ARGUMENT...]
#
# The server itself reads RABBITMQ_DEFAULT_USER, RABBITMQ_DEFAULT_PASS, RABBITMQ_DEFAULT_VHOST and
# RABBITMQ_NODENAME; the first three count on the first start only.
set -eu

data=/var/lib/rabbitmq
unfinished=$data/.first-start

# Somebody listens on 5672 (1628 in hexadecimal, 0A: listening). The server does so last, when its
# accounts exist. Asked often while it starts on little CPU time, hence without a process.
listening() {
  for table in /proc/net/tcp /proc/net/tcp6; do
    while read -r _ address _ state _; do
      case "$address $state" in
        *:1628\ 0A) return 0 ;;
      esac
    done < "$table"
  done 2> /dev/null
  return 1
}

case ${1-} in
  rabbitmq*)
    if [ "$(id -u)" = 0 ]; then
      find "$data" /var/log/rabbitmq ! -user rabbitmq -exec chown rabbitmq:rabbitmq {} +
      exec gosu rabbitmq "$0" "$@"
    fi
    ;;
esac

if [ "${1-}" = rabbitmq-server ]; then
  # A first start that was cut off leaves half a database, which the server would not complete.
  if [ -e "$unfinished" ]; then
    rm -rf "$data/mnesia"
  elif [ ! -d "$data/mnesia" ]; then
    : > "$unfinished"
  fi
  if [ -e "$unfinished" ]; then
    {
      until listening; do usleep 50000; done
      rm -f "$unfinished"
    } &
  fi
fi
exec "$@"
