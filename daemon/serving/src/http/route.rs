//! From a path to what answers it.
//!
//! A model's name may hold slashes. Written as `%2F` they are never taken for anything else; written plainly, a path
//! is first read with its last segments as the protocol's (`infer`, `versions/3`), and as part of the name only when
//! that reading names no model here.

use std::{borrow::Cow, sync::Arc};

use hyper::{Method, Request, StatusCode, body::Incoming};

use super::{
    infer::infer,
    reply::{self, Reply},
    watch::Watch,
};
use crate::{
    Instance, RequestError, metrics,
    oip::{self, shown},
    served::Served,
    serving::{Deployment, Serving},
};

/// Answers one request.
pub(crate) async fn answer<I: Instance>(
    serving: &Arc<Serving<I>>,
    watch: &Watch,
    request: Request<Incoming>,
) -> Reply {
    let path = request.uri().path();
    let routed = match path.strip_prefix("/v2/models/") {
        Some(rest) if rest.trim_end_matches('/') != "stats" => model(serving, rest),
        _ => return server(serving, request.method(), path).unwrap_or_else(|error| reply::refused(&error)),
    };
    let (model, action) = match routed {
        Ok(routed) => routed,
        Err(error) => return reply::refused(&error),
    };
    let allow = if action == Action::Infer { &[Method::POST][..] } else { &[Method::GET, Method::HEAD] };
    if !allow.contains(request.method()) {
        let allow = if action == Action::Infer { "POST" } else { "GET" };
        return reply::refused(&RequestError::Method { allow });
    }
    match action {
        Action::Infer => infer(serving, &model.served, watch, request).await,
        Action::Ready if model.served.pool.alive() > 0 => reply::status(StatusCode::OK),
        Action::Ready => reply::unready("every worker of the model is being replaced"),
        Action::Config => reply::document(&oip::config(&model.served)),
        Action::Stats => reply::document(&oip::statistics([&*model.served])),
        Action::Metadata => match serving.deployment(model.served.subject.model.as_str()) {
            Some(deployment) => reply::document(&oip::metadata(&deployment, &model.served)),
            None => reply::refused(&RequestError::Model { model: model.served.subject.model.to_string() }),
        },
    }
}

fn server<I: Instance>(serving: &Serving<I>, method: &Method, path: &str) -> Result<Reply, RequestError> {
    let get = |reply: &dyn Fn() -> Reply| {
        let ok = matches!(*method, Method::GET | Method::HEAD);
        if ok { Ok(reply()) } else { Err(RequestError::Method { allow: "GET" }) }
    };
    match path.strip_suffix('/').unwrap_or(path) {
        "/v2/health/live" | "/v2/health/ready" => get(&|| reply::status(StatusCode::OK)),
        "/v2" => get(&|| reply::document(&oip::server())),
        "/metrics" => get(&|| reply::metrics(metrics::render(serving))),
        "/v2/models/stats" => get(&|| {
            let versions = serving.versions();
            reply::document(&oip::statistics(versions.iter().map(|(served, _)| &**served)))
        }),
        "/v2/repository/index" if *method == Method::POST => {
            let versions = serving.versions();
            Ok(reply::document(&oip::index(versions.iter().map(|(served, _)| &**served))))
        }
        "/v2/repository/index" => Err(RequestError::Method { allow: "POST" }),
        other if other.starts_with("/v2/repository/models/") => Err(RequestError::Unsupported {
            what: "models are loaded and unloaded by signed documents, not over this interface",
        }),
        other if other.starts_with("/v2/systemsharedmemory") || other.starts_with("/v2/cudasharedmemory") => {
            Err(RequestError::Unsupported { what: "shared memory is not offered here" })
        }
        other => Err(RequestError::Path { path: shown(other) }),
    }
}

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Infer,
    Ready,
    Config,
    Stats,
    Metadata,
}

const ACTIONS: [(&str, Action); 4] = [
    ("/infer", Action::Infer),
    ("/ready", Action::Ready),
    ("/config", Action::Config),
    ("/stats", Action::Stats),
];

struct Model<I> {
    served: Arc<Served<I>>,
}

/// Finds the model that `rest`, what follows `/v2/models/`, names.
fn model<I: Instance>(serving: &Serving<I>, rest: &str) -> Result<(Model<I>, Action), RequestError> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let with_action = ACTIONS.iter().find_map(|(suffix, action)| Some((rest.strip_suffix(suffix)?, *action)));
    let mut first = None;
    for (name, action) in with_action.into_iter().chain([(rest, Action::Metadata)]) {
        // `name` may still end in a version; a plain name is tried when it does not lead to a model.
        if let Some((base, version)) = name.rsplit_once("/versions/")
            && let Some(deployment) = find(serving, base)?
        {
            return Ok((at_version(&deployment, version)?, action));
        }
        if let Some(served) = serving.active(&decoded(name)?) {
            return Ok((Model { served }, action));
        }
        first = first.or(Some(name));
    }
    let name = first.unwrap_or(rest);
    let name = name.rsplit_once("/versions/").map_or(name, |(base, _)| base);
    Err(RequestError::Model { model: shown(&decoded(name)?) })
}

fn find<I: Instance>(serving: &Serving<I>, name: &str) -> Result<Option<Deployment<I>>, RequestError> {
    Ok(serving.deployment(&decoded(name)?))
}

fn at_version<I: Instance>(deployment: &Deployment<I>, version: &str) -> Result<Model<I>, RequestError> {
    let served = deployment.version(version).ok_or_else(|| RequestError::Version {
        model: deployment.active.subject.model.to_string(),
        version: shown(version),
    })?;
    Ok(Model { served: Arc::clone(served) })
}

/// Percent-decoded text (RFC 3986, section 2.1).
fn decoded(text: &str) -> Result<Cow<'_, str>, RequestError> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let bad = || RequestError::Path { path: shown(text) };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
            bytes.push(value.ok_or_else(bad)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| bad())
}
