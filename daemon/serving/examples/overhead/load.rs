//! Asks a server over plain blocking sockets, checks every answer, and reads what the server's processes used.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

/// Where a server listens.
#[derive(Clone)]
pub(crate) enum Target {
    Tcp(String),
    Unix(String),
}

/// What one server showed in one round.
pub(crate) struct Figures {
    pub(crate) p10_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) per_second: f64,
    /// Of all threads of the server's processes, for each request.
    pub(crate) cpu_us: f64,
}

const REQUESTS: usize = 4000;

/// The inputs of the perceptron: 16 floats.
pub(crate) fn request() -> Vec<u8> {
    let header = br#"{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","parameters":{"binary_data_size":64}}],"parameters":{"binary_data_output":true}}"#;
    let values = (0..16_u8).flat_map(|i| (f32::from(i) / 16.0).to_le_bytes());
    let body: Vec<u8> = header.iter().copied().chain(values).collect();
    let head = format!(
        "POST /v2/models/mlp/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n\
         inference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n",
        header.len(),
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

/// Sends requests on as many connections, each waiting for its answer before it sends the next.
pub(crate) fn ask(target: &Target, server: u32, connections: usize) -> Figures {
    let each = REQUESTS / connections;
    let (cpu, begun) = (cpu_of(server), Instant::now());
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let target = target.clone();
            thread::spawn(move || match target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect(address).unwrap();
                    stream.set_nodelay(true).unwrap();
                    talk(stream, each)
                }
                Target::Unix(path) => talk(UnixStream::connect(path).unwrap(), each),
            })
        })
        .collect();
    let mut latencies: Vec<Duration> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let (took, cpu) = (begun.elapsed(), cpu_of(server).saturating_sub(cpu));
    latencies.sort();
    let count = (each * connections) as f64;
    let quantile = |q: usize| latencies[latencies.len() * q / 100].as_secs_f64() * 1e6;
    Figures {
        p10_us: quantile(10),
        p50_us: quantile(50),
        per_second: count / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
    }
}

fn talk(mut stream: impl Read + Write, requests: usize) -> Vec<Duration> {
    let request = request();
    let mut buffer = vec![0; 4096];
    let mut first: Option<Vec<u8>> = None;
    let mut latencies = Vec::with_capacity(requests);
    for _ in 0..requests {
        let begun = Instant::now();
        stream.write_all(&request).unwrap();
        let mut got = 0;
        let body = loop {
            got += stream.read(&mut buffer[got..]).unwrap();
            if let Some(body) = body_of(&buffer[..got]) {
                break body;
            }
        };
        latencies.push(begun.elapsed());
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..got]));
        match &first {
            Some(first) => assert!(first == body, "an answer differs from the first"),
            None => first = Some(body.to_vec()),
        }
    }
    latencies
}

/// The body of an answer that is whole.
fn body_of(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap()
        .parse::<usize>()
        .unwrap();
    answer.get(end..).filter(|body| body.len() >= length)
}

/// CPU time of a process and its children, from the scheduler's own books.
///
/// Source: the kernel's `Documentation/scheduler/sched-stats.rst`, first number of `schedstat`: nanoseconds on a CPU.
fn cpu_of(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    tasks
        .flatten()
        .map(|task| {
            let nanos = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = nanos.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(cpu_of);
            Duration::from_nanos(nanos) + children.sum::<Duration>()
        })
        .sum()
}
