//! What a client out of order gets: always a status of the 400s with a code and a message that names the field.

use serde_json::Value;

use crate::harness::*;

/// Sends one bad request on a connection, then a good one to the same server; both must be answered as they should.
#[track_caller]
fn check(answer: &Answer, status: u16, code: &str, words: &str, what: &str) {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, status, "{what}: {body}");
    assert_eq!(answer.header("agentd-code"), Some(code), "{what}: {body}");
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["code"], code, "{what}");
    let message = json["error"].as_str().unwrap();
    assert!(message.contains(words), "{what}: `{message}` does not say `{words}`");
    assert!(message.len() < 600, "{what}: {message}");
}

fn with(fields: &str) -> String {
    format!(r#"{{"inputs":[{{{fields}}}]}}"#)
}

/// An input of `add` with this shape and data.
fn x(shape: &str, data: &str) -> String {
    with(&format!(r#""name":"x","datatype":"FP32","shape":{shape},"data":{data}"#))
}

#[tokio::test]
async fn json_out_of_order_is_refused_with_the_field_at_fault() {
    let server = Server::with_models();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_data = x("[1,4]", &deep);
    let deep_extra = format!(r#"{{"other":{deep},"inputs":{deep}}}"#);
    let many = format!(r#"{{"inputs":[{}]}}"#, vec!["{}"; 5000].join(","));
    let rank = x(&format!("[{}]", vec!["1"; 33].join(",")), "[1]");
    let long_name =
        with(&format!(r#""name":"{}","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]"#, "n".repeat(9000)));
    let cases: Vec<(String, &str, &str)> = [
        ("", "request.json", "EOF"),
        ("{", "request.json", "EOF"),
        ("[]", "request.json", "object"),
        ("null", "request.json", "object"),
        ("\u{feff}{}", "request.json", "column"),
        ("{} {}", "request.field", "inputs"),
        (r#"{"inputs":[]}x"#, "request.json", "trailing"),
        ("{}", "request.field", "`inputs`"),
        (r#"{"inputs":{}}"#, "request.json", "inputs"),
        (r#"{"inputs":null}"#, "request.json", "inputs"),
        (r#"{"inputs":[]}"#, "request.input_missing", "`x`"),
        (r#"{"inputs":[],"inputs":[]}"#, "request.field", "twice"),
        (r#"{"inputs":[1]}"#, "request.json", "an input"),
        (r#"{"id":5,"inputs":[]}"#, "request.json", "string"),
        (r#"{"id":"a","id":"b","inputs":[]}"#, "request.field", "`id`"),
        (r#"{"parameters":[],"inputs":[]}"#, "request.json", "parameters"),
        (r#"{"parameters":{"binary_data_output":1},"inputs":[]}"#, "request.json", "boolean"),
        (r#"{"parameters":{"timeout":-1},"inputs":[]}"#, "request.json", "u64"),
        (r#"{"parameters":{"sequence_id":7},"inputs":[]}"#, "request.unsupported", "sequence_id"),
        (r#"{"outputs":{},"inputs":[]}"#, "request.json", "outputs"),
        (r#"{"outputs":[{}],"inputs":[]}"#, "request.field", "outputs[].name"),
        (r#"{"outputs":[{"name":"y"}],"inputs":[]}"#, "request.output_unknown", "out_x"),
        (r#"{"outputs":[{"name":"out_x"},{"name":"out_x"}],"inputs":[]}"#, "request.output_twice", "out_x"),
        (r#"{"outputs":[{"name":"out_x","parameters":{"classification":2}}],"inputs":[]}"#, "request.unsupported", "classification"),
    ]
    .map(|(body, code, words)| (body.to_owned(), code, words))
    .into_iter()
    .chain([
        (with(""), "request.field", "inputs[].name"),
        (with(r#""name":"x""#), "request.data", "datatype"),
        (with(r#""name":"x","datatype":"FP32""#), "request.data", "shape"),
        (with(r#""name":"x","datatype":"FP32","shape":[1,4]"#), "request.data", "binary_data_size"),
        (with(r#""name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4],"data":[1]"#), "request.field", "twice"),
        (with(r#""name":"x","name":"x""#), "request.field", "inputs[].name"),
        (with(r#""name":3"#), "request.json", "string"),
        (with(r#""name":"z","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]"#), "request.input_unknown", "`z`"),
        (long_name, "request.input_unknown", "nnnn"),
        (with(r#""name":"x","datatype":"FP64","shape":[1,4],"data":[1,2,3,4]"#), "request.datatype", "FP32"),
        (with(r#""name":"x","datatype":"float","shape":[1,4],"data":[1,2,3,4]"#), "request.datatype", "float"),
        (with(r#""name":"x","datatype":32,"shape":[1,4],"data":[1,2,3,4]"#), "request.json", "string"),
        (x("[1,5]", "[1,2,3,4,5]"), "request.shape", "[-1, 4]"),
        (x("[4]", "[1,2,3,4]"), "request.shape", "[4]"),
        (x("[]", "[1]"), "request.shape", "[]"),
        (x("[-1,4]", "[1,2,3,4]"), "request.field", "-1"),
        (x("[1.0,4]", "[1,2,3,4]"), "request.json", "column"),
        (x("[\"1\",4]", "[1,2,3,4]"), "request.json", "column"),
        (x("4", "[1,2,3,4]"), "request.json", "shape"),
        (x("[4294967297,4]", "[1]"), "request.shape", "2^32"),
        (x("[18446744073709551615,4]", "[1]"), "request.shape", "2^32"),
        (x("[18446744073709551616,4]", "[1]"), "request.field", "18446744073709551616"),
        (x("[99999999999999999999999999999999999999999,4]", "[1]"), "request.json", "number"),
        (rank, "request.field", "32 dimensions"),
        (x("[1000000000,4]", "[1,2,3,4]"), "request.data", "4 elements"),
        (x("[1,4]", "[1,2,3]"), "request.data", "3 elements"),
        (x("[1,4]", "[1,2,3,4,5]"), "request.data", "more than the 4"),
        (x("[1,4]", "[]"), "request.data", "0 elements"),
        (x("[1,4]", "[[]]"), "request.data", "0 elements"),
        (x("[2,4]", "[[1,2,3],[4,5,6,7,8]]"), "request.data", "3 at dimension 1"),
        (x("[2,4]", "[[1,2,3,4],5,6,7,8]"), "request.data", "nested"),
        (x("[2,4]", "[1,2,3,4,[5,6,7,8]]"), "request.data", "nested"),
        (x("[1,4]", "[[[1,2,3,4]]]"), "request.data", "deeper"),
        (x("[1,4]", "1"), "request.data", "an array"),
        (x("[1,4]", "{}"), "request.data", "an array"),
        (x("[1,4]", "null"), "request.data", "an array"),
        (x("[1,4]", "[1,2,3,null]"), "request.data", "null"),
        (x("[1,4]", "[1,2,3,\"4\"]"), "request.data", "string"),
        (x("[1,4]", "[1,2,3,true]"), "request.data", "true"),
        (x("[1,4]", "[1,2,3,NaN]"), "request.data", "column"),
        (x("[1,4]", "[1,2,3,1e39]"), "request.data", "finite FP32"),
        (x("[1,4]", "[1,2,3,1e999]"), "request.data", "out of range"),
        (x("[1,4]", "[1,2,3,4"), "request.data", "column"),
        (x("[1,4]", "[1,2,3,{}]"), "request.data", "map"),
        (deep_data, "request.data", "deeper"),
        (deep_extra, "request.json", "an input"),
        (many, "request.field", "inputs[].name"),
        (with(r#""data":[1,2,3],"name":"x","datatype":"FP32","shape":[1,4]"#), "request.data", "3 elements"),
        (with(r#""data":[1,2,3,4],"name":"x","datatype":"FP32","shape":[1,4],"data":[1]"#), "request.field", "twice"),
        (with(r#""name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4],"parameters":{"binary_data_size":16}"#), "request.data", "beside"),
        (with(r#""name":"x","datatype":"FP32","shape":[1,4],"parameters":{"shared_memory_region":"r"}"#), "request.unsupported", "shared"),
        (with(r#""name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}"#), "request.binary", "16 binary bytes"),
        (with(r#""name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":-1}"#), "request.json", "u64"),
    ])
    .collect();
    assert!(cases.len() >= 70, "{}", cases.len());
    for (body, code, words) in &cases {
        let answer = server.ask(&post("/v2/models/add/infer", "", body.as_bytes())).await;
        check(&answer, 400, code, words, body.get(..body.len().min(120)).unwrap_or("..."));
    }
    assert_eq!(numbers(&server.ask(&add_request(&[1.0; 4])).await), [2.0; 4]);
    let status = server.serving.status(&name("add")).unwrap();
    assert_eq!(status.active.failure, cases.len() as u64);
    assert_eq!((status.active.in_flight, status.active.success), (0, 1));
}

#[tokio::test]
async fn inputs_are_wanted_once_each() {
    let server = Server::with_models();
    let a = r#"{"name":"a","datatype":"FP32","shape":[2],"data":[1,2]}"#;
    for (inputs, code, words) in
        [(format!("{a},{a}"), "request.input_twice", "`a`"), (a.to_owned(), "request.input_missing", "`b`")]
    {
        let body = format!(r#"{{"inputs":[{inputs}]}}"#);
        let answer = server.ask(&post("/v2/models/two/infer", "", body.as_bytes())).await;
        check(&answer, 400, code, words, &body);
    }
}

#[tokio::test]
async fn elements_beyond_their_datatype_are_refused() {
    let server = Server::with_models();
    for (datatype, data) in [
        ("BOOL", "[1]"),
        ("BOOL", "[\"true\"]"),
        ("UINT8", "[256]"),
        ("UINT8", "[-1]"),
        ("UINT8", "[1.0]"),
        ("INT8", "[128]"),
        ("INT16", "[-32769]"),
        ("UINT16", "[65536]"),
        ("INT32", "[2147483648]"),
        ("UINT32", "[4294967296]"),
        ("INT64", "[9223372036854775808]"),
        ("UINT64", "[18446744073709551616]"),
        ("UINT64", "[true]"),
        ("FP16", "[1.0]"),
        ("BF16", "[1.0]"),
        ("FP64", "[\"1\"]"),
        ("BYTES", "[1]"),
        ("BYTES", "[\"\\ud800\"]"),
    ] {
        let body = with(&format!(r#""name":"x","datatype":"{datatype}","shape":[1],"data":{data}"#));
        // A 16-bit output is asked for in binary, so that the input is what is at fault.
        let body = body.replacen('{', r#"{"parameters":{"binary_data_output":true},"#, 1);
        let path = format!("/v2/models/id/{}/infer", datatype.to_lowercase());
        let answer = server.ask(&post(&path, "", body.as_bytes())).await;
        check(&answer, 400, "request.data", "`x`", &format!("{datatype} {data}"));
    }
}

#[tokio::test]
async fn binary_out_of_order_is_refused() {
    let server = Server::with_models();
    let header = |datatype: &str, shape: &str, size: u64| {
        with(&format!(
            r#""name":"x","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{size}}}"#
        ))
        .replacen('{', r#"{"parameters":{"binary_data_output":true},"#, 1)
    };
    let fp32 = |size| header("FP32", "[1,4]", size);
    for (model, json, binary, code, words) in [
        ("add", fp32(16), vec![0; 15], "request.binary", "16 binary bytes and 15"),
        ("add", fp32(16), vec![0; 17], "request.binary", "17 follow"),
        ("add", fp32(15), vec![0; 15], "request.binary", "need 16"),
        ("add", fp32(0), vec![], "request.binary", "need 16"),
        ("add", fp32(u64::MAX), vec![0; 16], "request.binary", "18446744073709551615"),
        ("add", header("FP32", "[1000000000,4]", 16), vec![0; 16], "request.binary", "16000000000"),
        ("add", header("FP32", "[4611686018427387904,4]", 16), vec![0; 16], "request.shape", "2^32"),
        ("id/bytes", header("BYTES", "[1]", 3), vec![0; 3], "request.binary", "lengths"),
        ("id/bytes", header("BYTES", "[1]", 5), b"\x02\0\0\0a".to_vec(), "request.binary", "lengths"),
        ("id/bytes", header("BYTES", "[1]", 6), b"\x01\0\0\0ab".to_vec(), "request.binary", "lengths"),
        ("id/bytes", header("BYTES", "[4294967296]", 4), vec![0; 4], "request.binary", "lengths"),
        ("id/bytes", header("BYTES", "[1]", 4), b"\xff\xff\xff\xff".to_vec(), "request.binary", "lengths"),
        ("id/bool", header("BOOL", "[1]", 1), vec![2], "request.binary", "BOOL"),
    ] {
        let headers = format!("inference-header-content-length: {}\r\n", json.len());
        let body = [json.as_bytes(), &binary].concat();
        let answer = server.ask(&post(&format!("/v2/models/{model}/infer"), &headers, &body)).await;
        check(&answer, 400, code, words, &json);
    }
    for (value, code, words) in [
        ("9999", "request.header_length", "9999"),
        ("-1", "request.field", "-1"),
        ("+5", "request.field", "+5"),
        ("abc", "request.field", "abc"),
        ("99999999999999999999999", "request.field", "99999999999999999999999"),
        ("1\r\ninference-header-content-length: 2", "request.field", "one number"),
    ] {
        let headers = format!("inference-header-content-length: {value}\r\n");
        check(&server.ask(&post("/v2/models/add/infer", &headers, b"{}")).await, 400, code, words, value);
    }
    let raw = "inference-header-content-length: 0\r\n";
    for (model, body, code, words) in [
        ("two", &b"1234"[..], "request.unsupported", "exactly one input"),
        ("add", b"12345", "request.binary", "need 0"),
        ("fixed", b"1234", "request.binary", "need 16"),
        ("id/fp32", b"12345", "request.binary", "need 4"),
    ] {
        check(
            &server.ask(&post(&format!("/v2/models/{model}/infer"), raw, body)).await,
            400,
            code,
            words,
            model,
        );
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_told() {
    let server = Server::with_models();
    for (request, status, code, words) in [
        (get("/"), 404, "request.path", "`"),
        (get("/v1/models"), 404, "request.path", "/v1/models"),
        (get("/v2/nothing"), 404, "request.path", "nothing"),
        (get("/v2/models"), 404, "request.path", "/v2/models"),
        (get("/v2/models/"), 404, "model.unknown", "``"),
        (get("/v2/models/none"), 404, "model.unknown", "`none`"),
        (get("/v2/models/none/ready"), 404, "model.unknown", "`none`"),
        (get("/v2/models/none/versions/3/ready"), 404, "model.unknown", "`none`"),
        (get("/v2/models/add/versions/9"), 404, "model.version", "`9`"),
        (get("/v2/models/add/versions/x/ready"), 404, "model.version", "`x`"),
        (get("/v2/models/add/nothing"), 404, "model.unknown", "add/nothing"),
        (get("/v2/models/%ff"), 404, "request.path", "%ff"),
        (get("/v2/models/%4"), 404, "request.path", "%4"),
        (get("/v2/models/..%2f..%2fetc"), 404, "model.unknown", "../../etc"),
        (get("/v2/models/add/infer"), 405, "request.method", "POST"),
        (post("/v2/models/add/ready", "", b""), 405, "request.method", "GET"),
        (post("/v2", "", b""), 405, "request.method", "GET"),
        (get("/v2/repository/index"), 405, "request.method", "POST"),
        (post("/v2/models/none/infer", "", b"{}"), 404, "model.unknown", "none"),
        (post("/v2/repository/models/add/unload", "", b"{}"), 400, "request.unsupported", "signed"),
        (get("/v2/systemsharedmemory/status"), 400, "request.unsupported", "shared memory"),
        (post("/v2/models/add/infer", "content-encoding: gzip\r\n", b"{}"), 415, "request.encoding", "gzip"),
    ] {
        let what = String::from_utf8_lossy(&request).into_owned();
        check(&server.ask(&request).await, status, code, words, &what);
    }
    let answer = server.ask(&get("/v2/models/add/infer")).await;
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test]
async fn http_out_of_order_is_a_status_of_the_400s() {
    let server = Server::with_models();
    let path = "POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\n";
    let huge = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(400_000));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    let bad_utf8 =
        [format!("{path}content-length: 11\r\n\r\n").as_bytes(), b"{\"id\":\"\xff\xfe\"}"].concat();
    for request in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"\0\0\0\0\r\n\r\n".to_vec(),
        huge.into_bytes(),
        headers.into_bytes(),
        format!("{path}content-length: abc\r\n\r\n{{}}").into_bytes(),
        format!("{path}content-length: -1\r\n\r\n{{}}").into_bytes(),
        format!("{path}content-length: 1\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes(),
        format!("{path}content-length: 99999999999999999999999\r\n\r\n{{}}").into_bytes(),
        format!("{path}content-length: 9000000000000000\r\n\r\n{{}}").into_bytes(),
        format!("{path}transfer-encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
        format!("{path}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n").into_bytes(),
        bad_utf8,
    ] {
        let answer = server.ask(&request).await;
        let what = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
        assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
    }
    // HTTP/2 has no answer in HTTP/1.1.
    let mut client = server.client().await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(client.is_closed().await);
    assert_eq!(numbers(&server.ask(&add_request(&[1.0; 4])).await), [2.0; 4]);
}

#[tokio::test]
async fn a_body_beyond_what_the_schema_allows_is_refused_unread() {
    let server = Server::with_models();
    // `fixed` has 4 elements: 64 KiB for the rest and 40 bytes each.
    let limit = (64 << 10) + 4 * 40;
    for body in [vec![b' '; limit + 1], vec![b' '; 2 << 20]] {
        let answer = server.ask(&post("/v2/models/fixed/infer", "", &body)).await;
        check(&answer, 413, "request.too_large", &limit.to_string(), "too long");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let chunk = format!("{:x}\r\n{}\r\n", 50_000, " ".repeat(50_000));
    let chunked = format!(
        "POST /v2/models/fixed/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}"
    );
    check(&server.ask(chunked.as_bytes()).await, 413, "request.too_large", &limit.to_string(), "chunks");
    let answer = server.ask(&post("/v2/models/fixed/infer", "", &vec![b' '; limit])).await;
    check(&answer, 400, "request.json", "EOF", "just within the limit");
}
