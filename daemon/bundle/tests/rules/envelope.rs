//! Envelopes and the general rules of payloads.

use agentd_bundle::{Cause, Envelope};
use agentd_types::UnixTime;
use agentd_wire::Kind;
use serde_json::{Value, json};

use crate::{
    Row, check,
    fleet::{NOW, catalog, cause, key, payload, pinned, seal, seal_bytes, with},
};

fn sealed() -> Value {
    serde_json::from_slice(&seal(Kind::Catalog, &catalog(json!({})), &["fleet"])).unwrap()
}

fn edited(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    serde_json::to_vec(&with(sealed(), edit)).unwrap()
}

pub(crate) fn rows() -> Vec<Row> {
    let text = || String::from_utf8(edited(|_| {})).unwrap();
    let payload_text = |edit: fn(String) -> String| {
        edited(|envelope| envelope["payload"] = json!(edit(envelope["payload"].as_str().unwrap().to_owned())))
    };
    let signatures = |count: u8| {
        let signature = |n| json!({"keyid": format!("{n}"), "sig": ""});
        edited(|envelope| envelope["signatures"] = (0..count).map(signature).collect())
    };
    let broken: Vec<(&'static str, Cause, Vec<u8>)> = vec![
        ("one byte above 8 MiB", Cause::Size, vec![b' '; (8 << 20) + 1]),
        ("17 lists", Cause::Depth, [b'['; 17].to_vec()),
        ("a bomb of lists", Cause::Depth, vec![b'['; 1 << 20]),
        ("a bomb of objects", Cause::Depth, br#"{"a":"#.repeat(100_000)),
        ("16 lists without an end", Cause::Json, [b'['; 16].to_vec()),
        ("nothing", Cause::Json, Vec::new()),
        ("a byte-order mark", Cause::Json, [b"\xef\xbb\xbf", text().as_bytes()].concat()),
        ("UTF-16", Cause::Json, text().encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a byte that is not UTF-8", Cause::Json, b"{\"a\xff\":1}".to_vec()),
        ("a surrogate in UTF-8", Cause::Json, b"[\"\xed\xa0\x80\"]".to_vec()),
        ("bytes after the end", Cause::Json, format!("{} x", text()).into_bytes()),
        ("a second value", Cause::Json, format!("{0}{0}", text()).into_bytes()),
        ("a lone high surrogate", Cause::Json, br#"["\ud800"]"#.to_vec()),
        ("a lone low surrogate", Cause::Json, br#"["\udc00"]"#.to_vec()),
        ("two high surrogates", Cause::Json, br#"["\ud800\ud800"]"#.to_vec()),
        ("a surrogate in a key", Cause::Json, br#"{"\ud800":1}"#.to_vec()),
        ("a control character", Cause::Json, b"[\"a\nb\"]".to_vec()),
        ("a trailing comma", Cause::Json, b"[1,]".to_vec()),
        ("a leading zero", Cause::Json, b"[01]".to_vec()),
        ("a lone minus", Cause::Json, b"[-]".to_vec()),
        ("NaN", Cause::Json, b"[NaN]".to_vec()),
        ("a comment", Cause::Json, b"[1]//".to_vec()),
        ("single quotes", Cause::Json, b"['a']".to_vec()),
        ("half a word", Cause::Json, b"[tru]".to_vec()),
        ("a bad escape", Cause::Json, br#"["\x41"]"#.to_vec()),
        ("a short escape", Cause::Json, br#"["\u12"]"#.to_vec()),
        ("a sign in an escape", Cause::Json, br#"["\u+123"]"#.to_vec()),
        ("a key twice", Cause::DuplicateKey, br#"{"a":1,"a":1}"#.to_vec()),
        ("a key twice, once escaped", Cause::DuplicateKey, br#"{"a":1,"\u0061":1}"#.to_vec()),
        ("a fraction", Cause::Number, b"[1.0]".to_vec()),
        ("an exponent", Cause::Number, b"[1e3]".to_vec()),
        ("an upper-case exponent", Cause::Number, b"[1E3]".to_vec()),
        ("minus zero", Cause::Number, b"[-0]".to_vec()),
        ("2^53", Cause::Number, b"[9007199254740992]".to_vec()),
        ("-2^53", Cause::Number, b"[-9007199254740992]".to_vec()),
        ("a number of 400 digits", Cause::Number, vec![b'9'; 400]),
        ("a list", Cause::Envelope, b"[9007199254740991,-9007199254740991]".to_vec()),
        ("no payload", Cause::Envelope, edited(|envelope| crate::fleet::remove(envelope, "payload"))),
        ("one field more", Cause::Envelope, edited(|envelope| envelope["x"] = json!(1))),
        ("a payload that is a number", Cause::Envelope, edited(|envelope| envelope["payload"] = json!(1))),
        ("no signatures", Cause::Envelope, signatures(0)),
        ("17 signatures", Cause::Envelope, signatures(17)),
        (
            "a signature that is a list",
            Cause::Envelope,
            edited(|envelope| envelope["signatures"][0] = json!([])),
        ),
        ("a key id that is a number", Cause::Envelope, edited(|e| e["signatures"][0]["keyid"] = json!(1))),
        ("a signature with a field more", Cause::Envelope, edited(|e| e["signatures"][0]["x"] = json!(1))),
        ("an unknown type", Cause::Type, edited(|e| e["payloadType"] = json!("application/json"))),
        (
            "version 2",
            Cause::Type,
            edited(|e| e["payloadType"] = json!("application/vnd.agentd.catalog.v2+json")),
        ),
        ("another kind", Cause::Type, edited(|e| e["payloadType"] = json!(Kind::Desired.payload_type()))),
        ("blanks in base64", Cause::Base64, payload_text(|text| format!("{text}\n"))),
        ("no padding", Cause::Base64, edited(|e| e["payload"] = json!("YQ"))),
        ("too much padding", Cause::Base64, edited(|e| e["payload"] = json!("YWE=="))),
        ("padding where none belongs", Cause::Base64, edited(|e| e["payload"] = json!("YWFh===="))),
        ("trailing bits", Cause::Base64, edited(|e| e["payload"] = json!("YR=="))),
        ("the URL alphabet", Cause::Base64, edited(|e| e["payload"] = json!("-_-_"))),
        ("a signature that is not base64", Cause::Base64, edited(|e| e["signatures"][0]["sig"] = json!("!"))),
        (
            "a key id twice",
            Cause::DuplicateSignature,
            edited(|e| e["signatures"] = json!([e["signatures"][0], e["signatures"][0]])),
        ),
        ("an empty signature", Cause::Threshold, edited(|e| e["signatures"][0]["sig"] = json!(""))),
        ("an unknown key id", Cause::Threshold, edited(|e| e["signatures"][0]["keyid"] = json!("me"))),
        (
            "an upper-case key id",
            Cause::Threshold,
            edited(|e| e["signatures"][0]["keyid"] = json!(crate::fleet::id("fleet").to_uppercase())),
        ),
    ];
    broken
        .into_iter()
        .map(|(what, expected, bytes)| {
            (what, expected, cause(pinned().accept(Some(Kind::Catalog), &bytes, UnixTime(NOW))))
        })
        .collect()
}

#[test]
fn broken_envelopes_are_refused() {
    check(rows());
}

pub(crate) fn payload_rows() -> Vec<Row> {
    let canonical = || String::from_utf8(payload(&catalog(json!({})))).unwrap();
    let swapped = |from: &str, to: &str| canonical().replacen(from, to, 1).into_bytes();
    let edited = |edit: fn(&mut Value)| payload(&with(catalog(json!({})), edit));
    let broken: Vec<(&'static str, Cause, Vec<u8>)> = vec![
        ("an empty payload", Cause::Json, Vec::new()),
        ("a payload that is too deep", Cause::Depth, [b'['; 17].to_vec()),
        ("a fraction in the payload", Cause::Number, swapped(":10}", ":10.0}")),
        ("a key twice in the payload", Cause::DuplicateKey, swapped("\"spec\":1", "\"spec\":1,\"spec\":1")),
        ("a blank", Cause::Canonical, swapped(":1,", ": 1,")),
        ("a blank at the end", Cause::Canonical, format!("{}\n", canonical()).into_bytes()),
        (
            "keys out of order",
            Cause::Canonical,
            swapped("\"spec\":1,\"trust_version\":1", "\"trust_version\":1,\"spec\":1"),
        ),
        ("a needless escape", Cause::Canonical, swapped("\"plant\"", "\"\\u0070lant\"")),
        ("an escaped slash", Cause::Canonical, swapped("\"plant\"", "\"pl\\/ant\"")),
        ("an upper-case escape", Cause::Canonical, swapped("\"plant\"", "\"\\u001F\"")),
        ("a list as payload", Cause::Schema, b"[]".to_vec()),
        ("another type inside", Cause::Type, edited(|document| document["type"] = json!("desired"))),
        ("spec 2", Cause::Spec, edited(|document| document["spec"] = json!(2))),
        ("spec true", Cause::Spec, edited(|document| document["spec"] = json!(true))),
        ("another fleet", Cause::Fleet, edited(|document| document["fleet"] = json!("other"))),
        ("any fleet", Cause::Fleet, edited(|document| document["fleet"] = json!("*"))),
        ("a field more", Cause::Schema, edited(|document| document["x"] = json!(1))),
        ("a field less", Cause::Schema, edited(|document| crate::fleet::remove(document, "expires"))),
    ];
    broken
        .into_iter()
        .map(|(what, expected, bytes)| {
            let sealed = seal_bytes(Kind::Catalog, bytes, &["fleet"]);
            (what, expected, cause(pinned().accept(Some(Kind::Catalog), &sealed, UnixTime(NOW))))
        })
        .collect()
}

#[test]
fn broken_payloads_are_refused() {
    check(payload_rows());
}

#[test]
fn an_unproved_payload_is_never_parsed() {
    // Unsigned garbage and signed garbage differ: only the signed one is looked into.
    let unsigned = seal_bytes(Kind::Catalog, b"{".to_vec(), &["release-1"]);
    let signed = seal_bytes(Kind::Catalog, b"{".to_vec(), &["fleet"]);
    let mut state = pinned();
    assert_eq!(cause(state.accept(None, &unsigned, UnixTime(NOW))), Some(Cause::Threshold));
    assert_eq!(cause(state.accept(None, &signed, UnixTime(NOW))), Some(Cause::Json));
}

#[test]
fn blanks_around_and_inside_the_envelope_are_allowed() {
    let pretty = format!("\n{}\t", serde_json::to_string_pretty(&sealed()).unwrap());
    assert_eq!(cause(pinned().accept(None, pretty.as_bytes(), UnixTime(NOW))), None);
}

#[test]
fn sixteen_levels_are_not_too_deep() {
    let text = format!("{}{}", "[".repeat(16), "]".repeat(16));
    assert_eq!(cause(agentd_bundle::json::Value::read(text.as_bytes())), None);
    // Brackets inside strings do not count.
    assert_eq!(cause(agentd_bundle::json::Value::read(br#"["[[[[[[[[[[[[[[[[[[[\"[[[["]"#)), None);
}

#[test]
fn what_is_signed_is_the_encoding_of_dsse() {
    let envelope = Envelope::unsigned(Kind::Trust, b"hello".to_vec());
    assert_eq!(envelope.pae(), b"DSSEv1 36 application/vnd.agentd.trust.v1+json 5 hello");
}

#[test]
fn people_sign_one_after_the_other_and_twice_is_once() {
    let mut envelope = Envelope::unsigned(Kind::Bundle, b"{}".to_vec());
    envelope.sign(&key("release-2")).unwrap();
    let mut envelope = Envelope::read(&envelope.to_bytes()).unwrap();
    envelope.sign(&key("release-1")).unwrap();
    envelope.sign(&key("release-2")).unwrap();
    let read = Envelope::read(&envelope.to_bytes()).unwrap();
    assert_eq!(read, envelope);
    assert_eq!(read.signatures().len(), 2);
    for signature in read.signatures() {
        let keys = [key("release-1").public(), key("release-2").public()];
        let signer = keys.iter().find(|key| key.id().to_string() == signature.keyid).unwrap();
        assert!(signer.verifies(&read.pae(), &signature.sig));
    }
}
