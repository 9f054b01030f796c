//! dockerd with more containers than there are: a relay on a socket of its own that adds made-up
//! ones to each listing, and passes everything else on.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::docker::Docker;

/// The relay. It ends with the process.
pub(crate) struct Crowd {
    socket: PathBuf,
    _directory: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    docker: Docker,
    /// Text of the made-up containers, each with a comma before it.
    made_up: String,
    listings: AtomicUsize,
    bytes: AtomicUsize,
}

impl Crowd {
    /// Adds copies of the container of this name, one for each instance (id and host port).
    pub(crate) fn new(
        docker: &Docker,
        original: &str,
        owner: &str,
        instances: impl Iterator<Item = (String, u16)>,
    ) -> Result<Self> {
        let listed = docker.call("GET", "/containers/json", None, 200)?;
        let name = json!(format!("/{original}"));
        let mut listed = listed.as_array().into_iter().flatten();
        let original = listed.find(|one| one["Names"][0] == name).context("no such container")?;
        let made_up = instances.map(|(id, port)| format!(",{}", copy(original, owner, &id, port)));
        let shared = Arc::new(Shared {
            docker: docker.clone(),
            made_up: made_up.collect(),
            listings: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        });
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket)?;
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                // A connection that breaks is the broker's to judge.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        Ok(Self { socket, _directory: directory, shared })
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// How often all containers were listed, and the length of the last listing.
    pub(crate) fn listings(&self) -> (usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (of(&self.shared.listings), of(&self.shared.bytes))
    }
}

fn copy(original: &Value, owner: &str, id: &str, port: u16) -> Value {
    let mut copy = original.clone();
    copy["Id"] = json!(format!("{port:064x}"));
    copy["Names"] = json!([format!("/{owner}-i-{id}")]);
    copy["Labels"]["io.docker-broker.instance"] = json!(id);
    copy["Labels"]["instance_id"] = json!(id);
    copy["Ports"][0]["PublicPort"] = json!(port);
    copy
}

impl Shared {
    /// One request, and the end of the connection, so that each listing is seen.
    fn serve(&self, client: UnixStream) -> Result<()> {
        let mut client = BufReader::new(client);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(client.read_line(&mut head)? > 0, "the connection was closed");
        }
        let path = head.split(' ').nth(1).context("this is no HTTP")?;
        if head.starts_with("GET ") && path.contains("/containers/json?") {
            return self.list(path, client.get_mut());
        }
        let mut upstream = UnixStream::connect(self.docker.socket())?;
        let kept = head.trim_end_matches("\r\n");
        write!(upstream, "{kept}\r\nConnection: close\r\n\r\n")?;
        let mut back = upstream.try_clone()?;
        let mut answer_to = client.get_ref().try_clone()?;
        let answers = thread::spawn(move || {
            let copied = copy_at_once(&mut back, &mut answer_to);
            drop(answer_to.shutdown(std::net::Shutdown::Both));
            copied
        });
        copy_at_once(&mut client, &mut upstream)?;
        drop(upstream.shutdown(std::net::Shutdown::Both));
        answers.join().map_err(|_| anyhow::anyhow!("the relay panicked"))?
    }

    fn list(&self, path: &str, client: &mut UnixStream) -> Result<()> {
        let listed = self.docker.call("GET", path, None, 200)?.to_string();
        let body = format!("{}{}]", listed.trim_end_matches(']'), self.made_up);
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.bytes.store(body.len(), Ordering::Relaxed);
        write!(
            client,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }
}

/// `std::io::copy` without a buffer that waits to be full.
fn copy_at_once(from: &mut impl Read, to: &mut impl Write) -> Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}
