//! The settings of a secure connection, from PEM texts that the caller has read.
//!
//! In: roots, and maybe a certificate and key of ours, as PEM. Out: a configuration for rustls with ring; the server is
//! always verified. Refuses files in which nothing of use stands, and says what to put there. Also tells failures that
//! come from the time apart from all others, since on devices the clock is the usual culprit.

use std::{error::Error, io, sync::Arc};

use agentd_types::{Code, Coded};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::transport::Disconnect;

/// PEM texts for a secure connection.
#[derive(Clone, Default)]
pub struct TlsSettings {
    /// Certificates of the authorities that may vouch for the broker.
    pub roots: Vec<u8>,
    /// Our certificate, with those between it and the root, and its private key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings").field("client", &self.client.is_some()).finish_non_exhaustive()
    }
}

/// Why no secure connection can be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nothing of use in the roots.
    #[error("the file of root certificates holds no certificate that can be used")]
    NoRoots,
    /// Nothing of use in our certificate.
    #[error("the file of this device's certificate holds no certificate")]
    NoCertificate,
    /// Nothing of use in our key.
    #[error("the file of this device's key holds no private key that can be read")]
    NoKey,
    /// Certificate and key do not belong together, or the key is of a kind that is not supported.
    #[error("this device's certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// The library refuses its own defaults.
    #[error("the secure connection cannot be configured")]
    Provider(#[source] rustls::Error),
}

impl TlsError {
    /// What a person can do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoRoots => "put the broker's authority there, as a PEM block `BEGIN CERTIFICATE`",
            Self::NoCertificate => "put this device's certificate there, as a PEM block `BEGIN CERTIFICATE`",
            Self::NoKey => "put an unencrypted key there, as a PEM block `BEGIN PRIVATE KEY` (PKCS#8)",
            Self::Pair(_) => {
                "compare `openssl x509 -in CERT -pubkey -noout` with `openssl pkey -in KEY -pubout`; they must be equal"
            }
            Self::Provider(_) => "report this",
        }
    }
}

impl Coded for TlsError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::NoRoots => "tls.no_roots",
            Self::NoCertificate => "tls.no_certificate",
            Self::NoKey => "tls.no_key",
            Self::Pair(_) => "tls.pair",
            Self::Provider(_) => "tls.provider",
        })
    }
}

/// A configuration that verifies the server and, when asked, shows our certificate.
///
/// # Errors
/// When a PEM text holds nothing of use, or certificate and key do not fit.
pub fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(certificates(&settings.roots));
    if added == 0 {
        return Err(TlsError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_root_certificates(roots);
    let config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain);
            if chain.is_empty() {
                return Err(TlsError::NoCertificate);
            }
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Pair)?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// What a failure says about a secure connection, when it comes from one.
pub(crate) fn diagnose(error: &(dyn Error + 'static)) -> Option<Disconnect> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(name(error));
        }
        // An `io::Error` hides what it carries from `source`.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(error) = carried.and_then(|carried| carried.downcast_ref::<rustls::Error>()) {
            return Some(name(error));
        }
        next = error.source();
    }
    None
}

fn name(error: &rustls::Error) -> Disconnect {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => Disconnect::TlsTime(error.to_string()),
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            Disconnect::TlsTime("the broker says that this device's certificate has expired".to_owned())
        }
        other => Disconnect::Tls(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &TlsSettings, want: &str) {
        let error = client_config(settings).unwrap_err();
        assert_eq!(error.code().as_str(), want);
        assert!(!error.hint().is_empty());
    }

    #[test]
    fn files_without_anything_of_use_are_refused_with_a_hint() {
        check(&TlsSettings::default(), "tls.no_roots");
        check(&TlsSettings { roots: b"garbage".to_vec(), client: None }, "tls.no_roots");
    }

    #[test]
    fn certificate_times_are_told_apart_from_other_failures() {
        let wrapped = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let expired = wrapped(rustls::Error::InvalidCertificate(CertificateError::Expired));
        assert!(matches!(diagnose(&expired), Some(Disconnect::TlsTime(_))));
        let unknown = wrapped(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(matches!(diagnose(&unknown), Some(Disconnect::Tls(_))));
        assert_eq!(diagnose(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
