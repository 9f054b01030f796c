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
    password: String,
}

impl Redis {
    /// Out of the document of a binding.
    pub(crate) fn of(bound: &Value) -> Self {
        let text = |key: &str| bound["credentials"][key].as_str().expect("a string").to_owned();
        Self { address: format!("{}:{}", text("host"), text("port")), password: text("password") }
    }

    /// The answer to one command after logging in, or why there is none.
    pub(crate) async fn ask(&self, command: &str) -> Result<String, String> {
        let say = |error: std::io::Error| error.to_string();
        let mut stream = BufReader::new(TcpStream::connect(&self.address).await.map_err(say)?);
        let request = format!("AUTH {}\r\n{command}\r\n", self.password);
        stream.write_all(request.as_bytes()).await.map_err(say)?;
        let login = line(&mut stream).await?;
        if login != "+OK" {
            return Err(format!("refused: {login}"));
        }
        let answer = line(&mut stream).await?;
        match answer.strip_prefix('$') {
            Some("-1") => Ok("nil".to_owned()),
            Some(_) => line(&mut stream).await,
            None => Ok(answer),
        }
    }

    /// The answer to a command, which has to come.
    #[track_caller]
    pub(crate) fn expect(&self, command: &str) -> impl Future<Output = String> + use<> {
        let (client, command) = (self.clone(), command.to_owned());
        async move { client.ask(&command).await.expect("redis answers") }
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
