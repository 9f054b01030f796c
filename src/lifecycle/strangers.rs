//! Instances that the store does not know of, or not as they are: it comes from a backup, or was
//! made anew without them. Only their records say where they live.

use std::{collections::HashSet, sync::Arc};

use super::{
    Broker,
    error::InternalError,
    rebuild::{Unusable, host_of, read},
};
use crate::disk::Disk;

impl Broker {
    /// Why there may be an instance in a shared container that the store does not know there, but
    /// for `tenant`. To be asked before it is removed as that of nobody.
    pub(super) async fn find_stranger(
        &self,
        host: &str,
        tenant: &str,
    ) -> Result<Option<String>, InternalError> {
        // Before the rows: a directory is made after its row, so one of a new instance is known.
        let mut names = self.on_disk(Disk::list).await?;
        let outdated: Vec<String> = self.store.doubts().keys().cloned().collect();
        let tenant = tenant.to_owned();
        // Records of all others follow the store.
        let known = self.store.read(move |rows| {
            let mut known: HashSet<String> = rows.list_instance_names()?.into_iter().collect();
            for id in outdated.iter().filter(|id| **id != tenant) {
                if let Some(head) = rows.find_record_head(id)? {
                    known.remove(&head.name);
                }
            }
            Ok(known)
        });
        let known = known.await?;
        names.retain(|name| !known.contains(name));
        let (keys, host) = (Arc::clone(&self.keys), host.to_owned());
        let look = move |disk: &Disk| {
            Ok(names.into_iter().find_map(|name| match read(disk, &keys, &name) {
                Ok(None) => None,
                Ok(Some(record)) => (host_of(&record.frame) == Some(host.as_str()))
                    .then(|| format!("the record in {name} says that its instance lives there")),
                Err(Unusable::Key) => Some(format!("no key opens the record in {name}")),
                Err(Unusable::ForNow(why) | Unusable::Damaged(why)) => {
                    Some(format!("of {name}, {why}"))
                }
            }))
        };
        self.on_disk(look).await
    }
}
