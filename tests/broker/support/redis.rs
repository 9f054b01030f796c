//! A redis client of a few lines: quick enough to ask after every step of a test.

use std::future::Future;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Where a redis is and how it lets in.
#[derive(Debug, Clone)]
pub(crate) struct Redis {
    address: String,
    login: String,
}

impl Redis {
    /// Out of the document of a binding.
    pub(crate) fn of(bound: &Value) -> Self {
        let text = |key: &str| bound["credentials"][key].as_str().expect("a string").to_owned();
        let login = format!("AUTH {} {}", text("username"), text("password"));
        Self { address: format!("{}:{}", text("host"), text("port")), login }
    }

    /// One that asks for a password alone.
    pub(crate) fn with_password(port: u16, password: &str) -> Self {
        Self { address: format!("127.0.0.1:{port}"), login: format!("AUTH {password}") }
    }

    /// Out of a URI alone, as libraries take it.
    pub(crate) fn of_uri(uri: &str) -> Self {
        let (login, address) = uri
            .strip_prefix("redis://")
            .and_then(|rest| rest.split_once('@'))
            .expect("a URI with a login");
        let (username, password) = login.split_once(':').expect("a user and a password");
        let decoded = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        let login = format!("AUTH {} {}", decoded(username), decoded(password));
        Self { address: address.trim_end_matches('/').to_owned(), login }
    }

    /// The answer to one command after logging in, or why there is none.
    pub(crate) async fn ask(&self, command: &str) -> Result<String, String> {
        self.connect().await?.ask(command).await
    }

    /// A connection that has logged in.
    pub(crate) async fn connect(&self) -> Result<RedisConnection, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        let mut connection = RedisConnection(BufReader::new(stream));
        match connection.ask(&self.login).await?.as_str() {
            "+OK" => Ok(connection),
            refusal => Err(format!("refused: {refusal}")),
        }
    }

    /// The answer to a command, which has to come.
    #[track_caller]
    pub(crate) fn expect(&self, command: &str) -> impl Future<Output = String> + use<> {
        let (client, command) = (self.clone(), command.to_owned());
        async move { client.ask(&command).await.expect("redis answers") }
    }
}

/// A connection that stays.
#[derive(Debug)]
pub(crate) struct RedisConnection(BufReader<TcpStream>);

impl RedisConnection {
    /// The answer to one command.
    pub(crate) async fn ask(&mut self, command: &str) -> Result<String, String> {
        let request = format!("{command}\r\n");
        self.0.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let answer = line(&mut self.0).await?;
        match answer.strip_prefix('$') {
            Some("-1") => Ok("nil".to_owned()),
            Some(_) => line(&mut self.0).await,
            None => Ok(answer),
        }
    }

    /// The next line without asking for it; an error when the server has hung up.
    pub(crate) async fn hear(&mut self) -> Result<String, String> {
        line(&mut self.0).await
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut text = String::new();
    match stream.read_line(&mut text).await {
        Ok(0) => Err("the connection was closed".to_owned()),
        Ok(_) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
