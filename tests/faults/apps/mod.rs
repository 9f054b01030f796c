//! Applications: they open a service with the credentials that a binding gave, at the endpoint
//! that it gave, and write numbers. What the service has confirmed is remembered.

mod digest;
mod mysql;
mod postgres;
mod redis;

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use crate::services::Kind;

/// Why an application could not do something.
#[derive(Debug, Clone)]
pub(crate) enum Denied {
    /// The service does not let these credentials in.
    Refused(String),
    /// Nobody answers, or not now.
    Away(String),
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Away(why) => write!(f, "away: {why}"),
        }
    }
}

impl From<std::io::Error> for Denied {
    fn from(error: std::io::Error) -> Self {
        Self::Away(error.to_string())
    }
}

/// Longest time for one exchange.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open connection to a service.
pub(crate) enum App {
    Redis(redis::Redis),
    Postgres(postgres::Postgres),
    Mysql(mysql::Mysql),
}

/// What every credentials document says.
struct Login {
    address: String,
    username: String,
    password: String,
    dbname: String,
}

impl Login {
    fn of(document: &Value) -> Self {
        let text = |key: &str| document["credentials"][key].as_str().unwrap_or_default().to_owned();
        Self {
            address: format!("{}:{}", text("host"), text("port")),
            username: text("username"),
            password: text("password"),
            dbname: text("dbname"),
        }
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, Denied>>) -> Result<T, Denied> {
    timeout(PATIENCE, what).await.unwrap_or_else(|_| Err(Denied::Away("no answer".to_owned())))
}

impl App {
    /// Logs in with the document of a binding.
    pub(crate) async fn open(kind: Kind, document: &Value) -> Result<Self, Denied> {
        let login = Login::of(document);
        in_time(async {
            Ok(match kind {
                Kind::Redis => Self::Redis(redis::Redis::open(&login).await?),
                Kind::Postgres => Self::Postgres(postgres::Postgres::open(&login).await?),
                Kind::Mariadb => Self::Mysql(mysql::Mysql::open(&login).await?),
            })
        })
        .await
    }

    /// Makes the place for the numbers, if it is not there.
    pub(crate) async fn prepare(&mut self) -> Result<(), Denied> {
        self.run("CREATE TABLE IF NOT EXISTS writes (n bigint PRIMARY KEY)", "PING").await
    }

    /// Writes a number. `Ok` is the service's word that it is safe.
    pub(crate) async fn write(&mut self, number: u64) -> Result<(), Denied> {
        self.run(&format!("INSERT INTO writes VALUES ({number})"), &format!("SADD writes {number}"))
            .await
    }

    async fn run(&mut self, sql: &str, command: &str) -> Result<(), Denied> {
        in_time(async {
            match self {
                Self::Redis(redis) => redis.run(command).await,
                Self::Postgres(postgres) => postgres.query(sql).await.map(drop),
                Self::Mysql(mysql) => mysql.query(sql).await.map(drop),
            }
        })
        .await
    }

    /// All numbers that are there.
    pub(crate) async fn read(&mut self) -> Result<BTreeSet<u64>, Denied> {
        const ALL: &str = "SELECT n FROM writes";
        let texts = in_time(async {
            match self {
                Self::Redis(redis) => redis.members("writes").await,
                Self::Postgres(postgres) => postgres.query(ALL).await,
                Self::Mysql(mysql) => mysql.query(ALL).await,
            }
        })
        .await?;
        Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
    }
}
