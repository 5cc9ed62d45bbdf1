//! Private key files.

use agentd_bundle::{KeyFileSalt, PrivateKey, PublicKey};
use agentd_types::Coded as _;

/// Test 1 of RFC 8032, section 7.1, as `openssl genpkey` would write it.
const RFC_8032: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";

const SALT: KeyFileSalt = KeyFileSalt { salt: [7; 16], iv: [8; 16] };

#[test]
fn a_key_of_openssl_reads_back_and_signs_as_the_standard_says() {
    let key = PrivateKey::from_pem(RFC_8032, None).unwrap();
    assert_eq!(key.public().to_hex(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    let signature = key.sign(b"");
    assert_eq!(signature[..8], [0xe5, 0x56, 0x43, 0x00, 0xc3, 0x60, 0xac, 0x72]);
    assert_eq!(key.to_pem(None).unwrap().as_str(), RFC_8032);
}

#[test]
fn a_public_key_goes_to_openssl_and_back() {
    let key = PrivateKey::from_pem(RFC_8032, None).unwrap().public();
    let pem = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";
    assert_eq!(key.to_pem().unwrap(), pem);
    assert_eq!(PublicKey::from_pem(pem).unwrap(), key);
    // The identity, which is a point of small order.
    let weak = pem.replace(
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    );
    assert_eq!(PublicKey::from_pem(&weak).unwrap_err().code_name(), "key");
}

#[test]
fn a_passphrase_protects_a_key() {
    let key = PrivateKey::from_seed(&[3; 32]);
    let pem = key.to_pem(Some(("correct horse", SALT))).unwrap();
    assert!(PrivateKey::is_encrypted(&pem));
    assert_eq!(PrivateKey::from_pem(&pem, Some("correct horse")).unwrap().public(), key.public());
    let code = |passphrase| PrivateKey::from_pem(&pem, passphrase).unwrap_err().code().to_string();
    assert_eq!(code(None), "key.passphrase_needed");
    assert_eq!(code(Some("wrong horse")), "key.wrong_passphrase");
    assert_eq!(code(Some("")), "key.wrong_passphrase");
}

#[test]
fn what_is_no_key_is_refused() {
    for bad in
        ["", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", &RFC_8032.replace("MC4C", "MC4D")]
    {
        assert_eq!(PrivateKey::from_pem(bad, None).unwrap_err().code().as_str(), "key.malformed", "{bad}");
    }
}

#[test]
fn a_private_key_does_not_show_itself() {
    let shown = format!("{:?}", PrivateKey::from_seed(&[0x5a; 32]));
    assert!(shown.starts_with("PrivateKey(*** of "), "{shown}");
}
