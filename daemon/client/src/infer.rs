//! Predictions over the Open Inference Protocol, on the socket for applications.

use agentd_types::{Code, ModelName};
use agentd_wire::ErrorDetail;
use serde_json::Value;

use crate::{Client, ClientError, client::escape};

impl Client {
    /// Metadata of a model as the protocol gives it: names, datatypes and shapes of inputs and outputs.
    ///
    /// Call it on a client of the daemon's `infer.sock`.
    ///
    /// # Errors
    /// As every call; the protocol's own message when the server says no.
    pub async fn model_metadata(&self, model: &ModelName) -> Result<Value, ClientError> {
        self.protocol(&format!("/v2/models/{}", escape(model)), None).await
    }

    /// Answers one request: `request` and the answer are those of `POST /v2/models/{model}/infer` in JSON.
    ///
    /// Call it on a client of the daemon's `infer.sock`.
    ///
    /// # Errors
    /// As every call; the protocol's own message when the server says no.
    pub async fn infer(&self, model: &ModelName, request: &Value) -> Result<Value, ClientError> {
        self.protocol(&format!("/v2/models/{}/infer", escape(model)), Some(request)).await
    }

    async fn protocol(&self, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let (status, bytes) = self.raw(path, body.map(|body| body.to_string().into_bytes())).await?;
        let answer: Value =
            serde_json::from_slice(&bytes).map_err(|error| ClientError::Garbled(error.to_string()))?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        let code = text("code").and_then(|code| serde_json::from_value::<Code>(Value::String(code)).ok());
        let detail = ErrorDetail {
            code: code.unwrap_or_else(|| Code::new("serving.refused")),
            message: text("error").unwrap_or_else(|| format!("status {status}")),
            hint: None,
        };
        Err(ClientError::Refused { status, detail })
    }
}
