//! Why a registration failed, each with what to do.

use std::{error::Error, path::PathBuf, time::Duration};

use reqwest::StatusCode;

/// A failure of the registrar. Holds no secrets.
#[derive(Debug, thiserror::Error)]
pub enum CfError {
    /// The settings file is no good.
    #[error("{}: {problem}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A CA is no PEM.
    #[error("{name} holds no PEM certificate; paste the CA's certificate with its BEGIN line")]
    CaCertificate {
        /// The property.
        name: &'static str,
    },
    /// A proxy is no URL. It is not shown: it may hold a login.
    #[error("{name} is no URL of a proxy, such as http://proxy.example.com:3128")]
    Proxy {
        /// The property.
        name: &'static str,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be set up")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
    /// No answer.
    #[error("{who} at {url} cannot be reached: {}", explain(source))]
    Unreachable {
        /// Who.
        who: &'static str,
        /// Where.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The API root is something else.
    #[error("{url} is not the root of a Cloud Foundry API ({problem}); check cf.api_url")]
    NotAnApi {
        /// Where.
        url: String,
        /// What it answered.
        problem: String,
    },
    /// UAA refuses the login.
    #[error(
        "UAA refuses the login of {who}: {message}; check cf.username and cf.password, or \
         cf.client_id and cf.client_secret"
    )]
    Login {
        /// User or client.
        who: String,
        /// UAA's words.
        message: String,
    },
    /// No administrator.
    #[error(
        "{who} has not the scope cloud_controller.admin, which registering a broker takes; use an \
         administrator, or a client with that authority"
    )]
    NotAdmin {
        /// User or client.
        who: String,
    },
    /// The platform does not let the administrator do it.
    #[error(
        "Cloud Foundry does not let {who} {verb} ({status}):{}\nlog in as an administrator \
         (scope cloud_controller.admin), or a client with that authority",
        lines(errors)
    )]
    Forbidden {
        /// User or client.
        who: String,
        /// What was asked.
        verb: String,
        /// Status.
        status: StatusCode,
        /// Its words.
        errors: Vec<String>,
    },
    /// The Cloud Controller refuses a request.
    #[error("Cloud Foundry refuses to {verb} ({status}):{}{}", lines(errors), advice(errors))]
    Refused {
        /// What was asked.
        verb: String,
        /// Status.
        status: StatusCode,
        /// Its words.
        errors: Vec<String>,
    },
    /// Too many requests, or the platform is ill.
    #[error(
        "Cloud Foundry could not {verb}: it answered {status} {attempts} times in a row; try again \
         {}:{}",
        later(*wait),
        lines(errors)
    )]
    GaveUp {
        /// What was asked.
        verb: String,
        /// Status.
        status: StatusCode,
        /// How often.
        attempts: u32,
        /// How long it asks to wait.
        wait: Option<Duration>,
        /// Its words.
        errors: Vec<String>,
    },
    /// A job failed.
    #[error("Cloud Foundry failed to {verb}:{}{}", lines(errors), advice(errors))]
    Job {
        /// What was asked.
        verb: String,
        /// Its words.
        errors: Vec<String>,
    },
    /// A job does not end.
    #[error("Cloud Foundry did not {verb} within {seconds} s; look at it, then run this again")]
    JobTimeout {
        /// What was asked.
        verb: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// An answer that cannot be read.
    #[error(
        "Cloud Foundry's answer to \"{verb}\" cannot be read: {problem}; is cf.api_url the API of a \
         current Cloud Foundry, with nothing in between that changes answers?"
    )]
    Malformed {
        /// What was asked.
        verb: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The platform read another catalog than the broker has.
    #[error(
        "Cloud Foundry did not take over {}; run this again, and see that {url} leads the Cloud \
         Controller to this broker", services.join(", ")
    )]
    NotTaken {
        /// Names of services.
        services: Vec<String>,
        /// The broker's URL.
        url: String,
    },
    /// Not ours to change.
    #[error("{0}")]
    NotOurs(String),
    /// A named organization that does not exist.
    #[error("there is no organization {0}; check cf.organizations")]
    NoOrganization(String),
    /// Instances would be lost.
    #[error(
        "there are service instances, so nothing was deregistered:{}\ndelete them with cf \
         delete-service, or set purge: true to make Cloud Foundry forget them",
        lines(counts)
    )]
    Instances {
        /// How many of what where.
        counts: Vec<String>,
    },
    /// The transcript cannot be written.
    #[error("the output cannot be written")]
    Output(#[from] std::io::Error),
}

fn lines(texts: &[String]) -> String {
    texts.iter().flat_map(|text| text.lines()).fold(String::new(), |all, line| {
        let line = line.trim_end();
        if line.trim().is_empty() { all } else { format!("{all}\n  {line}") }
    })
}

fn later(wait: Option<Duration>) -> String {
    wait.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs()))
}

/// Advice for what the platform says.
fn advice(errors: &[String]) -> &'static str {
    let has = |words: &str| errors.iter().any(|error| error.to_lowercase().contains(words));
    if has("could not be reached") || has("timed out") || has("unreachable") {
        "\nsee that the Cloud Controller reaches the broker at its URL: route, DNS, firewall, \
         and that bosh instances shows job docker-broker running"
    } else if has("authentication") || has("unauthorized") {
        "\nthe broker does not accept the user and password that were sent: deploy broker and \
         registrar with the same ones"
    } else if has("catalog") || has("must be unique") {
        "\nmend the service files that the messages name, deploy, and run this again"
    } else if has("in progress") {
        "\nanother run is at work; run this again when it is done"
    } else {
        "\nmend what the message names, and run this again"
    }
}

impl CfError {
    /// The server was reached, but is not trusted.
    pub(super) fn is_about_a_certificate(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => causes(source).join(" ").contains("certificate"),
            _ => false,
        }
    }
}

fn causes(error: &reqwest::Error) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
}

/// The innermost cause says what it is; what it means for the operator comes after it.
fn explain(error: &reqwest::Error) -> String {
    let causes = causes(error);
    let text = causes.last().cloned().unwrap_or_default();
    let all = causes.join(" ").to_lowercase();
    let advice = if all.contains("certificate") && all.contains("notvalidfor")
        || all.contains("not valid for name")
    {
        "its certificate is for another host; use the name in the certificate"
    } else if all.contains("expired") {
        "its certificate has expired; renew it"
    } else if all.contains("causedasendentity") {
        "a CA is used as its certificate; have that CA sign a certificate for it"
    } else if all.contains("certificate") {
        "its certificate is not trusted; give its CA in cf.ca_cert"
    } else if error.is_timeout() {
        "it does not answer in time; check the address, firewall and proxy"
    } else {
        "check the address, DNS, firewall and proxy"
    };
    format!("{text} ({advice})")
}
