//! The three servers, each on a runtime of one thread.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use agentd_engine::{LoadSpec, Tensor, TensorView};
use agentd_isolation::{ModelFile, Program, Worker};
use agentd_serving::{
    Finite, Instance, InstanceError, Limits, Listener, Respawning, Serving, Version, serve,
};
use agentd_types::{Code, Datatype, Digest, EngineKind, ManualClock, Setting, TensorSpec};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Runs one server until its process is ended; prints its TCP address, or why it cannot run.
pub(crate) fn run(kind: &str, unix: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match kind {
            "floor" => floor(unix).await,
            "fake" => ours(vec![Fake], unix).await,
            _ => match worker().await {
                Ok(worker) => ours(vec![worker], unix).await,
                Err(error) => println!("left out: {error}"),
            },
        }
    });
}

async fn floor(unix: &Path) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unix = UnixListener::bind(unix).unwrap();
    println!("http://{}", tcp.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = tcp.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                tasks.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)));
            }
            accepted = unix.accept() => {
                let io = TokioIo::new(accepted.unwrap().0);
                tasks.spawn(http1::Builder::new().serve_connection(io, service_fn(echo)));
            }
        }
    }
}

/// Reads the whole body and answers a fixed one of 32 bytes.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    assert!(!body.is_empty(), "a body came");
    Ok(Response::new(Full::new(Bytes::from_static(&[7; 32]))))
}

fn specs() -> (Vec<TensorSpec>, Vec<TensorSpec>) {
    let spec = |name: &str, width| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: vec![-1, width],
    };
    (vec![spec("x", 16)], vec![spec("y", 8)])
}

/// What placement chooses for such a model.
const SETTING: Setting = Setting { engine: EngineKind::Native, threads: 1, batch: 1 };

async fn ours<I: Instance>(instances: Vec<I>, unix: &Path) {
    let (events, _kept) = mpsc::channel(1);
    let serving = Serving::new(Limits::default(), Arc::new(ManualClock::default()), events);
    let (inputs, outputs) = specs();
    let version = Version {
        version: 1,
        bundle: Digest::of(b"mlp"),
        setting: SETTING,
        inputs,
        outputs,
        instances,
        respawn: Arc::new(|| -> Respawning<I> {
            let error = InstanceError::Died { code: Code::new("bench.died"), message: "it died".into() };
            Box::pin(async move { Err(error) })
        }),
        queue: 64,
        deadline: Duration::from_secs(60),
        finite: Finite::Required,
    };
    serving.activate(&"mlp".parse().unwrap(), version).unwrap();
    let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    println!("{}", tcp.address());
    serve(serving, vec![tcp, Listener::unix(unix, 0o600).unwrap()], CancellationToken::new()).await;
}

/// Computes nothing.
struct Fake;

impl Instance for Fake {
    async fn infer(&mut self, _: &[TensorView<'_>], _: Duration) -> Result<Vec<Tensor>, InstanceError> {
        let bytes = Bytes::from_static(&[0; 32]);
        Ok(vec![Tensor { datatype: Datatype::Fp32, shape: vec![1, 8], bytes }])
    }
}

async fn worker() -> Result<Worker, Box<dyn std::error::Error>> {
    let program = Program::find()?;
    let (inputs, outputs) = specs();
    let model = ModelFile::from_bytes(&agentd_onnx::build::mlp(16, 32, 8, 1))?;
    let mut worker = Worker::start(&program, &agentd_isolation::Limits::default()).await?;
    worker.load(&model, &LoadSpec { setting: SETTING, inputs, outputs }, Duration::from_secs(60)).await?;
    Ok(worker)
}
