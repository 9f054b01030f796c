#!/bin/sh
# docker-entrypoint.sh [postgres | other command] [ARGUMENT...]
#
# First start: POSTGRES_PASSWORD (needed), POSTGRES_USER (postgres), POSTGRES_DB (as the user),
# POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD (as the password encryption; trust needs no password).
set -eu

die() {
  echo "docker-entrypoint.sh: $*" >&2
  exit 1
}

# A whole cluster is made below $PGDATA/.first-start and moved up, PG_VERSION last. The server
# needs PG_VERSION, so either it is there and everything is, or the next start begins afresh.
first_start() {
  user=${POSTGRES_USER:-postgres}
  database=${POSTGRES_DB:-$user}
  method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  stage=$PGDATA/.first-start
  cluster=$stage/cluster

  [ -n "${POSTGRES_PASSWORD:-}" ] || [ "$method" = trust ] ||
    die 'the data directory is empty and POSTGRES_PASSWORD is not set'
  if [ -d "$stage" ]; then
    find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name .first-start -exec rm -rf {} +
    rm -rf "$stage"
  fi
  [ -z "$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found)" ] ||
    die "$PGDATA is neither empty nor a cluster"
  mkdir "$stage"

  if [ -n "${POSTGRES_PASSWORD:-}" ]; then
    # shellcheck disable=SC2086 # several options in one variable
    printf '%s\n' "$POSTGRES_PASSWORD" |
      initdb --pgdata="$cluster" --username="$user" --pwfile=/dev/stdin ${POSTGRES_INITDB_ARGS:-}
  else
    # shellcheck disable=SC2086
    initdb --pgdata="$cluster" --username="$user" ${POSTGRES_INITDB_ARGS:-}
  fi
  printf '\nhost all all all %s\n' "$method" >> "$cluster/pg_hba.conf"
  printf "\nlisten_addresses = '*'\n" >> "$cluster/postgresql.conf"
  if [ "$database" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "$(printf %s "$database" | sed 's/"/""/g')" |
      postgres --single -j -D "$cluster" postgres > /dev/null
  fi

  find "$cluster" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv {} "$PGDATA/" \;
  sync
  mv "$cluster/PG_VERSION" "$PGDATA/"
}

case ${1-} in
  -*) set -- postgres "$@" ;;
esac

if [ "$1" = postgres ]; then
  mkdir -p "$PGDATA"
  if [ "$(id -u)" = 0 ]; then
    mkdir -p /run/postgresql
    chown postgres:postgres /run/postgresql
    find "$PGDATA" ! -user postgres -exec chown postgres:postgres {} +
    exec gosu postgres "$0" "$@"
  fi
  umask 077
  chmod 0700 "$PGDATA" 2> /dev/null || true
  [ -s "$PGDATA/PG_VERSION" ] || first_start
  rm -rf "$PGDATA/.first-start"
fi
exec "$@"
