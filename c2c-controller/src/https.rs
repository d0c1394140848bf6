//! Calls to other servers over HTTPS: the UAA and Cloud Controller. Each server has its pool of connections, its CA and, if
//! it asks for one, our certificate; each call has a deadline and a limit to its answer, and no redirect is followed. What
//! is asked, and what an answer means, is not known here.

mod connector;

pub(crate) use connector::Identity;
pub use connector::SetupError;

use connector::Connector;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Calls to one server at once. More wait, within their deadlines: a slow server is not given more to do.
const MAX_CALLS: usize = 16;
/// Connections that are kept without a call, for a minute: the next request of a user comes within seconds.
const MAX_IDLE: usize = 8;
const IDLE: Duration = Duration::from_secs(60);
/// How much of a refusal's body goes into the log, in bytes.
const SAID_BYTES: usize = 200;

/// Which server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// What messages call it.
    pub(crate) name: &'static str,
    /// `https://HOST[:PORT][/PATH]`.
    pub(crate) url: String,
    /// The configuration's key of that.
    pub(crate) url_key: &'static str,
    /// The CAs (PEM) that may sign its certificate. Read for each connection.
    pub(crate) ca: PathBuf,
    /// The configuration's key of that.
    pub(crate) ca_key: &'static str,
    /// Who we are, for a server that asks for a certificate. Read for each connection.
    pub(crate) identity: Option<Identity>,
}

/// A server that can be called. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Https {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    base: String,
    client: legacy::Client<Connector, Full<Bytes>>,
    slots: Semaphore,
}

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    form: Option<String>,
    authorization: Option<HeaderValue>,
    deadline: Duration,
    limit_bytes: usize,
}

impl Call {
    /// Ten seconds and 8 MiB, until [`Call::within`] says something else.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            form: None,
            authorization: None,
            deadline: Duration::from_secs(10),
            limit_bytes: 8 << 20,
        }
    }

    /// A form (`application/x-www-form-urlencoded`) that is written already.
    pub(crate) fn post(path: impl Into<String>, form: String) -> Self {
        Self { method: Method::POST, form: Some(form), ..Self::get(path) }
    }

    pub(crate) fn authorized(self, authorization: HeaderValue) -> Self {
        Self { authorization: Some(authorization), ..self }
    }

    /// From the first packet to the last byte; and how long the answer may be.
    pub(crate) fn within(self, deadline: Duration, limit_bytes: usize) -> Self {
        Self { deadline, limit_bytes, ..self }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody there, nobody whom we believe, or no HTTP.
    #[error("{server} cannot be asked for {url}; expected its HTTPS server, with a certificate of its CA")]
    Failed {
        /// Whom we called.
        server: &'static str,
        /// What was asked for.
        url: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Not all of it in time.
    #[error("{server} did not answer {url} within {} s", deadline.as_secs())]
    Deadline {
        /// Whom we called.
        server: &'static str,
        /// What was asked for.
        url: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It says no.
    #[error("{server} answers {status} to {method} {url}: {said:?}; expected 200")]
    Status {
        /// Whom we called.
        server: &'static str,
        /// How it was asked.
        method: Method,
        /// What was asked for.
        url: String,
        /// What it says.
        status: StatusCode,
        /// The beginning of what it says about it.
        said: String,
    },
    /// The answer broke off, or is too long.
    #[error("the answer of {server} to {url} cannot be read; expected at most {limit_bytes} bytes")]
    Body {
        /// Whom we called.
        server: &'static str,
        /// What was asked for.
        url: String,
        /// How long it may be.
        limit_bytes: usize,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It is something else.
    #[error("the answer of {server} to {url} is not what it should be")]
    Json {
        /// Whom we called.
        server: &'static str,
        /// What was asked for.
        url: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl CallError {
    /// The status with which the server refused, if it did.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Failed { .. } | Self::Deadline { .. } | Self::Body { .. } | Self::Json { .. } => None,
        }
    }
}

impl Https {
    /// Calls nobody yet.
    ///
    /// # Errors
    /// When the URL cannot be one, or a file cannot be used.
    pub(crate) fn new(server: &Server) -> Result<Self, SetupError> {
        let base = base(&server.url)
            .ok_or_else(|| SetupError::Url { key: server.url_key, url: server.url.clone() })?;
        let connector = Connector::new(server)?;
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        let shared = Shared { name: server.name, base, client, slots: Semaphore::new(MAX_CALLS) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The body of a 200.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let (server, url, deadline) = (self.shared.name, self.url(&call.path), call.deadline);
        let answer = tokio::time::timeout(deadline, self.exchange(call, &url)).await;
        answer.unwrap_or(Err(CallError::Deadline { server, url, deadline }))
    }

    /// What the body of a 200 says.
    ///
    /// # Errors
    /// When there is none, or it is no JSON of this shape.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, CallError> {
        let path = call.path.clone();
        let body = self.call(call).await?;
        self.read(&path, &body)
    }

    /// What an answer says to a question for this path.
    ///
    /// # Errors
    /// When it is no JSON of this shape.
    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, CallError> {
        let (server, url) = (self.shared.name, self.url(path));
        serde_json::from_slice(body).map_err(|source| CallError::Json { server, url, source })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.shared.base)
    }

    async fn exchange(&self, call: Call, url: &str) -> Result<Bytes, CallError> {
        let server = self.shared.name;
        let failed = |source| CallError::Failed { server, url: url.to_owned(), source };
        let _slot = self.shared.slots.acquire().await.map_err(|error| failed(error.into()))?;
        let (method, limit_bytes) = (call.method.clone(), call.limit_bytes);
        let request = request(call, url).map_err(failed)?;
        let response = self.shared.client.request(request).await.map_err(|error| failed(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit_bytes).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes);
        if status != StatusCode::OK {
            let said = body
                .map(|body| String::from_utf8_lossy(body.get(..SAID_BYTES).unwrap_or(&body)).into_owned());
            let (url, said) = (url.to_owned(), said.unwrap_or_default());
            return Err(CallError::Status { server, method, url, status, said });
        }
        body.map_err(|source| CallError::Body { server, url: url.to_owned(), limit_bytes, source })
    }
}

fn request(call: Call, url: &str) -> Result<Request<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let mut request = Request::new(Full::from(call.form.clone().unwrap_or_default()));
    *request.method_mut() = call.method;
    *request.uri_mut() = url.parse()?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.extend(call.authorization.map(|authorization| (AUTHORIZATION, authorization)));
    if call.form.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    }
    Ok(request)
}

/// The URL that paths are put behind, if it can be one.
fn base(url: &str) -> Option<String> {
    let base = url.trim_end_matches('/');
    let parsed: Uri = base.parse().ok()?;
    let authority = parsed.authority()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    let port_is_one = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
    // A password would be sent nowhere, and shown in every message.
    let plain = parsed.query().is_none() && !authority.as_str().contains('@');
    (parsed.scheme_str() == Some("https") && port_is_one && plain).then(|| base.to_owned())
}
