//! Secure connections to a real broker: server verified, client shown, and every failure named.

use std::{fs, sync::Arc};

use agentd_link::{
    BrokerAddress, Disconnect, RumqttTransport, Session, TlsSettings, Transport, client_config,
};
use agentd_tests::Mosquitto;
use agentd_types::Coded;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::common::soon;

/// An authority, as PEM, and what signs for it.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for `name`, valid from and to these years, and its key.
    fn issue(&self, name: &str, from: i32, to: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A broker with a certificate of its own that asks clients for theirs.
async fn broker(authority: &Authority, (certificate, key): (String, String)) -> (Mosquitto, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let lines = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        write("ca.pem", &authority.pem),
        write("cert.pem", &certificate),
        write("key.pem", &key)
    );
    (Mosquitto::start_with(&lines).await.unwrap(), folder)
}

async fn connect(broker: &Mosquitto, settings: &TlsSettings) -> Result<(), Disconnect> {
    let address = BrokerAddress { host: "127.0.0.1".into(), port: broker.address().port() };
    let transport = RumqttTransport::new(address).with_tls(client_config(settings).unwrap());
    let transport: Arc<dyn Transport> = Arc::new(transport);
    soon("an answer", transport.connect(Session::bulk("cam"))).await.map(drop)
}

fn settings(authority: &Authority, client: Option<(String, String)>) -> TlsSettings {
    TlsSettings {
        roots: authority.pem.clone().into_bytes(),
        client: client.map(|(certificate, key)| (certificate.into_bytes(), key.into_bytes())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_prove_themselves_and_every_failure_is_named() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (broker, _files) = broker(&authority, authority.issue("127.0.0.1", 2020, 2090)).await;
    let ours = || Some(authority.issue("cam", 2020, 2090));

    connect(&broker, &settings(&authority, ours())).await.unwrap();

    let unknown = connect(&broker, &settings(&stranger, ours())).await.unwrap_err();
    assert!(matches!(unknown, Disconnect::Tls(_)), "{unknown:?}");
    let anonymous = connect(&broker, &settings(&authority, None)).await.unwrap_err();
    assert!(matches!(anonymous, Disconnect::Tls(_)), "{anonymous:?}");
    let foreign = connect(&broker, &settings(&authority, Some(stranger.issue("cam", 2020, 2090)))).await;
    assert!(matches!(foreign, Err(Disconnect::Tls(_))), "{foreign:?}");
    let expired = connect(&broker, &settings(&authority, Some(authority.issue("cam", 2000, 2001)))).await;
    let expired = expired.unwrap_err();
    assert!(matches!(expired, Disconnect::TlsTime(_)), "{expired:?}");
    assert!(expired.hint().contains("clock"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brokers_certificate_out_of_its_time_makes_the_clock_suspect() {
    let authority = Authority::new();
    for (from, to) in [(2000, 2001), (2080, 2090)] {
        let (broker, _files) = broker(&authority, authority.issue("127.0.0.1", from, to)).await;
        let reason = connect(&broker, &settings(&authority, None)).await.unwrap_err();
        assert!(matches!(reason, Disconnect::TlsTime(_)), "{reason:?}");
        assert_eq!(reason.code().as_str(), "link.tls_time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brokers_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let (broker, _files) = broker(&authority, authority.issue("other.example", 2020, 2090)).await;
    let reason = connect(&broker, &settings(&authority, None)).await.unwrap_err();
    assert!(matches!(reason, Disconnect::Tls(_)), "{reason:?}");
}

#[test]
fn certificate_and_key_that_do_not_fit_are_refused_with_what_to_do() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("cam", 2020, 2090);
    let (_, other_key) = authority.issue("cam", 2020, 2090);
    for (client, want) in [
        ((certificate.clone(), other_key), "tls.pair"),
        ((certificate.clone(), certificate), "tls.no_key"),
        ((key.clone(), key), "tls.no_certificate"),
    ] {
        let error = client_config(&settings(&authority, Some(client))).unwrap_err();
        assert_eq!(error.code().as_str(), want);
    }
}
