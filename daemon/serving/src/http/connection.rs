//! One connection from its first byte to its last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    reply, route,
    watch::{Phase, Watch, Watched},
};
use crate::{Instance, serving::Serving};

/// The longest head and, at the same time, the largest piece in which a body is read.
const BUFFER: usize = 256 << 10;
const MAX_HEADERS: usize = 64;

/// Serves requests on `stream` until the caller leaves, is too slow, or `stop` asks for the end, which lets the
/// request in flight finish.
pub(crate) async fn run<I, S>(serving: Arc<Serving<I>>, stream: S, watch: Arc<Watch>, stop: CancellationToken)
where
    I: Instance,
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let _open = serving.traffic.connect();
    let service = service_fn(|request| {
        let (serving, watch) = (&serving, &watch);
        async move {
            watch.set(Phase::Work);
            let reply = route::answer(serving, watch, request).await;
            watch.set(Phase::Idle);
            Ok::<_, Infallible>(reply)
        }
    });
    let mut builder = http1::Builder::new();
    // No `pipeline_flush`: it holds back an answer while anything unread is there, and so the answer to a bad request
    // for good.
    builder.max_buf_size(BUFFER).max_headers(MAX_HEADERS).half_close(false);
    let mut connection = builder.serve_connection(Watched::new(stream, Arc::clone(&watch)), service);
    let mut stopping = false;
    let slow = loop {
        // Every arm is safe to drop: the connection itself stays where it is.
        tokio::select! {
            biased;
            // What went wrong on a connection is between the caller and its kernel.
            _ended = &mut connection => break false,
            () = watch.kicked() => break matches!(watch.get().0, Phase::Head | Phase::Body),
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let mut stream = connection.into_parts().io.into_inner();
    if slow {
        let wrote = timeout(GOODBYE, stream.write_all(reply::too_slow().as_bytes())).await;
        drop(wrote);
    }
    let linger = slow || watch.lingers();
    // The caller may have gone; then there is nobody to say goodbye to.
    drop(timeout(GOODBYE, goodbye(&mut stream, linger)).await);
}

const GOODBYE: Duration = Duration::from_secs(1);
/// What is read of a refused body, so that the caller gets to read the answer instead of a reset.
const LINGER_BYTES: usize = 64 << 20;

async fn goodbye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, linger: bool) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut left = if linger { LINGER_BYTES } else { 0 };
    let mut sink = vec![0; if linger { 16 << 10 } else { 0 }];
    while left > 0 {
        let read = stream.read(&mut sink).await?;
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}
