//! Asks the daemon for predictions, as an application does: Open Inference Protocol, HTTP/1.1 on a Unix socket.
//!
//! In: images. Out: the version that answered and its ten probabilities. One connection, one request at a time.

use std::{path::Path, time::Duration};

use agentd_types::ModelName;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

use crate::digits::{Digit, SIDE};

/// No prediction of this small model takes longer, even while versions are switched.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// An answer is some hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A connection on which predictions are asked for.
#[derive(Debug)]
pub(crate) struct Predictor {
    sender: SendRequest<Full<Bytes>>,
    path: String,
    // Drives the connection; it ends with us.
    _connection: JoinSet<()>,
}

/// What the model says about one image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The version that answered.
    pub(crate) version: u64,
    /// For the digits 0 to 9.
    pub(crate) probabilities: Vec<f32>,
}

impl Answer {
    /// The most probable digit.
    pub(crate) fn digit(&self) -> Option<u8> {
        let best = self.probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.and_then(|(digit, _)| u8::try_from(digit).ok())
    }
}

#[derive(Deserialize)]
struct Body {
    model_version: String,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    data: Vec<f32>,
}

impl Predictor {
    /// Connects to `socket` to ask `model`.
    pub(crate) async fn connect(socket: &Path, model: &ModelName) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("nobody answers on `{}`", socket.display()))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let mut connection = JoinSet::new();
        // An error of the connection shows at the request.
        connection.spawn(async move { drop(driver.await) });
        let path = format!("/v2/models/{}/infer", model.as_str().replace('/', "%2F"));
        Ok(Self { sender, path, _connection: connection })
    }

    /// What the model says about `digit`.
    pub(crate) async fn ask(&mut self, digit: &Digit) -> Result<Answer> {
        timeout(ANSWER_WITHIN, self.exchange(digit)).await.context("no answer in time")?
    }

    async fn exchange(&mut self, digit: &Digit) -> Result<Answer> {
        let body = json!({ "inputs": [{
            "name": "image", "datatype": "FP32", "shape": [1, 1, SIDE, SIDE], "data": digit.pixels,
        }]});
        let request = Request::post(&self.path)
            .header("host", "agentd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(&body)?)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let collected = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let bytes = collected.map_err(anyhow::Error::from_boxed)?.to_bytes();
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&bytes));
        }
        let body: Body = serde_json::from_slice(&bytes).context("the answer makes no sense")?;
        let output = body.outputs.into_iter().find(|output| output.name == "probabilities");
        Ok(Answer {
            version: body.model_version.parse().context("the answer names no version")?,
            probabilities: output.context("the answer lacks the probabilities")?.data,
        })
    }
}
