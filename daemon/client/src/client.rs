//! One call a connection: the socket is local and calls are rare.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use agentd_types::{Code, Coded, Digest, ModelName};
use agentd_wire::{
    Action, DeviceStatus, DoctorReport, ErrorBody, ErrorDetail, LackingChunks, ModelStatus, PinRequest,
    Receipt, RetryResult, RollbackRequest, RollbackResult, Versioned,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

use crate::EventStream;

/// No answer of the local API is larger.
const MAX_BODY: usize = 64 << 20;

/// Reaches the daemon of this machine.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or we may not talk to it.
    #[error("nobody answers on `{socket}`")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon took longer than the deadline.
    #[error("the daemon did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The daemon said no.
    #[error("{}", .detail.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's own code, message and hint.
        detail: ErrorDetail,
    },
    /// The connection broke or the answer makes no sense.
    #[error("the daemon's answer cannot be understood: {0}")]
    Garbled(String),
}

impl Coded for ClientError {
    fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::new("client.unreachable"),
            Self::TimedOut(_) => Code::new("client.timeout"),
            Self::Refused { detail, .. } => detail.code.clone(),
            Self::Garbled(_) => Code::new("client.garbled"),
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut(_))
    }
}

/// A body whose connection is driven by the task kept beside it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: JoinSet<()>,
}

impl Client {
    /// A client of the daemon on `socket`; each call takes at most `timeout`.
    pub fn new(socket: impl AsRef<Path>, timeout: Duration) -> Self {
        Self { socket: socket.as_ref().to_owned(), timeout }
    }

