#!/bin/sh
# docker-entrypoint.sh [mariadbd | other command] [ARGUMENT...]
#
# First start (each also as MYSQL_...): one of MARIADB_ROOT_PASSWORD, MARIADB_RANDOM_ROOT_PASSWORD,
# MARIADB_ALLOW_EMPTY_ROOT_PASSWORD; MARIADB_ROOT_HOST (%), MARIADB_DATABASE, MARIADB_USER, MARIADB_PASSWORD.
set -eu

data=/var/lib/mysql
# There from before the first file is written until the accounts are on the disk.
unfinished=$data/.first-start

die() {
  echo "docker-entrypoint.sh: $*" >&2
  exit 1
}

text() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }
# shellcheck disable=SC2016 # these are SQL's backquotes
name() { printf '`%s`' "$(printf %s "$1" | sed 's/`/``/g')"; }
# The database of a grant is a pattern.
pattern() { name "$(printf %s "$1" | sed 's/[_%]/\\&/g')"; }

accounts() {
  echo "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES';"
  echo 'FLUSH PRIVILEGES;'
  echo "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');"
  echo 'FLUSH PRIVILEGES;'
  echo "ALTER USER root@localhost IDENTIFIED BY $(text "$root_password");"
  if [ "$root_host" != localhost ]; then
    echo "CREATE USER root@$(text "$root_host") IDENTIFIED BY $(text "$root_password");"
    echo "GRANT ALL ON *.* TO root@$(text "$root_host") WITH GRANT OPTION;"
  fi
  if [ -n "$database" ]; then
    echo "CREATE DATABASE $(name "$database");"
  fi
  if [ -n "$user" ] && [ -n "$password" ]; then
    echo "CREATE USER $(text "$user")@'%' IDENTIFIED BY $(text "$password");"
    if [ -n "$database" ]; then
      echo "GRANT ALL ON $(pattern "$database").* TO $(text "$user")@'%';"
    fi
  fi
}

first_start() {
  root_password=${MARIADB_ROOT_PASSWORD:-${MYSQL_ROOT_PASSWORD:-}}
  root_host=${MARIADB_ROOT_HOST:-${MYSQL_ROOT_HOST:-%}}
  database=${MARIADB_DATABASE:-${MYSQL_DATABASE:-}}
  user=${MARIADB_USER:-${MYSQL_USER:-}}
  password=${MARIADB_PASSWORD:-${MYSQL_PASSWORD:-}}

  if [ -z "$root_password" ] && [ -n "${MARIADB_RANDOM_ROOT_PASSWORD:-${MYSQL_RANDOM_ROOT_PASSWORD:-}}" ]; then
    root_password=$(head -c 24 /dev/urandom | base64)
    echo "GENERATED ROOT PASSWORD: $root_password"
  fi
  [ -n "$root_password" ] || [ -n "${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:-${MYSQL_ALLOW_EMPTY_PASSWORD:-}}" ] ||
    die 'the data directory is empty and MARIADB_ROOT_PASSWORD or MARIADB_RANDOM_ROOT_PASSWORD is not set'

  : > "$unfinished"
  find "$data" -mindepth 1 -maxdepth 1 ! -path "$unfinished" ! -name lost+found -exec rm -rf {} +
  mariadb-install-db --datadir="$data" --skip-test-db --skip-name-resolve \
    --auth-root-authentication-method=normal > /dev/null
  accounts | mariadbd --bootstrap --log-warnings=0
  sync
  rm "$unfinished"
}

case ${1-} in
  -*) set -- mariadbd "$@" ;;
esac

if [ "$1" = mariadbd ] || [ "$1" = mysqld ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir -p /run/mysqld
    chown mysql:mysql /run/mysqld
    find "$data" ! -user mysql -exec chown mysql:mysql {} +
    exec gosu mysql "$0" "$@"
  fi
  if [ -e "$unfinished" ] || [ ! -d "$data/mysql" ]; then
    [ -e "$unfinished" ] || [ -z "$(find "$data" -mindepth 1 -maxdepth 1 ! -name lost+found)" ] ||
      die "$data is neither empty nor a data directory"
    first_start
  fi
fi
exec "$@"
