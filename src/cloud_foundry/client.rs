//! The one client of the Cloud Controller's v3 API: logs in, renews its token, follows pages and
//! jobs, and is patient with a platform that is busy.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    error::CfError,
    patience::{patiently, problems},
    resources::{Included, Job, Page, Root},
    settings::{Login, Settings},
    tls,
    uaa::{self, Token},
};

const JOB_PAUSE: Duration = Duration::from_millis(500);
/// Longest time of a job, and of waiting for somebody else's.
pub(super) const JOB_LIMIT: Duration = Duration::from_mins(10);
/// Guids in one filter, so that a URL stays within what proxies take.
pub(super) const GUIDS_PER_REQUEST: usize = 50;

/// A session with one platform.
pub(super) struct CloudController {
    http: Client,
    api: String,
    uaa: String,
    login: Login,
    token: Mutex<Token>,
}

/// What a request is, for its retries and its errors.
pub(super) struct Ask<'a> {
    /// In the infinitive: `create the broker`.
    pub(super) verb: &'a str,
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) body: Option<Value>,
}

impl CloudController {
    /// Discovers the platform and logs in.
    pub(super) async fn connect(settings: &Settings, login: Login) -> Result<Self, CfError> {
        let cf = &settings.cf;
        let http = tls::client(settings)?;
        let root = root(&http, &cf.api_url).await?;
        let not_an_api = |problem: &str| CfError::NotAnApi {
            url: cf.api_url.clone(),
            problem: problem.to_owned(),
        };
        let href = |link: Option<super::resources::Link>| {
            link.map(|link| link.href.trim_end_matches('/').to_owned())
        };
        let api = href(root.links.cloud_controller_v3)
            .ok_or_else(|| not_an_api("it has no link to a v3 API"))?;
        // "login" is where people and their tools get tokens; it is UAA as well.
        let uaa = href(root.links.login)
            .or(href(root.links.uaa))
            .ok_or_else(|| not_an_api("it has no link to UAA"))?;
        let token = Mutex::new(uaa::log_in(&http, &uaa, &login).await?);
        Ok(Self { http, api, uaa, login, token })
    }

    /// Who is logged in.
    pub(super) fn user(&self) -> &str {
        self.login.name()
    }

    /// A URL below the v3 API.
    pub(super) fn url(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{path}", self.api);
        if !query.is_empty() {
            let pairs =
                form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
            url = format!("{url}?{pairs}");
        }
        url
    }

