//! The listener, with or without TLS, and what comes before any handler.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{Answer, Asked, Fault, State, Tls, cloud_controller, lock, uaa};

/// Its URL, the PEM of its CA, and its task. It is reached at `host`, an address of this machine.
pub(super) async fn serve(
    state: Arc<Mutex<State>>,
    host: &str,
    tls: Tls,
) -> (String, Option<String>, JoinHandle<()>) {
    let listener = TcpListener::bind((host, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let (acceptor, ca) = match tls {
        Tls::None => (None, None),
        Tls::PrivateCa => acceptor("127.0.0.1"),
        Tls::WrongHost => acceptor("api.example.com"),
    };
    let scheme = if acceptor.is_some() { "https" } else { "http" };
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| handle(Arc::clone(&state), request));
                let http = http1::Builder::new();
                // A client may hang up; the test sees what it makes of that.
                match acceptor {
                    None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            drop(http.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                }
            });
        }
    });
    (format!("{scheme}://{address}"), ca, task)
}

fn acceptor(host: &str) -> (Option<TlsAcceptor>, Option<String>) {
    let mut ca = rcgen::CertificateParams::new([]).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new([host.to_owned()])
        .expect("parameters")
        .signed_by(&key, &issuer)
        .expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("they fit together");
    (Some(TlsAcceptor::from(Arc::new(config))), Some(ca_certificate.pem()))
}

async fn handle(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    let asked = Asked {
        path: head.uri.path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        method: head.method,
        headers: head.headers,
        body,
    };
    if lock(&state).is_silent {
        std::future::pending::<()>().await;
    }
    let line = format!("{} {}", asked.method, asked.path);
    lock(&state).requests.push(line.clone());
    let fault = take_fault(&state, &line);
    let answer = match &fault {
        Some(fault) if !fault.after => None,
        _ => Some(route(&state, &asked)),
    };
    let answer = match (fault, answer) {
        (Some(fault), _) => {
            let mut answer = Answer::error(fault.status, 10001, "CF-Fault", "a fault of the test");
            let headers = fault.headers.iter();
            answer.headers = headers.map(|(name, value)| (*name, (*value).to_owned())).collect();
            answer
        }
        (None, answer) => answer.expect("it was made"),
    };
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = if answer.body.is_null() { String::new() } else { answer.body.to_string() };
    let response = response.header("content-type", "application/json; charset=utf-8");
    Ok(response.body(Full::new(Bytes::from(body))).expect("a response"))
}

fn take_fault(state: &Mutex<State>, line: &str) -> Option<Fault> {
    let mut state = lock(state);
    let fault = state.faults.iter_mut().find(|one| one.times > 0 && line.starts_with(one.on))?;
    fault.times -= 1;
    Some(fault.clone())
}

fn route(state: &Arc<Mutex<State>>, asked: &Asked) -> Answer {
    match asked.path.as_str() {
        "/" => cloud_controller::root(&lock(state).url),
        "/oauth/token" => uaa::token(&mut lock(state), asked),
        path if path == "/v3" || path.starts_with("/v3/") => cloud_controller::answer(state, asked),
        path => {
            let violation = format!("{} {path}: there is no such API here", asked.method);
            lock(state).violations.push(violation);
            Answer::json(404, Value::Null)
        }
    }
}
