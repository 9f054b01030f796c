//! The HTTPS listener's certificate, replaced while the broker runs.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig},
};
use tokio_util::sync::CancellationToken;

use crate::{config::TlsSettings, telemetry::Chain};

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not a PEM file, or not readable.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate in the file.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("certificate {certificate} and its key cannot be used")]
    Refused {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// The present certificate.
#[derive(Debug)]
pub struct TlsSource {
    settings: TlsSettings,
    current: RwLock<(Vec<Vec<u8>>, Arc<ServerConfig>)>,
}

impl TlsSource {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn open(settings: TlsSettings) -> Result<Self, TlsError> {
        let current = RwLock::new((contents(&settings), load(&settings)?));
        Ok(Self { settings, current })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current.1))
    }

    /// Follows changes of the two files until `stop`. A bad replacement is reported, and the
    /// certificate that works is kept.
    pub async fn follow(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.settings.reload_interval.max(Duration::from_millis(100))) => {}
            }
            let seen = contents(&self.settings);
            if seen == self.current.read().unwrap_or_else(PoisonError::into_inner).0 {
                continue;
            }
            match load(&self.settings) {
                Ok(config) => {
                    tracing::info!("the TLS certificate was replaced");
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = (seen, config);
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "the new TLS certificate is not used");
                    // Reported once per change.
                    self.current.write().unwrap_or_else(PoisonError::into_inner).0 = seen;
                }
            }
        }
    }
}

/// What the files hold; one that cannot be read counts as empty, and `load` then says why.
fn contents(settings: &TlsSettings) -> Vec<Vec<u8>> {
    [&settings.certificate, &settings.private_key]
        .into_iter()
        .map(|path| std::fs::read(path).unwrap_or_default())
        .collect()
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let read = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&settings.certificate)
        .map_err(read(&settings.certificate))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(read(&settings.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(settings.certificate.clone()));
    }
    let key =
        PrivateKeyDer::from_pem_file(&settings.private_key).map_err(read(&settings.private_key))?;
    let refused = |source| TlsError::Refused { certificate: settings.certificate.clone(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