    /// The device and all its models.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn status(&self) -> Result<DeviceStatus, ClientError> {
        self.get("/v1/status").await
    }

    /// One model.
    ///
    /// # Errors
    /// Also when the device does not know the model.
    pub async fn model(&self, name: &ModelName) -> Result<ModelStatus, ClientError> {
        self.get(&format!("/v1/models/{}", escape(name))).await
    }

    /// Why a model runs where it runs.
    ///
    /// # Errors
    /// Also when the model was never placed.
    pub async fn placement(&self, name: &ModelName) -> Result<Receipt, ClientError> {
        self.get(&format!("/v1/models/{}/placement", escape(name))).await
    }

    /// Takes another version that is on the device into service at once.
    ///
    /// # Errors
    /// Also when no such version is held.
    pub async fn roll_back(
        &self,
        name: &ModelName,
        request: &RollbackRequest,
    ) -> Result<RollbackResult, ClientError> {
        self.post(&format!("/v1/models/{}/rollback", escape(name)), request).await
    }

    /// Holds a model where it is, or lets it follow the desired state again.
    ///
    /// # Errors
    /// Also when the model does not serve.
    pub async fn pin(&self, name: &ModelName, action: Action) -> Result<ModelStatus, ClientError> {
        self.post(&format!("/v1/models/{}/pin", escape(name)), &PinRequest { action }).await
    }

    /// Lifts the quarantine of a model's bundles and tries at once what failed.
    ///
    /// # Errors
    /// Also when nothing of the model is in quarantine and nothing failed.
    pub async fn retry(&self, name: &ModelName) -> Result<RetryResult, ClientError> {
        self.send(Method::POST, &format!("/v1/models/{}/retry", escape(name)), Vec::new()).await
    }

    /// The device's own checks.
    ///
    /// # Errors
    /// As every call.
    pub async fn doctor(&self) -> Result<DoctorReport, ClientError> {
        self.get("/v1/doctor").await
    }

    /// The daemon's configuration as it is in force: key, value, where it came from.
    ///
    /// # Errors
    /// As every call.
    pub async fn config(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/config").await
    }

    /// Walks the whole journal and checks its chain.
    ///
    /// # Errors
    /// Also when the journal is not whole.
    pub async fn audit(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/audit").await
    }

    /// Hands a signed document to the device, as the broker would.
    ///
    /// `envelope`: the bytes of the DSSE envelope. Returns what was accepted.
    ///
    /// # Errors
    /// Also when the document is refused, with its `verify.` code.
    pub async fn offer_document(&self, envelope: Vec<u8>) -> Result<serde_json::Value, ClientError> {
        self.send(Method::POST, "/v1/documents", envelope).await
    }

    /// Hands a chunk of a wanted bundle to the device, as a transfer would.
    ///
    /// # Errors
    /// Also when no wanted bundle has a chunk with that digest.
    pub async fn offer_chunk(&self, chunk: Vec<u8>) -> Result<serde_json::Value, ClientError> {
        self.send(Method::POST, "/v1/chunks", chunk).await
    }

    /// Chunks that bundles under way lack, which [`Client::offer_chunk`] takes.
    ///
    /// # Errors
    /// As every call.
    pub async fn lacking_chunks(&self) -> Result<Vec<Digest>, ClientError> {
        self.get::<LackingChunks>("/v1/chunks").await.map(|lacking| lacking.lacking)
    }

    /// The journal after entry `after`; with `follow`, new entries as they come.
    ///
    /// # Errors
    /// As every call.
    pub async fn events(&self, after: u64, follow: bool) -> Result<EventStream, ClientError> {
        let path = format!("/v1/events?after={after}&follow={}", u8::from(follow));
        let answer = timeout(self.timeout, self.exchange(Method::GET, &path, Bytes::new()))
            .await
            .map_err(|_| ClientError::TimedOut(self.timeout))??;
        if answer.response.status().is_success() {
            Ok(EventStream::new(answer))
        } else {
            Err(refusal(answer).await)
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, Vec::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Garbled(error.to_string()))?;
        self.send(Method::POST, path, body).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let call = async {
            let answer = self.exchange(method, path, body.into()).await?;
            if !answer.response.status().is_success() {
                return Err(refusal(answer).await);
            }
            let bytes = read(answer).await?;
            let document: Versioned<T> =
                serde_json::from_slice(&bytes).map_err(|error| ClientError::Garbled(error.to_string()))?;
            Ok(document.body)
        };
        timeout(self.timeout, call).await.map_err(|_| ClientError::TimedOut(self.timeout))?
    }

    /// The status and body of a call whose form is not that of the local API.
    pub(crate) async fn raw(&self, path: &str, body: Option<Vec<u8>>) -> Result<(u16, Bytes), ClientError> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let call = async {
            let answer = self.exchange(method, path, body.unwrap_or_default().into()).await?;
            Ok((answer.response.status().as_u16(), read(answer).await?))
        };
        timeout(self.timeout, call).await.map_err(|_| ClientError::TimedOut(self.timeout))?
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let garbled = |error: hyper::Error| ClientError::Garbled(error.to_string());
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(garbled)?;
        let mut connection = JoinSet::new();
        // An error of the connection shows at the request or at the body.
        connection.spawn(async move { drop(driver.await) });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agentd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Garbled(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(garbled)?;
        Ok(Answer { response, connection })
    }
}

async fn read(answer: Answer) -> Result<Bytes, ClientError> {
    let Answer { response, connection } = answer;
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    drop(connection);
    Ok(body.map_err(|error| ClientError::Garbled(error.to_string()))?.to_bytes())
}

async fn refusal(answer: Answer) -> ClientError {
    let status: StatusCode = answer.response.status();
    match read(answer).await.map(|bytes| serde_json::from_slice::<ErrorBody>(&bytes)) {
        Ok(Ok(body)) => ClientError::Refused { status: status.as_u16(), detail: body.error },
        Ok(Err(_)) => ClientError::Garbled(format!("status {status} without a reason")),
        Err(error) => error,
    }
}

/// A model name as one path segment.
pub(crate) fn escape(name: &ModelName) -> String {
    name.as_str().replace('/', "%2F").replace('@', "%40")
}
