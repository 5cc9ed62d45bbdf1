//! A server on a temporary Unix socket, fake models and a client that says exactly what it is told.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use agentd_engine::{Tensor, TensorView};
use agentd_serving::{
    Finite, Instance, InstanceError, Limits, Listener, Respawning, Serving, ServingEvent, Version, serve,
};
use agentd_types::{
    Code, Datatype, Digest, EngineKind, ManualClock, ModelName, Setting, TensorSpec, UnixTime,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Long enough for a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the fake model `add` does when its first element is this.
pub const DIES: f32 = 1000.0;
pub const HANGS: f32 = 1001.0;
pub const GIVES_NAN: f32 = 1002.0;
pub const FAILS: f32 = 1003.0;
pub const WAITS: f32 = 1004.0;
pub const GIVES_TOO_FEW: f32 = 1005.0;
pub const REFUSES: f32 = 1006.0;

/// Adds its version to every FP32 element; passes all else on as it is.
pub struct Fake {
    pub version: u64,
    /// Releases a request that waits.
    pub gate: Arc<Notify>,
    /// Inferences so far, of all instances that share it.
    pub runs: Arc<AtomicUsize>,
    /// Dies of any request.
    doomed: bool,
    dead: bool,
}

impl Fake {
    pub fn doomed(version: u64) -> Self {
        Self { version, gate: Arc::default(), runs: Arc::default(), doomed: true, dead: false }
    }

    fn died(&mut self) -> InstanceError {
        self.dead = true;
        InstanceError::Died { code: Code::new("worker.died"), message: "the worker died".into() }
    }
}

impl Instance for Fake {
    async fn infer(
        &mut self,
        inputs: &[TensorView<'_>],
        deadline: Duration,
    ) -> Result<Vec<Tensor>, InstanceError> {
        assert!(!self.dead, "a dead instance is never asked");
        self.runs.fetch_add(1, SeqCst);
        if self.doomed {
            return Err(self.died());
        }
        let engine = |what: &str| (Code::new("engine.run"), what.to_owned());
        let first = match inputs {
            [x, ..] if x.datatype == Datatype::Fp32 => x.to_f64().first().map(|v| *v as f32),
            _ => None,
        };
        match first {
            Some(DIES) => return Err(self.died()),
            Some(HANGS) => {
                let _elapsed = timeout(deadline, std::future::pending::<()>()).await;
                self.dead = true;
                return Err(InstanceError::Late {
                    code: Code::new("worker.deadline"),
                    message: "late".into(),
                });
            }
            Some(FAILS) => {
                let (code, message) = engine("the engine says no");
                return Err(InstanceError::Failed { code, message });
            }
            Some(REFUSES) => {
                let (code, message) = engine("input `x`: too odd");
                return Err(InstanceError::Input { code, message });
            }
            Some(WAITS) => self.gate.notified().await,
            Some(GIVES_TOO_FEW) => return Ok(Vec::new()),
            _ => tokio::task::yield_now().await,
        }
        let add = |x: &TensorView<'_>| {
            if x.datatype != Datatype::Fp32 {
                return x.to_tensor();
            }
            let values: Vec<f32> = x.to_f64().iter().map(|v| *v as f32 + self.version as f32).collect();
            let nan = vec![f32::NAN; values.len()];
            let values = if first == Some(GIVES_NAN) { nan } else { values };
            Tensor::from_f32(x.shape.to_vec(), &values).unwrap()
        };
        Ok(inputs.iter().map(add).collect())
    }
}

pub fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }
}

pub fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

/// A version of fakes whose outputs are its inputs, each named with `out_` in front.
pub fn version(number: u64, inputs: Vec<TensorSpec>, instances: usize) -> Version<Fake> {
    let outputs = inputs.iter().map(|i| spec(&format!("out_{}", i.name), i.datatype, &i.shape)).collect();
    let (gate, runs) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let make =
        move || Fake { version: number, gate: gate.clone(), runs: runs.clone(), doomed: false, dead: false };
    let instances = (0..instances).map(|_| make()).collect();
    Version {
        version: number,
        bundle: Digest::of(&number.to_le_bytes()),
        setting: Setting { engine: EngineKind::Cpu, threads: 1, batch: 1 },
        inputs,
        outputs,
        instances,
        respawn: Arc::new(move || -> Respawning<Fake> {
            let fresh = make();
            Box::pin(async move { Ok(fresh) })
        }),
        queue: 64,
        deadline: PATIENCE,
        finite: Finite::Required,
    }
}

