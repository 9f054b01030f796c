//! The platform that orders instances, and an application that uses a redis.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::secrets;

/// Longest time for an answer of the broker, or of redis.
const PATIENCE: Duration = Duration::from_mins(2);

/// A platform that knows a broker.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    pub(crate) url: String,
    pub(crate) password: String,
    /// The CA that signed the broker's certificate, PEM.
    pub(crate) ca: Option<String>,
}

/// A plan of the catalog, by its ids.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) service: String,
    pub(crate) plan: String,
}

impl Plan {
    fn body(&self) -> Value {
        json!({
            "service_id": self.service, "plan_id": self.plan,
            "organization_guid": "org", "space_guid": "space",
        })
    }
}

impl Platform {
    /// Status and body of a request, or why there is no answer.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), String> {
        let _watch = secrets::watch();
        let mut curl = Command::new("curl");
        // The password is no argument: those can be seen by everybody.
        curl.args(["--config", "-", "--silent", "--show-error", "--request", method]);
        curl.args(["--header", "X-Broker-API-Version: 2.17", "--write-out", "\n%{http_code}"]);
        curl.args(["--max-time", &PATIENCE.as_secs().to_string()]);
        let mut file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        if let Some(ca) = &self.ca {
            file.write_all(ca.as_bytes()).map_err(|error| error.to_string())?;
            curl.arg("--cacert").arg(file.path());
        }
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        curl.arg(format!("{}{path}", self.url));
        curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut curl = curl.spawn().map_err(|error| format!("curl: {error}"))?;
        let login = format!("user = \"broker:{}\"\n", self.password);
        curl.stdin
            .take()
            .expect("its input")
            .write_all(login.as_bytes())
            .map_err(|e| e.to_string())?;
        let output = curl.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').expect("curl writes the status");
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        Ok((status.parse().map_err(|_| format!("no status: {text}"))?, body))
    }

    #[track_caller]
    fn expect(&self, method: &str, path: &str, body: Option<&Value>, wanted: &[u16]) -> Value {
        let (status, body) = self.send(method, path, body).expect("the broker answers");
        assert!(wanted.contains(&status), "{method} {path}: {status} {body}");
        body
    }

    #[track_caller]
    pub(crate) fn provision(&self, instance: &str, plan: &Plan) {
        self.expect(
            "PUT",
            &format!("/v2/service_instances/{instance}"),
            Some(&plan.body()),
            &[200, 201],
        );
    }

    /// The credentials of a binding, made or fetched.
    #[track_caller]
    pub(crate) fn bind(&self, instance: &str, plan: &Plan) -> Value {
        let path = format!("/v2/service_instances/{instance}/service_bindings/{instance}-b");
        self.expect("PUT", &path, Some(&plan.body()), &[200, 201])["credentials"].clone()
    }
}

/// Where a redis is and how it lets in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Redis {
    address: String,
    username: String,
    password: String,
}

impl Redis {
    pub(crate) fn of(credentials: &Value) -> Self {
        let text = |key: &str| credentials[key].as_str().expect("a text").to_owned();
        secrets::add(&text("password"));
        Self {
            address: format!("{}:{}", text("host"), text("port")),
            username: text("username"),
            password: text("password"),
        }
    }

    /// A connection that has logged in.
    fn connect(&self) -> Result<Session, String> {
        let address = self.address.parse().map_err(|_| format!("no address: {}", self.address))?;
        let timeout = Duration::from_secs(5);
        let stream = TcpStream::connect_timeout(&address, timeout).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(timeout)).map_err(|error| error.to_string())?;
        let mut session = Session(BufReader::new(stream));
        match session.ask(&format!("AUTH {} {}", self.username, self.password))?.as_str() {
            "+OK" => Ok(session),
            other => Err(format!("refused: {other}")),
        }
    }

    /// The answer to one command on a connection of its own.
    pub(crate) fn ask(&self, command: &str) -> Result<String, String> {
        self.connect()?.ask(command)
    }

    /// The answer, which has to come.
    #[track_caller]
    pub(crate) fn expect(&self, command: &str) -> String {
        self.ask(command).expect("redis answers")
    }

    /// An application that keeps its one connection and uses it all the time.
    pub(crate) fn stay_connected(&self) -> Connected {
        let mut session = self.connect().expect("redis answers");
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut talk = Talk::default();
            while !told.load(Ordering::Relaxed) {
                let begin = Instant::now();
                match session.ask("PING")?.as_str() {
                    "+PONG" => talk.answers += 1,
                    other => return Err(format!("answered {other} after {talk:?}")),
                }
                talk.slowest = talk.slowest.max(begin.elapsed());
                sleep(Duration::from_millis(20));
            }
            Ok(talk)
        });
        Connected { done, thread }
    }
}

struct Session(BufReader<TcpStream>);

impl Session {
    fn ask(&mut self, command: &str) -> Result<String, String> {
        self.0
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())
            .map_err(|e| e.to_string())?;
        let answer = self.line()?;
        match answer.strip_prefix('$') {
            Some("-1") => Ok("nil".to_owned()),
            Some(_) => self.line(),
            None => Ok(answer),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What an application got to see.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    pub(crate) answers: usize,
    pub(crate) slowest: Duration,
}

#[derive(Debug)]
pub(crate) struct Connected {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<Talk, String>>,
}

impl Connected {
    /// Ends the application; its connection must never have broken.
    #[track_caller]
    pub(crate) fn end(self) -> Talk {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("the application ends").expect("its connection never breaks")
    }
}
