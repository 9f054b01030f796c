//! Bindings that name another host than new ones would.

use std::collections::BTreeMap;

use super::{Broker, binding::Sealed, error::InternalError};

/// Bindings that are read at once.
const BATCH: usize = 500;

impl Broker {
    /// Says how many bindings name another host than `external_host`, and which ones they name:
    /// a binding never changes, so they work only as long as that name or address leads here.
    ///
    /// # Errors
    /// [`InternalError`] when the store cannot be read.
    pub(super) async fn report_other_hosts(&self) -> Result<(), InternalError> {
        let mut others: BTreeMap<String, usize> = BTreeMap::new();
        let ids = self.store.read(|rows| rows.list_instance_ids()).await?;
        for some in ids.chunks(BATCH) {
            let some = some.to_vec();
            let read = self.store.read(move |rows| {
                let lists = some.iter().map(|id| rows.list_bindings(id));
                lists.collect::<Result<Vec<_>, _>>()
            });
            for row in read.await?.into_iter().flatten() {
                // One that is damaged is reported by whoever asks for it.
                let Ok(sealed) = Sealed::open(&self.keys, &row) else { continue };
                let credentials = &sealed.document["credentials"];
                let host = ["host", "hostname"].iter().find_map(|key| credentials[*key].as_str());
                if let Some(host) = host.filter(|host| *host != self.limits.external_host) {
                    *others.entry(host.to_owned()).or_default() += 1;
                }
            }
        }
        for (host, bindings) in others {
            tracing::warn!(
                host,
                bindings,
                external_host = self.limits.external_host,
                "bindings name another host than new ones would; they work as long as that leads \
                 to this machine: bind anew, or set external_host to a DNS name and let that lead \
                 here"
            );
        }
        Ok(())
    }
}
