//! The one client of the Cloud Controller's v3 API: logs in, renews its token, follows pages and
//! jobs, and is patient with a platform that is busy.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    error::CfError,
    resources::{ApiProblems, Included, Job, Page, Root},
    settings::{CloudFoundry, Login},
    tls,
    uaa::{self, Token},
};

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A platform that asks for more patience than this is told to the operator instead.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
const JOB_PAUSE: Duration = Duration::from_millis(500);
const JOB_LIMIT: Duration = Duration::from_mins(10);
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
    pub(super) async fn connect(cf: &CloudFoundry, login: Login) -> Result<Self, CfError> {
        let http = tls::client(cf)?;
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
            next = page.pagination.next.map(|link| link.href);
        }
        Ok((all, included))
    }

    /// A change. When it is a job, waits for its end. The platform's warnings.
    pub(super) async fn change(&self, ask: &Ask<'_>) -> Result<Vec<String>, CfError> {
        let answer = self.send(ask).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Ok(Vec::new());
        }
        let location = answer.headers().get(header::LOCATION).and_then(|url| url.to_str().ok());
        let job = location.ok_or_else(|| CfError::Malformed {
            verb: ask.verb.to_owned(),
            problem: "it was accepted without the Location of a job".to_owned(),
        })?;
        self.follow(ask.verb, job).await
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

    /// One request, repeated while the platform is busy (429, 5xx) or away, and once with a new
    /// token. Every request of the registrar may be repeated: of what creates something, the
    /// platform refuses the second.
    async fn send(&self, ask: &Ask<'_>) -> Result<Response, CfError> {
        let mut pause = FIRST_PAUSE;
        let (mut attempt, mut renewed) = (1, false);
        loop {
            let sent = self.once(ask).await;
            let last = attempt >= ATTEMPTS;
            let wait = match sent {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !renewed => {
                    renewed = true;
                    let mut token = self.token.lock().await;
                    *token = uaa::renew(&self.http, &self.uaa, &self.login, &token).await?;
                    continue;
                }
                Ok(answer) if is_busy(answer.status()) => {
                    let wait = retry_after(&answer).unwrap_or(pause);
                    if last || wait > LONGEST_PAUSE {
                        return Err(gave_up(ask, attempt, answer).await);
                    }
                    wait
                }
                Ok(answer) => return Err(self.refused(ask, answer).await),
                // A certificate does not get better by waiting.
                Err(error) if last || error.is_about_a_certificate() => return Err(error),
                Err(_) => pause,
            };
            sleep(wait).await;
            attempt += 1;
            pause *= 2;
        }
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Response, CfError> {
        let mut request = self.http.request(ask.method.clone(), &ask.url);
        request = request.bearer_auth(&self.token.lock().await.access);
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        request.send().await.map_err(|source| CfError::Unreachable {
            who: "the Cloud Controller",
            url: self.api.clone(),
            source,
        })
    }

    async fn refused(&self, ask: &Ask<'_>, answer: Response) -> CfError {
        let status = answer.status();
        if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            return CfError::NotAdmin { who: self.user().to_owned() };
        }
        CfError::Refused { verb: ask.verb.to_owned(), status, errors: problems(answer).await }
    }
}

async fn root(http: &Client, url: &str) -> Result<Root, CfError> {
    let unreachable =
        |source| CfError::Unreachable { who: "the Cloud Foundry API", url: url.to_owned(), source };
    let answer = http.get(url).send().await.map_err(unreachable)?;
    let status = answer.status();
    let problem = if status.is_success() {
        let bytes = answer.bytes().await.map_err(unreachable)?;
        match serde_json::from_slice(&bytes) {
            Ok(root) => return Ok(root),
            Err(_) => "its answer is another document".to_owned(),
        }
    } else {
        format!("it answers {status}")
    };
    Err(CfError::NotAnApi { url: url.to_owned(), problem })
}

fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// In seconds, as the Cloud Controller says it.
fn retry_after(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

async fn gave_up(ask: &Ask<'_>, attempts: u32, answer: Response) -> CfError {
    let status = answer.status();
    CfError::GaveUp { verb: ask.verb.to_owned(), status, attempts, errors: problems(answer).await }
}

/// The platform's words; none when its answer is something else, such as a proxy's page.
async fn problems(answer: Response) -> Vec<String> {
    let bytes = answer.bytes().await.unwrap_or_default();
    let found: ApiProblems = serde_json::from_slice(&bytes).unwrap_or_default();
    found.errors.into_iter().map(|error| error.detail).filter(|text| !text.is_empty()).collect()
}

async fn read<T: DeserializeOwned>(verb: &str, answer: Response) -> Result<T, CfError> {
    let malformed = |problem: String| CfError::Malformed { verb: verb.to_owned(), problem };
    let bytes = answer.bytes().await.map_err(|error| malformed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))
}