    /// One object.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        verb: &str,
        path: &str,
    ) -> Result<T, CfError> {
        let url = self.url(path, &[]);
        let ask = Ask { verb, method: Method::GET, url, body: None };
        read(verb, self.send(&ask).await?).await
    }

    /// All pages of a list, and what they include.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        verb: &str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(Vec<T>, Included), CfError> {
        let mut next = Some(self.url(path, query));
        let (mut all, mut included) = (Vec::new(), Included::default());
        while let Some(url) = next {
            let ask = Ask { verb, method: Method::GET, url, body: None };
            let page: Page<T> = read(verb, self.send(&ask).await?).await?;
            all.extend(page.resources);
            included.spaces.extend(page.included.spaces);
            included.organizations.extend(page.included.organizations);
            next = match page.pagination.next {
                Some(link) => Some(self.own(verb, &link.href)?),
                None => None,
            };
        }
        Ok((all, included))
    }

    /// A change. When it is a job, waits for its end. What is to be deleted may be gone: an
    /// earlier attempt whose answer was lost has done it. The platform's warnings.
    pub(super) async fn change(&self, ask: &Ask<'_>) -> Result<Vec<String>, CfError> {
        let answer = match self.send(ask).await {
            Err(CfError::Refused { status: StatusCode::NOT_FOUND, .. })
                if ask.method == Method::DELETE =>
            {
                return Ok(Vec::new());
            }
            other => other?,
        };
        if answer.status() != StatusCode::ACCEPTED {
            return Ok(Vec::new());
        }
        let location = answer.headers().get(header::LOCATION).and_then(|url| url.to_str().ok());
        let job = location.ok_or_else(|| CfError::Malformed {
            verb: ask.verb.to_owned(),
            problem: "it was accepted without the Location of a job".to_owned(),
        })?;
        self.follow(ask.verb, &self.own(ask.verb, job)?).await
    }

    /// A URL that the platform gave. The token goes to no other host.
    fn own(&self, verb: &str, url: &str) -> Result<String, CfError> {
        let malformed = |problem: String| CfError::Malformed { verb: verb.to_owned(), problem };
        let api = Url::parse(&self.api).map_err(|error| malformed(error.to_string()))?;
        let url = api.join(url).map_err(|error| malformed(error.to_string()))?;
        if url.origin() == api.origin() {
            Ok(url.into())
        } else {
            Err(malformed(format!(
                "it leads to another host, {}",
                url.origin().ascii_serialization()
            )))
        }
    }

    async fn follow(&self, verb: &str, job: &str) -> Result<Vec<String>, CfError> {
        let end = Instant::now() + JOB_LIMIT;
        loop {
            let ask = Ask { verb, method: Method::GET, url: job.to_owned(), body: None };
            let found: Job = read(verb, self.send(&ask).await?).await?;
            match found.state.as_str() {
                "COMPLETE" => {
                    return Ok(found.warnings.into_iter().map(|one| one.detail).collect());
                }
                "FAILED" => {
                    let errors = found.errors.into_iter().map(|one| one.detail).collect();
                    return Err(CfError::Job { verb: verb.to_owned(), errors });
                }
                _ if Instant::now() >= end => {
                    let seconds = JOB_LIMIT.as_secs();
                    return Err(CfError::JobTimeout { verb: verb.to_owned(), seconds });
                }
                _ => sleep(JOB_PAUSE).await,
            }
        }
    }

    /// One request, repeated while the platform is busy or away, and once with a new token.
    async fn send(&self, ask: &Ask<'_>) -> Result<Response, CfError> {
        let mut renewed = false;
        loop {
            let token = self.token.lock().await.access.clone();
            let answer = patiently(ask.verb, "the Cloud Controller", &self.api, || {
                let mut request = self.http.request(ask.method.clone(), &ask.url);
                request = request.bearer_auth(&token);
                match &ask.body {
                    Some(body) => request.json(body),
                    None => request,
                }
            });
            let answer = answer.await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            if answer.status() == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                let mut token = self.token.lock().await;
                *token = uaa::renew(&self.http, &self.uaa, &self.login, &token).await?;
                continue;
            }
            return Err(self.refused(ask, answer).await);
        }
    }

    async fn refused(&self, ask: &Ask<'_>, answer: Response) -> CfError {
        let (verb, status) = (ask.verb.to_owned(), answer.status());
        let errors = problems(answer).await;
        if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            return CfError::Forbidden { who: self.user().to_owned(), verb, status, errors };
        }
        CfError::Refused { verb, status, errors }
    }
}

async fn root(http: &Client, url: &str) -> Result<Root, CfError> {
    let who = "the Cloud Foundry API";
    let answer = patiently("say where it is", who, url, || http.get(url)).await?;
    let status = answer.status();
    let problem = if status.is_success() {
        let bytes = answer.bytes().await.map_err(|source| CfError::Unreachable {
            who,
            url: url.to_owned(),
            source,
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(root) => return Ok(root),
            Err(_) => "its answer is another document".to_owned(),
        }
    } else {
        format!("it answers {status}")
    };
    Err(CfError::NotAnApi { url: url.to_owned(), problem })
}

async fn read<T: DeserializeOwned>(verb: &str, answer: Response) -> Result<T, CfError> {
    let malformed = |problem: String| CfError::Malformed { verb: verb.to_owned(), problem };
    let bytes = answer.bytes().await.map_err(|error| malformed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))
}