/// The model `add`: one input `x` of FP32 `[-1, 4]`.
pub fn add(number: u64) -> Version<Fake> {
    version(number, vec![spec("x", Datatype::Fp32, &[-1, 4])], 2)
}

pub struct Server {
    pub serving: Arc<Serving<Fake>>,
    pub events: mpsc::Receiver<ServingEvent>,
    pub path: PathBuf,
    pub stop: CancellationToken,
    pub task: AbortOnDropHandle<()>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("infer.sock");
        let (tx, events) = mpsc::channel(64);
        let serving = Serving::new(limits, Arc::new(ManualClock::at(UnixTime(1_795_593_600))), tx);
        let listener = Listener::unix(&path, 0o600).unwrap();
        let stop = CancellationToken::new();
        let task = own(serve(serving.clone(), vec![listener], stop.clone()));
        Self { serving, events, path, stop, task, _folder: folder }
    }

    /// A server with `add` 1, and one model of each kind that the protocol's cases need.
    pub fn with_models() -> Self {
        let server = Self::start(Limits::default());
        server.activate("add", add(1));
        server.activate("demo/digits", add(1));
        let both = vec![spec("a", Datatype::Fp32, &[2]), spec("b", Datatype::Int64, &[-1])];
        server.activate("two", version(1, both, 1));
        server.activate("fixed", version(1, vec![spec("x", Datatype::Fp32, &[1, 4])], 1));
        for datatype in Datatype::ALL {
            let model = format!("id/{}", datatype.as_str().to_lowercase());
            server.activate(&model, version(1, vec![spec("x", datatype, &[-1])], 1));
        }
        server
    }

    pub fn activate(&self, model: &str, version: Version<Fake>) {
        self.serving.activate(&name(model), version).unwrap();
    }

    pub async fn client(&self) -> Client {
        Client { stream: UnixStream::connect(&self.path).await.unwrap(), read: Vec::new() }
    }

    /// The answer to one request on a connection of its own.
    pub async fn ask(&self, request: &[u8]) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(100)]);
        client.answer().await.unwrap_or_else(|| panic!("no answer to {shown}"))
    }

    pub async fn event(&mut self) -> ServingEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").unwrap()
    }
}

/// A task that ends with its handle.
#[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
pub fn own<F: Future<Output: Send> + Send + 'static>(work: F) -> AbortOnDropHandle<F::Output> {
    let task: JoinHandle<_> = tokio::spawn(work);
    AbortOnDropHandle::new(task)
}

pub struct Client {
    pub stream: UnixStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> Value {
        let length =
            self.header("inference-header-content-length").map_or(self.body.len(), |n| n.parse().unwrap());
        serde_json::from_slice(&self.body[..length])
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// What follows the JSON.
    pub fn binary(&self) -> &[u8] {
        &self.body[self.header("inference-header-content-length").unwrap().parse().unwrap()..]
    }
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        // A server that refuses may close before it has read everything.
        let _sent = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("sent in time");
    }

    /// The next answer; `None` when the server closes without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        let end = self.until(|read| read.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)).await?;
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |n| n.parse().unwrap());
        self.until(|read| (read.len() >= length).then_some(length)).await?;
        answer.body = self.read.drain(..length).collect();
        Some(answer)
    }

    /// Whether the server closes the connection.
    pub async fn is_closed(&mut self) -> bool {
        let mut sink = [0; 4096];
        loop {
            match timeout(PATIENCE, self.stream.read(&mut sink)).await {
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(_)) => {}
                Err(_) => return false,
            }
        }
    }

    async fn until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        loop {
            if let Some(at) = found(&self.read) {
                return Some(at);
            }
            let mut piece = [0; 65_536];
            match timeout(PATIENCE, self.stream.read(&mut piece)).await.expect("an answer in time") {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.read.extend_from_slice(&piece[..n]),
            }
        }
    }
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A JSON request for `add` with these elements in one row each of four.
pub fn add_request(values: &[f32]) -> Vec<u8> {
    let rows = values.len() / 4;
    let body =
        format!(r#"{{"inputs":[{{"name":"x","shape":[{rows},4],"datatype":"FP32","data":{values:?}}}]}}"#);
    post("/v2/models/add/infer", "", body.as_bytes())
}

/// The elements of output `out_x` in a JSON answer.
pub fn numbers(answer: &Answer) -> Vec<f64> {
    let json = answer.json();
    let data = json["outputs"][0]["data"].as_array().unwrap_or_else(|| panic!("{json}"));
    data.iter().map(|value| value.as_f64().unwrap()).collect()
}
