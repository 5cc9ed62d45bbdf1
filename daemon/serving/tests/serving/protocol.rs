//! What a client in order gets.

use agentd_types::Datatype;
use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn the_server_says_that_it_lives_and_what_it_is() {
    let server = Server::with_models();
    for path in
        ["/v2/health/live", "/v2/health/ready", "/v2/models/add/ready", "/v2/models/add/versions/1/ready"]
    {
        assert_eq!(server.ask(&get(path)).await.status, 200, "{path}");
    }
    let answer = server.ask(&get("/v2")).await;
    assert_eq!(answer.json()["name"], "agentd");
    assert!(answer.json()["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
}

#[tokio::test]
async fn a_model_describes_itself_under_every_spelling_of_its_name() {
    let server = Server::with_models();
    for path in [
        "/v2/models/demo/digits",
        "/v2/models/demo%2Fdigits",
        "/v2/models/demo%2fdigits/",
        "/v2/models/demo/digits/versions/1",
    ] {
        let answer = server.ask(&get(path)).await;
        assert_eq!(answer.status, 200, "{path}");
        let want = json!({
            "name": "demo/digits", "versions": ["1"], "platform": "agentd_cpu_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "out_x", "datatype": "FP32", "shape": [-1, 4]}],
        });
        assert_eq!(answer.json(), want, "{path}");
    }
    let config = server.ask(&get("/v2/models/add/config")).await.json();
    assert_eq!(config["input"][0], json!({"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4]}));
    let index = server.ask(&post("/v2/repository/index", "", b"{}")).await.json();
    assert!(index.as_array().unwrap().iter().any(|m| m["name"] == "two" && m["state"] == "READY"));
}

#[tokio::test]
async fn a_name_whose_last_segment_is_the_protocols_is_read_as_the_protocol_first() {
    let server = Server::with_models();
    server.activate("add/ready", add(7));
    server.activate("lone/ready", add(8));
    assert_eq!(server.ask(&get("/v2/models/add/ready")).await.body, b"");
    assert_eq!(server.ask(&get("/v2/models/add%2Fready")).await.json()["versions"], json!(["7"]));
    assert_eq!(server.ask(&get("/v2/models/lone/ready")).await.json()["versions"], json!(["8"]));
    assert_eq!(server.ask(&get("/v2/models/lone/ready/ready")).await.body, b"");
}

#[tokio::test]
async fn json_is_answered_in_json_whatever_the_order_and_nesting_of_its_fields() {
    let server = Server::with_models();
    for body in [
        r#"{"id":"a\"b","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2.5,-3e2,4]}]}"#,
        r#"{"inputs":[{"data":[[1,2.5,-300,4.0]],"datatype":"FP32","name":"x","shape":[1,4]}],"id":"a\"b"}"#,
        r#" {"extra":{"a":[{}]},"id":"a\"b","inputs":[{"name":"x","data":[1,2.5,-300,4],"shape":[1,4],
            "datatype":"FP32","parameters":{"other":1}}],"outputs":[],"parameters":{"priority":1}} "#,
    ] {
        let answer = server.ask(&post("/v2/models/add/infer", "", body.as_bytes())).await;
        let want = json!({
            "model_name": "add", "model_version": "1", "id": "a\"b",
            "outputs": [{"name": "out_x", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 3.5, -299.0, 5.0]}],
        });
        assert_eq!(answer.json(), want, "{body}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn binary_goes_in_and_out_in_any_mixture() {
    let server = Server::with_models();
    let b: Vec<u8> = [7_i64, -8].iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = r#"{"inputs":[{"name":"b","shape":[2],"datatype":"INT64","parameters":{"binary_data_size":16}},
        {"name":"a","shape":[2],"datatype":"FP32","data":[1,2]}],
        "outputs":[{"name":"out_b","parameters":{"binary_data":true}},{"name":"out_a"}]}"#;
    let body = [header.as_bytes(), &b].concat();
    let headers = format!("inference-header-content-length: {}\r\n", header.len());
    let answer = server.ask(&post("/v2/models/two/versions/1/infer", &headers, &body)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.binary(), b);
    assert_eq!(answer.json()["outputs"][0]["parameters"]["binary_data_size"], 16);
    assert_eq!(answer.json()["outputs"][1]["data"], json!([2.0, 3.0]));
}

#[tokio::test]
async fn large_tensors_keep_every_byte() {
    let server = Server::with_models();
    let values: Vec<f32> = (0..400_000).map(|i| i as f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = r#"{"inputs":[{"name":"x","shape":[100000,4],"datatype":"FP32","parameters":{"binary_data_size":1600000}}],
        "parameters":{"binary_data_output":true}}"#;
    let headers = format!("inference-header-content-length: {}\r\n", header.len());
    let body = [header.as_bytes(), &bytes].concat();
    let answer = server.ask(&post("/v2/models/add/infer", &headers, &body)).await;
    let want: Vec<u8> = values.iter().flat_map(|v| (v + 1.0).to_le_bytes()).collect();
    assert!(answer.binary() == want);
    let answer = server.ask(&add_request(&values)).await;
    assert!(numbers(&answer) == values.iter().map(|v| f64::from(v + 1.0)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_body_without_json_is_the_only_input() {
    let server = Server::with_models();
    let bytes: Vec<u8> = (0..8).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let raw = "inference-header-content-length: 0\r\n";
    let answer = server.ask(&post("/v2/models/add/infer", raw, &bytes)).await;
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([2, 4]));
    assert_eq!(answer.binary(), (1..9).flat_map(|v| (v as f32).to_le_bytes()).collect::<Vec<u8>>());
    let answer = server.ask(&post("/v2/models/id/bytes/infer", raw, b"abc")).await;
    assert_eq!(answer.binary(), b"\x03\0\0\0abc");
}

#[tokio::test]
async fn every_datatype_passes_unchanged_in_json_and_in_binary() {
    let server = Server::with_models();
    for (datatype, json, binary) in [
        (Datatype::Bool, "[true,false]", vec![1, 0]),
        (Datatype::Uint8, "[0,255]", vec![0, 255]),
        (Datatype::Int8, "[-128,127]", vec![128, 127]),
        (Datatype::Uint16, "[1,65535]", vec![1, 0, 255, 255]),
        (Datatype::Int16, "[-1,1]", vec![255, 255, 1, 0]),
        (Datatype::Uint32, "[1,4294967295]", [1_u32, u32::MAX].map(u32::to_le_bytes).concat()),
        (Datatype::Int32, "[-2147483648,5]", [i32::MIN, 5].map(i32::to_le_bytes).concat()),
        (Datatype::Uint64, "[1,18446744073709551615]", [1, u64::MAX].map(u64::to_le_bytes).concat()),
        (Datatype::Int64, "[-9223372036854775808,5]", [i64::MIN, 5].map(i64::to_le_bytes).concat()),
        (Datatype::Fp64, "[0.1,-1e300]", [0.1, -1e300].map(f64::to_le_bytes).concat()),
        (Datatype::Bytes, r#"["a\u00e9\n",""]"#, b"\x04\0\0\0a\xc3\xa9\n\0\0\0\0".to_vec()),
    ] {
        let path = format!("/v2/models/id/{}/infer", datatype.as_str().to_lowercase());
        for output in ["", r#","parameters":{"binary_data_output":true}"#] {
            let body = format!(
                r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"{datatype}","data":{json}}}]{output}}}"#
            );
            let answer = server.ask(&post(&path, "", body.as_bytes())).await;
            assert_eq!(answer.status, 200, "{datatype}: {}", String::from_utf8_lossy(&answer.body));
            if output.is_empty() {
                let want: serde_json::Value = serde_json::from_str(json).unwrap();
                assert_eq!(answer.json()["outputs"][0]["data"], want, "{datatype}");
            } else {
                assert_eq!(answer.binary(), binary, "{datatype}");
            }
        }
    }
    for datatype in ["FP16", "BF16"] {
        let header = format!(
            r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"{datatype}","parameters":{{"binary_data_size":4}}}}],"parameters":{{"binary_data_output":true}}}}"#
        );
        let headers = format!("inference-header-content-length: {}\r\n", header.len());
        let body = [header.as_bytes(), &[0, 0x3c, 0, 0x40]].concat();
        let path = format!("/v2/models/id/{}/infer", datatype.to_lowercase());
        assert_eq!(server.ask(&post(&path, &headers, &body)).await.binary(), [0, 0x3c, 0, 0x40]);
    }
}

