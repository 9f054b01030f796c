//! Servers of which more is known than their images say.

/// How a server is told its credentials, asked whether it is ready, and tested. Blocks are lines of
/// YAML without their indentation; `{uid}` and `{gid}` in them are its user's.
#[derive(Debug)]
pub(super) struct Kind {
    /// The program that its image runs.
    program: &'static str,
    pub(super) memory: &'static str,
    /// Ports to publish; others that the image exposes are for its own kind.
    pub(super) ports: &'static [&'static str],
    /// Keys of `container` that say how it is started.
    pub(super) start: &'static str,
    pub(super) readiness: &'static str,
    /// Where it writes besides its volumes.
    pub(super) tmpfs: &'static [&'static str],
    /// Keys of the plan: `sanity_test` and `credentials`.
    pub(super) plan: &'static str,
}

/// The kind whose program is among the words of an image's entry point and command.
pub(super) fn find<'a>(words: impl Iterator<Item = &'a String>) -> Option<&'static Kind> {
    let programs: Vec<&str> = words.filter_map(|word| word.rsplit('/').next()).collect();
    KINDS.iter().find(|kind| programs.contains(&kind.program))
}

static KINDS: [Kind; 4] = [
    Kind {
        program: "redis-server",
        memory: "128m",
        ports: &["6379/tcp"],
        start: r#"# The password reaches the server on its standard input: arguments can be seen by everybody.
entrypoint: [/bin/sh, -c]
command:
- |
  exec redis-server - <<CONFIG
  requirepass $REDIS_PASSWORD
  dir /data
  appendonly yes
  save ""
  maxmemory 64mb
  CONFIG
"#,
        readiness: r#"# Not ready while it loads its data.
readiness: {tcp: 6379/tcp, send: "AUTH {{password}}\r\nPING\r\n", expect: "+PONG", timeout: 60s}
"#,
        tmpfs: &["/tmp:size=16m"],
        plan: r#"sanity_test:
  tcp: 6379/tcp
  send: "AUTH {{username}} {{password}}\r\nPING\r\n"
  expect: "+PONG"
credentials:
  username: {value: default}
  password: {key: REDIS_PASSWORD}
  uri: {prefix: redis, port: 6379/tcp}
"#,
    },
    Kind {
        program: "postgres",
        memory: "256m",
        ports: &["5432/tcp"],
        start: "environment:\n- POSTGRES_INITDB_ARGS=--auth=scram-sha-256 --data-checksums\n",
        readiness: r#"# Over TCP: during its first start the server listens on its socket alone.
readiness:
  exec: [/bin/sh, -c, 'exec pg_isready -q -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB"']
  timeout: 120s
"#,
        tmpfs: &["/tmp:size=64m", "/run/postgresql:size=1m,uid={uid},gid={gid},mode=0755"],
        plan: r#"sanity_test:
  exec:
  - /bin/sh
  - -c
  - PGPASSWORD="$BINDING_PASSWORD" exec psql -h 127.0.0.1 -U "$BINDING_USERNAME" -d "$BINDING_DBNAME" -Atqc 'SELECT 1'
credentials:
  username: {key: POSTGRES_USER}
  password: {key: POSTGRES_PASSWORD}
  dbname: {key: POSTGRES_DB}
  uri: {prefix: postgres, port: 5432/tcp}
"#,
    },
    Kind {
        program: "mariadbd",
        memory: "384m",
        ports: &["3306/tcp"],
        start: "environment:\n- MARIADB_ROOT_HOST=localhost\nsecret_environment: [MARIADB_ROOT_PASSWORD]\n",
        readiness: r#"# A query over TCP: during its first start the server listens on its socket alone.
readiness:
  exec:
  - /bin/sh
  - -c
  - MYSQL_PWD="$MARIADB_PASSWORD" exec mariadb -h 127.0.0.1 -u "$MARIADB_USER" -N -e 'SELECT 1' "$MARIADB_DATABASE"
  timeout: 120s
"#,
        tmpfs: &["/tmp:size=64m", "/run/mysqld:size=1m,uid={uid},gid={gid},mode=0755"],
        plan: r#"sanity_test:
  exec:
  - /bin/sh
  - -c
  - MYSQL_PWD="$BINDING_PASSWORD" exec mariadb -h 127.0.0.1 -u "$BINDING_USERNAME" -N -e 'SELECT 1' "$BINDING_DBNAME"
credentials:
  username: {key: MARIADB_USER}
  password: {key: MARIADB_PASSWORD}
  dbname: {key: MARIADB_DATABASE}
  uri: {prefix: mysql, port: 3306/tcp}
"#,
    },
    Kind {
        program: "rabbitmq-server",
        memory: "512m",
        ports: &["5672/tcp", "15672/tcp"],
        start: r"environment:
# The data directory bears this name: it must not be the container's.
- RABBITMQ_NODENAME=rabbit@localhost
",
        readiness: r"# The AMQP port is opened last, when users and plugins are there.
readiness: {tcp: 5672/tcp, timeout: 180s}
",
        tmpfs: &["/tmp:size=16m", "/var/log/rabbitmq:size=16m,uid={uid},gid={gid},mode=0755"],
        plan: r#"# A login by AMQP 0-9-1; 50 and 74 (\x32, \x4A) are the lengths that generated names make.
sanity_test:
  tcp: 5672/tcp
  send: "AMQP\0\0\x09\x01\x01\0\0\0\0\0\x4A\0\x0A\0\x0B\0\0\0\0\x05PLAIN\0\0\0\x32\0{{username}}\0{{password}}\x05en_US\u0381"
  expect: "\0\x0A\0\x1E"
credentials:
  username: {key: RABBITMQ_DEFAULT_USER}
  password: {key: RABBITMQ_DEFAULT_PASS}
  dbname: {key: RABBITMQ_DEFAULT_VHOST}
  uri: {prefix: amqp, port: 5672/tcp}
"#,
    },
];
