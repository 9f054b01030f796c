//! An operator's CA, and clients of services that speak TLS.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use tempfile::TempDir;

use super::Session;

/// A CA in files, as an operator gives it to the broker.
#[derive(Debug)]
pub(crate) struct Ca {
    pub(crate) certificate: String,
    pub(crate) key: String,
    directory: TempDir,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        Self::made(&Self::params(name))
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    fn made(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self::of(certificate.pem(), key.serialize_pem())
    }

    /// One whose time is over.
    pub(crate) fn expired(name: &str) -> Self {
        let mut params = Self::params(name);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        Self::made(&params)
    }

    /// As a BOSH director makes them: RSA, the key in PKCS#1.
    pub(crate) fn rsa(name: &str) -> Self {
        Self::openssl(name, &["genrsa", "-traditional", "2048"])
    }

    /// With the key that `openssl ARGS` prints.
    pub(crate) fn openssl(name: &str, args: &[&str]) -> Self {
        let key = openssl(args, "").expect("a key");
        let subject = format!("/C=US/O=Cloud Foundry/CN={name}");
        let args = ["req", "-x509", "-new", "-key", "/dev/stdin", "-days", "365", "-subj"];
        let certificate = openssl(&[&args[..], &[&subject]].concat(), &key).expect("a certificate");
        Self::of(certificate, key)
    }

    fn of(certificate: String, key: String) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ca = Self { certificate, key, directory };
        fs::write(ca.file("ca.pem"), &ca.certificate).expect("a file can be written");
        fs::write(ca.file("ca.key"), &ca.key).expect("a file can be written");
        ca
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Further CAs in the certificate's file, behind this one.
    pub(crate) fn trust_too(&self, others: &[&Ca]) {
        let texts: Vec<&str> = [self].iter().chain(others).map(|ca| &*ca.certificate).collect();
        fs::write(self.file("ca.pem"), texts.concat()).expect("a file can be written");
    }

    /// The setting, with more keys.
    pub(crate) fn setting(&self, more: &str) -> String {
        format!(
            "service_tls: {{ca_certificate: {}, ca_private_key: {}, check_interval: 100ms{more}}}",
            self.file("ca.pem").display(),
            self.file("ca.key").display()
        )
    }
}

/// Runs `openssl ARGS` on an input: what it printed, or why it failed.
fn openssl(args: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It need not read all of it.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output().expect("openssl ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The certificate (PEM) that a service shows to a client who trusts nothing but the CA of its
/// binding, and connects to nobody but the host of it. `starttls`: how the protocol begins TLS.
pub(crate) fn shown_certificate(bound: &Value, starttls: &str) -> Result<String, String> {
    let text = |key: &str| bound["credentials"][key].as_str().expect("a string");
    let ca = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(ca.path(), text("ca_certificate")).expect("it can be written");
    let address = format!("{}:{}", text("host"), text("port"));
    let is_address = text("host").parse::<std::net::IpAddr>().is_ok();
    let verify = if is_address { "-verify_ip" } else { "-verify_hostname" };
    let file = ca.path().to_str().expect("a temporary path is UTF-8");
    let mut args = vec!["s_client", "-connect", &address, "-CAfile", file, "-no-CApath"];
    args.extend(["-verify_return_error", verify, text("host")]);
    if !starttls.is_empty() {
        args.extend(["-starttls", starttls]);
    }
    let shown = openssl(&args, "")?;
    let begin = shown.find("-----BEGIN CERTIFICATE").ok_or("no certificate was shown")?;
    let end = shown.find("-----END CERTIFICATE").ok_or("no certificate was shown")?;
    Ok(shown[begin..end].to_owned())
}

/// Runs a client of an image; the CA of the binding is in `$CA`, a file.
pub(crate) fn client(image: &str, bound: &Value, script: &str) -> (bool, String) {
    super::in_image(image, &environment(bound), &["sh", "-c", &with_ca(script)])
}

/// A client of an image that stays connected; as in [`client`].
pub(crate) fn session(image: &str, bound: &Value, script: &str) -> Session {
    Session::start(image, &environment(bound), &["sh", "-c", &with_ca(script)])
}

fn with_ca(script: &str) -> String {
    format!("export CA=/tmp/ca; printf %s \"$PEM\" > $CA; {script}")
}

fn environment(bound: &Value) -> [(&'static str, &str); 8] {
    let text = |key: &str| bound["credentials"][key].as_str().unwrap_or_default();
    [
        ("PEM", text("ca_certificate")),
        ("HOST", text("host")),
        ("PORT", text("port")),
        ("USERNAME", text("username")),
        ("MYSQL_PWD", text("password")),
        ("PGPASSWORD", text("password")),
        ("REDISCLI_AUTH", text("password")),
        ("DBNAME", text("dbname")),
    ]
}