#[tokio::test]
async fn one_connection_answers_many_requests_also_when_they_come_at_once() {
    let server = Server::with_models();
    let mut client = server.client().await;
    let burst: Vec<u8> = (0..50).flat_map(|i| add_request(&[i as f32; 4])).collect();
    client.send(&burst).await;
    for i in 0..50 {
        assert_eq!(numbers(&client.answer().await.unwrap()), [f64::from(i) + 1.0; 4]);
    }
}

#[tokio::test]
async fn a_body_in_chunks_is_a_body() {
    let server = Server::with_models();
    let request = add_request(&[1.0; 4]);
    let text = String::from_utf8(request).unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let (one, two) = body.split_at(20);
    let chunked = format!(
        "POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        one.len(),
        two.len()
    );
    assert_eq!(numbers(&server.ask(chunked.as_bytes()).await), [2.0; 4]);
}

#[tokio::test]
async fn statistics_and_metrics_count_what_was_answered() {
    let server = Server::start(agentd_serving::Limits::default());
    server.activate("add", add(3));
    for _ in 0..3 {
        server.ask(&add_request(&[1.0; 4])).await;
    }
    server.ask(&add_request(&[])).await;
    server.ask(&post("/v2/models/add/infer", "", b"{")).await;
    let stats = server.ask(&get("/v2/models/add/stats")).await.json();
    assert_eq!(stats["model_stats"][0]["inference_stats"]["success"]["count"], 4);
    assert_eq!(stats["model_stats"][0]["inference_stats"]["fail"]["count"], 1);
    let status = server.serving.statuses().remove(0);
    assert_eq!((status.active.success, status.active.failure, status.active.instances), (4, 1, 2));
    assert!(status.active.latency.is_some());

    let answer = server.ask(&get("/metrics")).await;
    let text = String::from_utf8(answer.body.clone()).unwrap();
    // Times and connections differ from run to run; what is left must not.
    let stable: Vec<String> = text
        .lines()
        .map(|line| {
            let timed = !line.starts_with('#') && (line.contains("_us") || line.contains("connections"));
            if timed && !line.contains("_count") {
                format!("{} T", line.rsplit_once(' ').unwrap().0)
            } else {
                line.into()
            }
        })
        .collect();
    insta::assert_snapshot!("metrics", stable.join("\n"));
}
