//! Values survive on their way from the manifest to the broker.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{broker_properties, with};
use crate::support::render;

/// What YAML takes for something else, what needs quotes, and what no quotes can hold.
const ODD: [&str; 20] = [
    "12345",
    "1e3",
    "0x1F",
    "0o17",
    "010",
    "1_000",
    "yes",
    "No",
    "null",
    "~",
    "true",
    ".inf",
    "p: #'\"\n",
    "- a",
    "{a: b}",
    "<%= 1 %>",
    "\u{fc}\u{4e16}\u{1f600}",
    "a\u{7f}\u{85}\u{2028}b\u{feff}",
    " two  spaces ",
    "\\u0041\t",
];

#[test]
fn odd_texts_are_read_as_they_were_given() -> anyhow::Result<()> {
    for odd in ODD {
        let given = json!({
            "username": odd, "password": odd, "encryption_keys": [odd],
            "registries": [{"host": "r", "username": odd, "password": odd}],
            "services": [{"plans": [{"container": {"environment": [odd]}}]}],
        });
        let given = with(broker_properties(), &given);
        let rendered = render::job("docker-broker", &given, &json!({}))?;
        let settings: Value = serde_yaml::from_str(&rendered.file("config/broker.yml"))
            .with_context(|| format!("{odd:?}"))?;
        for (key, value) in given.as_object().context("a mapping")? {
            assert_eq!(&settings[key], value, "{odd:?}");
        }
    }
    Ok(())
}

#[test]
fn the_broker_takes_odd_passwords_for_what_they_are() -> anyhow::Result<()> {
    for odd in ["12345", "1e3", "0o17", "yes", "null", "p: #'\"\n", "\u{fc}\u{4e16}\u{1f600}"] {
        let broker = Broker::start(odd)?;
        assert_eq!(broker.status("broker", odd)?, 200, "{odd:?}");
        assert_eq!(broker.status("broker", "another")?, 401, "{odd:?}");
    }
    Ok(())
}

/// A broker on rendered settings; only its addresses and directories are of this test.
struct Broker {
    process: Child,
    address: String,
    _directory: TempDir,
}

impl Broker {
    fn start(password: &str) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let data = directory.path().join("data");
        let properties = with(
            broker_properties(),
            &json!({
                "password": password, "docker_url": "unix:///nonexistent",
                "host_directory": data.join("instances"),
            }),
        );
        let rendered = render::job("docker-broker", &properties, &json!({}))?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_docker-broker"))
            .arg("serve")
            .arg("--config")
            .arg(rendered.directory().join("config/broker.yml"))
            .args(["--listen", "127.0.0.1", "--port", "0", "--data-dir"])
            .arg(&data)
            .env_remove("DOCKER_BROKER_PASSWORD")
            .env_remove("DOCKER_HOST")
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(process.stderr.take().context("its log is piped")?);
        let mut broker = Self { process, address: String::new(), _directory: directory };
        for line in log.lines() {
            let line: Value = serde_json::from_str(&line?).context("the log is JSON")?;
            if let Some(address) = line["url"].as_str().and_then(|url| url.strip_prefix("http://"))
            {
                address.clone_into(&mut broker.address);
                return Ok(broker);
            }
        }
        anyhow::bail!("the broker ended before it listened")
    }

    /// The status of the catalog for this login.
    fn status(&self, username: &str, password: &str) -> anyhow::Result<u16> {
        let login = STANDARD.encode(format!("{username}:{password}"));
        let mut stream = TcpStream::connect(&self.address)?;
        write!(
            stream,
            "GET /v2/catalog HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\
             X-Broker-API-Version: 2.17\r\nAuthorization: Basic {login}\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).context("an HTTP answer")?;
        Ok(status.parse()?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already; nothing is left to do then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
